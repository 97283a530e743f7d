"""The one place where δ becomes released images: quantized, held to the budget, checked again.

No attack is trusted with any of this. Whatever it returns is rounded to whole steps of 1/255, held to the
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
from bench.values import L2_VALUES, Batch, Budget, Split

NEGLIGIBLE = 1e-3
"""A smaller δ, in steps of 1/255, is no more than an error of computing."""

HALVINGS = 12
"""How often the interval of the factor is halved that makes a rounded δ as long as its ℓ2 budget allows."""


@torch.no_grad()
def quantize_delta(
    noise: Noise, train: Split, budget: Budget | None, device: torch.device, attack: str
) -> tuple[Int[Tensor, "n c h w"], dict[str, float | None]]:
    """Return the change of every pixel as released, in steps of 1/255, and its statistics.

    The change is int8 if the budget limits every value, else int16. Statistics: ``linf`` (largest change,
    steps), ``l2`` (mean norm of an image's change, in [0, 1] pixel units), ``l0`` (share of values changed),
    ``psnr`` (dB, None if nothing changed), ``clamped`` (share of values that were outside the budget, None
    if it does not limit values), ``scaled`` (share of images whose δ was longer than the budget, None if it
    does not limit their norm), ``lost_to_rounding`` (share of values whose δ was not 0 and became 0).

    Args:
        noise: what the attack returned.
        train: the images it was crafted for.
        budget: how far released images may be from the clean ones; None in the unbounded track, where the
            range of the image is the only limit.
        device: where to compute.
        attack: the attack's label, for the messages.

    Raises:
        BenchError: when the attack returns no noise, δ of another shape than the images, or values that are
            not finite.
    """
    if not isinstance(noise, Noise):
        raise BenchError(f"attack {attack!r} returned {type(noise).__name__}, which has no delta(batch)")
    norm = None if budget is None else budget.norm
    released = allocate_zeros(train.images.shape, torch.int8 if norm == "linf" else torch.int16)
    squares = torch.zeros(len(train), dtype=torch.double, device=device)
    largest, changed, outside, lost = torch.zeros(4, dtype=torch.long, device=device)
    for batch in iterate_batches(train, rows_per_chunk(train.images), device, shuffle=False):
        # Known before the attack is asked, which may write into the batch.
        rows = slice(int(batch.index[0]), int(batch.index[-1]) + 1)
        clean = train.images[rows].to(device).float()
        exact = _finite_delta(noise, batch, clean.shape, attack) * 255
        steps, beyond = (
            _round_and_scale(exact, budget) if budget and norm == "l2" else _round_and_clamp(exact, budget)
        )
        outside += beyond
        lost += ((steps == 0) & (exact.abs_() > NEGLIGIBLE)).count_nonzero()
        change = steps.add_(clean).clamp_(0, 255).sub_(clean)
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
        "clamped": int(outside) / size if norm == "linf" else None,
        "scaled": int(outside) / len(train) if norm == "l2" else None,
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


def _round_and_clamp(
    exact: Float[Tensor, "b c h w"], budget: Budget | None
) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, ""]]:
    """Return δ in whole steps, every value within its limit, and how many values were outside it."""
    limit = 255.0 if budget is None else budget.epsilon
    steps = exact.round()
    return steps.clamp(-limit, limit), steps.abs_().gt(limit).count_nonzero()


def _round_and_scale(
    exact: Float[Tensor, "b c h w"], budget: Budget
) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, ""]]:
    """Return δ in whole steps, the norm of every image's δ within the budget, and how many were longer.

    A longer δ is scaled down. If rounding makes it too long again, it is scaled down further, by the largest
    factor that was found in `HALVINGS` steps: the longer a vector, the longer it is when rounded.
    """
    values = exact[0].numel()
    exact = exact.clamp(-255, 255)  # no value can be changed by more
    squares = exact.square().sum((1, 2, 3), keepdim=True, dtype=torch.double)
    limit = largest_square(budget, values)
    exact = exact * (limit / squares).sqrt_().clamp_(max=1).float()

    def fits(factor: Tensor) -> Tensor:
        return _squared_norms((exact * factor).round_()) <= limit

    most = torch.ones_like(squares, dtype=torch.float)
    least = fits(most).float()
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        fitting = fits(middle)
        least, most = middle.where(fitting, least), most.where(fitting, middle)
    longer = squares.sqrt() > math.sqrt(limit) + NEGLIGIBLE
    return (exact * least).round_(), longer.count_nonzero()


def largest_square(budget: Budget, values: int) -> int:
    """Return the largest squared norm, in squared steps of 1/255, of the change of an image of that size."""
    return math.floor((255 * budget.epsilon) ** 2 * values / L2_VALUES)


def _squared_norms(steps: Tensor) -> Float[Tensor, "b 1 1 1"]:
    """Return the squared norm of every image's change, which is exact: a sum of whole numbers."""
    return steps.square().sum((1, 2, 3), keepdim=True, dtype=torch.double)


def apply_poison(
    clean: UInt8[Tensor, "n c h w"],
    change: Int[Tensor, "n c h w"] | None,
    budget: Budget | None,
    attack: str,
) -> UInt8[Tensor, "n c h w"]:
    """Return the released images: clean plus change (None: nothing is changed).

    Raises:
        BenchError: when a pixel is outside the image's range or an image is changed by more than the budget
            (None: there is no budget), or when the poison was made for other images.
    """
    if change is None:
        return clean
    if change.shape != clean.shape:
        raise BenchError(
            f"the poison of {attack!r} was made for images {tuple(change.shape)}, not {tuple(clean.shape)}"
        )
    released = allocate_zeros(clean.shape, clean.dtype)
    for start in range(0, len(clean), chunk := rows_per_chunk(clean)):
        rows = slice(start, start + chunk)
        values = clean[rows].to(torch.int32).add_(change[rows])
        low, high = values.aminmax()
        if low < 0 or high > 255 or not _is_within(change[rows], budget):
            violation = "" if budget is None else f"breaks the budget of {budget} or "
            raise BenchError(f"the poison of {attack!r} {violation}leaves the image's range")
        released[rows] = values
    return released


def _is_within(change: Int[Tensor, "b c h w"], budget: Budget | None) -> bool:
    """Return whether the change of every image keeps to the budget."""
    if budget is None:
        return True
    if budget.norm == "l2":
        longest = _squared_norms(change.to(torch.int32)).max()
        return bool(longest <= largest_square(budget, change[0].numel()))
    least, most = change.aminmax()
    return bool(most <= budget.epsilon and least >= -budget.epsilon)
