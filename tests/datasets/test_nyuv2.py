"""NYUv2: both layouts, what is missing in them, and what is derived."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from bench.api import Dataset, MultiTaskData
from bench.catalog.build import build_part
from bench.datasets import nyuv2_layouts
from bench.datasets.geometry import camera_rays, normals_from_depth
from bench.datasets.nyuv2 import NAMES_13, NAMES_40, NYUv2
from bench.datasets.nyuv2_layouts import CENTER, FOCAL, MAPPING_FILE, MAT_FILE, SPLITS_FILE, TO_13, WIDTH
from bench.datasets.scenes import Scenes
from bench.errors import BenchError
from bench.values import DENSE, MISSING, Recipe, Split

HEIGHT, BREADTH = 24, 32
SMALL = NYUv2(height=HEIGHT, width=BREADTH)
TRAIN, TEST = 6, 4

Frames = dict[str, NDArray[Any]]
"""image uint8 [n h w 3], label uint16 [n h w] of 40 classes, depth [n h w] and normal [n h w 3]; 0: none."""


def draw_frames() -> Frames:
    """Rendered rooms with labels of all 40 classes, and holes in every map."""
    data = Scenes(train=TRAIN + TEST, test=1, height=HEIGHT, width=BREADTH).load(None, Path("unused"))
    rng = np.random.default_rng(0)
    shape = (TRAIN + TEST, HEIGHT, BREADTH)
    frames: Frames = {
        "image": data.train.images.movedim(1, 3).numpy(),
        "label": rng.integers(0, 41, shape).astype(np.uint16),
        "depth": data.train.targets["depth"][:, 0].numpy().copy(),
        "normal": data.train.targets["normals"].movedim(1, 3).numpy().copy(),
    }
    frames["depth"][rng.random(shape) < 0.05] = 0
    frames["normal"][rng.random(shape) < 0.05] = 0
    return frames


def write_arrays(
    root: Path, frames: Mapping[str, NDArray[Any]], train: int = TRAIN, normals: bool = True
) -> Path:
    """Write the layout of the multi-task literature: the first frames as ``train``, the others as ``val``."""
    for split, rows in (("train", slice(0, train)), ("val", slice(train, None))):
        arrays = {
            "image": frames["image"][rows].astype(np.float32) / 255,
            "label": TO_13[frames["label"][rows]].astype(np.float32) - 1,
            "depth": frames["depth"][rows][..., None],
        }
        if normals:
            arrays["normal"] = frames["normal"][rows]
        for kind, values in arrays.items():
            folder = root / "nyuv2" / split / kind
            folder.mkdir(parents=True)
            for number, value in enumerate(values):
                np.save(folder / f"{number}.npy", value)
    return root


def write_mat(root: Path, frames: Mapping[str, NDArray[Any]], train: list[int] | None = None) -> Path:
    """Write the original layout; ``train`` are the frames of the training split, counted from 1."""
    import h5py

    folder = root / "nyuv2"
    folder.mkdir(parents=True)
    count = len(frames["image"])
    train = list(range(1, TRAIN + 1)) if train is None else train
    with h5py.File(folder / MAT_FILE, "w") as file:
        file.create_dataset("images", data=frames["image"].transpose(0, 3, 2, 1), chunks=(3, 1, 8, 8))
        file["depths"] = frames["depth"].transpose(0, 2, 1)
        file["labels"] = frames["label"].transpose(0, 2, 1)
    test = sorted({*range(1, count + 1)} - {*train})
    savemat(
        folder / SPLITS_FILE, {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]}
    )
    return root


def load(root: Path, dataset: NYUv2 = SMALL) -> MultiTaskData:
    return dataset.load(root, root / "cache")


def same(one: Split, other: Split, tasks: tuple[str, ...] = ("segmentation", "depth", "normals")) -> bool:
    return torch.equal(one.images, other.images) and all(
        torch.equal(one.targets[task].nan_to_num(9.0), other.targets[task].nan_to_num(9.0)) for task in tasks
    )


@pytest.fixture(scope="module")
def frames() -> Frames:
    return draw_frames()


@pytest.fixture
def arrays(tmp_path: Path, frames: Frames) -> Path:
    return write_arrays(tmp_path / "arrays", frames)


@pytest.fixture
def mat(tmp_path: Path, frames: Frames) -> Path:
    return write_mat(tmp_path / "mat", frames)


def test_it_is_a_dataset_of_the_catalog_with_the_papers_recipe() -> None:
    dataset = build_part("dataset", "nyuv2")
    assert isinstance(dataset, Dataset)
    assert dataset.kinds == DENSE
    assert (dataset.height, dataset.width, dataset.classes) == (288, 384, 13)
    assert dataset.recipe == Recipe(epochs=200, batch=8, learning_rate=1e-4, milestones=(0.5,), gamma=0.1)


# What is read


def test_arrays_are_read_as_they_are(arrays: Path, frames: Frames) -> None:
    data = load(arrays)
    for split, rows in ((data.train, slice(0, TRAIN)), (data.test, slice(TRAIN, None))):
        assert np.array_equal(split.images.movedim(1, 3), frames["image"][rows])
        labels = split.targets["segmentation"]
        assert np.array_equal(labels, TO_13[frames["label"][rows]] - 1)
        depth, normals = split.targets["depth"][:, 0], split.targets["normals"].movedim(1, 3)
        assert np.array_equal(depth.nan_to_num(0), frames["depth"][rows])
        assert torch.equal(depth.isnan(), torch.from_numpy(frames["depth"][rows] == 0))
        assert np.abs(normals.float().nan_to_num(0).numpy() - frames["normal"][rows]).max() < 1e-3
        assert torch.equal(normals.isnan().any(3), torch.from_numpy((frames["normal"][rows] == 0).all(3)))
    assert (data.train.targets["segmentation"] == MISSING).any()


def test_the_original_file_gives_the_same_with_its_axes_reversed(
    arrays: Path, mat: Path, frames: Frames
) -> None:
    original, literature = load(mat), load(arrays)
    for one, other in ((original.train, literature.train), (original.test, literature.test)):
        assert same(one, other, ("segmentation", "depth"))


@pytest.mark.parametrize("layout", ["arrays", "mat"])
def test_types_shapes_and_tasks(layout: str, request: pytest.FixtureRequest) -> None:
    data = load(request.getfixturevalue(layout))
    assert [task.kind for task in data.tasks] == ["segmentation", "depth", "normals"]
    assert data.augmentation.flip
    assert (len(data.train), len(data.test)) == (TRAIN, TEST)
    targets = data.train.targets
    assert (data.train.images.dtype, targets["segmentation"].dtype) == (torch.uint8, torch.int8)
    assert (targets["depth"].dtype, targets["normals"].dtype) == (torch.float32, torch.float16)
    assert targets["depth"].shape == (TRAIN, 1, HEIGHT, BREADTH)
    assert targets["normals"].shape == (TRAIN, 3, HEIGHT, BREADTH)
    lengths = targets["normals"].float().norm(dim=1)
    assert lengths[~lengths.isnan()].numpy() == pytest.approx(1, abs=2e-3)
    assert f"{TRAIN} training and {TEST} test images are used, not the official 795 and 654" in data.notes


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path, frames: Frames) -> None:
    # Sorted as text, 10 would come before 2.
    many = {name: np.concatenate([values, values[::-1]]) for name, values in frames.items()}
    data = load(write_arrays(tmp_path, many, train=12))
    assert np.array_equal(data.train.images.movedim(1, 3), many["image"][:12])


def test_the_split_is_that_of_the_list(tmp_path: Path, frames: Frames) -> None:
    data = load(write_mat(tmp_path, frames, train=[9, 2, 4, 1]))
    images = frames["image"]
    assert np.array_equal(data.train.images.movedim(1, 3), images[[0, 1, 3, 8]])
    assert np.array_equal(data.test.images.movedim(1, 3), images[[2, 4, 5, 6, 7, 9]])


@pytest.mark.parametrize("layout", ["arrays", "mat"])
def test_however_many_are_read_at_a_time_they_are_the_same(
    layout: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root: Path = request.getfixturevalue(layout)
    whole = load(root)
    monkeypatch.setattr(nyuv2_layouts, "CHUNK", 3)
    parts = SMALL.load(root, root / "another cache")
    assert same(whole.train, parts.train)
    assert same(whole.test, parts.test)


def test_40_classes_are_those_of_the_original_file(mat: Path, frames: Frames) -> None:
    data = load(mat, replace(SMALL, classes=40))
    task = data.tasks[0]
    assert task.classes == 40
    assert np.array_equal(data.train.targets["segmentation"], frames["label"][:TRAIN].astype(int) - 1)


def test_40_classes_are_not_in_the_arrays(arrays: Path) -> None:
    missing = replace(SMALL, classes=40).missing(arrays)
    assert missing is not None
    assert MAT_FILE in missing
    with pytest.raises(BenchError, match=MAT_FILE):
        load(arrays, replace(SMALL, classes=40))


def test_with_both_layouts_13_classes_come_from_the_arrays_and_40_from_the_file(
    arrays: Path, frames: Frames
) -> None:
    alone = load(arrays)
    write_mat(arrays.parent / "other", frames)
    for name in (MAT_FILE, SPLITS_FILE):
        (arrays.parent / "other" / "nyuv2" / name).rename(arrays / "nyuv2" / name)
    both = load(arrays)
    assert same(both.train, alone.train)
    assert any(MAT_FILE in note and "not used" in note for note in both.notes)
    assert not any(MAT_FILE in note for note in alone.notes)
    assert load(arrays, replace(SMALL, classes=40)).tasks[0].classes == 40


# Classes


def test_every_class_of_40_has_one_of_13() -> None:
    assert len(NAMES_40) == len(set(NAMES_40)) == len(TO_13) - 1 == 40
    assert len(NAMES_13) == len(set(NAMES_13)) == 13
    to = {name: NAMES_13[label - 1] for name, label in zip(NAMES_40, TO_13[1:], strict=True)}
    # Those that keep their name, and what one would guess of some others.
    assert [name for name in NAMES_13 if to.get(name, name) != name] == []
    assert to["floor mat"] == "floor"
    assert to["desk"] == "table"
    assert to["blinds"] == to["curtain"] == "window"
    assert to["television"] == "tv"
    assert to["door"] == "wall"
    assert TO_13[0] == 0
    assert set(TO_13) == set(range(14))


def raw_labels(frames: Frames) -> tuple[Frames, NDArray[np.int64]]:
    """Frames with 894 labels, and the label of 40 of every one of them."""
    rng = np.random.default_rng(1)
    mapping = rng.integers(1, 41, 894)
    mapping[:40] = np.arange(1, 41)
    labels = rng.integers(0, 895, frames["label"].shape).astype(np.uint16)
    return {**frames, "label": labels}, mapping


def test_the_originals_own_labels_need_their_mapping(tmp_path: Path, frames: Frames) -> None:
    raw, mapping = raw_labels(frames)
    root = write_mat(tmp_path, raw)
    with pytest.raises(BenchError, match=f"up to 89[0-4]; put {MAPPING_FILE}, .* in the same folder"):
        load(root)
    assert not list((root / "cache").glob("*"))
    savemat(root / "nyuv2" / MAPPING_FILE, {"mapClass": mapping[None]})
    of_40 = np.concatenate([[0], mapping])[raw["label"]]
    assert np.array_equal(
        load(root, replace(SMALL, classes=40)).train.targets["segmentation"], of_40[:TRAIN] - 1
    )
    assert np.array_equal(load(root).test.targets["segmentation"], TO_13[of_40][TRAIN:] - 1)


def test_a_mapping_that_is_too_short_is_named(tmp_path: Path, frames: Frames) -> None:
    raw, mapping = raw_labels(frames)
    root = write_mat(tmp_path, raw)
    savemat(root / "nyuv2" / MAPPING_FILE, {"mapClass": mapping[None, :500]})
    with pytest.raises(BenchError, match=f"{MAPPING_FILE} has 500 labels"):
        load(root)


# Normals


def plane(normal: tuple[float, float, float], distance: float = 3.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Depth [h w] of a plane as the camera of NYUv2 sees it, and its unit normal, turned to the camera."""
    scale = BREADTH / WIDTH
    focal, center = (tuple(value * scale for value in values) for values in (FOCAL, CENTER))
    x, y = camera_rays(HEIGHT, BREADTH, (focal[0], focal[1]), (center[0], center[1]))
    unit = np.array(normal) / np.linalg.norm(normal)
    depth = distance * unit[2] / (unit[0] * x + unit[1] * y + unit[2])
    return depth, unit if unit[2] < 0 else -unit


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, 0.1, -1), (-0.5, 0.2, -1), (0.2, -0.6, -1)])
@pytest.mark.parametrize("layout", ["arrays", "mat"])
def test_without_normals_they_are_those_of_the_planes_in_the_depth(
    tmp_path: Path, frames: Frames, normal: tuple[float, float, float], layout: str
) -> None:
    depth, unit = plane(normal)
    assert 0 < depth.min() <= depth.max() < 10
    flat = {**frames, "depth": np.broadcast_to(depth, frames["depth"].shape).astype(np.float32)}
    root = write_mat(tmp_path, flat) if layout == "mat" else write_arrays(tmp_path, flat, normals=False)
    data = load(root)
    normals = data.train.targets["normals"].float()
    assert np.abs(normals.numpy() - unit[:, None, None]).max() < 2e-3
    assert data.tasks[2].derived
    assert any("derived" in note for note in data.notes)


