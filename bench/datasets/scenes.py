"""The embedded dataset of dense tasks: rendered rooms whose classes, depths and normals are exact."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar, Final

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Bool, Float32, Int8, UInt8
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bench.api import MultiTaskData
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.values import Augmentation, Kind, Progress, Recipe, Split, ignore_progress

Array = NDArray[np.float32]

CLASSES: Final = ("floor", "ceiling", "wall", "box", "cylinder", "ellipsoid")

ROOM: Final = ((0,), (1,), (2,))
SOLIDS: Final = {"box": ((0,), (1,), (2,)), "cylinder": ((0, 2), (1,)), "ellipsoid": ((0, 1, 2),)}
"""Class → groups of axes: a solid is where, in units of its half-extents, the squares of every group's
coordinates sum to 1 at most. A room is a box seen from inside."""

PER_CLASS: Final = 4
"""Solids of each class that are drawn for a scene; those that find no place are left out."""

FARTHEST: Final = 9.0
"""No ray goes farther, in meters, in the largest room there is."""

FOCAL: Final = 0.85
"""Focal length in widths of the image: 61° are seen from left to right, as NYUv2's camera sees."""

GRAIN: Final = 0.012
"""Standard deviation of the sensor noise."""

BLUR: Final = 0.5
"""Standard deviation of the lens's blur in pixels, which softens the stairs along edges."""

CHUNK: Final = 16
"""Scenes rendered at a time; changes memory and speed, not results."""

GROUPS: Final = list(SOLIDS.values()) * PER_CLASS
"""Solid → its groups of axes; the classes take turns."""

CLASS_OF: Final = np.array([0, 1, 2, *[3 + kind for kind in range(len(SOLIDS))] * PER_CLASS], np.int8)
"""Surface → class: floor, ceiling, walls, then the solids."""


@dataclass(frozen=True)
class Scenes:
    """Rendered rooms with boxes, cylinders and ellipsoids on the floor; needs no data root.

    A pinhole camera, slightly tilted, in a random room under one distant lamp. Every surface has a faint
    random color and pattern, whatever its class, so that shape, shading and place tell the class and color
    does not. Tasks: *segmentation*, *depth* (along the optical axis, as NYUv2 has it) and *normals*, all
    exact at the pixels' centers; the image is also blurred by the lens. Training and test rooms are drawn
    apart.

    Not from a paper; its tasks are those of NYUv2, Silberman et al., ECCV 2012.

    Attributes:
        train: training images.
        test: test images.
        height: of the images in px.
        width: of the images in px.
        data_seed: seed of the rooms.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(epochs=30, batch=32)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"segmentation", "depth", "normals"})
    quick_params: ClassVar[dict[str, object]] = {"train": 60, "test": 20}

    train: Annotated[int, Ge(1)] = 600
    test: Annotated[int, Ge(1)] = 150
    height: Annotated[int, Ge(8)] = 48
    width: Annotated[int, Ge(8)] = 64
    data_seed: Annotated[int, Ge(0)] = 0

    def missing(self, root: Path | None) -> None:
        """Return None: nothing is ever missing."""

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Render the scenes; ``root`` and ``cache`` are not used."""
        train, test = (
            self._render(np.random.default_rng([self.data_seed, part]), count, progress)
            for part, count in enumerate((self.train, self.test))
        )
        tasks = (Segmentation("segmentation", CLASSES), Depth("depth", 0.0, FARTHEST), Normals("normals"))
        return MultiTaskData(tasks, train, test, Augmentation(flip=True))

    def _render(self, rng: Generator, count: int, progress: Progress) -> Split:
        rooms = draw_rooms(rng, count)
        parts = []
        for start in range(0, count, CHUNK):
            image, *maps = render(rooms.rows(start, start + CHUNK), self.height, self.width)
            parts.append((_photographed(rng, image), *maps))
            progress("rendering", min(start + CHUNK, count), count)
        images, labels, depth, normals = map(np.concatenate, zip(*parts, strict=True))
        targets = {"segmentation": labels, "depth": depth, "normals": normals}
        return Split(
            torch.from_numpy(images), {task: torch.from_numpy(maps) for task, maps in targets.items()}
        )


