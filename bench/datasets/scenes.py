"""The embedded dataset of dense tasks: rendered rooms with exact classes, depths and normals."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Final

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Bool, Float32, Int8
from numpy.random import Generator
from numpy.typing import NDArray

from bench.api import MultiTaskData
from bench.memory import require_memory
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.values import Augmentation, Kind, Progress, Recipe, Split, ignore_progress

Floats = NDArray[np.float32]

CLASSES: Final = ("floor", "ceiling", "wall", "box", "cylinder", "ellipsoid")

ROOM: Final = ((0,), (1,), (2,))
SOLIDS: Final = {"box": ((0,), (1,), (2,)), "cylinder": ((0, 2), (1,)), "ellipsoid": ((0, 1, 2),)}
"""Class → groups of axes. In units of its half-extents, a solid holds the points at which the squared
coordinates of every group sum to 1 at most. A room is a box seen from inside."""

PER_CLASS: Final = 4
"""Solids of each class that are drawn for a room; those without free space are left out."""

FARTHEST: Final = 9.0
"""No surface is farther away, in meters, in the largest possible room."""

FOCAL: Final = 0.85
"""Focal length in widths of the image: a horizontal view of 61°, as NYUv2's camera has."""

GRAIN: Final = 0.012
"""Standard deviation of the sensor noise."""

BLUR: Final = 0.5
"""Standard deviation of the lens blur in pixels, which softens jagged edges."""

GROUPS: Final = list(SOLIDS.values()) * PER_CLASS
"""Solid → its groups of axes; the classes alternate."""

CLASS_OF: Final = np.array([0, 1, 2, *[3 + kind for kind in range(len(SOLIDS))] * PER_CLASS], np.int8)
"""Surface → class: floor, ceiling, walls, then the solids."""


PIXEL_BYTES = 40
"""Memory of a pixel with its class, depth and normal, which exist twice when they are put together."""


@dataclass(frozen=True)
class Scenes:
    """Rendered rooms with boxes, cylinders and ellipsoids on the floor; needs no data root.

    A slightly tilted pinhole camera looks at a random room under one distant lamp. Every surface has a faint
    random color and pattern, independent of its class: shape, shading and place tell the class, color does
    not. Tasks: *segmentation*, *depth* (along the optical axis, as in NYUv2) and *normals*, all exact at the
    centers of the pixels. The image has lens blur and sensor noise. Training and test rooms are drawn
    independently.

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
        """Return None: nothing is needed."""

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Render the scenes; ``root`` and ``cache`` are not used.

        Raises:
            BenchError: if they do not fit in memory.
        """
        count = max(self.train, self.test)
        what = f"dataset 'scenes' with {count:,} images of {self.height}×{self.width} px"
        require_memory(what, count * self.height * self.width * PIXEL_BYTES)
        train, test = (
            self._render(np.random.default_rng([self.data_seed, part]), count, progress)
            for part, count in enumerate((self.train, self.test))
        )
        tasks = (Segmentation("segmentation", CLASSES), Depth("depth", 0.0, FARTHEST), Normals("normals"))
        return MultiTaskData(tasks, train, test, Augmentation(flip=True))

    def _render(self, rng: Generator, count: int, progress: Progress) -> Split:
        views = []
        for done, room in enumerate(draw_rooms(rng, count), 1):
            image, *maps = render(room, self.height, self.width)
            noisy = image + GRAIN * rng.standard_normal(image.shape, dtype=np.float32)
            views.append(((noisy.clip(0, 1) * 255).round().astype(np.uint8), *maps))
            progress("rendering", done, count)
        images, labels, depth, normals = (
            torch.from_numpy(np.stack(maps)) for maps in zip(*views, strict=True)
        )
        return Split(images, {"segmentation": labels, "depth": depth, "normals": normals})


