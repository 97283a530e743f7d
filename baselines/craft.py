"""The one crafting loop of all attacks that use a surrogate.

An *objective* says which labels against which surrogates; a *perturber* says how δ is held and improved.
Their product gives the attacks: a table of rows × error minimisation is EM, a generator × error
minimisation is MTL-UE + EM, and so on.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import Batch, CraftContext, Noise, Split
from bench.training import batches

LossOfDelta = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]]
"""The attacker's loss, to be made small, as a function of δ."""


@runtime_checkable
class Objective(Protocol):
    """Which labels, against which surrogates."""

    surrogate_first: bool

    def loss(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Return the attacker's loss of δ on a batch; small is good for the attacker."""

    def train_surrogate(self, noise: Noise) -> None:
        """Train the surrogate a little on the perturbed images; does nothing for a pretrained one."""

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return, per sample, the share of tasks on which the attacker has not reached his aim yet."""


@runtime_checkable
class Perturber(Noise, Protocol):
    """How δ is held, and improved on a batch."""

    def improve(self, batch: Batch, loss: LossOfDelta) -> None:
        """Make the loss of δ smaller on this batch."""

    def finish_round(self) -> None:
        """Called after every pass over the training set, before the next one."""

    def finish(self) -> None:
        """Called once, when crafting is over."""


def perturb(images: Float[Tensor, "b c h w"], delta: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return x + δ in [0, 1]; the gradient passes the clipping as if it were not there."""
    moved = images + delta
    return moved + (moved.clamp(0, 1) - moved).detach()


def craft(
    train: Split,
    context: CraftContext,
    objective: Objective,
    perturber: Perturber,
    *,
    rounds: int,
    stop_error: float,
    batch_size: int,
    shuffle: bool,
) -> Noise:
    """Alternate surrogate training and passes of noise improvement until the error is low enough.

    Args:
        train: the clean training set.
        context: the attacker's means.
        objective: labels × surrogates.
        perturber: holder of δ; it is also what is returned.
        rounds: cap on the passes over the training set.
        stop_error: stop once the mean of ``objective.error`` over the training set is at most this.
        batch_size: images per step.
        shuffle: draw a new order for every pass.
    """

    def improve() -> None:
        for batch in batches(train, batch_size, context.device, shuffle):
            perturber.improve(batch, partial(objective.loss, batch))
        perturber.finish_round()

    def train_surrogate() -> None:
        objective.train_surrogate(perturber)

    order = (train_surrogate, improve) if objective.surrogate_first else (improve, train_surrogate)
    context.progress("round", 0, rounds)
    for done in range(1, rounds + 1):
        for phase in order:
            phase()
        context.progress("round", done, rounds)
        if done < rounds and _mean_error(train, context, objective, perturber, batch_size) <= stop_error:
            break
    perturber.finish()
    return perturber


@torch.no_grad()
def _mean_error(
    train: Split, context: CraftContext, objective: Objective, perturber: Perturber, batch_size: int
) -> float:
    errors = [
        objective.error(batch, perturber.delta(batch))
        for batch in batches(train, batch_size, context.device, shuffle=False)
    ]
    return float(torch.cat(errors).mean())
