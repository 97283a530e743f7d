"""What a surrogate-based attack aims at: which labels, against which surrogates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from baselines.craft import LossOfDelta, State, perturb
from bench.api import Augmentation, Batch, CraftContext, Noise, Split, Targets, Task
from bench.augmentation import augment, center
from bench.net import MultiTaskNet
from bench.tasks import Classification, classification_only, labelled_mean, one_hot
from bench.training import Passes, batches, labelled_tasks, task_losses

View = Literal["image", "crop", "shared-crop"]
"""What surrogates are shown: the whole image, a crop and flip per image, or one for all of a batch."""


def show(batch: Batch, view: View, augmentation: Augmentation, tasks: Sequence[Task]) -> Batch:
    """Return images, and their targets, as a surrogate sees them while noise is improved."""
    return batch if view == "image" else augment(batch, augmentation, tasks, shared=view == "shared-crop")


def show_center(batch: Batch, view: View, augmentation: Augmentation, tasks: Sequence[Task]) -> Batch:
    """Return images, and their targets, as a surrogate would see them in evaluation."""
    return batch if view == "image" else center(batch, augmentation, tasks)


def perturbed(batch: Batch, delta: Float[Tensor, "b c h w"]) -> Batch:
    """Return the batch with x + δ for its images."""
    return replace(batch, images=perturb(batch.images, delta))


def batch_loss(net: nn.Module, tasks: Sequence[Task], batch: Batch) -> Float[Tensor, ""]:
    """Return the mean of a network's losses over the tasks that have a label in the batch."""
    losses = task_losses(net, tasks, batch.images, batch.targets)
    return mean_loss(losses, batch.targets, tasks)


def mean_loss(losses: Float[Tensor, " t"], targets: Targets, tasks: Sequence[Task]) -> Float[Tensor, ""]:
    """Return the mean over the tasks that have a label in the batch; the others' losses are 0."""
    return losses.sum() / labelled_tasks(tasks, targets).sum().clamp(min=1)


def share_of_labelled(
    missed: Sequence[Float[Tensor, " b"]], labelled: Sequence[Bool[Tensor, " b"]]
) -> Float[Tensor, " b"]:
    """Return, per sample, the mean of what is missed over its labelled tasks; both lists are by task."""
    known = torch.stack(list(labelled))
    return (torch.stack(list(missed)) * known).sum(0) / known.sum(0).clamp(min=1)


def share_missed(surrogate: nn.Module, tasks: Sequence[Task], batch: Batch) -> Float[Tensor, " b"]:
    """Return, per sample, the share of its labels that the surrogate gets wrong, a mean over its tasks."""
    outputs = surrogate.eval()(batch.images)
    targets = [batch.targets[task.name] for task in tasks]
    wrong = [task.wrong(out, target) for task, out, target in zip(tasks, outputs, targets, strict=True)]
    return share_of_labelled(
        wrong, [task.labelled(target) for task, target in zip(tasks, targets, strict=True)]
    )


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

    def step(self, batch: Batch) -> None:
        """Take one optimiser step towards the true labels."""
        self.net.train().requires_grad_(True)
        self._optimizer.zero_grad(set_to_none=True)
        batch_loss(self.net, self._tasks, batch).backward()
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
        return batch_loss(net, self._tasks, self._seen(batch, delta))

    def _seen(self, batch: Batch, delta: Tensor) -> Batch:
        return show(perturbed(batch, delta), self._view, self._augmentation, self._tasks)

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
                seen = self._seen(batch, noise.delta(batch))
            self._surrogate.step(seen)

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose true label the surrogate does not see yet."""
        seen = show_center(perturbed(batch, delta), self._view, self._augmentation, self._tasks)
        return share_missed(self._surrogate.net, self._tasks, seen)

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
        seen = augment(perturbed(batch, delta), self._augmentation, self._tasks)
        return batch_loss(net, self._tasks, perturbed(seen, self._worst(net, seen)))

    def _worst(self, net: nn.Module, seen: Batch) -> Tensor:
        """Return the change of what is seen, within the radius, that the surrogate likes least."""
        images = seen.images.detach()
        change = torch.empty_like(images).uniform_(-self._radius, self._radius)
        for _ in range(self._attack_steps):
            change.requires_grad_(True)
            loss = batch_loss(net, self._tasks, replace(seen, images=perturb(images, change)))
            (slope,) = torch.autograd.grad(loss, change)
            moved = change.detach() + self._attack_step * slope.sign()
            change = (images + moved.clamp(-self._radius, self._radius)).clamp(0, 1) - images
        return change.detach()

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Train the surrogate on adversarial examples of the batch, until its steps are used up."""
        if not self._left:
            return
        self._left -= 1
        with torch.no_grad():
            seen = augment(perturbed(batch, noise.delta(batch)), self._augmentation, self._tasks)
        self._surrogate.step(perturbed(seen, self._worst(self._surrogate.frozen(), seen)))

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose true label the surrogate does not see yet."""
        seen = center(perturbed(batch, delta), self._augmentation, self._tasks)
        return share_missed(self._surrogate.net, self._tasks, seen)

    def state(self) -> State:
        """Return the surrogate's training and how much of it is left."""
        return {"surrogate": self._surrogate.state(), "left": self._left}

    def load_state(self, state: State) -> None:
        """Take up a state."""
        self._surrogate.load_state(state["surrogate"])
        self._left = state["left"]


