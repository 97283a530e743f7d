"""What a surrogate-based attack aims at: which labels, against which surrogates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from baselines.craft import LossOfDelta, State, perturb
from bench.api import MISSING, Augmentation, Batch, CraftContext, Noise, Split, Targets, Task
from bench.augmentation import augment, center
from bench.net import MultiTaskNet
from bench.tasks import Classification, classification_only, labelled_mean, one_hot
from bench.training import Passes, batches, task_losses

View = Literal["image", "crop", "shared-crop"]
"""What surrogates are shown: the whole image, a crop and flip per image, or one for all of a batch."""


def show(seen: Float[Tensor, "b c h w"], view: View, augmentation: Augmentation) -> Tensor:
    """Return the images as a surrogate sees them while noise is improved."""
    return seen if view == "image" else augment(seen, augmentation, shared=view == "shared-crop")


def mean_loss(losses: Float[Tensor, " t"], targets: Targets, tasks: Sequence[Task]) -> Float[Tensor, ""]:
    """Return the mean over the tasks that have a label in the batch; the others' losses are 0."""
    present = torch.stack([(targets[task.name] != MISSING).any() for task in tasks])
    return losses.sum() / present.sum().clamp(min=1)


def share_of_labelled(missed: Sequence[Tensor], targets: Sequence[Tensor]) -> Float[Tensor, " b"]:
    """Return, per sample, the share of its labelled tasks that are missed; both lists are by task."""
    labelled = torch.stack([target != MISSING for target in targets])
    return (torch.stack(list(missed)) & labelled).sum(0) / labelled.sum(0).clamp(min=1)


def share_missed(surrogate: nn.Module, tasks: Sequence[Task], batch: Batch) -> Float[Tensor, " b"]:
    """Return, per sample, the share of its labelled tasks that the surrogate gets wrong."""
    outputs = surrogate.eval()(batch.images)
    targets = [batch.targets[task.name] for task in tasks]
    wrong = [task.predict(out) != t for task, out, t in zip(tasks, outputs, targets, strict=True)]
    return share_of_labelled(wrong, targets)


@dataclass(frozen=True)
class SurrogateTraining:
    """How a surrogate is trained along with the noise.

    Attributes:
        steps: mini-batches between two passes of noise improvement.
        batch: images per step.
        optimizer: ``sgd`` with momentum 0.9, or ``adam``.
        learning_rate: the optimiser's.
        weight_decay: the optimiser's, coupled (L2).
        clip_norm: gradients are scaled down to this norm; None: they are not.
        shuffle: draw a new order for every pass.
        milestones: surrogate steps after which the learning rate is divided by ten.
    """

    steps: int
    batch: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    shuffle: bool
    milestones: tuple[int, ...] = ()


class SurrogateInTraining:
    """A surrogate that is trained along with the noise, and what its training needs."""

    def __init__(self, context: CraftContext, training: SurrogateTraining) -> None:
        self.net = context.new_surrogate()
        self._tasks, self._training = context.tasks, training
        parameters, how = self.net.parameters(), training
        self._optimizer: torch.optim.Optimizer
        if how.optimizer == "adam":
            self._optimizer = torch.optim.Adam(
                parameters, lr=how.learning_rate, weight_decay=how.weight_decay
            )
        else:
            self._optimizer = torch.optim.SGD(
                parameters, lr=how.learning_rate, momentum=0.9, weight_decay=how.weight_decay
            )
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, list(how.milestones))

    def frozen(self) -> nn.Module:
        """Return the network in evaluation mode, without gradients of its own."""
        return self.net.eval().requires_grad_(False)

    def step(self, images: Float[Tensor, "b c h w"], targets: Targets) -> None:
        """Take one optimiser step towards the true labels."""
        self.net.train().requires_grad_(True)
        self._optimizer.zero_grad(set_to_none=True)
        losses = task_losses(self.net, self._tasks, images, targets)
        mean_loss(losses, targets, self._tasks).backward()
        if self._training.clip_norm is not None:
            clip_grad_norm_(self.net.parameters(), self._training.clip_norm)
        self._optimizer.step()
        self._schedule.step()

    def state(self) -> State:
        """Return the network, the optimiser and the schedule."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state(self, state: State) -> None:
        """Take up a state."""
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


class Quiet:
    """The hooks of an objective that does nothing between batches and rounds."""

    def before_round(self, noise: Noise) -> None:
        """Do nothing."""

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Do nothing."""

    def after_round(self, noise: Noise) -> None:
        """Do nothing."""

    def state(self) -> State:
        """Return nothing: it does not change."""
        return {}

    def load_state(self, state: State) -> None:
        """Do nothing."""


