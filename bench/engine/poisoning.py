"""The one seam where δ becomes released images: quantised, held to the budget, audited.

Attacks are not trusted with any of this. Whatever they return is rounded to whole steps of 1/255, clamped to
the budget and to the image's range; the victim trains on exactly the uint8 images that would be published.
"""

import math

import torch
from jaxtyping import Int8, UInt8
from torch import Tensor

from bench.api import Noise, Split
from bench.errors import BenchError
from bench.training import batches

CHUNK = 512
"""Images at a time; changes speed and memory, not results."""


@torch.no_grad()
def quantise(
    noise: Noise, train: Split, epsilon: int, device: torch.device, attack: str
) -> tuple[Int8[Tensor, "n c h w"], dict[str, float | None]]:
    """Return the change of every pixel as it would be released, in steps of 1/255, and its statistics.

    Statistics: ``linf`` (largest change, steps), ``l2`` (mean norm of an image's change, in [0, 1] pixel
    units), ``l0`` (share of values changed), ``psnr`` (dB, None where nothing changed), ``clamped`` (share
    of values the attack wanted outside the budget).

    Raises:
        BenchError: when the attack returns no noise, another shape than the images', or values that are not
            finite.
    """
    if not isinstance(noise, Noise):
        raise BenchError(f"attack {attack!r} returned {type(noise).__name__}, which has no delta(batch)")
    released = torch.empty(train.images.shape, dtype=torch.int8)
    over = norms = 0.0
    for batch in batches(train, CHUNK, device, shuffle=False):
        clean = (batch.images * 255).round()  # before the attack has the batch to write into
        delta = noise.delta(batch)
        if not isinstance(delta, Tensor) or delta.shape != clean.shape:
            got = (
                f"shape {tuple(delta.shape)}" if isinstance(delta, Tensor) else f"type {type(delta).__name__}"
            )
            raise BenchError(f"attack {attack!r} returned δ of {got} for images {tuple(clean.shape)}")
        if not delta.isfinite().all():
            raise BenchError(f"attack {attack!r} returned δ with NaN or infinite values")
        steps = (delta * 255).round()
        over += float((steps.abs() > epsilon).sum())
        change = (clean + steps.clamp(-epsilon, epsilon)).clamp(0, 255) - clean
        norms += float((change / 255).flatten(1).norm(dim=1).double().sum())
        released[batch.index] = change.to(torch.int8).cpu()
    return released, _statistics(released, norms, over)


def _statistics(released: Tensor, norms: float, over: float) -> dict[str, float | None]:
    chunks = released.split(CHUNK)
    square = sum(float(chunk.float().square().sum(dtype=torch.double)) for chunk in chunks)
    size = released.numel()
    return {
        "linf": float(max(int(chunk.abs().max()) for chunk in chunks)),
        "l2": norms / len(released),
        "l0": sum(int(chunk.count_nonzero()) for chunk in chunks) / size,
        "psnr": 10 * math.log10(255**2 * size / square) if square else None,
        "clamped": over / size,
    }


def release(
    clean: UInt8[Tensor, "n c h w"], change: Int8[Tensor, "n c h w"] | None, epsilon: int, attack: str
) -> UInt8[Tensor, "n c h w"]:
    """Return the images as released: clean plus change (None: nothing is changed).

    Raises:
        BenchError: when the audit finds a pixel outside of the image's range or changed by more than the
            budget, or when the poison was made for other images.
    """
    if change is None:
        return clean
    if change.shape != clean.shape:
        raise BenchError(
            f"the poison of {attack!r} was made for images {tuple(change.shape)}, not {tuple(clean.shape)}"
        )
    released = torch.empty_like(clean)
    for rows in torch.arange(len(clean)).split(CHUNK):
        moved = clean[rows].to(torch.int16) + change[rows]
        within = (
            (moved >= 0).all()
            and (moved <= 255).all()
            and (change[rows].to(torch.int16).abs() <= epsilon).all()
        )
        if not within:
            raise BenchError(
                f"the poison of {attack!r} breaks the budget of {epsilon}/255 or leaves the image's range"
            )
        released[rows] = moved.to(torch.uint8)
    return released
