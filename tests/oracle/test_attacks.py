"""The mathematics of the attacks, worked by hand or seen in what they reach."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.crafting.lift import ClasswiseNoise
from baselines.crafting.loop import LossOfDelta, add_delta, craft_noise
from baselines.crafting.noise_table import Table
from baselines.crafting.surrogate_training import mean_over_labeled_tasks
from bench.api import CraftContext, Noise
from bench.backbones.small import Small
from bench.catalog.build import build_part
from bench.tasks.classification import Classification
from bench.training.loop import task_losses, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import MISSING, Augmentation, Batch, Recipe, Split
from bench.weightings.ew import EqualWeights
from mtlue.attack import GeneratedNoise
from mtlue.generator import Generator

CPU = torch.device("cpu")
EPSILON = 8 / 255
TASKS = (
    Classification("two", ("a", "b")),
    Classification("three", ("a", "b", "c")),
    Classification("five", ("a", "b", "c", "d", "e")),
)


def easy_split(count: int, tasks: tuple[Classification, ...] = TASKS, missing: float = 0.0) -> Split:
    """Images of which every task's label tints a band, a little, under noise."""
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.05 * torch.randn(count, 3, 16, 16, generator=generator)
    targets = {}
    for i, task in enumerate(tasks):
        tints = 0.04 * torch.randn(task.classes, 3, 1, 16, generator=generator)
        labels = torch.randint(0, task.classes, (count,), generator=generator)
        images[:, :, 5 * i : 5 * i + 5] += tints[labels]
        without = torch.rand(count, generator=generator) < missing
        targets[task.name] = labels.masked_fill(without, MISSING)
    return Split((images.clamp(0, 1) * 255).round().to(torch.uint8), targets)


def whole(split: Split) -> Batch:
    return Batch(split.images.float() / 255, split.targets, torch.arange(len(split)))


def context(
    tasks: tuple[Classification, ...] = TASKS,
    *,
    snapshot: MultiTaskNet | None = None,
    surrogates: list[MultiTaskNet] | None = None,
    augmentation: Augmentation | None = None,
) -> CraftContext:
    """An attacker's means; surrogates that are built are put into the list given."""

    def new_surrogate() -> MultiTaskNet:
        net = MultiTaskNet(Small(width=4), tasks, (3, 32, 32))
        if surrogates is not None:
            surrogates.append(net)
        return net

    return CraftContext(
        tasks,
        augmentation or Augmentation(),
        EPSILON,
        new_surrogate,
        lambda count: [snapshot] if snapshot else [],
        CPU,
        lambda *_: None,
    )


# x + δ


def test_the_perturbed_image_is_clipped_and_the_gradient_is_not() -> None:
    images = torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0]).view(1, 1, 1, 5)
    delta = torch.tensor([-0.02, -0.02, 0.02, 0.02, 0.02]).view(1, 1, 1, 5).requires_grad_(True)
    seen = add_delta(images, delta)
    assert torch.allclose(seen.detach().flatten(), torch.tensor([0.0, 0.0, 0.52, 1.0, 1.0]), atol=1e-7)
    weights = torch.tensor([1.0, 2.0, 3.0, -4.0, 5.0]).view(1, 1, 1, 5)
    (seen * weights).sum().backward()
    assert delta.grad is not None
    assert torch.equal(delta.grad, weights)


# Projected signed gradient steps


def one_image(pixels: list[float]) -> Batch:
    return Batch(torch.tensor(pixels).view(1, 1, 1, -1), {}, torch.tensor([0]))


def improved(
    pixels: list[float], slopes: list[float], *, steps: int, step_size: float, rounds: int = 1
) -> list[float]:
    """δ after some steps against a loss with these slopes, in steps of 1/255."""
    batch = one_image(pixels)
    split = Split((batch.images * 255).round().to(torch.uint8), {})
    perturber = Table(split, epsilon=EPSILON, steps=steps, step_size=step_size / 255)
    weights = torch.tensor(slopes).view(1, 1, 1, -1)
    for _ in range(rounds):
        perturber.update(batch, [lambda delta: (delta * weights).sum()])
    return [255 * value for value in perturber.delta(batch).flatten().tolist()]