class ErrorMinimising(Quiet):
    """Make the true labels easy for a surrogate that is trained on the perturbed images themselves.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898; many tasks: the mean of their losses
    (Yu et al., ICML 2025)
    """

    def __init__(
        self,
        train: Split,
        context: CraftContext,
        training: SurrogateTraining,
        *,
        view: View,
        surrogate_first: bool,
    ) -> None:
        """Start from an untrained surrogate, trained before or after every pass of noise improvement."""
        self._surrogate_first = surrogate_first
        self._tasks = context.tasks
        self._view: View = view
        self._augmentation = context.augmentation
        self._steps = training.steps
        self._surrogate = SurrogateInTraining(context, training)
        self._passes = Passes(train, training.batch, context.device, training.shuffle)
        self._stream = self._passes.endless()

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return the mean loss of the true labels, the surrogate frozen and in evaluation mode."""
        return [partial(self._loss, self._surrogate.frozen(), batch)]

    def _loss(self, net: nn.Module, batch: Batch, delta: Tensor) -> Tensor:
        losses = task_losses(net, self._tasks, self._seen(batch, delta), batch.targets)
        return mean_loss(losses, batch.targets, self._tasks)

    def _seen(self, batch: Batch, delta: Tensor) -> Tensor:
        return show(perturb(batch.images, delta), self._view, self._augmentation)

    def before_round(self, noise: Noise) -> None:
        """Train the surrogate, if that comes first."""
        if self._surrogate_first:
            self._train(noise)

    def after_round(self, noise: Noise) -> None:
        """Train the surrogate, if that comes second."""
        if not self._surrogate_first:
            self._train(noise)

    def _train(self, noise: Noise) -> None:
        for _ in range(self._steps):
            batch = next(self._stream)
            with torch.no_grad():
                images = self._seen(batch, noise.delta(batch))
            self._surrogate.step(images, batch.targets)

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose true label the surrogate does not see yet."""
        seen = perturb(batch.images, delta)
        if self._view != "image":
            seen = center(seen, self._augmentation)
        return share_missed(self._surrogate.net, self._tasks, replace(batch, images=seen))

    def state(self) -> State:
        """Return the surrogate's training and the place in its stream of batches."""
        return {"surrogate": self._surrogate.state(), "passes": self._passes.state()}

    def load_state(self, state: State) -> None:
        """Take up a state."""
        self._surrogate.load_state(state["surrogate"])
        self._passes.load_state(state["passes"])


class RobustErrorMinimising(Quiet):
    """Make the true labels easy for a surrogate that is trained adversarially on the perturbed images.

    The loss of δ is that of adversarial examples, within ``radius``, of random crops and flips of x + δ; the
    gradient by δ goes straight through the inner maximisation.

    Source: Fu et al., ICLR 2022, arXiv:2203.14533, Alg. 1 (REM)
    """

    def __init__(
        self,
        context: CraftContext,
        training: SurrogateTraining,
        *,
        radius: float,
        attack_steps: int,
        attack_step_size: float,
        samples: int,
    ) -> None:
        """Draw ``samples`` crops per step of δ; train the surrogate for ``training.steps`` batches in all."""
        self._tasks = context.tasks
        self._augmentation = context.augmentation
        self._surrogate = SurrogateInTraining(context, training)
        self._radius, self._attack_steps, self._attack_step = radius, attack_steps, attack_step_size
        self._samples = samples
        self._left = training.steps

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return the adversarial loss of the true labels, once for each crop that is to be drawn."""
        return [partial(self._loss, self._surrogate.frozen(), batch)] * self._samples

    def _loss(self, net: nn.Module, batch: Batch, delta: Tensor) -> Tensor:
        seen = augment(perturb(batch.images, delta), self._augmentation)
        worst = perturb(seen, self._worst(net, seen.detach(), batch.targets))
        return mean_loss(task_losses(net, self._tasks, worst, batch.targets), batch.targets, self._tasks)

    def _worst(self, net: nn.Module, seen: Tensor, targets: Targets) -> Tensor:
        """Return the change of what is seen, within the radius, that the surrogate likes least."""
        change = torch.empty_like(seen).uniform_(-self._radius, self._radius)
        for _ in range(self._attack_steps):
            change.requires_grad_(True)
            losses = task_losses(net, self._tasks, perturb(seen, change), targets)
            (slope,) = torch.autograd.grad(mean_loss(losses, targets, self._tasks), change)
            moved = change.detach() + self._attack_step * slope.sign()
            change = (seen + moved.clamp(-self._radius, self._radius)).clamp(0, 1) - seen
        return change.detach()

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Train the surrogate on adversarial examples of the batch, until its steps are used up."""
        if not self._left:
            return
        self._left -= 1
        with torch.no_grad():
            seen = augment(perturb(batch.images, noise.delta(batch)), self._augmentation)
        change = self._worst(self._surrogate.frozen(), seen, batch.targets)
        self._surrogate.step(perturb(seen, change), batch.targets)

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose true label the surrogate does not see yet."""
        seen = center(perturb(batch.images, delta), self._augmentation)
        return share_missed(self._surrogate.net, self._tasks, replace(batch, images=seen))

    def state(self) -> State:
        """Return the surrogate's training and how much of it is left."""
        return {"surrogate": self._surrogate.state(), "left": self._left}

    def load_state(self, state: State) -> None:
        """Take up a state."""
        self._surrogate.load_state(state["surrogate"])
        self._left = state["left"]