def test_given_normals_are_not_said_to_be_derived(arrays: Path) -> None:
    data = load(arrays)
    assert not data.tasks[2].derived
    assert not any("derived" in note or "reversed" in note for note in data.notes)


@pytest.mark.parametrize("signs", [(-1, -1, -1), (1, -1, -1), (-1, 1, 1), (1, 1, -1)])
def test_the_axes_of_given_normals_are_turned_as_the_depth_has_them(
    tmp_path: Path, arrays: Path, frames: Frames, signs: tuple[int, ...]
) -> None:
    root = write_arrays(tmp_path / "turned", {**frames, "normal": frames["normal"] * signs})
    data = load(root)
    assert same(data.train, load(arrays).train)
    axes = ", ".join(axis for axis, sign in zip("xyz", signs, strict=True) if sign < 0)
    assert any(f"reversed along {axes} to agree" in note for note in data.notes)


def test_the_length_of_given_normals_does_not_matter(tmp_path: Path, arrays: Path, frames: Frames) -> None:
    root = write_arrays(tmp_path / "long", {**frames, "normal": frames["normal"] * np.float32(1.5)})
    one, other = load(root).train.targets["normals"], load(arrays).train.targets["normals"]
    assert (one - other).nan_to_num().abs().max() < 2e-3


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("unknown", [0, 0.5])
def test_normals_stored_as_colors_are_decoded(
    tmp_path: Path, arrays: Path, frames: Frames, white: int, unknown: float
) -> None:
    known = frames["normal"].any(-1, keepdims=True)
    stored = np.where(known, (frames["normal"] + 1) / 2, unknown) * white
    colors = stored.round().astype(np.uint8) if white == 255 else stored.astype(np.float32)
    data, own = load(write_arrays(tmp_path / "colors", {**frames, "normal": colors})), load(arrays)
    for split, expected in ((data.train, own.train), (data.test, own.test)):
        normals, exact = split.targets["normals"], expected.targets["normals"]
        assert torch.equal(normals.isnan(), exact.isnan())
        assert (normals - exact).nan_to_num().abs().max() < (0.01 if white == 255 else 2e-3)
    assert "the given normals n are stored as (n + 1) / 2 and were decoded" in data.notes
    assert not any("decoded" in note for note in own.notes)


