"""A dataset as a web page in one file: some of its images with their labels, and all counts.

Names of classes, tasks and files come from other people's files: the template escapes every one of them, and
the page forbids itself scripts and anything from outside.
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
"""The same where every image has its maps beside it."""

LARGEST = 288
"""Images with a longer side are scaled down to this many px."""

MANY = 6
"""With more tasks than this, an image's labels are told by the names of those that apply."""

NEGATIVE = frozenset({"no", "absent", "false", "0", "none"})
"""Names of a first class that say the task's name does not apply."""

NOTHING = (226, 229, 234)
"""Color of pixels without a label."""

_PALETTE = (("tab20", 0, 2), ("tab20", 1, 2), ("tab20b", 0, 1), ("tab20c", 0, 1))
"""Color maps of matplotlib, each from which color and in which steps: first the ten that differ most."""


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        source: its pixels, as a ``data:`` address.
        alt: what it shows, in words.
        caption: the words below it.
    """

    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Label:
    """One label of a sample; ``value`` is the class's name, None where there is none."""

    task: str
    value: str | None


@dataclass(frozen=True)
class Flag:
    """A label of a sample that says whether the task's name applies; None where there is none."""

    task: str
    value: bool | None


@dataclass(frozen=True)
class Sample:
    """A training image and its maps, its labels, and those of many tasks that are told by name alone."""

    pictures: tuple[Picture, ...]
    labels: tuple[Label, ...]
    flags: tuple[Flag, ...]


def render_page(sheet: DatasetStatistics, data: MultiTaskData, about: PartDescription) -> str:
    """Return the page as HTML.

    Args:
        sheet: the dataset's counts.
        data: its images.
        about: what its part says of it.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "floors": format_floor, "plain": _plain}
    template = environment.from_string((files(__package__) / "page.html").read_text(encoding="utf-8"))
    dense = any(task.kind in DENSE for task in data.tasks)
    samples = list(_samples(sheet, data, DENSE_SAMPLES if dense else SAMPLES))
    return template.render(
        sheet=sheet,
        about=about,
        samples=samples,
        dense=dense,
        width=max(150 if len(data.tasks) > MANY else 128, min(sheet.shape[2], LARGEST)),
        pixelated=max(sheet.shape[1:]) < 96,
        binary=[task for task in sheet.tasks if task.binary],
        others=[task for task in sheet.tasks if not task.binary],
        colors={task.name: _swatches(task) for task in sheet.tasks},
        largest={task.name: max(task.train.shares + task.test.shares) or 1.0 for task in sheet.tasks},
        spans={task.name: _span(task) for task in sheet.tasks if task.quantiles},
    )


def _plain(text: str) -> str:
    """Return a docstring's text without the quotes of code."""
    return text.replace("`", "")


def _percent(share: float) -> str:
    """Spell a share; what is there, but less than a tenth of a percent, is not told as 0."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _samples(sheet: DatasetStatistics, data: MultiTaskData, count: int) -> Iterator[Sample]:
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    for row in order[:count].sort().values.tolist():
        yield _sample(sheet, data, row)


def _sample(sheet: DatasetStatistics, data: MultiTaskData, row: int) -> Sample:
    classifications = [task for task in data.tasks if isinstance(task, Classification)]
    told: list[Label] = []
    flags: list[Flag] = []
    for task in classifications:
        label = int(data.train.targets[task.name][row])
        if len(classifications) > MANY and _is_flag(task):
            flags.append(Flag(task.name, None if label == MISSING else bool(label)))
        else:
            told.append(Label(task.name, None if label == MISSING else task.class_names[label]))
    said = [f"{label.task} {label.value or '–'}" for label in told] + [
        flag.task for flag in flags if flag.value
    ]
    who = f"training image {row}"
    photo = _address(_photo(data.train.images[row]))
    pictures = [Picture(photo, f"{who}: {', '.join(said)}" if said else who)]
    for dense in data.tasks:
        if dense.kind in DENSE:
            drawn = _map(dense, data.train.targets[dense.name][row], sheet)
            address = _address(drawn, Image.Resampling.NEAREST)  # no colors that stand for nothing
            pictures.append(Picture(address, f"{dense.name} of {who}", dense.name))
    return Sample(tuple(pictures), tuple(told), tuple(flags))


def _is_flag(task: Classification) -> bool:
    return task.classes == 2 and task.class_names[0].lower() in NEGATIVE


def _photo(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Return an image for people: three channels as colors, any other number as their mean in gray."""
    if len(image) == 3:
        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return Image.fromarray(image.float().mean(0).round().to(torch.uint8).numpy())


def _map(task: Task, target: Tensor, sheet: DatasetStatistics) -> Image.Image:
    """Return the map of one image [... h w] in colors."""
    if isinstance(task, Segmentation):
        colors = np.array([NOTHING, *(_palette(label) for label in range(task.classes))], np.uint8)
        return Image.fromarray(colors[target.long().numpy() - MISSING])
    if isinstance(task, Depth):
        return Image.fromarray(_depth_colors(target[0], _span(_sheet_of(sheet, task))))
    if isinstance(task, Normals):
        return Image.fromarray(_normal_colors(target))
    raise TypeError(f"{task.kind} has no map")


def _sheet_of(sheet: DatasetStatistics, task: Task) -> TaskStatistics:
    return next(some for some in sheet.tasks if some.name == task.name)


def _span(task: TaskStatistics) -> tuple[float, float]:
    """Return the distances at the ends of the color scale."""
    quantiles = next(iter(task.quantiles.values()), (0.0, 1.0))
    return quantiles[0], max(quantiles[-1], quantiles[0] + 1e-6)


def _depth_colors(depth: Float[Tensor, "h w"], span: tuple[float, float]) -> NDArray[np.uint8]:
    near, far = span
    meters = depth.float().numpy()
    colors = mpl.colormaps["viridis"]((meters - near) / (far - near), bytes=True)[..., :3]
    colors[np.isnan(meters)] = NOTHING
    return np.ascontiguousarray(colors)


def _normal_colors(normals: Float[Tensor, "3 h w"]) -> NDArray[np.uint8]:
    """Return the usual colors: red to the right, green up, blue toward the camera."""
    turned = normals.float() * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    colors = ((turned + 1) / 2 * 255).nan_to_num().round().clamp(0, 255).to(torch.uint8)
    known = ~normals.isnan().any(0)
    nothing = torch.tensor(NOTHING, dtype=torch.uint8)[:, None, None]
    return torch.where(known, colors, nothing).permute(1, 2, 0).contiguous().numpy()


def _palette(label: int) -> tuple[int, int, int]:
    """Return the color of a class; from the 61st on they come again."""
    maps = [mpl.colormaps[name].colors[first::step] for name, first, step in _PALETTE]  # type: ignore[attr-defined]
    colors = list(chain.from_iterable(maps))
    red, green, blue = colors[label % len(colors)]
    return round(255 * red), round(255 * green), round(255 * blue)


def _swatches(task: TaskStatistics) -> Mapping[int, str]:
    """Return the color of every class of a segmentation as CSS."""
    if task.kind != "segmentation":
        return {}
    return {label: "#{:02x}{:02x}{:02x}".format(*_palette(label)) for label in range(len(task.class_names))}


def _address(image: Image.Image, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> str:
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), resampling)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