Aim = Literal["shifted", "away", "away-if-binary"]
"""``shifted``: towards another label; ``away``: from the true one; or the latter for two classes only."""


class Pretrained(Quiet):
    """Mislead surrogates that were trained on the clean data.

    ``shifted`` makes them see every label y as (y + ⌊k/2⌋) mod k, the other one of two classes; ``away``
    makes the true label's loss large.

    Source: Fowl et al., NeurIPS 2021, arXiv:2106.10807, section 4; several checkpoints: Chen et al., ICLR
    2023, arXiv:2211.12005 (SEP); the shift by half the classes: Yu et al., ICML 2025
    """

    def __init__(
        self,
        context: CraftContext,
        surrogates: Sequence[nn.Module],
        *,
        view: View,
        aim: Aim = "shifted",
    ) -> None:
        self._tasks = classification_only(context.tasks, "an attack on a pretrained surrogate")
        self._augmentation = context.augmentation
        self._view: View = view
        self._surrogates = [net.eval().requires_grad_(False) for net in surrogates]
        self._away = {task.name: _is_away(aim, task) for task in self._tasks}
        self._signs = torch.tensor(
            [-1.0 if self._away[task.name] else 1.0 for task in self._tasks], device=context.device
        )

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return one loss per surrogate: of the shifted labels, or minus that of the true ones."""
        aimed = self._aimed(batch)
        return [partial(self._loss, net, aimed) for net in self._surrogates]

    def _loss(self, net: nn.Module, aimed: Batch, delta: Tensor) -> Tensor:
        seen = show(perturb(aimed.images, delta), self._view, self._augmentation)
        losses = task_losses(net, self._tasks, seen, aimed.targets) * self._signs
        return mean_loss(losses, aimed.targets, self._tasks)

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks on which the last surrogate does not see what it shall.

        That is the shifted label, or any but the true one.
        """
        seen = perturb(batch.images, delta)
        if self._view != "image":
            seen = center(seen, self._augmentation)
        outputs, aimed = self._surrogates[-1](seen), self._aimed(batch)
        targets = [aimed.targets[task.name] for task in self._tasks]
        missed = [
            (task.predict(out) == target) == self._away[task.name]
            for task, out, target in zip(self._tasks, outputs, targets, strict=True)
        ]
        return share_of_labelled(missed, targets)

    def _aimed(self, batch: Batch) -> Batch:
        return replace(
            batch,
            targets={
                task.name: batch.targets[task.name]
                if self._away[task.name]
                else shifted(batch.targets[task.name], task.classes)
                for task in self._tasks
            },
        )


def _is_away(aim: Aim, task: Classification) -> bool:
    return aim == "away" or (aim == "away-if-binary" and task.classes == 2)


def shifted(labels: Tensor, classes: int) -> Tensor:
    """Return (y + ⌊k/2⌋) mod k for every label, missing ones as they are."""
    return torch.where(labels == MISSING, labels, (labels + classes // 2) % classes)


class FeatureAligning(Pretrained):
    """Move an image's features to the mean features of its shifted label, for every task.

    The features are the shared representation.

    Source: Chen et al., ICLR 2023, arXiv:2211.12005 (SEP-FA); many tasks: the mean over them, as in the
    public code of Yu et al., ICML 2025
    """

    def __init__(self, train: Split, context: CraftContext, surrogates: Sequence[nn.Module]) -> None:
        """Take the class means of every surrogate's features over the clean training set."""
        super().__init__(context, surrogates, view="image")
        self._means = {
            id(net): _class_means(net, train, self._tasks, context.device) for net in self._surrogates
        }

    def _loss(self, net: nn.Module, aimed: Batch, delta: Tensor) -> Tensor:
        features = represent(net)(perturb(aimed.images, delta))
        distances = []
        for task, means in zip(self._tasks, self._means[id(net)], strict=True):
            target = aimed.targets[task.name]
            apart = (features - means[target.clamp(min=0)]).square().mean(1)
            distances.append(labelled_mean(apart, target))
        return mean_loss(torch.stack(distances), aimed.targets, self._tasks)


def represent(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from images [b c h w] to a surrogate's shared representation [b d]."""
    return cast("MultiTaskNet", net).represent


@torch.no_grad()
def _class_means(
    net: nn.Module, train: Split, tasks: Sequence[Classification], device: torch.device
) -> list[Float[Tensor, "k d"]]:
    """Return, per task, the mean features of every class; zero for a class that does not occur."""
    sums: list[Tensor] = []
    counts = [torch.zeros(task.classes, device=device) for task in tasks]
    for batch in batches(train, 512, device, shuffle=False):
        features = represent(net)(batch.images)
        if not sums:
            sums = [torch.zeros(task.classes, features.shape[1], device=device) for task in tasks]
        for i, task in enumerate(tasks):
            member = one_hot(batch.targets[task.name], task.classes)
            sums[i] += member.T @ features
            counts[i] += member.sum(0)
    return [total / count.clamp(min=1)[:, None] for total, count in zip(sums, counts, strict=True)]