@dataclass(frozen=True, eq=False)
class Room:
    """A room with a camera at the origin; meters, y down, axes along the walls.

    The surfaces are floor, ceiling and walls, then the s solids.

    Attributes:
        camera: rotation from the camera's axes (x right, y down, z forward) to the room's.
        center: of the room.
        half: half-extents of the room.
        centers: of the solids.
        halves: half-extents of the solids.
        turns: angles of the solids about the vertical axis.
        placed: which solids are in the room.
        lamp: direction to the lamp.
        tint: color of its light.
        colors: of the surfaces.
        waves: two waves per surface in cycles per meter, whose product is its pattern.
        phases: of these waves, in cycles.
        contrasts: of the patterns.
    """

    camera: Float32[np.ndarray, "3 3"]
    center: Float32[np.ndarray, "3"]
    half: Float32[np.ndarray, "3"]
    centers: Float32[np.ndarray, "s 3"]
    halves: Float32[np.ndarray, "s 3"]
    turns: Float32[np.ndarray, " s"]
    placed: Bool[np.ndarray, " s"]
    lamp: Float32[np.ndarray, "3"]
    tint: Float32[np.ndarray, "3"]
    colors: Float32[np.ndarray, "s+3 3"]
    waves: Float32[np.ndarray, "s+3 2 3"]
    phases: Float32[np.ndarray, "s+3 2"]
    contrasts: Float32[np.ndarray, " s+3"]


