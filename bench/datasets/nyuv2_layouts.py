"""The two file layouts of NYUv2, read frame by frame at full resolution."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int8, UInt8
from numpy.typing import NDArray

from bench.datasets.data_root import FileLayout, Found
from bench.datasets.decoding import File, list_files
from bench.datasets.geometry import camera_rays, normals_from_depth
from bench.errors import BenchError
from bench.files import require_file
from bench.values import MISSING

MAT_FILE: Final = "nyu_depth_v2_labeled.mat"
SPLITS_FILE: Final = "splits.mat"
MAPPING_FILE: Final = "classMapping40.mat"

_FOLDERS: Final = ("nyuv2", "nyu-v2", "nyu-depth-v2")
_WANTED: Final = (
    f"nyuv2/{MAT_FILE} and nyuv2/{SPLITS_FILE}, or (for 13 classes) nyuv2/train/image/0.npy and so"
    " on: train and val, each with image, label, depth and optionally normal,"
)
ARRAYS: Final = FileLayout(
    "nyuv2", _FOLDERS, {"train": ("train/image/",), "test": ("val/image/", "test/image/")}, _WANTED
)
"""Where the images of the arrays are."""

ORIGINAL: Final = FileLayout("nyuv2", _FOLDERS, {"mat": (MAT_FILE,), "splits": (SPLITS_FILE,)}, _WANTED)
"""Where the original files are."""

TO_13: Final = np.array(
    [
        *(0, 12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5),
        *(7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7),
    ]
)
"""Label of 40 classes → label of 13; 0 is no label.

Source: Handa et al., CVPR 2016, arXiv:1511.07041 (SceneNet), from Gupta's 40 classes to Couprie's 13
"""

FOCAL: Final = (518.857901, 519.469611)
CENTER: Final = (325.582449, 253.736166)
WIDTH: Final = 640
"""Focal lengths and optical center (x, y), in px of a full frame of this width.

