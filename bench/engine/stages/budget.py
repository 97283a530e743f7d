"""The one place where δ becomes released images: quantized, clamped to the budget, checked again.

No attack is trusted with any of this. Whatever it returns is rounded to whole steps of 1/255, clamped to the
budget (in the unbounded track there is none) and to the image's range. The victim trains on exactly the uint8
images that would be released.
"""

import math

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from bench.api import Noise
from bench.errors import BenchError
from bench.memory import allocate_zeros, rows_per_chunk
from bench.training.loaders import iterate_batches
from bench.values import Batch, Split

NEGLIGIBLE = 1e-3
"""A smaller δ, in steps of 1/255, is no more than an error of computing."""


@torch.no_grad()
def quantize_delta(
    noise: Noise, train: Split, epsilon: int | None, device: torch.device, attack: str
) -> tuple[Int[Tensor, "n c h w"], dict[str, float | None]]:
    """Return the change of every pixel as released, in steps of 1/255, and its statistics.

    The change is int8, and int16 without a budget. Statistics: ``linf`` (largest change, steps), ``l2`` (mean
    norm of an image's change, in [0, 1] pixel units), ``l0`` (share of values changed), ``psnr`` (dB, None
    if nothing changed), ``clamped`` (share of values that were outside the budget, None without a budget),
    ``lost_to_rounding`` (share of values whose δ was not 0 and was rounded to 0).

    Args:
        noise: what the attack returned.
        train: the images it was crafted for.
        epsilon: the budget in steps of 1/255, 127 at most; None in the unbounded track, where the range of
            the image is the only limit.
        device: where to compute.
        attack: the attack's label, for the messages.

    Raises:
        BenchError: when the attack returns no noise, δ of another shape than the images, or values that are
            not finite.
    """
    if not isinstance(noise, Noise):
        raise BenchError(f"attack {attack!r} returned {type(noise).__name__}, which has no delta(batch)")
    limit = 255 if epsilon is None else epsilon
    released = allocate_zeros(train.images.shape, torch.int16 if epsilon is None else torch.int8)
    squares = torch.zeros(len(train), dtype=torch.double, device=device)
    largest, changed, clamped, lost = torch.zeros(4, dtype=torch.long, device=device)
    for batch in iterate_batches(train, rows_per_chunk(train.images), device, shuffle=False):
        # Known before the attack is asked, which may write into the batch.
        rows = slice(int(batch.index[0]), int(batch.index[-1]) + 1)
        clean = train.images[rows].to(device).float()
        exact = _finite_delta(noise, batch, clean.shape, attack) * 255
        steps = exact.round()
        lost += ((steps == 0) & (exact.abs_() > NEGLIGIBLE)).count_nonzero()
        clamped += (torch.abs(steps, out=exact) > limit).count_nonzero()
        change = steps.clamp_(-limit, limit).add_(clean).clamp_(0, 255).sub_(clean)
        released[rows] = change.to(released.dtype).cpu()
        changed += change.count_nonzero()
        largest = largest.maximum(change.abs_().max().long())
        squares[rows] = change.square_().sum((1, 2, 3), dtype=torch.double)
    size, square = released.numel(), float(squares.sum())
    return released, {
        "linf": float(largest),
        "l2": float(squares.sqrt().mean()) / 255,
        "l0": int(changed) / size,
        "psnr": 10 * math.log10(255**2 * size / square) if square else None,
        "clamped": None if epsilon is None else int(clamped) / size,
        "lost_to_rounding": int(lost) / size,
    }


def _finite_delta(noise: Noise, batch: Batch, shape: torch.Size, attack: str) -> Float[Tensor, "b c h w"]:
    """Return δ of a batch, of the shape of its images."""
    delta = noise.delta(batch)
    if not isinstance(delta, Tensor) or delta.shape != shape:
        got = f"shape {tuple(delta.shape)}" if isinstance(delta, Tensor) else f"type {type(delta).__name__}"
        raise BenchError(f"attack {attack!r} returned δ of {got} for images {tuple(shape)}")
    # Both are NaN if a value is; `isfinite` of every value takes twenty times as long.
    if not torch.stack(delta.aminmax()).isfinite().all():
        raise BenchError(f"attack {attack!r} returned δ with NaN or infinite values")
    return delta


def apply_poison(
    clean: UInt8[Tensor, "n c h w"], change: Int[Tensor, "n c h w"] | None, epsilon: int | None, attack: str
) -> UInt8[Tensor, "n c h w"]:
    """Return the released images: clean plus change (None: nothing is changed).

    Raises:
        BenchError: when a pixel is outside the image's range or changed by more than the budget (None: there
            is no budget), or when the poison was made for other images.
    """
    if change is None:
        return clean
    if change.shape != clean.shape:
        raise BenchError(
            f"the poison of {attack!r} was made for images {tuple(change.shape)}, not {tuple(clean.shape)}"
        )
    limit = 255 if epsilon is None else epsilon
    released = allocate_zeros(clean.shape, clean.dtype)
    for start in range(0, len(clean), chunk := rows_per_chunk(clean)):
        rows = slice(start, start + chunk)
        values = clean[rows].to(torch.int32).add_(change[rows])
        (least, most), (low, high) = change[rows].aminmax(), values.aminmax()
        if low < 0 or high > 255 or most > limit or least < -limit:
            violation = "" if epsilon is None else f"breaks the budget of {epsilon}/255 or "
            raise BenchError(f"the poison of {attack!r} {violation}leaves the image's range")
        released[rows] = values
    return released