@dataclass(frozen=True, eq=False)
class Rooms:
    """What there is to see in n scenes, each from a camera at the origin; meters, y down.

    The axes are the room's. Surfaces are floor, ceiling and walls, then the s solids.

    Attributes:
        camera: rotation from the camera's axes (x right, y down, z ahead) to the room's.
        middle: of the room.
        half: half-extents of the room.
        centers: of the solids.
        halves: their half-extents.
        turns: their angles about the vertical axis.
        placed: which of them there are.
        lamp: direction to the lamp.
        tint: color of its light.
        colors: of the surfaces.
        waves: two waves per surface in cycles per meter, whose product is its pattern.
        phases: of these waves, in cycles.
        contrasts: of the patterns.
    """

    camera: Float32[np.ndarray, "n 3 3"]
    middle: Float32[np.ndarray, "n 3"]
    half: Float32[np.ndarray, "n 3"]
    centers: Float32[np.ndarray, "n s 3"]
    halves: Float32[np.ndarray, "n s 3"]
    turns: Float32[np.ndarray, "n s"]
    placed: Bool[np.ndarray, "n s"]
    lamp: Float32[np.ndarray, "n 3"]
    tint: Float32[np.ndarray, "n 3"]
    colors: Float32[np.ndarray, "n s+3 3"]
    waves: Float32[np.ndarray, "n s+3 2 3"]
    phases: Float32[np.ndarray, "n s+3 2"]
    contrasts: Float32[np.ndarray, "n s+3"]

    def rows(self, start: int, stop: int) -> "Rooms":
        """Return some of the scenes."""
        return replace(self, **{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})


def draw_rooms(rng: Generator, count: int) -> Rooms:
    """Draw scenes: a room, a camera in its rear part, solids where there is place, a lamp, and colors."""
    solids, surfaces = len(GROUPS), len(CLASS_OF)

    def uniform(low: float, high: float, *shape: int) -> Array:
        return rng.uniform(low, high, (count, *shape)).astype(np.float32)

    half = np.stack([uniform(1.75, 3.0), uniform(1.2, 1.5), uniform(2.0, 3.5)], 1)
    tall = uniform(1.1, 1.7)
    eye = np.stack([uniform(-0.5, 0.5) * half[:, 0], half[:, 1] - tall, uniform(-0.85, -0.5) * half[:, 2]], 1)
    yaw, pitch, roll = uniform(-0.6, 0.6), uniform(0.0, 0.36), uniform(-0.03, 0.03)

    bearing = yaw[:, None] + uniform(-0.6, 0.6, solids)
    distance = uniform(1.3, 5.5, solids)
    halves = _half_extents(uniform(0.14, 0.5, solids, 3))
    upright = tall[:, None] - halves[..., 1]
    centers = np.stack([distance * np.sin(bearing), upright, distance * np.cos(bearing)], 2)

    height, around = uniform(0.6, 1.1), uniform(-np.pi, np.pi)
    return Rooms(
        camera=_rotations(yaw, pitch, roll),
        middle=-eye,
        half=half,
        centers=centers,
        halves=halves,
        turns=uniform(-np.pi, np.pi, solids),
        placed=_placed(-eye, half, centers, np.hypot(halves[..., 0], halves[..., 2])),
        lamp=np.stack([np.cos(height) * np.sin(around), -np.sin(height), np.cos(height) * np.cos(around)], 1),
        tint=uniform(0.94, 1.06, 3),
        colors=_colors(uniform(0.4, 0.85, surfaces, 1), uniform(-1.0, 1.0, surfaces, 2)),
        waves=_waves(uniform(0.4, 2.5, surfaces, 2), rng.integers(0, 4, (count, surfaces, 2))),
        phases=uniform(0.0, 1.0, surfaces, 2),
        contrasts=uniform(-0.05, 0.2, surfaces).clip(0),
    )


def _half_extents(halves: Float32[np.ndarray, "n s 3"]) -> Float32[np.ndarray, "n s 3"]:
    """Return half-extents with cylinders and ellipsoids round from above, and ellipsoids about as high."""
    kinds = len(SOLIDS)
    cylinders, ellipsoids = halves[:, 1::kinds], halves[:, 2::kinds]
    halves[..., 1] *= 1.4
    cylinders[..., 2] = cylinders[..., 0]
    ellipsoids += 0.1
    ellipsoids[..., 1] = ellipsoids[..., 0] * (0.75 + 0.5 * ellipsoids[..., 2])
    ellipsoids[..., 2] = ellipsoids[..., 0]
    return halves


