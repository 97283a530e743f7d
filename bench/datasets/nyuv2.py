"""NYUv2: photographs of rooms with a class, a depth and a surface normal per pixel."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from bench.api import MultiTaskData
from bench.datasets.cache import RowWriter, cached_arrays
from bench.datasets.labeled_images import log_notes
from bench.datasets.nyuv2_layouts import ARRAYS, MAT_FILE, ORIGINAL, ArrayLayout, Frame, Layout, MatLayout
from bench.datasets.splits import draw_used_rows
from bench.errors import BenchError
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.values import Augmentation, Kind, Progress, Recipe, Split, ignore_progress

OFFICIAL: Final = (795, 654)
"""Training and test images of the official split."""

NAMES_13: Final = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv"),
    *("wall", "window"),
)
"""Source: Couprie, Farabet, Najman, LeCun, ICLR 2013, arXiv:1301.3572"""

NAMES_40: Final = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat"),
    *("clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box"),
    *("whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure"),
    *("other furniture", "other prop"),
)
"""Source: Gupta, Arbeláez, Malik, CVPR 2013"""

FARTHEST: Final = 10.0
"""Range of the depth sensor in meters."""

DECODING_VERSION: Final = 2
"""Version of everything between the files and the cached arrays, raised when values change."""


@dataclass(frozen=True)
class NYUv2:
    """Photographs of rooms: segmentation into 13 or 40 classes, depth and surface normals; official split.

    Read from the arrays of the multi-task literature or from the original file; if both exist, from the
    arrays for 13 classes. Images are resized with antialiasing, maps by nearest neighbor. Given normals are
    read, and reversed along axes that oppose the depth; otherwise normals are derived from depth. The labels
    of the original file are the 40 classes, or the original ones with ``classMapping40.mat`` in the folder.

    Source: Silberman, Hoiem, Kohli, Fergus, ECCV 2012; size and 13 classes as in Liu et al., CVPR 2019,
    arXiv:1803.10704 (MTAN); training as in Yu et al., ICML 2025 (MTL-UE)

    Departs from the paper: training images are flipped, which it does not mention.

    Attributes:
        classes: 13, or 40 from the original file.
        height: of the images in px.
        width: of the images in px.
        limit: number of images to use, in proportion from each split, drawn with ``data_seed``; None: all.
        data_seed: seed of ``limit``.
    """

    version: ClassVar[int] = 2
    recipe: ClassVar[Recipe] = Recipe(epochs=200, batch=8, learning_rate=1e-4, milestones=(0.5,), gamma=0.1)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"segmentation", "depth", "normals"})
    quick_params: ClassVar[dict[str, object]] = {"height": 24, "width": 32, "limit": 8}

    classes: Literal[13, 40] = 13
    height: Annotated[int, Ge(8)] = 288
    width: Annotated[int, Ge(8)] = 384
    limit: Annotated[int, Ge(2)] | None = None
    data_seed: Annotated[int, Ge(0)] = 0

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        if self.classes == 13 and ARRAYS.missing(root) is None:
            return None
        return ORIGINAL.missing(root)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/nyuv2``; resized images and maps are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if a file is missing or cannot be read, or the cache cannot be used.
        """
        from_arrays = self.classes == 13 and ARRAYS.missing(root) is None
        layout: Layout = ArrayLayout(ARRAYS.find(root)) if from_arrays else MatLayout(ORIGINAL.find(root))
        arrays, index, cached_in = cached_arrays(
            cache,
            "nyuv2",
            {
                "decoding": DECODING_VERSION,
                "classes": self.classes,
                "size": [self.height, self.width],
                "draw": None if self.limit is None else [self.limit, self.data_seed],
                "root": str(root),
                "files": layout.source_files(),
            },
            lambda built: self._build(built, layout, progress),
        )
        train, test = (
            Split(arrays[f"{split}-image"], {task: arrays[f"{split}-{task}"] for task in sorted(self.kinds)})
            for split in ("train", "test")
        )
        notes = _source_notes(index, len(train), len(test))
        if from_arrays and ORIGINAL.missing(root, ("mat",)) is None:
            notes.append(f"{MAT_FILE} is not used, because the arrays exist too")
        log_notes("nyuv2", notes)
        tasks = (
            Segmentation("segmentation", NAMES_13 if self.classes == 13 else NAMES_40),
            Depth("depth", 0.0, FARTHEST),
            Normals("normals", index["derived"]),
        )
        return MultiTaskData(tasks, train, test, Augmentation(flip=True), tuple(notes), cached_in)

    def _build(self, folder: Path, layout: Layout, progress: Progress) -> dict[str, Any]:
        """Write the arrays of both splits; return values for the notes."""
        numbers = layout.frame_numbers()
        if empty := [split for split, in_split in numbers.items() if not in_split]:
            raise BenchError(f"dataset 'nyuv2': there is no {empty[0]} image")
        frames = [(number, split) for split, in_split in numbers.items() for number in in_split]
        is_test = np.array([split == "test" for _, split in frames])
        frame_ids = sorted(frames[row] for row in draw_used_rows(is_test, self.limit, self.data_seed))
        rows = {
            "image": ((3, self.height, self.width), np.uint8),
            "segmentation": ((self.height, self.width), np.int8),
            "depth": ((1, self.height, self.width), np.float32),
            "normals": ((3, self.height, self.width), np.float16),
        }
        done = 0
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor())  # most of the work releases Python's lock
            writers = {
                (split, name): stack.enter_context(RowWriter(folder / f"{split}-{name}.npy", *row))
                for split in numbers
                for name, row in rows.items()
            }
            for group in layout.read_frames(frame_ids, self.classes):
                for maps in pool.map(lambda make_frame: self._resize(make_frame()), group):
                    for name, values in maps.items():
                        writers[frame_ids[done][1], name].append(values[None])
                    done += 1
                progress("decoding", done, len(frame_ids))
        return {"derived": layout.derived, "turned": layout.reversed_axes(), "encoded": layout.encoded}

    def _resize(self, frame: Frame) -> dict[str, NDArray[Any]]:
        """Return a row of every array."""
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(frame.image))
        image = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        height, width = frame.labels.shape
        rows = (np.arange(self.height) + 0.5) * height // self.height
        columns = (np.arange(self.width) + 0.5) * width // self.width
        nearest = np.ix_(rows.astype(int), columns.astype(int))
        return {
            "image": np.asarray(image).transpose(2, 0, 1),
            "segmentation": frame.labels[nearest],
            "depth": frame.depth[nearest][None],
            "normals": np.stack([axis[nearest] for axis in frame.normals]).astype(np.float16),
        }


def _source_notes(index: dict[str, Any], train: int, test: int) -> list[str]:
    notes = []
    if (train, test) != OFFICIAL:
        official = " and ".join(map(str, OFFICIAL))
        notes.append(f"{train} training and {test} test images are used, not the official {official}")
    if index["derived"]:
        notes.append(
            "normals are derived from depth by fitting planes; those where no plane fits are missing"
        )
    if index["encoded"]:
        notes.append("the given normals n are stored as (n + 1) / 2 and were decoded")
    if index["turned"]:
        notes.append(
            f"the given normals are reversed along {', '.join(index['turned'])} to agree with the depth:"
            " x right, y down, z away from the camera"
        )
    return notes
