"""The training loop against steps written out by hand."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.api import Step, Task
from bench.backbones.small import Small
from bench.catalog.build import build_part
from bench.defenses.base import NoOp
from bench.tasks.classification import Classification
from bench.training.loaders import iterate_batches, make_batch
from bench.training.loop import TrainedEpoch, score_network, task_losses, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import MISSING, Augmentation, Batch, Recipe, Split
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.ew import EqualWeights

CPU = torch.device("cpu")
TASKS = (Classification("two", ("a", "b")), Classification("three", ("a", "b", "c")))
WHOLE = Augmentation()


def random_split(count: int, side: int = 16, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator).to(torch.uint8)
    targets = {t.name: torch.randint(0, t.classes, (count,), generator=generator) for t in TASKS}
    return Split(images, targets)


def new_net(seed: int = 0) -> MultiTaskNet:
    torch.manual_seed(seed)
    return MultiTaskNet(Small(width=2), TASKS, (3, 32, 32))


def train(
    net: MultiTaskNet, split: Split, recipe: Recipe, augmentation: Augmentation = WHOLE, seed: int = 5
) -> list[TrainedEpoch]:
    torch.manual_seed(seed)
    no_defense = build_part("defense", "none")
    return list(
        train_epochs(
            net, split, TASKS, recipe, augmentation, EqualWeights().start(TASKS, CPU), no_defense, CPU
        )
    )


def mean_loss(net: nn.Module, split: Split, rows: Tensor) -> Tensor:
    """The mean of the tasks' losses, without the training loop's help."""
    outputs = net(split.images[rows].float() / 255)
    two, three = (split.targets[task.name][rows] for task in TASKS)
    return (
        nn.functional.binary_cross_entropy_with_logits(outputs[0][:, 0], two.float())
        + nn.functional.cross_entropy(outputs[1], three)
    ) / 2


def weights_of(net: nn.Module) -> Tensor:
    """All weights as one vector; filters may be stored in any layout."""
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def adam_by_hand(
    net: nn.Module, split: Split, orders: Sequence[Tensor], rates: Sequence[float], recipe: Recipe
) -> Iterator[float]:
    """Train in place: clip the gradient's norm, add the L2 term, take Adam's step; yield the losses."""
    parameters = list(net.parameters())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    net.train()
    for step, (rows, rate) in enumerate(zip(orders, rates, strict=True), start=1):
        loss = mean_loss(net, split, rows)
        gradients = torch.autograd.grad(loss, parameters)
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        shrink = min(1.0, recipe.clip_norm / norm)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                total = g * shrink + recipe.weight_decay * p
                m.copy_(0.9 * m + 0.1 * total)
                v.copy_(0.999 * v + 0.001 * total**2)
                p.sub_(rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
        yield loss.item()


@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_is_adam_on_the_clipped_gradient_of_the_mean_loss(clip_norm: float, steps: int) -> None:
    split, net = random_split(8 * steps), new_net()
    by_hand = copy.deepcopy(net)
    recipe = Recipe(epochs=1, batch=8, weight_decay=0.01, clip_norm=clip_norm)
    (epoch,) = train(net, split, recipe)

    torch.manual_seed(5)
    orders = torch.randperm(len(split)).split(8)
    losses = list(adam_by_hand(by_hand, split, orders, [recipe.learning_rate] * steps, recipe))
    assert epoch.train_loss == pytest.approx(sum(losses) / steps, rel=1e-5)
    assert epoch.weights == pytest.approx({"two": 0.5, "three": 0.5})
    start = weights_of(new_net())
    ours, theirs = (weights_of(one) for one in (net, by_hand))
    assert (ours - start).abs().max() > recipe.learning_rate / 2
    assert torch.allclose(ours, theirs, atol=recipe.learning_rate / 100)


def test_the_learning_rate_of_every_epoch_is_the_one_its_steps_take() -> None:
    split, net = random_split(8), new_net()
    by_hand = copy.deepcopy(net)
    recipe = Recipe(epochs=4, batch=8, milestones=(0.5, 0.75), gamma=0.1)
    epochs = train(net, split, recipe)
    rates = [1e-3, 1e-3, 1e-4, 1e-5]
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(rates)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]

    torch.manual_seed(5)
    orders = [torch.randperm(8) for _ in range(4)]
    losses = list(adam_by_hand(by_hand, split, orders, rates, recipe))
    assert [epoch.train_loss for epoch in epochs] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(
    ("epochs", "first", "second"), [(60, 36, 48), (10, 6, 8), (5, 3, 4), (3, 2, 2), (2, 1, 2), (1, 1, 1)]
)
def test_the_learning_rate_drops_after_60_and_80_percent_of_the_epochs(
    epochs: int, first: int, second: int
) -> None:
    steps = train(new_net(), random_split(4, side=8), Recipe(epochs=epochs, batch=4))
    assert [step.learning_rate for step in steps] == pytest.approx(
        [1e-3 * 0.1 ** ((epoch > first) + (epoch > second)) for epoch in range(1, epochs + 1)]
    )


def test_the_loss_of_an_epoch_is_the_mean_over_samples_with_an_uneven_last_batch() -> None:
    split, net = random_split(10), new_net()
    still = Recipe(epochs=1, batch=8, learning_rate=1e-12)
    (epoch,) = train(copy.deepcopy(net), split, still)
    torch.manual_seed(5)
    rows = torch.randperm(10)
    net.train()
    wanted = 0.8 * mean_loss(net, split, rows[:8]) + 0.2 * mean_loss(net, split, rows[8:])
    assert epoch.train_loss == pytest.approx(wanted.item(), rel=1e-4)


class Told(StatelessBalancer):
    """Equal weights that keep what they are told; some steps have other weights."""

    def __init__(self, weights: dict[int, Sequence[float]] | None = None) -> None:
        self.steps: list[Step] = []
        self.losses: list[Tensor] = []
        self._weights = weights or {}

    def backward(self, step: Step) -> Tensor:
        self.steps.append(step)
        step.losses.mean().backward()
        return torch.tensor(self._weights.get(len(self.steps), [1.0] * len(step.losses)))

    def finish_epoch(self, losses: Tensor) -> None:
        self.losses.append(losses)


def train_and_tell(
    told: Told, split: Split, recipe: Recipe, defense: NoOp | None = None, tasks: Sequence[Task] = TASKS
) -> TrainedEpoch:
    """Train one epoch with next to no learning rate."""
    net = new_net()
    torch.manual_seed(5)
    used = build_part("defense", "none") if defense is None else defense
    still = replace(recipe, epochs=1, learning_rate=1e-12)
    (epoch,) = train_epochs(net, split, tasks, still, WHOLE, told, used, CPU)
    return epoch


def with_missing_labels(split: Split, task: str, kept: int) -> Split:
    """The split without the labels of a task, but for those of the first images."""
    labels = split.targets[task].clone()
    labels[kept:] = MISSING
    return Split(split.images, {**split.targets, task: labels})


@pytest.mark.parametrize("batch", [8, 50, 256])
def test_means_of_an_epoch_are_over_the_labeled_samples(batch: int) -> None:
    split, told = with_missing_labels(random_split(256), "two", 6), Told()
    epoch = train_and_tell(told, split, Recipe(batch=batch))
    (losses,) = told.losses
    total = count = 0.0
    torch.manual_seed(5)
    for rows, step in zip(torch.randperm(256).split(batch), told.steps, strict=True):
        labeled = int((rows < 6).sum())
        assert step.labeled.tolist() == [labeled > 0, True]
        total, count = total + float(step.losses[0].detach()) * labeled, count + labeled
    assert count == 6
    assert losses[0] == pytest.approx(total / 6, rel=1e-5)
    assert 0.6 < losses[0] < 0.8  # as much as a network has that has learned nothing, of two classes
    assert epoch.train_loss == pytest.approx(float(losses.mean()), rel=1e-6)


def test_means_of_an_epoch_with_all_labels_are_the_plain_ones_to_the_last_bit() -> None:
    told = Told()
    epoch = train_and_tell(told, random_split(23), Recipe(batch=7))
    total = sum(step.losses.detach() * size for step, size in zip(told.steps, (7, 7, 7, 2), strict=True))
    assert isinstance(total, Tensor)
    assert torch.equal(told.losses[0], total / 23)
    assert epoch.train_loss == float(total.mean() / 23)


def test_a_task_without_any_label_is_left_out_of_the_loss_of_an_epoch() -> None:
    told = Told()
    epoch = train_and_tell(told, with_missing_labels(random_split(16), "two", 0), Recipe(batch=8))
    (losses,) = told.losses
    assert losses[0] == 0
    assert epoch.train_loss == pytest.approx(float(losses[1]), rel=1e-6)
    assert math.isnan(epoch.weights["two"])


def test_the_weight_of_a_task_is_the_mean_over_steps_in_which_it_has_a_label() -> None:
    told = Told({1: [2.0, 1.0], 2: [3.0, 1.0], 3: [4.0, 1.0], 4: [5.0, 1.0]})
    epoch = train_and_tell(told, with_missing_labels(random_split(32), "two", 1), Recipe(batch=8))
    (labeled,) = [number for number, step in enumerate(told.steps, start=1) if step.labeled[0]]
    assert epoch.weights == {"two": labeled + 1.0, "three": 1.0}


def test_steps_without_an_answer_are_counted_and_have_no_weight() -> None:
    nan = float("nan")
    told = Told({2: [nan, nan], 3: [3.0, float("inf")]})
    epoch = train_and_tell(told, random_split(32), Recipe(batch=8))
    assert epoch.unanswered == 2
    assert epoch.weights == pytest.approx({"two": 5 / 3, "three": 1.0})


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
@pytest.mark.parametrize("side", [8, 16, 32])
def test_a_last_batch_of_one_image_does_not_stop_training(backbone: str, side: int) -> None:
    torch.manual_seed(0)
    net = MultiTaskNet(build_part("backbone", backbone), TASKS, (3, 32, 32))
    (epoch,) = train(net, random_split(5, side), Recipe(epochs=1, batch=4))
    assert 0 < epoch.train_loss < 100


def test_training_is_the_same_under_the_same_seed_and_another_under_another() -> None:
    def trained(seed: int) -> Tensor:
        net = new_net()
        recipe, augmentation = Recipe(epochs=2, batch=8), Augmentation(13, flip=True)
        train(net, random_split(24), recipe, augmentation, seed=seed)
        return weights_of(net)

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


class Spy(NoOp):
    """A defense that keeps what a network is shown, and shows it something else."""

    version: ClassVar[int] = 1

    def __init__(self) -> None:
        self.shown: list[Batch] = []

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        assert net.training
        assert tuple(tasks) == TASKS
        self.shown.append(batch)
        return replace(batch, images=torch.zeros_like(batch.images))


def test_a_defense_sees_cropped_batches_and_decides_what_the_network_sees() -> None:
    split, spy, net = random_split(10), Spy(), new_net()
    seen: list[Tensor] = []
    net.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(5)
    list(
        train_epochs(
            net,
            split,
            TASKS,
            Recipe(epochs=2, batch=4),
            Augmentation(13),
            EqualWeights().start(TASKS, CPU),
            spy,
            CPU,
        )
    )
    assert [len(batch.images) for batch in spy.shown] == [4, 4, 2, 4, 4, 2]
    assert {batch.images.shape[1:] for batch in spy.shown} == {(3, 13, 13)}
    for epoch in (spy.shown[:3], spy.shown[3:]):
        rows = torch.cat([batch.index for batch in epoch])
        assert sorted(rows.tolist()) == list(range(10))
        for task in TASKS:
            labels = torch.cat([batch.targets[task.name] for batch in epoch])
            assert torch.equal(labels, split.targets[task.name][rows])
    assert not any(images.any() for images in seen)


class Looking(StatelessBalancer):
    """Equal weights that keep the steps, and the losses after each of them."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.after: list[Tensor] = []

    def backward(self, step: Step) -> Tensor:
        step.losses.mean().backward()
        return torch.ones_like(step.losses)

    def finish_step(self, step: Step) -> None:
        self.steps.append(step)
        self.after.append(step.recompute_losses())


