"""What tasks with one value per pixel share."""

from collections.abc import Iterator

from jaxtyping import Bool, Float
from torch import Tensor

VALUES_PER_CHUNK = 2**24
"""Values of a set of maps that are worked on together; changes memory and speed, not results."""


def share_of_pixels(wrong: Bool[Tensor, "b ..."], known: Bool[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Return, per sample, the share of known pixels that are wrong."""
    return (wrong & known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def split_maps(maps: Tensor) -> Iterator[Tensor]:
    """Yield a set of maps some at a time, as all of them together may not fit in memory."""
    yield from maps.split(max(1, VALUES_PER_CHUNK // max(1, maps[:1].numel())))