Source: calibration of the color camera in the toolbox of Silberman et al., ECCV 2012
"""

RADIUS: Final = 10
"""Radius of the windows from which normals are derived, in px of a full frame."""

SIGN_FRAMES: Final = 8
"""Training frames from which the range and the directions of the axes of given normals are found."""

UNIT_TOLERANCE: Final = 0.05
"""How far the length of a decoded normal may be from 1."""

CHUNK: Final = 16
"""Frames that are read at a time; bounds the memory of a first load."""


class Frame(NamedTuple):
    """One frame: labels from 0, `MISSING` if unlabeled; depth in meters and normals, NaN if unknown."""

    image: UInt8[np.ndarray, "h w 3"]
    labels: Int8[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w"]
    normals: Float32[np.ndarray, "3 h w"]


FrameIds = Sequence[tuple[int, str]]
"""Number and split of frames, in the order of their numbers."""

FrameChunks = Iterator[list[Callable[[], Frame]]]
"""Some frames at a time, each as a function that makes it and may be called on any thread."""


class ArrayLayout:
    """The arrays of the multi-task literature, ``train/image/N.npy`` and so on; ``val`` is the test split.

    Images are in [0, 1]; labels of 13 classes start at 0 and are negative if missing; depths and normals are
    0 if missing. The normals are optional.

    Source: Liu et al., CVPR 2019, arXiv:1803.10704 (MTAN)

    Attributes:
        derived: whether the normals are derived from depth.
    """

    def __init__(self, found: Found) -> None:
        self._splits = {split: found[split].parent for split in ("train", "test")}
        self.derived = not all((folder / "normal").is_dir() for folder in self._splits.values())

    def reversed_axes(self) -> str:
        """Return the axes along which the given normals oppose the depth."""
        return "".join(axis for axis, sign in zip("xyz", self._signs, strict=True) if sign < 0)

    def source_files(self) -> list[File]:
        """Return every file with its size and modification time."""
        kinds = ["image", "label", "depth"] + ["normal"] * (not self.derived)
        return [
            file._replace(name=f"{split}/{file.name}")
            for split, folder in self._splits.items()
            for file in list_files(folder, ".npy", folders=kinds)
        ]

    def frame_numbers(self) -> dict[str, list[int]]:
        """Return the numbers of the frames in ``train`` and ``test``: the names of the images."""
        return {
            split: sorted(
                int(path.stem) for path in (folder / "image").glob("*.npy") if path.stem.isdecimal()
            )
            for split, folder in self._splits.items()
        }

    def read_frames(self, frame_ids: FrameIds, classes: int) -> FrameChunks:
        """Read frames with labels of 13 classes; ``classes`` is not used."""
        signs = np.array(self._signs, np.float32)[:, None, None]
        for chunk in _chunks(frame_ids):
            yield [partial(self._read_frame, number, split, signs) for number, split in chunk]

    @cached_property
    def _signs(self) -> tuple[int, ...]:
        """1 for every axis along which the given normals agree with the depth, -1 if they oppose it."""
        if self.derived:
            return (1, 1, 1)
        agreement = np.zeros(3)
        for number in self._sample_frames:
            frame = self._read_frame(number, "train", np.ones((3, 1, 1), np.float32))
            agreement += np.nansum(frame.normals * derive_normals(frame.depth), (1, 2))
        return tuple(-1 if sum_ < 0 else 1 for sum_ in agreement)

    @cached_property
    def _sample_frames(self) -> list[int]:
        """Training frames that show how the given normals are stored."""
        numbers = self.frame_numbers()["train"]
        return numbers[:: max(1, len(numbers) // SIGN_FRAMES)]

    @property
    def encoded(self) -> bool:
        """Whether the given normals n are stored as (n + 1) / 2, or that times 255, as in image files."""
        return self._white is not None

    @cached_property
    def _white(self) -> float | None:
        """The number that stands for 1 in encoded normals; None: they are stored as they are."""
        if self.derived:
            return None
        shares = {None: 0.0, 1.0: 0.0, 255.0: 0.0}
        for number in self._sample_frames:
            stored = self._read("train", "normal", number, None)
            known = stored[stored.any(-1)]
            if (known < 0).any():
                return None
            for white in shares:
                length = np.linalg.norm(_decode_normals(known, white), axis=-1)
                shares[white] += float((abs(length - 1) < UNIT_TOLERANCE).sum())
        return max(shares, key=lambda white: shares[white])

    def _read(self, split: str, kind: str, number: int, shape: tuple[int, ...] | None) -> NDArray[np.float32]:
        return _read_array(self._splits[split] / kind / f"{number}.npy", shape)

    def _read_frame(self, number: int, split: str, signs: Float32[np.ndarray, "3 1 1"]) -> Frame:
        image = self._read(split, "image", number, None)
        shape = image.shape[:2]
        labels = self._read(split, "label", number, shape)
        depth = _mask_unknown(self._read(split, "depth", number, shape))
        if not (-0.01 < image.min() <= image.max() < 1.01 and labels.max() < 13):
            where = f"{self._splits[split]}, frame {number}"
            raise BenchError(f"{where}: images must be from 0 to 1 and labels 12 at most")
        if self.derived:
            normals = derive_normals(depth)
        else:
            stored = self._read(split, "normal", number, (*shape, 3))
            normals = signs * _normalize(_decode_normals(stored, self._white).transpose(2, 0, 1))
        return Frame(
            (image.clip(0, 1) * 255).round().astype(np.uint8),
            labels.clip(MISSING).astype(np.int8),
            depth,
            normals,
        )


def _decode_normals(stored: Float32[np.ndarray, "*n 3"], white: float | None) -> Float32[np.ndarray, "*n 3"]:
    """Return normals that may be stored as (n + 1) / 2; where nothing is stored, 0 stays 0.

    Args:
        stored: the numbers in the file.
        white: what stands for 1; None: the numbers are the normals.
    """
    if white is None:
        return stored
    return np.where(stored.any(-1, keepdims=True), 2 * stored / np.float32(white) - 1, np.float32(0))


class MatLayout:
    """The original file (HDF5, with reversed axes) and the list of its split; normals are derived.

    Its labels are the 40 classes, or the original 894 with a file that maps them to the 40.

    Source: Silberman et al., ECCV 2012; the 40 classes: Gupta, Arbeláez, Malik, CVPR 2013

    Attributes:
        derived: whether the normals are derived from depth.
        encoded: whether given normals are stored in another range.
    """

    encoded = False

    def __init__(self, found: Found) -> None:
        self._path = found["mat"]
        self._splits_path = found["splits"]
        self._folder = found["mat"].parent
        self.derived = True

    def reversed_axes(self) -> str:
        """Return no axis, because no normals are given."""
        return ""

    def source_files(self) -> list[File]:
        """Return every file with its size and modification time."""
        files = list_files(self._folder, MAT_FILE, MAPPING_FILE.lower())
        return files + list_files(self._splits_path.parent, SPLITS_FILE)

    def frame_numbers(self) -> dict[str, list[int]]:
        """Return the numbers of the frames in ``train`` and ``test``, from 1."""
        path = self._splits_path
        train, test = (sorted(array.ravel().tolist()) for array in _read_mat(path, "trainNdxs", "testNdxs"))
        if len({*train, *test}) < len(train) + len(test):
            raise BenchError(f"{path} lists a frame twice")
        return {"train": train, "test": test}

    def read_frames(self, frame_ids: FrameIds, classes: int) -> FrameChunks:
        """Read frames, with labels of 13 or 40 classes, in the order of the file.

        Its compressed pieces may hold several frames.
        """
        import h5py

        try:
            with h5py.File(require_file(self._path)) as file:
                images, labels, depths = (file[name] for name in ("images", "labels", "depths"))
                if (last := frame_ids[-1][0]) > len(images):
                    where = f"{self._path}, which has {len(images)} frames"
                    raise BenchError(f"frame {last} of {self._splits_path} is not in {where}")
                class_of = self._class_table(labels, classes)
                for chunk in _chunks(frame_ids):
                    rows = [number - 1 for number, _ in chunk]
                    arrays = zip(images[rows], labels[rows], depths[rows], strict=True)
                    yield [partial(_make_mat_frame, *frame, class_of) for frame in arrays]
        except BenchError:
            raise
        except Exception as error:  # a damaged file can raise anything
            raise BenchError(f"cannot read {self._path}: {error}") from error

    def _class_table(self, labels: Any, classes: int) -> Int8[np.ndarray, " k"]:
        """Return the class of every label of the file."""
        largest = max(int(labels[start : start + CHUNK].max()) for start in range(0, len(labels), CHUNK))
        to_40 = np.arange(41)
        if largest > 40:
            path = self._folder / MAPPING_FILE
            if not path.is_file():
                raise BenchError(
                    f"the labels of {self._path} are the original ones, up to {largest}; put {MAPPING_FILE},"
                    " which maps them to 40 classes (see github.com/ankurhanda/nyuv2-meta-data), in the same"
                    " folder"
                )
            to_40 = np.concatenate([[0], _read_mat(path, "mapClass")[0].ravel()])
            if largest >= len(to_40):
                raise BenchError(f"{path} has {len(to_40) - 1} labels, but {self._path} has {largest}")
        labels_from_1 = TO_13[to_40] if classes == 13 else to_40
        return (labels_from_1 + MISSING).astype(np.int8)


Layout = ArrayLayout | MatLayout


def derive_normals(depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "3 h w"]:
    """Return the normals of planes fitted to the depth; NaN if none fits."""
    return normals_from_depth(depth, _rays(*depth.shape), max(1, round(RADIUS * depth.shape[1] / WIDTH)))


@cache
def _rays(height: int, width: int) -> Float[np.ndarray, "2 h w"]:
    scale = width / WIDTH
    focal, center = ((x * scale, y * scale) for x, y in (FOCAL, CENTER))
    return camera_rays(height, width, focal, center)


def _make_mat_frame(
    image: UInt8[np.ndarray, "3 w h"],
    labels: NDArray[np.uint16],
    depth: NDArray[np.float32],
    class_of: Int8[np.ndarray, " k"],
) -> Frame:
    known = _mask_unknown(depth.T)
    return Frame(image.transpose(2, 1, 0), class_of[labels.T], known, derive_normals(known))


def _mask_unknown(depth: Float[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Return the depth with NaN instead of 0."""
    return np.where(depth > 0, depth, np.nan).astype(np.float32)