def draw_rooms(rng: Generator, count: int) -> list[Room]:
    """Draw rooms: each with a camera in its rear part, solids in free places, a lamp, and colors."""
    solids, surfaces = len(GROUPS), len(CLASS_OF)

    def uniform(low: float, high: float, *shape: int) -> Floats:
        return rng.uniform(low, high, (count, *shape)).astype(np.float32)

    half = np.stack([uniform(1.75, 3.0), uniform(1.2, 1.5), uniform(2.0, 3.5)], 1)
    eye_height = uniform(1.1, 1.7)
    eye = [uniform(-0.5, 0.5) * half[:, 0], half[:, 1] - eye_height, uniform(-0.85, -0.5) * half[:, 2]]
    center = -np.stack(eye, 1)
    yaw, pitch, roll = uniform(-0.6, 0.6), uniform(0.0, 0.36), uniform(-0.03, 0.03)

    bearing = yaw[:, None] + uniform(-0.6, 0.6, solids)
    distance = uniform(1.3, 5.5, solids)
    halves = _shape_solids(uniform(0.14, 0.5, solids, 3))
    on_floor = eye_height[:, None] - halves[..., 1]
    centers = np.stack([distance * np.sin(bearing), on_floor, distance * np.cos(bearing)], 2)

    elevation, azimuth = uniform(0.6, 1.1), uniform(-np.pi, np.pi)
    lamp = [np.cos(elevation) * np.sin(azimuth), -np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    drawn = {
        "camera": _camera_rotations(yaw, pitch, roll),
        "center": center,
        "half": half,
        "centers": centers,
        "halves": halves,
        "turns": uniform(-np.pi, np.pi, solids),
        "placed": _find_free_solids(center, half, centers, np.hypot(halves[..., 0], halves[..., 2])),
        "lamp": np.stack(lamp, 1),
        "tint": uniform(0.94, 1.06, 3),
        "colors": _faint_colors(uniform(0.4, 0.85, surfaces, 1), uniform(-1.0, 1.0, surfaces, 2)),
        # Along one axis each; along none for 3, which turns checks into stripes.
        "waves": uniform(0.4, 2.5, surfaces, 2)[..., None]
        * np.eye(4, 3, dtype=np.float32)[rng.integers(0, 4, (count, surfaces, 2))],
        "phases": uniform(0.0, 1.0, surfaces, 2),
        "contrasts": uniform(-0.05, 0.2, surfaces).clip(0),
    }
    return [Room(**dict(zip(drawn, values, strict=True))) for values in zip(*drawn.values(), strict=True)]


def _shape_solids(halves: Float32[np.ndarray, "n s 3"]) -> Float32[np.ndarray, "n s 3"]:
    """Return half-extents with cylinders and ellipsoids round from above, and ellipsoids about as high."""
    kinds = len(SOLIDS)
    cylinders, ellipsoids = halves[:, 1::kinds], halves[:, 2::kinds]
    halves[..., 1] *= 1.4
    cylinders[..., 2] = cylinders[..., 0]
    ellipsoids += 0.1
    ellipsoids[..., 1] = ellipsoids[..., 0] * (0.75 + 0.5 * ellipsoids[..., 2])
    ellipsoids[..., 2] = ellipsoids[..., 0]
    return halves


def _camera_rotations(yaw: Floats, pitch: Floats, roll: Floats) -> Float32[np.ndarray, "n 3 3"]:
    """Return rotations by roll about z, then by pitch about x (looking down), then by yaw about y."""
    product = np.eye(3, dtype=np.float32)
    for angle, (first, second) in ((yaw, (2, 0)), (pitch, (2, 1)), (roll, (0, 1))):
        turn = np.tile(np.eye(3, dtype=np.float32), (len(angle), 1, 1))
        turn[:, first, first] = turn[:, second, second] = np.cos(angle)
        turn[:, second, first] = np.sin(angle)
        turn[:, first, second] = -np.sin(angle)
        product = product @ turn
    return product


def _find_free_solids(center: Floats, half: Floats, centers: Floats, radii: Floats) -> NDArray[np.bool_]:
    """Return which solids are inside the room and apart from the camera and from the solids before them."""
    ground = centers[..., [0, 2]]
    inside = (np.abs(ground - center[:, None, [0, 2]]) + radii[..., None] < half[:, None, [0, 2]]).all(2)
    free: NDArray[np.bool_] = inside & (np.linalg.norm(ground, axis=2) > radii + 0.7)
    gaps = np.linalg.norm(ground[:, :, None] - ground[:, None], axis=3) - radii[:, :, None] - radii[:, None]
    for solid in range(1, free.shape[1]):
        free[:, solid] &= ~((gaps[:, solid, :solid] < 0) & free[:, :solid]).any(1)
    return free


def _faint_colors(gray: Floats, hue: Floats) -> Floats:
    """Return grays that are made warmer or colder and a little greener or redder."""
    return gray * (1 + hue @ np.array([[0.25, 0.0, -0.25], [-0.06, 0.06, -0.06]], np.float32))


def render(
    room: Room, height: int, width: int
) -> tuple[
    Float32[np.ndarray, "3 h w"],
    Int8[np.ndarray, "h w"],
    Float32[np.ndarray, "1 h w"],
    Float32[np.ndarray, "3 h w"],
]:
    """Return the image without noise, classes, depth along the optical axis and normals in camera axes."""
    from scipy.ndimage import gaussian_filter

    rays = room.camera @ _camera_rays(height, width)
    depth, normals, surfaces = _trace(room, rays)
    points = depth * rays
    cosines = (-(rays * normals).sum(0) / np.linalg.norm(rays, axis=0)).clip(0.01)
    colors = _surface_colors(room, points, surfaces, depth / (FOCAL * width * cosines))
    image = (colors * _illumination(room, points, normals) * room.tint[:, None]).clip(0, 1)
    return (
        gaussian_filter(image.reshape(3, height, width), (0, BLUR, BLUR), mode="nearest"),
        CLASS_OF[surfaces].reshape(height, width),
        depth.reshape(1, height, width),
        (room.camera.T @ normals).reshape(3, height, width),
    )


@cache
def _camera_rays(height: int, width: int) -> Float32[np.ndarray, "3 p"]:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    pixels = np.stack([columns - (width - 1) / 2, rows - (height - 1) / 2]) / (FOCAL * width)
    return np.concatenate([pixels, np.ones_like(rows)[None]]).reshape(3, -1)


def _trace(room: Room, rays: Float32[np.ndarray, "3 p"]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return the depth in ray lengths [p], the normal [3 p] and the surface [p] that each ray meets first."""
    origin, ray = -(room.center / room.half)[:, None], rays / room.half[:, None]
    _, exits = _intersect(origin, ray, ROOM)
    depth, side = exits.min(0), exits.argmin(0)
    normals = -_outward(origin + depth * ray, side, ROOM)
    surfaces = np.where(side == 1, np.where(ray[1] > 0, 0, 1), 2)
    for solid in np.flatnonzero(room.placed).tolist():
        origin, ray = _to_solid_units(room, solid, np.zeros((3, 1), np.float32), rays)
        entries, exits = _intersect(origin, ray, GROUPS[solid])
        entry = entries.max(0)
        seen = (entry < exits.min(0)) & (entry > 0) & (entry < depth)
        outward = _outward(origin + entry[seen] * ray[:, seen], entries[:, seen].argmax(0), GROUPS[solid])
        depth[seen], surfaces[seen] = entry[seen], 3 + solid
        normals[:, seen] = _rotate(outward / room.halves[solid][:, None], -room.turns[solid])
    return depth, normals / np.linalg.norm(normals, axis=0), surfaces


def _illumination(
    room: Room, points: Float32[np.ndarray, "3 p"], normals: Float32[np.ndarray, "3 p"]
) -> Float32[np.ndarray, " p"]:
    """Return the light at points: from all sides, most from above, and from the lamp."""
    lamp = room.lamp[:, None]
    direct = (normals * lamp).sum(0).clip(0)
    for solid in np.flatnonzero(room.placed).tolist():
        entries, exits = _intersect(*_to_solid_units(room, solid, points, lamp), GROUPS[solid])
        direct *= (entries.max(0) >= exits.min(0)) | (exits.min(0) < 0.01)
    light: Floats = 0.65 - 0.1 * normals[1] + 0.35 * direct
    return light


def _surface_colors(
    room: Room,
    points: Float32[np.ndarray, "3 p"],
    surfaces: NDArray[np.int64],
    footprint: Float32[np.ndarray, " p"],
) -> Float32[np.ndarray, "3 p"]:
    """Return colors at points; a pattern fades where a pixel's footprint in meters covers its waves."""
    rotated = _rotate(points, np.pad(room.turns, (3, 0))[surfaces])
    cycles = np.einsum("pwc,cp->pw", room.waves[surfaces], rotated) + room.phases[surfaces]
    blurred = np.linalg.norm(room.waves, axis=2).max(1)[surfaces] * footprint
    pattern = np.tanh(4 * np.sin(2 * np.pi * cycles).prod(1)) * np.exp(-8 * blurred**2)
    colors: Floats = room.colors[surfaces].T * (1 + room.contrasts[surfaces] * pattern)
    return colors


def _to_solid_units(room: Room, solid: int, points: Floats, rays: Floats) -> tuple[Floats, Floats]:
    """Return points and rays in the axes and half-extents of a solid."""
    turn, half = room.turns[solid], room.halves[solid][:, None]
    return _rotate(points - room.centers[solid][:, None], turn) / half, _rotate(rays, turn) / half


def _rotate(vectors: Float32[np.ndarray, "3 p"], angle: Floats) -> Float32[np.ndarray, "3 p"]:
    """Return vectors rotated about the vertical axis."""
    x, y, z = vectors
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x - sin * z, y, sin * x + cos * z])


def _intersect(origin: Floats, ray: Floats, groups: tuple[tuple[int, ...], ...]) -> tuple[Floats, Floats]:
    """Return where rays [3 p] enter and leave each bound of a solid of half-extents 1 [g p].

    A ray that misses a bound enters at infinity and leaves at minus infinity.
    """
    ray_squares, products, origin_squares = ray**2, origin * ray, origin**2
    entries, exits = [], []
    for axes in map(list, groups):
        a = ray_squares[axes].sum(0).clip(1e-12)
        b = products[axes].sum(0)
        root = b**2 - a * (origin_squares[axes].sum(0) - 1)
        hit, root = root > 0, np.sqrt(root.clip(0))
        entries.append(np.where(hit, (-b - root) / a, np.inf))
        exits.append(np.where(hit, (-b + root) / a, -np.inf))
    return np.stack(entries), np.stack(exits)


def _outward(points: Floats, bound: NDArray[np.int64], groups: tuple[tuple[int, ...], ...]) -> Floats:
    """Return the outward direction at points [3 p] on these bounds [p] of a solid of half-extents 1."""
    is_member = np.array([[axis in axes for axis in range(3)] for axes in groups])
    outward: Floats = points * is_member[bound].T
    return outward
