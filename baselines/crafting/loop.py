"""The one crafting loop of all attacks that use a surrogate.

An *objective* says which labels are used against which surrogates; a *perturber* says how δ is held and
improved. Each pair of them is an attack: a table of rows with error minimization is EM, a generator with
error minimization is MTL-UE + EM.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import CraftContext, Noise
from bench.training.loaders import (
    ResumableLoader,
    iterate_batches,
    make_batch,
    split_without_singleton,
)
from bench.values import Batch, Split

LossOfDelta = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]]
"""The attacker's loss against one surrogate, a mean over the batch, as a function of δ."""

AIM_IMAGES = 1000
"""Most images on which the finished noise meets its surrogates once more, drawn with a fixed seed."""

State = dict[str, Any]
"""Tensors and plain values, enough to resume from."""


@runtime_checkable
class Objective(Protocol):
    """Which labels the noise works with, against which surrogates."""

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return the attacker's losses on a batch; the noise is to make their mean small."""

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return, per sample, the share of tasks on which the attacker's aim is not reached yet.

        NaN for a sample without labels.
        """

    def before_round(self, noise: Noise) -> None:
        """Called before every pass of noise improvement."""

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Called after the noise was improved on a batch."""

    def after_round(self, noise: Noise) -> None:
        """Called after every pass of noise improvement."""

    def state(self) -> State:
        """Return what changes while crafting."""

    def load_state(self, state: State) -> None:
        """Resume from a state."""


class ObjectiveHooks:
    """The hooks of an objective that does nothing between batches and rounds."""

    def before_round(self, noise: Noise) -> None:
        """Do nothing."""

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Do nothing."""

    def after_round(self, noise: Noise) -> None:
        """Do nothing."""

    def state(self) -> State:
        """Return nothing: no state changes."""
        return {}

    def load_state(self, state: State) -> None:
        """Do nothing."""


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
        """Resume from a state."""


class PerturberHooks:
    """The hooks of a perturber that has no schedule and whose δ is the result."""

    def finish_round(self) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def add_delta(images: Float[Tensor, "b c h w"], delta: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return x + δ in [0, 1]; the gradient passes the clipping as if it were not there."""
    moved = images + delta
    return moved + (moved.clamp(0, 1) - moved).detach()


def project_delta(
    images: Float[Tensor, "b c h w"], delta: Float[Tensor, "b c h w"], epsilon: float
) -> Float[Tensor, "b c h w"]:
    """Return δ held to [-ε, ε], and then to what keeps x + δ in [0, 1]."""
    return (images + delta.clamp(-epsilon, epsilon)).clamp_(0, 1) - images


def delta_gradient(
    losses: Sequence[LossOfDelta], delta: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c h w"]]:
    """Return the mean of the losses and its gradient by δ.

    Surrogates are differentiated one after the other, so that only one graph is in memory at a time.
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
    batch_size: int,
    rounds: int = 1,
    stop_error: float | None = None,
    shuffle: bool = False,
) -> Noise:
    """Alternate surrogate training and passes of noise improvement until the error is low enough.

    At the end the loss and the hit rate on the surrogates are reported to the context.

    If ``context.checkpoint`` has a state, crafting resumes from it and gives the same noise.

    Args:
        train: the clean training set.
        context: what the attacker has besides the images.
        objective: labels × surrogates.
        perturber: holds δ, and is returned.
        batch_size: images per step.
        rounds: cap on the passes over the training set.
        stop_error: stop once the mean of ``objective.error`` over the labeled samples is at most this;
            None: run all rounds.
        shuffle: draw a new order for every pass.
    """
    loader = ResumableLoader(train, batch_size, context.device, shuffle)
    done = _resume(context, objective, perturber, loader)

    def state() -> State:
        return {
            "done": done,
            "passes": loader.state(),
            "objective": objective.state(),
            "perturber": perturber.craft_state(),
            "cpu_random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state(context.device) if _on_cuda(context) else None,
        }

    context.progress("step", done * len(loader) + loader.position, rounds * len(loader))
    while done < rounds:
        if loader.position == 0:
            objective.before_round(perturber)
        for batch in loader:
            perturber.update(batch, objective.losses(batch))
            objective.after_batch(batch, perturber)
            context.progress("step", done * len(loader) + loader.position, rounds * len(loader))
            if loader.position < len(loader):
                context.checkpoint.save(state)
        loader.position = 0
        perturber.finish_round()
        objective.after_round(perturber)
        done += 1
        if stop_error is not None and done < rounds:
            reached = _mean_error(train, context, objective, perturber, batch_size) <= stop_error
            done = rounds if reached else done
        context.checkpoint.save(state)
    perturber.finish()
    _report_aim(train, context, objective, perturber, batch_size)
    return perturber


def _resume(
    context: CraftContext, objective: Objective, perturber: Perturber, loader: ResumableLoader
) -> int:
    """Resume from the state saved last and return how many rounds are done."""
    state = context.checkpoint.load()
    if state is None:
        return 0
    loader.load_state(state["passes"])
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
    """Return the mean error over the samples that have labels."""
    errors = [
        objective.error(batch, perturber.delta(batch))
        for batch in iterate_batches(train, batch_size, context.device, shuffle=False)
    ]
    return _mean_of_labeled(errors)


def _mean_of_labeled(errors: Sequence[Tensor]) -> float:
    """Return the mean error of the labeled samples of several batches; without labels an error is NaN."""
    known = torch.cat(list(errors))
    return float(known[~known.isnan()].mean())


def _report_aim(
    train: Split, context: CraftContext, objective: Objective, noise: Noise, batch_size: int
) -> None:
    """Report the mean loss on the surrogates and the share of labels on which the aim is reached."""
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:AIM_IMAGES]
    loss, errors = 0.0, []
    with torch.random.fork_rng([context.device] if _on_cuda(context) else []):
        for index in split_without_singleton(rows, batch_size):
            batch = make_batch(train, index, context.device)
            delta = noise.delta(batch)
            loss += float(delta_gradient(objective.losses(batch), delta)[0]) * len(index) / len(rows)
            with torch.no_grad():
                errors.append(objective.error(batch, delta))
    context.report_aim(loss, 1 - _mean_of_labeled(errors))