def test_a_weighting_can_ask_what_a_step_has_changed() -> None:
    split, looking, no_defense = random_split(8), Looking(), build_part("defense", "none")
    nets = []
    for balancer in (looking, EqualWeights().start(TASKS, CPU)):
        net, recipe = new_net(), Recipe(epochs=1, batch=8, learning_rate=0.01)
        torch.manual_seed(5)
        list(train_epochs(net, split, TASKS, recipe, WHOLE, balancer, no_defense, CPU))
        nets.append(net)
    asked, unasked = (net.state_dict() for net in nets)
    assert all(torch.equal(value, unasked[name]) for name, value in asked.items() if "tracked" not in name)
    (before,), (after,) = looking.steps, looking.after
    assert not after.requires_grad
    assert torch.allclose(after.mean(), mean_loss(nets[0].train(), split, torch.arange(8)), atol=1e-5)
    assert (after - before.losses).abs().min() > 1e-3


class MixedIn(NoOp):
    """A defense that mixes in images which have a label of the second task alone."""

    version: ClassVar[int] = 1

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        missing = torch.full_like(batch.targets["two"], MISSING)
        return replace(
            batch,
            targets={"two": batch.targets["two"], "three": missing},
            mixed={"two": missing, "three": batch.targets["three"]},
            share=0.7,
        )


