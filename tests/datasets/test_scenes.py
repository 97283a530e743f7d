"""Rendered rooms: are classes, depths and normals those of the surfaces that are seen?"""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from bench.api import Dataset, MultiTaskData
from bench.catalog.build import build_part
from bench.datasets.geometry import camera_rays, normals_from_depth
from bench.datasets.scenes import CLASSES, FARTHEST, FOCAL, SOLIDS, Room, Scenes, draw_rooms, render
from bench.tasks.normals import Normals
from bench.values import DENSE, Split

HEIGHT, WIDTH = 48, 64
RAYS = camera_rays(HEIGHT, WIDTH, (FOCAL * WIDTH, FOCAL * WIDTH), ((WIDTH - 1) / 2, (HEIGHT - 1) / 2))
SMALL = Scenes(train=40, test=20)

Floats = NDArray[np.float32]
Views = tuple[Floats, NDArray[np.int8], Floats, Floats]


def load(dataset: Scenes = SMALL) -> MultiTaskData:
    return dataset.load(None, Path("unused"))


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.images, other.images) and all(
        torch.equal(one.targets[task], other.targets[task]) for task in one.targets
    )


@pytest.fixture(scope="module")
def data() -> MultiTaskData:
    return load()


def render_all(rooms: list[Room], height: int = HEIGHT, width: int = WIDTH) -> Views:
    """Return images, classes, depths and normals of all rooms."""
    images, labels, depths, normals = zip(*(render(room, height, width) for room in rooms), strict=True)
    return np.stack(images), np.stack(labels), np.stack(depths), np.stack(normals)


def stack(rooms: list[Room]) -> SimpleNamespace:
    """Return every attribute of all rooms in one array."""
    return SimpleNamespace(
        **{field.name: np.stack([getattr(room, field.name) for room in rooms]) for field in fields(Room)}
    )


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return draw_rooms(np.random.default_rng(5), 40)


@pytest.fixture(scope="module")
def view(rooms: list[Room]) -> Views:
    return render_all(rooms)


def test_it_is_a_dataset_of_the_catalog_that_needs_nothing() -> None:
    dataset = build_part("dataset", "scenes")
    assert isinstance(dataset, Dataset)
    assert dataset.missing(None) is None
    assert dataset.kinds == DENSE


def test_its_tasks_are_of_its_kinds(data: MultiTaskData) -> None:
    assert [task.kind for task in data.tasks] == ["segmentation", "depth", "normals"]
    assert {task.kind for task in data.tasks} == SMALL.kinds
    assert data.augmentation.flip


@pytest.mark.parametrize("size", [(48, 64), (17, 30)])
def test_shapes_types_and_ranges(size: tuple[int, int]) -> None:
    data = load(Scenes(train=20, test=5, height=size[0], width=size[1]))
    for split, count in ((data.train, 20), (data.test, 5)):
        labels, depth, normals = (split.targets[task] for task in ("segmentation", "depth", "normals"))
        assert split.images.shape == (count, 3, *size)
        assert split.images.dtype == torch.uint8
        assert (labels.shape, labels.dtype) == ((count, *size), torch.int8)
        assert (depth.shape, depth.dtype) == ((count, 1, *size), torch.float32)
        assert (normals.shape, normals.dtype) == ((count, 3, *size), torch.float32)
        assert 0 <= int(labels.min()) <= int(labels.max()) < len(CLASSES)
        assert 0.4 < float(depth.min()) < float(depth.max()) < FARTHEST
        assert torch.allclose(normals.norm(dim=1), torch.ones(1), atol=1e-5)


def test_the_same_seed_gives_the_same_scenes_and_another_one_others(data: MultiTaskData) -> None:
    again, other = load(), load(replace(SMALL, data_seed=1))
    assert same(again.train, data.train)
    assert same(again.test, data.test)
    assert not (other.train.images == data.train.images).flatten(1).all(1).any()


def test_training_and_test_scenes_are_drawn_apart(data: MultiTaskData) -> None:
    depths = torch.cat([split.targets["depth"] for split in (data.train, data.test)]).flatten(1)
    assert len(depths.unique(dim=0)) == len(depths)
    assert same(load(replace(SMALL, train=10)).test, data.test)