def test_a_step_goes_against_the_sign_of_the_gradient_and_stays_where_it_is_zero() -> None:
    assert improved([0.5, 0.5, 0.5, 0.5], [3.0, -0.001, 0.0, 1e-6], steps=1, step_size=1.5) == pytest.approx(
        [-1.5, 1.5, 0.0, -1.5], abs=0.01
    )


def test_steps_add_up_until_the_budget() -> None:
    for steps, wanted in ((2, 6.0), (3, 8.0), (20, 8.0)):
        assert improved([0.5], [-1.0], steps=steps, step_size=3.0) == pytest.approx([wanted], abs=0.01)


def test_passes_go_on_where_the_last_one_stopped() -> None:
    assert improved([0.5], [1.0], steps=2, step_size=1.0, rounds=3) == pytest.approx([-6.0], abs=0.02)


def test_the_image_stays_in_its_range() -> None:
    pixels = [0.0, 2 / 255, 253 / 255, 1.0, 0.0]
    assert improved(pixels, [1.0, 1.0, -1.0, -1.0, -1.0], steps=2, step_size=4.0) == pytest.approx(
        [0.0, -2.0, 2.0, 0.0, 8.0], abs=0.01
    )


def test_the_gradient_is_taken_anew_at_every_step() -> None:
    # (δ − 2.5 steps)²: up 1, 2, 3, then to and fro.
    batch = one_image([0.5])
    split = Split((batch.images * 255).to(torch.uint8), {})
    for steps, wanted in ((1, 1.0), (2, 2.0), (3, 3.0), (4, 2.0), (5, 3.0)):
        perturber = Table(split, epsilon=EPSILON, steps=steps, step_size=1 / 255)
        perturber.update(batch, [lambda delta: (delta - 2.5 / 255).square().sum()])
        assert float(perturber.delta(batch)) * 255 == pytest.approx(wanted, abs=0.01)


def test_only_the_rows_of_the_batch_are_improved() -> None:
    split = Split(torch.full((5, 1, 2, 2), 128, dtype=torch.uint8), {})
    perturber = Table(split, epsilon=EPSILON, steps=1, step_size=1 / 255)
    rows = torch.tensor([3, 1])
    slopes = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    batch = Batch(split.images[rows].float() / 255, {}, rows)
    perturber.update(batch, [lambda delta: (delta * slopes).sum()])
    table = perturber.delta(whole(split))
    assert (table[[0, 2, 4]] == 0).all()
    assert table[3].flatten().tolist() == pytest.approx([-1 / 255] * 4, rel=1e-3)
    assert table[1].flatten().tolist() == pytest.approx([1 / 255] * 4, rel=1e-3)


# The crafting loop


class Script:
    """Objective and perturber in one, which write down what is asked of them."""

    def __init__(self, errors: list[float]) -> None:
        self.errors = iter(errors)
        self.calls: list[str] = []

    def losses(self, batch: Batch) -> list[LossOfDelta]:
        return []

    def before_round(self, noise: Noise) -> None:
        assert noise is self
        self.calls.append("before")

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        assert noise is self
        self.calls.append(f"after {batch.index.tolist()}")

    def after_round(self, noise: Noise) -> None:
        assert noise is self
        self.calls.append("after")

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        assert state == {}

    craft_state, load_craft_state = state, load_state

    def error(self, batch: Batch, delta: Tensor) -> Tensor:
        self.calls.append("error")
        return torch.full((len(batch.index),), next(self.errors))

    def delta(self, batch: Batch) -> Tensor:
        return torch.zeros_like(batch.images)

    def update(self, batch: Batch, losses: Sequence[LossOfDelta]) -> None:
        self.calls.append(f"improve {batch.index.tolist()}")

    def finish_round(self) -> None:
        self.calls.append("round")

    def finish(self) -> None:
        self.calls.append("finish")


def played(script: Script, *, rounds: int, stop_error: float | None = 0.25) -> list[str]:
    split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), {})
    options: dict[str, Any] = {"batch_size": 4, "shuffle": False}
    noise = craft_noise(split, context(), script, script, rounds=rounds, stop_error=stop_error, **options)
    assert noise is script
    return script.calls