def test_normals_without_a_negative_number_may_be_as_they_are(tmp_path: Path, frames: Frames) -> None:
    facing = np.broadcast_to(np.float32([0, 0.6, 0.8]), frames["normal"].shape)
    data = load(write_arrays(tmp_path, {**frames, "normal": facing}))
    normals = data.train.targets["normals"][0, :, 5, 5].abs()
    assert normals.tolist() == pytest.approx([0, 0.6, 0.8], abs=1e-3)


def test_the_test_split_may_have_its_own_name_and_the_folder_any_case(tmp_path: Path, arrays: Path) -> None:
    shutil.copytree(arrays / "nyuv2", tmp_path / "NYU_v2" / "nyuv2")
    (tmp_path / "NYU_v2" / "nyuv2" / "val").rename(tmp_path / "NYU_v2" / "nyuv2" / "test")
    data, own = load(tmp_path), load(arrays)
    assert same(data.train, own.train)
    assert same(data.test, own.test)


def test_normals_are_missing_where_depth_is_and_beside_edges() -> None:
    depth = np.full((20, 30), 2.0)
    depth[:, 15:] = 6.0
    depth[5, 5] = np.nan
    rays = camera_rays(20, 30, (25.0, 25.0), (14.5, 9.5))
    normals = normals_from_depth(depth, rays, radius=2)
    missing = np.isnan(normals).any(0)
    assert missing[:, 14:16].all()
    assert missing[5, 5]
    away = np.ones_like(missing)
    away[:, 13:17] = away[5, 5] = False
    assert not missing[away].any()
    assert np.abs(normals[:, away] - np.array([[0], [0], [-1]])).max() < 1e-5