Aim = Literal["shifted", "away", "away-if-binary"]
"""``shifted``: towards another label; ``away``: from the true one; or the latter for binary tasks only."""


class Pretrained(Quiet):
    """Mislead surrogates that were trained on the clean data.

    ``shifted`` makes them see every label y as (y + ⌊k/2⌋) mod k, the other one of two classes; a depth as
    the one half of the range away, a direction as the opposite one. ``away`` makes the true label's loss
    large.

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
        self._tasks: Sequence[Task] = context.tasks
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
        seen = show(perturbed(aimed, delta), self._view, self._augmentation, self._tasks)
        losses = task_losses(net, self._tasks, seen.images, seen.targets) * self._signs
        return mean_loss(losses, seen.targets, self._tasks)

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks on which the last surrogate does not see what it shall.

        That is the shifted label, or any but the true one.
        """
        aimed = perturbed(self._aimed(batch), delta)
        seen = show_center(aimed, self._view, self._augmentation, self._tasks)
        missed, labelled = [], []
        for task, out in zip(self._tasks, self._surrogates[-1](seen.images), strict=True):
            target = seen.targets[task.name]
            wrong = task.wrong(out, target)
            missed.append(1 - wrong if self._away[task.name] else wrong)
            labelled.append(task.labelled(target))
        return share_of_labelled(missed, labelled)

    def _aimed(self, batch: Batch) -> Batch:
        """Return the batch with the labels the surrogates shall see, or the true ones they shall not see."""
        aimed = dict(batch.targets)
        for task in self._tasks:
            if not self._away[task.name]:
                aimed[task.name] = task.shifted(aimed[task.name])
        return replace(batch, targets=aimed)


def _is_away(aim: Aim, task: Task) -> bool:
    binary = task.kind == "classification" and task.classes == 2
    return aim == "away" or (aim == "away-if-binary" and binary)


class FeatureAligning(Pretrained):
    """Move an image's features to the mean features of its shifted label, for every task.

    The features are the shared representation.

    Source: Chen et al., ICLR 2023, arXiv:2211.12005 (SEP-FA); many tasks: the mean over them, as in the
    public code of Yu et al., ICML 2025
    """

    def __init__(self, train: Split, context: CraftContext, surrogates: Sequence[nn.Module]) -> None:
        """Take the class means of every surrogate's features over the clean training set."""
        super().__init__(context, surrogates, view="image")
        self._labelled = classification_only(context.tasks, "feature alignment")
        self._means = {
            id(net): _class_means(net, train, self._labelled, context.device) for net in self._surrogates
        }

    def _loss(self, net: nn.Module, aimed: Batch, delta: Tensor) -> Tensor:
        features = represent(net)(perturb(aimed.images, delta))
        distances = []
        for task, means in zip(self._labelled, self._means[id(net)], strict=True):
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