def test_crafting_stops_once_the_error_is_low_enough() -> None:
    one_round = ("before", "improve [0, 1, 2]", "after [0, 1, 2]", "round", "after", "error")
    assert played(Script([0.5, 0.25, 0.0]), rounds=9) == [
        *one_round,
        *one_round,
        "finish",
        "error",  # what is reported of the finished noise
    ]


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_crafting_stops_at_the_cap_and_finishes_once(rounds: int) -> None:
    calls = played(Script([0.5] * 9), rounds=rounds)
    assert calls.count("before") == calls.count("after") == calls.count("round") == rounds
    assert calls.count("finish") == 1
    assert calls[-2:] == ["finish", "error"]


def test_samples_without_labels_do_not_stop_crafting() -> None:
    class Unlabeled(Script):
        def error(self, batch: Batch, delta: Tensor) -> Tensor:
            targets = [torch.tensor([1, MISSING, MISSING]), torch.tensor([0, MISSING, MISSING])]
            missed = torch.full((3,), float(super().error(batch, delta)[0]))
            known = torch.stack([target != MISSING for target in targets])
            return mean_over_labeled_tasks(torch.stack([missed, missed]), known)

    assert played(Unlabeled([0.5] * 9), rounds=4).count("round") == 4  # not 1, as a mean over all three
    assert played(Unlabeled([0.5, 0.25, 0.0]), rounds=4).count("round") == 2


def test_without_a_stop_error_the_error_is_looked_at_for_the_report_alone() -> None:
    calls = played(Script([0.5]), rounds=3, stop_error=None)
    assert calls.count("round") == 3
    assert calls[-2:] == ["finish", "error"]
    assert calls.count("error") == 1


# Error-minimizing noise


@pytest.mark.parametrize(
    "attack",
    [
        "em(rounds=4, surrogate_steps=10, steps=4, step_size=1.6, batch=32, stop_error=0)",
        "mtl-ue-em(rounds=12, surrogate_steps=10, batch=16, width=8, embedding_channels=2, stop_error=0)",
    ],
)
def test_error_minimising_noise_makes_the_labels_easy_for_its_surrogate(attack: str) -> None:
    split, surrogates = easy_split(96), list[MultiTaskNet]()
    torch.manual_seed(0)
    noise = build_part("attack", attack).craft(split, context(surrogates=surrogates))
    (surrogate,) = surrogates
    batch = whole(split)
    with torch.no_grad():
        surrogate.eval()
        clean = task_losses(surrogate, TASKS, batch.images, batch.targets)
        poisoned = task_losses(surrogate, TASKS, add_delta(batch.images, noise.delta(batch)), batch.targets)
    assert (poisoned < clean).all()
    assert float(poisoned.mean()) < 0.8 * float(clean.mean())


def test_a_looser_stop_error_stops_error_minimisation_sooner() -> None:
    split = easy_split(64)

    def rounds(stop_error: float) -> int:
        seen: list[int] = []
        torch.manual_seed(0)
        means = replace(context(), progress=lambda what, done, total: seen.append(done))
        quick = f"em(rounds=6, surrogate_steps=5, steps=3, step_size=2.0, batch=32, stop_error={stop_error})"
        build_part("attack", quick).craft(split, means)
        return max(seen) // 2  # two batches a round

    assert rounds(1.0) == 1
    assert rounds(0.0) >= rounds(0.3) >= rounds(1.0)


# Targeted noise


@pytest.fixture(scope="module")
def trained() -> tuple[Split, MultiTaskNet]:
    """Images of which some labels are missing, and a surrogate that has learned them."""
    split = easy_split(256, missing=0.2)
    torch.manual_seed(0)
    net = MultiTaskNet(Small(width=4), TASKS, (3, 32, 32))
    recipe = Recipe(epochs=12, batch=32, learning_rate=3e-3)
    balancer = EqualWeights().start(TASKS, CPU)
    list(
        train_epochs(net, split, TASKS, recipe, Augmentation(), balancer, build_part("defense", "none"), CPU)
    )
    return split, net