def test_a_task_that_is_labeled_in_mixed_in_images_alone_has_a_label() -> None:
    looking = Looking()
    fit_once = train_epochs(
        new_net(), random_split(8), TASKS, Recipe(epochs=1, batch=8), WHOLE, looking, MixedIn(), CPU
    )
    list(fit_once)
    assert [step.labeled.tolist() for step in looking.steps] == [[True, True]]
    assert (looking.steps[0].losses > 0).all()


def test_batches_hold_every_row_once_as_floats_in_0_to_1() -> None:
    split = random_split(10)
    straight = list(iterate_batches(split, 4, CPU, shuffle=False))
    assert torch.equal(torch.cat([batch.images for batch in straight]), split.images.float() / 255)
    assert torch.cat([batch.index for batch in straight]).tolist() == list(range(10))
    batch = make_batch(split, torch.tensor([7, 2]), CPU)
    assert torch.equal(batch.images, split.images[[7, 2]].float() / 255)
    assert torch.equal(batch.targets["three"], split.targets["three"][[7, 2]])


def test_scoring_is_on_central_crops_in_evaluation_mode_and_changes_nothing() -> None:
    net = new_net()
    train(net, random_split(16), Recipe(epochs=1, batch=8))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    split = random_split(9, side=16, seed=1)
    scores = score_network(net, split, TASKS, Augmentation(12, flip=True), CPU)
    net.eval()
    with torch.no_grad():
        alone = [net(image[None, :, 2:14, 2:14].float() / 255) for image in split.images]
    for number, task in enumerate(TASKS):
        outputs = torch.cat([one[number] for one in alone])
        assert scores[task.name] == pytest.approx(task.metrics(outputs, split.targets[task.name]), abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_task_losses_are_in_the_order_of_the_tasks() -> None:
    split, net = random_split(6), new_net().eval()
    images = split.images.float() / 255
    losses = task_losses(net, TASKS, images, split.targets)
    outputs = net(images)
    for i, task in enumerate(TASKS):
        assert torch.equal(losses[i], task.loss(outputs[i], split.targets[task.name]))
    assert torch.allclose(losses.mean(), mean_loss(net, split, torch.arange(6)))


def test_heads_are_not_shared_and_all_else_is() -> None:
    net = new_net()
    shared = {id(p) for p in net.shared_parameters()}
    heads = {id(p) for p in net.heads.parameters()}
    assert not shared & heads
    assert shared | heads == {id(p) for p in net.parameters()}
