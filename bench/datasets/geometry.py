"""Surface normals from a depth map."""

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

TOLERANCE = 0.05
"""Largest distance of a pixel from the fitted plane, as a share of its depth."""

KNOWN = 0.25
"""Share of a window in which the depth must be known; at a corner of the image only this much is inside."""


def camera_rays(
    height: int, width: int, focal: tuple[float, float], center: tuple[float, float]
) -> Float[np.ndarray, "2 h w"]:
    """Return x/z and y/z for every pixel, from focal lengths and optical center (x, y) in px."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([(columns - center[0]) / focal[0], (rows - center[1]) / focal[1]])


def normals_from_depth(
    depth: Float[np.ndarray, "*n h w"], rays: Float[np.ndarray, "2 h w"], radius: int
) -> Float32[np.ndarray, "*n 3 h w"]:
    """Fit a plane around every pixel and return its unit normal, which points to the camera.

    On a plane 1/z = a x/z + b y/z + c, and (a, b, c) is normal to it: a linear regression of 1/z in a square
    window, from its pixels of known depth.

    Args:
        depth: along the optical axis; NaN if unknown.
        rays: from `camera_rays`.
        radius: of the window in px; its side is 2 radius + 1, and it is cut at the image's border.

    Returns:
        x right, y down, z away from the camera; NaN if the depth of the pixel or of too much of the window is
        unknown, and if the pixel is not on the plane, as near edges.
    """
    from scipy.ndimage import uniform_filter

    known = np.isfinite(depth)
    inverse = 1 / np.where(known, depth, 1.0).astype(np.float64)
    x, y = rays

    def box(values: NDArray[np.float64]) -> NDArray[np.float64]:
        size = 2 * radius + 1
        filtered: NDArray[np.float64] = uniform_filter(values * known, size, mode="constant", axes=(-2, -1))
        return filtered

    share = box(np.ones_like(inverse))
    count = np.maximum(share, 1e-9)
    mean_x, mean_y, mean = box(x) / count, box(y) / count, box(inverse) / count
    xx, xy, yy = (
        box(x * x) / count - mean_x**2,
        box(x * y) / count - mean_x * mean_y,
        box(y * y) / count - mean_y**2,
    )
    xi, yi = box(x * inverse) / count - mean_x * mean, box(y * inverse) / count - mean_y * mean
    spread = xx * yy - xy**2
    usable = known & (share > KNOWN) & (spread > 1e-6 * (xx + yy) ** 2)
    a, b = np.stack([xi * yy - yi * xy, yi * xx - xi * xy]) / np.where(usable, spread, 1)
    c = mean - a * mean_x - b * mean_y
    usable &= np.abs(a * x + b * y + c - inverse) < TOLERANCE * inverse
    normals = -np.stack([a, b, c], -3) / np.sqrt(a**2 + b**2 + c**2 + 1e-30)[..., None, :, :]
    return np.where(usable[..., None, :, :], normals, np.nan).astype(np.float32)