def _rotations(yaw: Array, pitch: Array, roll: Array) -> Float32[np.ndarray, "n 3 3"]:
    """Return rotations by roll about z, then by pitch about x (looking down), then by yaw about y."""
    product = np.eye(3, dtype=np.float32)
    for angle, (first, second) in ((yaw, (2, 0)), (pitch, (2, 1)), (roll, (0, 1))):
        turn = np.tile(np.eye(3, dtype=np.float32), (len(angle), 1, 1))
        turn[:, first, first] = turn[:, second, second] = np.cos(angle)
        turn[:, second, first] = np.sin(angle)
        turn[:, first, second] = -np.sin(angle)
        product = product @ turn
    return product


def _placed(middle: Array, half: Array, centers: Array, radii: Array) -> NDArray[np.bool_]:
    """Return which solids stand inside the room, away from the camera and from those before them."""
    ground = centers[..., [0, 2]]
    room = (np.abs(ground - middle[:, None, [0, 2]]) + radii[..., None] < half[:, None, [0, 2]]).all(2)
    placed: NDArray[np.bool_] = room & (np.linalg.norm(ground, axis=2) > radii + 0.7)
    gaps = np.linalg.norm(ground[:, :, None] - ground[:, None], axis=3) - radii[:, :, None] - radii[:, None]
    for solid in range(1, placed.shape[1]):
        placed[:, solid] &= ~((gaps[:, solid, :solid] < 0) & placed[:, :solid]).any(1)
    return placed


def _colors(gray: Array, hue: Array) -> Array:
    """Return faint colors: grays, made warmer or colder and a little greener or redder."""
    return gray * (1 + hue @ np.array([[0.25, 0.0, -0.25], [-0.06, 0.06, -0.06]], np.float32))


def _waves(cycles: Array, axis: NDArray[np.int64]) -> Array:
    """Return waves along one axis each; along none where it is 3, which makes stripes of checks."""
    directions = np.eye(4, 3, dtype=np.float32)
    return cycles[..., None] * directions[axis]