def test_many_maps_at_once_have_the_normals_of_each() -> None:
    depth = np.random.default_rng(2).uniform(1, 1.05, (3, 12, 16))
    rays = camera_rays(12, 16, (14.0, 14.0), (7.5, 5.5))
    together = normals_from_depth(depth, rays, radius=2)
    assert together.shape == (3, 3, 12, 16)
    for one, map_ in zip(together, depth, strict=True):
        assert np.array_equal(one, normals_from_depth(map_, rays, radius=2), equal_nan=True)


# Size and number


def test_images_are_scaled_with_antialiasing_and_maps_by_nearest_neighbor(
    arrays: Path, frames: Frames
) -> None:
    data = load(arrays, NYUv2(height=8, width=16))
    for row in range(TRAIN):
        image = Image.fromarray(frames["image"][row]).resize((16, 8), Image.Resampling.BILINEAR)
        assert np.array_equal(data.train.images[row].movedim(0, 2), np.asarray(image))
        labels = Image.fromarray(TO_13[frames["label"][row]].astype(np.uint8)).resize(
            (16, 8), Image.Resampling.NEAREST
        )
        assert np.array_equal(data.train.targets["segmentation"][row], np.asarray(labels).astype(int) - 1)
        depth = Image.fromarray(frames["depth"][row]).resize((16, 8), Image.Resampling.NEAREST)
        assert np.array_equal(data.train.targets["depth"][row, 0].nan_to_num(0), np.asarray(depth))