def test_targeted_noise_shows_the_surrogate_the_label_half_the_classes_on(
    trained: tuple[Split, MultiTaskNet],
) -> None:
    split, net = trained
    noise = build_part("attack", "tap(steps=20, step_size=1.0, batch=64)").craft(split, context(snapshot=net))
    batch = whole(split)
    with torch.no_grad():
        net.eval()
        before, after = net(batch.images), net(add_delta(batch.images, noise.delta(batch)))
    for task, shift, was, now in zip(TASKS, (1, 1, 2), before, after, strict=True):
        labeled = batch.targets[task.name] != MISSING
        label = batch.targets[task.name][labeled]
        aim = (label + shift) % task.classes
        assert float((task.predict(was)[labeled] == label).float().mean()) > 0.9
        assert float((task.predict(now)[labeled] == aim).float().mean()) > 0.9


def test_a_sample_without_labels_is_left_alone_by_targeted_noise(trained: tuple[Split, MultiTaskNet]) -> None:
    split, net = trained
    targets = {name: labels.clone() for name, labels in split.targets.items()}
    for labels in targets.values():
        labels[7] = MISSING
    silent = Split(split.images, targets)
    noise = build_part("attack", "tap(steps=3, step_size=1.0, batch=64)").craft(silent, context(snapshot=net))
    changed = noise.delta(whole(silent)).flatten(1).any(1)
    assert not changed[7]
    assert changed.sum() > 240


# Class-wise noise


@pytest.mark.parametrize("lift", ["patch", "average"])
def test_class_wise_noise_is_the_same_for_the_same_labels_and_another_for_others(lift: str) -> None:
    torch.manual_seed(0)
    noise: ClasswiseNoise = build_part("attack", f"random(lift={lift})").craft(easy_split(8), context())
    labels = {"two": [0, 0, 1, 0, 0], "three": [1, 1, 1, 2, 1], "five": [4, 4, 4, 4, 3]}
    targets = {name: torch.tensor(values) for name, values in labels.items()}
    delta = noise.delta(Batch(torch.rand(5, 3, 16, 16), targets, torch.arange(5)))
    assert torch.equal(delta[0], delta[1])
    assert all(not torch.equal(delta[0], other) for other in delta[2:])


def test_class_wise_noise_is_uniform_in_the_budget() -> None:
    torch.manual_seed(0)
    tasks = (Classification("many", tuple(map(str, range(200)))),)
    split = Split(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), {"many": torch.tensor([0, 1])})
    noise = build_part("attack", "random").craft(split, context(tasks))
    everything = Batch(torch.zeros(200, 3, 16, 16), {"many": torch.arange(200)}, torch.arange(200))
    values = noise.delta(everything).flatten() / EPSILON
    assert values.abs().max() <= 1 + 1e-6
    shares = values.histc(bins=10, min=-1, max=1) / len(values)
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.005)


# The generator


def new_generator(
    tasks: tuple[Classification, ...] = TASKS, channels: int = 3, height: int = 16, width: int = 16
) -> Generator:
    torch.manual_seed(0)
    generator = Generator(tasks, channels, height, width, epsilon=EPSILON, base_width=4, embedding_channels=2)
    return generator.eval()