def render(
    rooms: Rooms, height: int, width: int
) -> tuple[
    Float32[np.ndarray, "n 3 h w"],
    Int8[np.ndarray, "n h w"],
    Float32[np.ndarray, "n 1 h w"],
    Float32[np.ndarray, "n 3 h w"],
]:
    """Return images without grain, classes, depths along the optical axis and normals in camera axes."""
    count, shape = len(rooms.camera), (height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    pixels = np.stack([columns - (width - 1) / 2, rows - (height - 1) / 2]) / (FOCAL * width)
    rays = rooms.camera @ np.concatenate([pixels, np.ones_like(rows)[None]]).reshape(3, -1)
    depth, normals, surfaces = _nearest(rooms, rays)
    points = depth[:, None] * rays
    light = _lit(rooms, points, normals)
    facing = (-(rays * normals).sum(1) / np.linalg.norm(rays, axis=1)).clip(0.01)
    colors = _color_at(rooms, points, surfaces, depth / (FOCAL * width * facing))
    images = (colors * light[:, None] * rooms.tint[..., None]).clip(0, 1)
    return (
        gaussian_filter(images.reshape(count, 3, *shape), (0, 0, BLUR, BLUR), mode="nearest"),
        CLASS_OF[surfaces].reshape(count, *shape),
        depth.reshape(count, 1, *shape),
        (rooms.camera.transpose(0, 2, 1) @ normals).reshape(count, 3, *shape),
    )


def _photographed(rng: Generator, images: Float32[np.ndarray, "n 3 h w"]) -> UInt8[np.ndarray, "n 3 h w"]:
    """Return images with the sensor's noise in whole steps."""
    grain = rng.standard_normal(images.shape, dtype=np.float32)
    quantized: NDArray[np.uint8] = ((images + GRAIN * grain).clip(0, 1) * 255).round().astype(np.uint8)
    return quantized


def _nearest(rooms: Rooms, rays: Float32[np.ndarray, "n 3 p"]) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return depth in ray lengths [n p], normal [n 3 p] and number [n p] of the surface each ray meets."""
    origin, ray = -(rooms.middle / rooms.half)[..., None], rays / rooms.half[..., None]
    _, exits = _spans(origin, ray, ROOM)
    depth, side = exits.min(0), exits.argmin(0)
    normals = -_gradient(origin + depth[:, None] * ray, side, ROOM)
    surfaces = np.where(side == 1, np.where(ray[:, 1] > 0, 0, 1), 2)
    for solid, groups in enumerate(GROUPS):
        there = np.flatnonzero(rooms.placed[:, solid])
        origin, ray = _in_units(rooms, solid, there, np.zeros((1, 3, 1), np.float32), rays[there])
        entries, exits = _spans(origin, ray, groups)
        entry = entries.max(0)
        seen = (entry < exits.min(0)) & (entry > 0) & (entry < depth[there])
        depth[there] = np.where(seen, entry, depth[there])
        gradient = _gradient(origin + depth[there, None] * ray, entries.argmax(0), groups)
        outward = _turned(gradient / rooms.halves[there, solid, :, None], -rooms.turns[there, solid, None])
        normals[there] = np.where(seen[:, None], outward, normals[there])
        surfaces[there] = np.where(seen, 3 + solid, surfaces[there])
    return depth, normals / np.linalg.norm(normals, axis=1, keepdims=True), surfaces


def _lit(
    rooms: Rooms, points: Float32[np.ndarray, "n 3 p"], normals: Float32[np.ndarray, "n 3 p"]
) -> Float32[np.ndarray, "n p"]:
    """Return the light that reaches points: from all sides, most from above, and from the lamp."""
    lamp = rooms.lamp[..., None]
    direct = (normals * lamp).sum(1).clip(0)
    for solid, groups in enumerate(GROUPS):
        there = np.flatnonzero(rooms.placed[:, solid])
        entries, exits = _spans(*_in_units(rooms, solid, there, points[there], lamp[there]), groups)
        exit_ = exits.min(0)
        direct[there] *= (entries.max(0) >= exit_) | (exit_ < 0.01)
    light: Array = 0.65 - 0.1 * normals[:, 1] + 0.35 * direct
    return light


def _color_at(
    rooms: Rooms,
    points: Float32[np.ndarray, "n 3 p"],
    surfaces: NDArray[np.int64],
    footprint: Float32[np.ndarray, "n p"],
) -> Float32[np.ndarray, "n 3 p"]:
    """Return the surfaces' colors at points; a pattern fades where a pixel's footprint spans its waves."""
    each = np.arange(len(points))[:, None]
    turns = np.pad(rooms.turns, ((0, 0), (3, 0)))[each, surfaces]
    waves = rooms.waves[each, surfaces]
    cycles = np.einsum("npwc,ncp->npw", waves, _turned(points, turns)) + rooms.phases[each, surfaces]
    blurred = np.linalg.norm(waves, axis=3).max(2) * footprint
    pattern = np.tanh(4 * np.sin(2 * np.pi * cycles).prod(2)) * np.exp(-8 * blurred**2)
    shade = 1 + rooms.contrasts[each, surfaces] * pattern
    colors: Array = rooms.colors[each, surfaces].transpose(0, 2, 1) * shade[:, None]
    return colors


def _in_units(
    rooms: Rooms, solid: int, there: NDArray[np.int64], points: Array, rays: Array
) -> tuple[Array, Array]:
    """Return points and rays of some scenes in a solid's axes and half-extents."""
    turns, half = rooms.turns[there, solid, None], rooms.halves[there, solid, :, None]
    return _turned(points - rooms.centers[there, solid, :, None], turns) / half, _turned(rays, turns) / half


def _turned(
    vectors: Float32[np.ndarray, "n 3 #p"], turns: Float32[np.ndarray, "#n #p"]
) -> Float32[np.ndarray, "n 3 _"]:
    """Return vectors turned about the vertical axis."""
    x, y, z = vectors.swapaxes(0, 1)
    cos, sin = np.cos(turns), np.sin(turns)
    return np.stack([cos * x - sin * z, y, sin * x + cos * z], 1)


def _spans(origin: Array, ray: Array, groups: tuple[tuple[int, ...], ...]) -> tuple[Array, Array]:
    """Return where rays enter and leave each bound of a solid of half-extents 1 [g n p].

    A ray that misses a bound enters at infinity and has left at minus infinity.
    """
    entries, exits = [], []
    for axes in map(list, groups):
        a = (ray[:, axes] ** 2).sum(1).clip(1e-12)
        b = (origin[:, axes] * ray[:, axes]).sum(1)
        root = b**2 - a * ((origin[:, axes] ** 2).sum(1) - 1)
        hit, root = root > 0, np.sqrt(root.clip(0))
        entries.append(np.where(hit, (-b - root) / a, np.inf))
        exits.append(np.where(hit, (-b + root) / a, -np.inf))
    return np.stack(entries), np.stack(exits)


def _gradient(points: Array, group: NDArray[np.int64], groups: tuple[tuple[int, ...], ...]) -> Array:
    """Return the outward direction of the bounds that points [n 3 p] of a solid of half-extents 1 lie on."""
    member = np.array([[axis in axes for axis in range(3)] for axes in groups])
    gradient: Array = points * member[group].transpose(0, 2, 1)
    return gradient