@pytest.mark.parametrize("layout", ["arrays", "mat"])
def test_a_limit_draws_its_share_of_both_splits(
    layout: str, frames: Frames, request: pytest.FixtureRequest
) -> None:
    drawn = set()
    for seed in range(3):
        data = load(request.getfixturevalue(layout), replace(SMALL, limit=5, data_seed=seed))
        splits = ((data.train, range(TRAIN)), (data.test, range(TRAIN, TRAIN + TEST)))
        rows = [
            [row for row in within if any(np.array_equal(image, frames["image"][row]) for image in images)]
            for images, within in ((split.images.movedim(1, 3), within) for split, within in splits)
        ]
        assert list(map(len, rows)) == [len(data.train), len(data.test)] == [3, 2]
        drawn.add(str(rows))
    assert len(drawn) > 1


# Cache


@pytest.mark.parametrize("layout", ["arrays", "mat"])
def test_a_second_load_reads_the_cache(
    layout: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root: Path = request.getfixturevalue(layout)
    calls: list[tuple[str, int, int]] = []
    first = SMALL.load(root, root / "cache", lambda *call: calls.append(call))
    assert calls[-1] == ("decoding", TRAIN + TEST, TRAIN + TEST)
    monkeypatch.setattr(NYUv2, "_resize", None)
    again = load(root)
    assert same(first.train, again.train)
    assert first.notes == again.notes
    assert first.tasks == again.tasks


@pytest.mark.parametrize("change", [{"limit": 5}, {"height": 16}, {"width": 16}, {"classes": 40}])
def test_what_is_read_otherwise_is_kept_apart(mat: Path, change: dict[str, int]) -> None:
    first, other = load(mat), load(mat, replace(SMALL, **change))
    again = load(mat)
    assert same(first.train, again.train)
    assert first.train.targets["segmentation"].shape != other.train.targets["segmentation"].shape or (
        first.tasks != other.tasks and not same(first.train, other.train)
    )


def test_a_changed_file_is_read_again(arrays: Path, frames: Frames) -> None:
    load(arrays)
    path = arrays / "nyuv2" / "val" / "label" / "1.npy"
    np.save(path, np.full((HEIGHT, BREADTH), 7.0, np.float64))
    assert (load(arrays).test.targets["segmentation"][1] == 7).all()


def test_notes_are_also_said_as_a_warning(mat: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bench"):
        data = load(mat)
    assert len(data.notes) == 2
    assert [record.getMessage() for record in caplog.records] == [f"nyuv2: {'; '.join(data.notes)}"]


# Errors


def test_what_is_missing_is_said_with_where_it_is_expected(tmp_path: Path, mat: Path) -> None:
    assert "--data-root" in str(SMALL.missing(None))
    assert str(tmp_path / "nyuv2" / MAT_FILE) in str(SMALL.missing(tmp_path))
    assert SMALL.missing(mat) is None
    (mat / "nyuv2" / SPLITS_FILE).unlink()
    assert str(mat / "nyuv2" / SPLITS_FILE) in str(SMALL.missing(mat))
    with pytest.raises(BenchError, match=SPLITS_FILE):
        load(mat)


@pytest.mark.parametrize(
    ("kind", "array", "message"),
    [
        (
            "label",
            np.zeros((HEIGHT, BREADTH + 1)),
            r"label.2\.npy is an array \(24, 33\); expected \(24, 32\)",
        ),
        ("depth", np.zeros((HEIGHT, BREADTH, 3)), r"depth.2\.npy is an array"),
        (
            "image",
            np.zeros((HEIGHT, BREADTH)),
            r"image.2\.npy is an array \(24, 32\); expected \(height, width, 3\)",
        ),
        ("normal", np.zeros((3, HEIGHT, BREADTH)), r"normal.2\.npy is an array"),
        ("image", np.full((HEIGHT, BREADTH, 3), 200.0), "frame 2: images must be from 0 to 1"),
        ("image", np.full((HEIGHT, BREADTH, 3), np.nan), "frame 2: images must be from 0 to 1"),
        ("label", np.full((HEIGHT, BREADTH), 13.0), "frame 2: .*labels 12 at most"),
        ("label", np.array([{}]), r"cannot read .*label.2\.npy"),
    ],
)
def test_an_array_that_does_not_fit_is_named(
    arrays: Path, kind: str, array: NDArray[Any], message: str
) -> None:
    np.save(arrays / "nyuv2" / "val" / kind / "2.npy", array)
    with pytest.raises(BenchError, match=message):
        load(arrays)
    assert not list((arrays / "cache").glob("*"))


def npy_header(shape: str) -> bytes:
    """Return a file that ends after a header with this shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}".encode().ljust(118)
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


DAMAGED_HEADERS = [
    npy_header(shape)
    for shape in ("(24, 32", '"', "[" * 60, "(10000000000,), }", "(1000000000, 1000000000), }", "(-1, 32), }")
]


@pytest.mark.parametrize("content", [None, b"", b"no array at all", *DAMAGED_HEADERS])
def test_an_array_that_cannot_be_read_is_named(arrays: Path, content: bytes | None) -> None:
    path = arrays / "nyuv2" / "train" / "depth" / "3.npy"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BenchError, match=r"cannot read .*depth.3\.npy"):
        load(arrays)


def test_a_split_without_images_is_an_error(arrays: Path) -> None:
    for path in (arrays / "nyuv2" / "val" / "image").glob("*.npy"):
        path.unlink()
    with pytest.raises(BenchError, match="no test image"):
        load(arrays)


@pytest.mark.parametrize("name", [MAT_FILE, SPLITS_FILE])
@pytest.mark.parametrize("content", [b"", b"no such file at all, but long enough for a header" * 10])
def test_a_damaged_file_is_named(mat: Path, name: str, content: bytes) -> None:
    (mat / "nyuv2" / name).write_bytes(content)
    with pytest.raises(BenchError, match=f"cannot read .*{name}"):
        load(mat)


def test_a_file_without_labels_is_named(mat: Path) -> None:
    import h5py

    with h5py.File(mat / "nyuv2" / MAT_FILE, "a") as file:
        del file["labels"]
    with pytest.raises(BenchError, match=f"cannot read .*{MAT_FILE}.*labels"):
        load(mat)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([1, 2], [3, 11], f"frame 11 of .*{SPLITS_FILE} is not in"),
        ([1, 2, 3], [3, 4], f"{SPLITS_FILE} lists a frame twice"),
    ],
)
def test_a_list_that_does_not_fit_is_named(
    mat: Path, train: list[int], test: list[int], message: str
) -> None:
    savemat(mat / "nyuv2" / SPLITS_FILE, {"trainNdxs": [[n] for n in train], "testNdxs": [[n] for n in test]})
    with pytest.raises(BenchError, match=message):
        load(mat)


# Real images


@pytest.fixture(scope="module")
def real(data_root: Path) -> Frames:
    """A few real frames, with labels of 13 classes beside those of 40, or skip."""
    folder = data_root / "nyuv2"
    if not (folder / "image").is_dir():
        pytest.skip(f"no NYUv2 images under {data_root}")
    stems = (folder / "train.txt").read_text().split()[::50][: TRAIN - 1]
    stems += (folder / "test.txt").read_text().split()[::40][:2]

    def read(kind: str, suffix: str) -> NDArray[Any]:
        return np.stack([np.asarray(Image.open(folder / kind / f"{stem}{suffix}")) for stem in stems])

    return {
        "image": read("image", ".jpg"),
        "label": read("label40", ".png").astype(np.uint16),
        "label13": read("label13", ".png"),
        "depth": read("depth", ".png").astype(np.float32) * 10 / 255,
    }


def test_real_frames_are_the_same_in_both_layouts(tmp_path: Path, real: Frames) -> None:
    dataset = NYUv2(height=144, width=192)
    train = TRAIN - 1
    original = load(write_mat(tmp_path / "mat", real, list(range(1, train + 1))), dataset)
    literature = load(write_arrays(tmp_path / "arrays", real, train, normals=False), dataset)
    assert same(original.train, literature.train)
    assert same(original.test, literature.test)


def test_real_labels_of_40_classes_become_those_of_13(real: Frames) -> None:
    assert np.array_equal(TO_13[real["label"]], real["label13"])


def test_real_floors_face_up_and_ceilings_down(tmp_path: Path, real: Frames) -> None:
    data = load(write_mat(tmp_path, real, list(range(1, TRAIN))), NYUv2(height=144, width=192))
    labels, normals = data.train.targets["segmentation"], data.train.targets["normals"].float()
    known = ~normals.isnan().any(1)
    assert known.float().mean() > 0.8
    assert (normals[:, 2][known] < 0).float().mean() > 0.85
    y = normals[:, 1]
    assert y[known & (labels == NAMES_13.index("floor"))].median() < -0.7
    assert abs(float(y[known & (labels == NAMES_13.index("wall"))].median())) < 0.3
    depth = data.train.targets["depth"]
    assert 0.5 < float(depth.min()) < float(depth.max()) <= 10