def labels_of(count: int, **labels: int) -> dict[str, Tensor]:
    return {task.name: torch.full((count,), labels.get(task.name, 0)) for task in TASKS}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_delta_of_an_image_depends_on_every_label(task: Classification) -> None:
    generator, images = new_generator(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        deltas = [generator(images, labels_of(2, **{task.name: label})) for label in range(task.classes)]
    for i, one in enumerate(deltas):
        assert all(not torch.equal(one, other) for other in deltas[i + 1 :])


def test_the_delta_depends_on_the_image() -> None:
    generator = new_generator()
    with torch.no_grad():
        delta = generator(torch.rand(2, 3, 16, 16), labels_of(2))
    assert not torch.equal(delta[0], delta[1])


def test_a_missing_label_gets_the_mean_of_the_embeddings() -> None:
    generator, images = new_generator(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        missing = generator(images, labels_of(2, five=MISSING))
        rows = generator.class_embeddings()[2]
        rows.copy_(rows.mean(0, keepdim=True).expand_as(rows))
        for label in range(5):
            assert torch.allclose(generator(images, labels_of(2, five=label)), missing, atol=1e-6)
        assert torch.allclose(generator(images, labels_of(2, five=MISSING)), missing, atol=1e-6)


def test_every_class_has_an_embedding_of_its_own_and_classes_not_seen_get_no_gradient() -> None:
    generator = new_generator().train()
    delta = generator(torch.rand(3, 3, 16, 16) * 0.1, labels_of(3, two=1, three=2, five=3))
    (delta * torch.randn(delta.shape)).sum().backward()
    for rows, task, label in zip(generator.class_embeddings(), TASKS, (1, 2, 3), strict=True):
        assert rows.shape == (task.classes, 2 * 8 * 8)
        assert rows.grad is not None
        touched = rows.grad.any(1)
        assert touched.nonzero().flatten().tolist() == [label]


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 16, 16), (1, 17, 15), (3, 9, 20)])
def test_the_generator_keeps_the_shape_and_the_budget(channels: int, height: int, width: int) -> None:
    generator = new_generator(TASKS, channels, height, width)
    with torch.no_grad():
        for parameter in generator.decoder.parameters():
            parameter.mul_(10)
        delta = generator(torch.rand(4, channels, height, width), labels_of(4))
    assert delta.shape == (4, channels, height, width)
    assert float(delta.abs().max()) == pytest.approx(EPSILON)


def test_the_generator_is_improved_by_the_base_loss_and_both_regularizers() -> None:
    def gradients(intra: float, inter: float, base: float) -> list[Tensor]:
        generator = new_generator()
        noise = GeneratedNoise(generator, intra=intra, inter=inter, learning_rate=1e-12, rounds=5)
        noise.update(whole(easy_split(8)), [lambda delta: base * delta.square().sum()])
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in generator.parameters()]

    alone = [gradients(2.0, 0.0, 0.0), gradients(0.0, 3.0, 0.0), gradients(0.0, 0.0, 1.0)]
    assert all(any(gradient.any() for gradient in one) for one in alone)
    for total, *summands in zip(gradients(2.0, 3.0, 1.0), *alone, strict=True):
        assert torch.allclose(total, sum(summands), rtol=1e-3, atol=1e-6)


def test_the_generators_learning_rate_drops_after_60_and_80_percent_of_the_rounds() -> None:
    generator = new_generator()
    noise = GeneratedNoise(generator, intra=0.0, inter=0.0, learning_rate=1e-3, rounds=10)
    batch = whole(easy_split(4))

    @torch.no_grad()
    def weights() -> Tensor:
        return torch.nn.utils.parameters_to_vector(generator.parameters()).clone()

    def moved() -> float:
        before = weights()
        noise.update(batch, [lambda delta: delta.square().sum()])
        return float((weights() - before).abs().max())

    steps = []
    for _ in range(10):
        steps.append(moved())
        noise.finish_round()
    # Adam's largest step is near its learning rate.
    assert min(steps[:6]) > 4e-4
    assert max(steps[6:8]) < 3e-4
    assert max(steps[8:]) < 3e-5


def test_generated_noise_does_not_change_the_generator() -> None:
    generator = new_generator()
    noise = GeneratedNoise(generator, intra=0.0, inter=0.0, learning_rate=1e-3, rounds=1)
    noise.finish()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    batch = whole(easy_split(4))
    assert torch.equal(noise.delta(batch), noise.delta(batch))
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_generated_noise_can_be_made_for_images_that_were_not_there() -> None:
    torch.manual_seed(0)
    quick = "mtl-ue-em(rounds=1, surrogate_steps=1, batch=16, width=4, embedding_channels=2)"
    noise = build_part("attack", quick).craft(easy_split(32), context())
    others = Batch(torch.rand(5, 3, 16, 16), labels_of(5, five=2), torch.arange(1000, 1005))
    delta = noise.delta(others)
    assert delta.shape == others.images.shape
    assert 0 < delta.abs().max() <= EPSILON * (1 + 1e-6)