def _normalize(normals: Float[np.ndarray, "3 h w"]) -> Float32[np.ndarray, "3 h w"]:
    """Return the normals with length 1; NaN for those near 0."""
    length = np.linalg.norm(normals, axis=0)
    return np.where(length > 0.5, normals / np.maximum(length, 0.5), np.nan).astype(np.float32)


def _chunks(frame_ids: FrameIds) -> Iterator[FrameIds]:
    return (frame_ids[start : start + CHUNK] for start in range(0, len(frame_ids), CHUNK))


def _read_array(path: Path, shape: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Read an array of this shape, apart from axes of length 1; None: of an image's shape."""
    try:
        with require_file(path).open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged header can raise anything, and ask for any amount of memory
        raise BenchError(f"cannot read {path}: {error}") from error
    if array.squeeze().shape != shape if shape else (array.ndim, array.shape[-1]) != (3, 3):
        raise BenchError(f"{path} is an array {array.shape}; expected {shape or '(height, width, 3)'}")
    return array.astype(np.float32).reshape(shape or array.shape)


def _read_mat(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read arrays of a MATLAB file older than version 7.3."""
    from scipy.io import loadmat

    try:
        content = loadmat(require_file(path), variable_names=names)
        return [content[name].astype(np.int64) for name in names]
    except Exception as error:  # a damaged file can raise anything
        raise BenchError(f"cannot read {' and '.join(names)} of {path}: {error}") from error