def test_progress_reaches_the_number_of_scenes() -> None:
    calls: list[tuple[str, int, int]] = []
    Scenes(train=20, test=5).load(None, Path("unused"), lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == [*range(1, 21), *range(1, 6)]
    assert [total for _, _, total in calls] == [20] * 20 + [5] * 5


def test_every_class_is_seen_often_enough(data: MultiTaskData) -> None:
    for split in (data.train, data.test):
        shares = split.targets["segmentation"].flatten().long().bincount(minlength=len(CLASSES)) / len(
            split.targets["segmentation"].flatten()
        )
        assert shares.min() > 0.005
        assert shares.max() < 0.7


def test_a_color_alone_does_not_tell_the_class(data: MultiTaskData) -> None:
    from sklearn.linear_model import LogisticRegression

    def pixels(split: Split) -> tuple[Floats, NDArray[np.int64]]:
        colors = split.images.movedim(1, 3).reshape(-1, 3).numpy() / np.float32(255)
        return colors[::17], split.targets["segmentation"].flatten().numpy()[::17]

    model = LogisticRegression().fit(*pixels(data.train))
    colors, labels = pixels(data.test)
    assert model.score(colors, labels) < np.bincount(labels).max() / len(labels) + 0.1


# Geometry


def test_every_surface_faces_the_camera(view: tuple[Floats, ...]) -> None:
    normals = view[3]
    toward = (normals[:, 0] * RAYS[0] + normals[:, 1] * RAYS[1] + normals[:, 2]) < 1e-4
    assert toward.all()


def test_normals_agree_with_the_depth_on_flat_faces(view: tuple[Floats, ...]) -> None:
    _, _, depth, normals = view
    derived = normals_from_depth(depth[:, 0], RAYS, radius=1)
    # A window is flat where the extremes of the normals' components in it are the same.
    spread = [minimum_filter(normals, (1, 1, 3, 3)), maximum_filter(normals, (1, 1, 3, 3))]
    plane = (normals * np.stack([*RAYS, np.ones_like(RAYS[0])])).sum(1) * depth[:, 0]
    same_plane = maximum_filter(plane, (1, 3, 3)) - minimum_filter(plane, (1, 3, 3)) < 1e-3
    flat = (spread[1] - spread[0] < 1e-4).all(1) & same_plane
    assert flat.mean() > 0.5
    assert np.abs(derived - normals).max(1)[flat].max() < 0.02


@pytest.mark.parametrize("solid", ["cylinder", "ellipsoid"])
def test_normals_agree_with_the_depth_on_curved_ones(rooms: list[Room], solid: str) -> None:
    height, width = 4 * HEIGHT, 4 * WIDTH
    _, labels, depth, normals = render_all(rooms[:10], height, width)
    rays = camera_rays(height, width, (FOCAL * width, FOCAL * width), ((width - 1) / 2, (height - 1) / 2))
    derived = normals_from_depth(depth[:, 0], rays, radius=1)
    inside = minimum_filter(labels, (1, 3, 3)) == maximum_filter(labels, (1, 3, 3))
    seen = inside & (labels == CLASSES.index(solid)) & ~np.isnan(derived[:, 0])
    cosines = (derived * normals).sum(1)[seen]
    assert len(cosines) > 3000
    assert np.median(cosines) > np.cos(np.radians(0.5))


def solid_values(rooms: SimpleNamespace, points: Floats) -> Floats:
    """For points [n 3 p], how far out of every solid they are [s n p]: 1 on it, inf if it is not placed."""
    values = []
    for solid in range(rooms.centers.shape[1]):
        x, y, z = (points - rooms.centers[:, solid, :, None]).swapaxes(0, 1)
        cos, sin = np.cos(rooms.turns[:, solid, None]), np.sin(rooms.turns[:, solid, None])
        a, b, c = np.stack([cos * x - sin * z, y, sin * x + cos * z]) / rooms.halves[:, solid].T[..., None]
        value = {
            "box": np.maximum(np.maximum(a**2, b**2), c**2),
            "cylinder": np.maximum(a**2 + c**2, b**2),
            "ellipsoid": a**2 + b**2 + c**2,
        }[list(SOLIDS)[solid % len(SOLIDS)]]
        values.append(np.where(rooms.placed[:, solid, None], value, np.inf))
    return np.stack(values).astype(np.float32)


def points_at(rooms: SimpleNamespace, depth: Floats) -> Floats:
    """Return the points of the room [n 3 p] at these depths [n 1 h w]."""
    rays = np.stack([*RAYS, np.ones_like(RAYS[0])]).reshape(3, -1).astype(np.float32)
    points: Floats = (rooms.camera @ rays) * depth.reshape(len(depth), 1, -1)
    return points


def test_what_is_seen_lies_on_a_surface_of_its_class(rooms: list[Room], view: Views) -> None:
    every = stack(rooms)
    points = points_at(every, view[2])
    labels = view[1].reshape(len(rooms), -1)
    values = np.abs(solid_values(every, points) - 1)
    for kind, solid in enumerate(SOLIDS):
        assert values[kind :: len(SOLIDS)].min(0)[labels == CLASSES.index(solid)].max() < 2e-3
    room = (points - every.center[..., None]) / every.half[..., None]
    assert np.abs(room).max() < 1 + 1e-4
    assert room[:, 1][labels == CLASSES.index("floor")] == pytest.approx(1, abs=1e-4)
    assert room[:, 1][labels == CLASSES.index("ceiling")] == pytest.approx(-1, abs=1e-4)
    walls = np.maximum(np.abs(room[:, 0]), np.abs(room[:, 2]))[labels == CLASSES.index("wall")]
    assert walls == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_nothing_stands_before_what_is_seen(rooms: list[Room], view: Views, share: float) -> None:
    every = stack(rooms)
    assert solid_values(every, points_at(every, view[2] * np.float32(share))).min() > 0.999


def test_the_camera_stands_on_the_floor_of_a_room_among_solids_that_do_not_touch(rooms: list[Room]) -> None:
    every = stack(rooms)
    assert (np.abs(every.center) < every.half).all()
    assert np.linalg.det(every.camera) == pytest.approx(np.ones(len(rooms)), abs=1e-5)
    feet = every.centers[..., 1] + every.halves[..., 1]
    floor = (every.center + every.half)[:, 1]
    assert feet == pytest.approx(np.broadcast_to(floor[:, None], feet.shape), abs=1e-5)
    ground, radii = every.centers[..., [0, 2]], np.hypot(every.halves[..., 0], every.halves[..., 2])
    gaps = np.linalg.norm(ground[:, :, None] - ground[:, None], axis=3) - radii[:, :, None] - radii[:, None]
    both = every.placed[:, :, None] & every.placed[:, None] & ~np.eye(gaps.shape[1], dtype=bool)
    assert gaps[both].min() >= 0
    assert np.linalg.norm(ground, axis=2)[every.placed].min() > 0.7
    assert 2 < every.placed.sum(1).mean() < every.placed.shape[1]


def test_a_mirrored_room_gives_the_mirrored_image_and_maps(rooms: list[Room], view: Views) -> None:
    mirror = np.array([-1, 1, 1], np.float32)
    mirrored = [
        replace(
            room,
            camera=room.camera * mirror * mirror[:, None],
            center=room.center * mirror,
            centers=room.centers * mirror,
            turns=-room.turns,
            lamp=room.lamp * mirror,
            waves=room.waves * mirror,
        )
        for room in rooms
    ]
    images, labels, depth, normals = (maps[..., ::-1] for maps in render_all(mirrored))
    seen = torch.from_numpy(normals.copy())
    # Where a ray grazes an edge, rounding decides.
    assert (labels == view[1]).mean() > 0.9999
    assert np.quantile(np.abs(depth - view[2]), 0.999) < 1e-4
    assert np.quantile((Normals("").mirrored(seen) - torch.from_numpy(view[3])).abs(), 0.999) < 1e-3
    assert np.quantile(np.abs(images - view[0]), 0.999) < 1e-3


def test_an_object_casts_its_shadow_and_is_lit_from_the_lamp(rooms: list[Room]) -> None:
    plain = [
        replace(room, colors=np.ones_like(room.colors), contrasts=np.zeros_like(room.contrasts))
        for room in rooms
    ]
    images, labels, _, _ = render_all(plain)
    empty, empty_labels, _, _ = render_all(
        [replace(room, placed=np.zeros_like(room.placed)) for room in plain]
    )
    # Away from the blurred outlines of solids, what is seen with and without them differs by shadows only.
    away = maximum_filter(labels, (1, 7, 7)) < CLASSES.index("box")
    assert (empty_labels == labels)[away].all()
    darker = (empty - images)[:, 0][away]
    assert darker.min() > -1e-4
    assert (darker > 0.1).mean() > 0.01
