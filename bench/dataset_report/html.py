"""The report of a dataset as a web page in one file: some images with their labels, and all counts.

Names of classes, tasks and files come from other people's files: the template escapes every one of them, and
the page allows no scripts and loads nothing from outside.
"""

import io
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.api import MultiTaskData, Task
from bench.catalog.description import PartDescription
from bench.dataset_report.statistics import DatasetStatistics, TaskStatistics
from bench.dataset_report.text import format_floor
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.values import DENSE, MISSING

SAMPLES = 48
"""Images on the page."""

DENSE_SAMPLES = 12
"""Images on the page if each image has maps."""

MAX_SIDE = 288
"""Images with a longer side are scaled down to this many px."""

MANY_TASKS = 6
"""With more tasks than this, an image shows only the names of the binary tasks that apply."""

NEGATIVE_CLASSES = frozenset({"no", "absent", "false", "0", "none"})
"""Names of a first class which say that the task's name does not apply."""

UNLABELED = (226, 229, 234)
"""Color of pixels without a label."""

_PALETTE = (("tab20", 0, 2), ("tab20", 1, 2), ("tab20b", 0, 1), ("tab20c", 0, 1))
"""Color maps of matplotlib, with the first color and the step: the ten colors that differ most come first."""


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        source: its pixels, as a ``data:`` address.
        alt: its description in words.
        caption: the words below it.
    """

    source: str
    alt: str
    caption: str = "image"


@dataclass(frozen=True)
class Sample:
    """A training image with its maps and labels.

    Attributes:
        pictures: the image, then one per map.
        labels: task → name of the class, None if the label is missing.
        flags: task → whether its name applies, None if the label is missing.
    """

    pictures: tuple[Picture, ...]
    labels: Mapping[str, str | None]
    flags: Mapping[str, bool | None]


def render_page(statistics: DatasetStatistics, data: MultiTaskData, description: PartDescription) -> str:
    """Return the page as HTML.

    Args:
        statistics: the dataset's counts.
        data: its images.
        description: its docstring.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _format_percent, "floors": format_floor}
    template = environment.from_string((files(__package__) / "page.html").read_text(encoding="utf-8"))
    is_dense = any(task.kind in DENSE for task in data.tasks)
    return template.render(
        dataset=statistics,
        summary=description.summary.replace("`", ""),
        source=description.source.replace("`", ""),
        samples=list(_samples(statistics, data, DENSE_SAMPLES if is_dense else SAMPLES)),
        is_dense=is_dense,
        width=max(150 if len(data.tasks) > MANY_TASKS else 128, min(statistics.shape[2], MAX_SIDE)),
        is_pixelated=max(statistics.shape[1:]) < 96,
        binary_tasks=[task for task in statistics.tasks if task.is_binary],
        other_tasks=[task for task in statistics.tasks if not task.is_binary],
        colors={task.name: _css_colors(task) for task in statistics.tasks},
        max_shares={task.name: max(task.train.shares + task.test.shares) or 1.0 for task in statistics.tasks},
        depth_scales={task.name: _depth_scale(task) for task in statistics.tasks if task.quantiles},
    )


def _format_percent(share: float) -> str:
    """Return a share in percent; a small one is not rounded to 0."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _samples(statistics: DatasetStatistics, data: MultiTaskData, count: int) -> Iterator[Sample]:
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    for row in order[:count].sort().values.tolist():
        yield _make_sample(statistics, data, row)


def _make_sample(statistics: DatasetStatistics, data: MultiTaskData, row: int) -> Sample:
    classifications = [task for task in data.tasks if isinstance(task, Classification)]
    labels: dict[str, str | None] = {}
    flags: dict[str, bool | None] = {}
    for classification in classifications:
        name = classification.name
        label = int(data.train.targets[name][row])
        if len(classifications) > MANY_TASKS and _is_flag(classification):
            flags[name] = None if label == MISSING else bool(label)
        else:
            labels[name] = None if label == MISSING else classification.class_names[label]
    words = [f"{name} {label or '–'}" for name, label in labels.items()]
    words += [name for name, applies in flags.items() if applies]
    alt = f"training image {row}"
    photo = _data_address(_photo(data.train.images[row]))
    pictures = [Picture(photo, f"{alt}: {', '.join(words)}" if words else alt)]
    for task, counts in zip(data.tasks, statistics.tasks, strict=True):
        if task.kind in DENSE:
            drawn = _color_map(task, data.train.targets[task.name][row], counts)
            # Nearest: a mixture of two colors would stand for a third class.
            address = _data_address(drawn, Image.Resampling.NEAREST)
            pictures.append(Picture(address, f"{task.name} of {alt}", task.name))
    return Sample(tuple(pictures), labels, flags)


def _is_flag(task: Classification) -> bool:
    return task.classes == 2 and task.class_names[0].lower() in NEGATIVE_CLASSES


def _photo(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Return an image with three channels in color, any other as the mean of its channels in gray."""
    if len(image) == 3:
        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return Image.fromarray(image.float().mean(0).round().to(torch.uint8).numpy())


def _color_map(task: Task, target: Tensor, counts: TaskStatistics) -> Image.Image:
    """Return the map of one image [... h w] in colors."""
    if isinstance(task, Segmentation):
        colors = np.array([UNLABELED, *map(_class_color, range(task.classes))], np.uint8)
        return Image.fromarray(colors[target.long().numpy() - MISSING])
    if isinstance(task, Depth):
        return Image.fromarray(_depth_colors(target[0], _depth_scale(counts)))
    if isinstance(task, Normals):
        return Image.fromarray(_normal_colors(target))
    raise TypeError(f"{task.kind} has no map")


def _depth_scale(task: TaskStatistics) -> tuple[float, float]:
    """Return the distances at the ends of the color scale."""
    quantiles = next(iter(task.quantiles.values()), (0.0, 1.0))
    return quantiles[0], max(quantiles[-1], quantiles[0] + 1e-6)


def _depth_colors(depth: Float[Tensor, "h w"], scale: tuple[float, float]) -> NDArray[np.uint8]:
    near, far = scale
    meters = depth.float().numpy()
    colors = mpl.colormaps["viridis"]((meters - near) / (far - near), bytes=True)[..., :3]
    colors[np.isnan(meters)] = UNLABELED
    return np.ascontiguousarray(colors)


def _normal_colors(normals: Float[Tensor, "3 h w"]) -> NDArray[np.uint8]:
    """Return the usual colors: red to the right, green up, blue toward the camera."""
    components = normals.float().movedim(0, 2).numpy() * np.array([1, -1, -1], np.float32)
    colors = ((components + 1) / 2 * 255).round().clip(0, 255)
    return np.where(np.isnan(components).any(2, keepdims=True), UNLABELED, colors).astype(np.uint8)


def _class_color(label: int) -> tuple[int, int, int]:
    """Return the color of a class; colors repeat from the 61st class on."""
    maps = [mpl.colormaps[name].colors[first::step] for name, first, step in _PALETTE]  # type: ignore[attr-defined]
    colors = list(chain.from_iterable(maps))
    red, green, blue = colors[label % len(colors)]
    return round(255 * red), round(255 * green), round(255 * blue)


def _css_colors(task: TaskStatistics) -> list[str]:
    """Return the color of every class of a segmentation, nothing for other tasks."""
    if task.kind != "segmentation":
        return []
    return ["#{:02x}{:02x}{:02x}".format(*_class_color(label)) for label in range(len(task.class_names))]


def _data_address(image: Image.Image, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> str:
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE), resampling)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
