"""The one crafting loop of all attacks that use a surrogate.

An *objective* says which labels against which surrogates; a *perturber* says how δ is held and improved.
Their product gives the attacks: a table of rows × error minimization is EM, a generator × error
minimization is MTL-UE + EM, and so on.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import CraftContext, Noise
from bench.training.loaders import ResumableLoader, iterate_batches
from bench.values import Batch, Split

LossOfDelta = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]]
"""The attacker's loss against one surrogate, a mean over the batch, as a function of δ."""

State = dict[str, Any]
"""Tensors and plain values, enough to go on from."""


@runtime_checkable
class Objective(Protocol):
    """Which labels, against which surrogates."""

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return the attacker's losses on a batch; it is their mean that is to be made small."""

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return, per sample, the share of tasks on which the attacker has not reached his aim yet."""

    def before_round(self, noise: Noise) -> None:
        """Called before every pass of noise improvement."""

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Called after the noise was improved on a batch."""

    def after_round(self, noise: Noise) -> None:
        """Called after every pass of noise improvement."""

    def state(self) -> State:
        """Return what changes while crafting."""

    def load_state(self, state: State) -> None:
        """Take up a state."""


@runtime_checkable
class Perturber(Noise, Protocol):
    """How δ is held, and improved on a batch."""

    def update(self, batch: Batch, losses: Sequence[LossOfDelta]) -> None:
        """Make the mean of the losses of δ smaller on this batch."""

    def finish_round(self) -> None:
        """Called after every pass over the training set, before the next one."""

    def finish(self) -> None:
        """Called once, when crafting is over."""

    def craft_state(self) -> State:
        """Return what changes while crafting."""

    def load_craft_state(self, state: State) -> None:
        """Take up a state."""


def add_delta(images: Float[Tensor, "b c h w"], delta: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return x + δ in [0, 1]; the gradient passes the clipping as if it were not there."""
    moved = images + delta
    return moved + (moved.clamp(0, 1) - moved).detach()


def delta_gradient(
    losses: Sequence[LossOfDelta], delta: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c h w"]]:
    """Return the mean of the losses and its gradient by δ.

    One surrogate is differentiated after the other, so that one graph is held at a time however many there
    are.
    """
    leaf = delta.detach().requires_grad_(True)
    total, mean = torch.zeros((), device=leaf.device), torch.zeros_like(leaf)
    for loss in losses:
        value = loss(leaf)
        mean += torch.autograd.grad(value, leaf)[0] / len(losses)
        total += value.detach() / len(losses)
    return total, mean


def craft_noise(
    train: Split,
    context: CraftContext,
    objective: Objective,
    perturber: Perturber,
    *,
    rounds: int,
    stop_error: float | None,
    batch_size: int,
    shuffle: bool,
) -> Noise:
    """Alternate surrogate training and passes of noise improvement until the error is low enough.

    Goes on from ``context.checkpoint`` where there is one, as if it had never stopped.

    Args:
        train: the clean training set.
        context: the attacker's means.
        objective: labels × surrogates.
        perturber: holder of δ; it is also what is returned.
        rounds: cap on the passes over the training set.
        stop_error: stop once the mean of ``objective.error`` over the training set is at most this;
            None: make all rounds.
        batch_size: images per step.
        shuffle: draw a new order for every pass.
    """
    passes = ResumableLoader(train, batch_size, context.device, shuffle)
    done = _resume(context, objective, perturber, passes)

    def state() -> State:
        return {
            "done": done,
            "passes": passes.state(),
            "objective": objective.state(),
            "perturber": perturber.craft_state(),
            "cpu_random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state(context.device) if _on_cuda(context) else None,
        }

    context.progress("step", done * len(passes) + passes.position, rounds * len(passes))
    while done < rounds:
        if passes.position == 0:
            objective.before_round(perturber)
        for batch in passes:
            perturber.update(batch, objective.losses(batch))
            objective.after_batch(batch, perturber)
            context.progress("step", done * len(passes) + passes.position, rounds * len(passes))
            if passes.position < len(passes):
                context.checkpoint.save(state)
        passes.position = 0
        perturber.finish_round()
        objective.after_round(perturber)
        done += 1
        if stop_error is not None and done < rounds:
            reached = _mean_error(train, context, objective, perturber, batch_size) <= stop_error
            done = rounds if reached else done
        context.checkpoint.save(state)
    perturber.finish()
    return perturber


def _resume(
    context: CraftContext, objective: Objective, perturber: Perturber, passes: ResumableLoader
) -> int:
    """Take up what was noted last and return how many rounds were done."""
    state = context.checkpoint.load()
    if state is None:
        return 0
    passes.load_state(state["passes"])
    objective.load_state(state["objective"])
    perturber.load_craft_state(state["perturber"])
    torch.set_rng_state(state["cpu_random"])
    if state["device_random"] is not None:
        torch.cuda.set_rng_state(state["device_random"], context.device)
    return int(state["done"])


def _on_cuda(context: CraftContext) -> bool:
    return context.device.type == "cuda"


@torch.no_grad()
def _mean_error(
    train: Split, context: CraftContext, objective: Objective, perturber: Perturber, batch_size: int
) -> float:
    errors = [
        objective.error(batch, perturber.delta(batch))
        for batch in iterate_batches(train, batch_size, context.device, shuffle=False)
    ]
    return float(torch.cat(errors).mean())
