"""The attacks on surrogates, held against steps written out by hand and what their papers promise."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from baselines.crafting.classwise import ClasswiseTable
from baselines.crafting.lift import lift_classwise
from baselines.crafting.loop import add_delta, delta_gradient
from baselines.crafting.noise_table import Table, VarianceReducedTable
from baselines.crafting.objectives import FeatureAlignment, FixedSurrogate
from baselines.crafting.surrogate_training import surrogate_view
from baselines.pil import LinearSeparability
from bench.api import CraftContext, Noise
from bench.backbones.small import Small
from bench.catalog.build import build_part
from bench.tasks.classification import Classification
from bench.training.augmentation import augment
from bench.training.loaders import ResumableLoader
from bench.training.loop import task_losses, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import MISSING, Augmentation, Batch, Recipe, Split
from bench.weightings.ew import EqualWeights
from mtlue.attack import GeneratedNoise
from tests.oracle.test_attacks import EPSILON, TASKS, easy_split, whole

CPU = torch.device("cpu")
SHIFTS = (1, 1, 2)


def context(snapshots: list[MultiTaskNet], augmentation: Augmentation | None = None) -> CraftContext:
    return CraftContext(
        TASKS,
        augmentation or Augmentation(),
        EPSILON,
        lambda: MultiTaskNet(Small(width=4), TASKS, (3, 32, 32)),
        lambda count: snapshots[-count:],
        CPU,
        lambda *_: None,
    )


SPLIT = easy_split(192, missing=0.1)


@pytest.fixture(scope="module")
def snapshots() -> list[MultiTaskNet]:
    """Three points of a training run, the last of which has learned the labels."""
    torch.manual_seed(0)
    net, kept = MultiTaskNet(Small(width=4), TASKS, (3, 32, 32)), []
    recipe = Recipe(epochs=12, batch=32, learning_rate=3e-3)
    balancer = EqualWeights().start(TASKS, CPU)
    steps = train_epochs(
        net, SPLIT, TASKS, recipe, Augmentation(), balancer, build_part("defense", "none"), CPU
    )
    for step in steps:
        if step.epoch % 4 == 0:
            kept.append(MultiTaskNet(Small(width=4), TASKS, (3, 32, 32)))
            kept[-1].load_state_dict(net.state_dict())
    return kept


def craft(attack: str, snapshots: list[MultiTaskNet], split: Split = SPLIT, seed: int = 0) -> Noise:
    torch.manual_seed(seed)
    noise: Noise = build_part("attack", attack).craft(split, context(snapshots))
    return noise


def shifted_loss(net: nn.Module, images: Tensor, split: Split = SPLIT) -> Tensor:
    """The mean over tasks of the cross-entropy to the label half the classes on, written out."""
    losses = []
    for task, shift, out in zip(TASKS, SHIFTS, net(images), strict=True):
        label = split.targets[task.name]
        aim = ((label + shift) % task.classes)[label != MISSING]
        logits = out[label != MISSING]
        if task.classes == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        losses.append(functional.cross_entropy(logits, aim))
    return torch.stack(losses).mean()


def shares(net: nn.Module, images: Tensor, shifted: bool) -> list[float]:
    """Per task, the share of labeled images seen as the shifted label, or as the true one."""
    found = []
    with torch.no_grad():
        for task, shift, out in zip(TASKS, SHIFTS, net.eval()(images), strict=True):
            label = SPLIT.targets[task.name]
            aim = (label + shift * shifted) % task.classes
            found.append(float((task.predict(out) == aim)[label != MISSING].float().mean()))
    return found


# The gradient over several surrogates


def test_the_gradient_is_that_of_the_mean_of_the_losses() -> None:
    delta = torch.randn(2, 1, 2, 2)
    value, slope = delta_gradient([lambda d: d.square().sum(), lambda d: 3 * d.sum()], delta)
    assert torch.allclose(slope, delta + 1.5)
    assert float(value) == pytest.approx(float(delta.square().sum() / 2 + 1.5 * delta.sum()), rel=1e-5)


def test_seps_step_follows_the_mean_gradient_of_its_checkpoints(snapshots: list[MultiTaskNet]) -> None:
    noise = craft("sep(checkpoints=3, steps=1, step_size=2.0)", snapshots)
    batch = whole(SPLIT)
    slopes = []
    for net in snapshots:
        images = batch.images.clone().requires_grad_(True)
        slopes.append(torch.autograd.grad(shifted_loss(net.eval(), images), images)[0])
    mean = torch.stack(slopes).mean(0)
    wanted = (batch.images - 2 / 255 * mean.sign()).clamp(0, 1) - batch.images
    clear = mean.abs() > 1e-6  # below, rounding may turn a sign
    assert clear.float().mean() > 0.9
    assert torch.allclose(noise.delta(batch)[clear], wanted[clear], atol=1e-4)
    assert not torch.equal(mean.sign(), slopes[-1].sign())


@pytest.mark.parametrize(("asked", "used"), [(1, 1), (2, 2), (9, 3)])
def test_sep_takes_the_checkpoints_it_asks_for_or_all_there_are(
    asked: int, used: int, snapshots: list[MultiTaskNet]
) -> None:
    means = context(snapshots)
    objective = FixedSurrogate(SPLIT, means, means.surrogate_snapshots(asked), view="image")
    assert len(objective.losses(whole(SPLIT))) == used


@pytest.mark.parametrize(
    "attack",
    [
        "tap(steps=20, step_size=1.0, restarts=1)",
        "sep(checkpoints=3, steps=20, step_size=1.0)",
        "mtl-ue-tap(rounds=60, batch=32, width=8, learning_rate=0.01)",
        "mtl-ue-sep(rounds=60, batch=32, width=8, learning_rate=0.01)",
    ],
)
def test_the_surrogate_sees_the_shifted_label(attack: str, snapshots: list[MultiTaskNet]) -> None:
    batch = whole(SPLIT)
    seen = add_delta(batch.images, craft(attack, snapshots).delta(batch))
    assert min(shares(snapshots[-1], batch.images, shifted=False)) > 0.9
    assert min(shares(snapshots[-1], seen, shifted=True)) > 0.9


def test_untargeted_noise_makes_the_true_labels_loss_large(snapshots: list[MultiTaskNet]) -> None:
    # Its loss has no end, so that one task may take all the budget: only the mean is sure to grow.
    batch, net = whole(SPLIT), snapshots[-1].eval()
    delta = craft("tap-untargeted(steps=10, step_size=1.0, restarts=1)", snapshots).delta(batch)
    with torch.no_grad():
        before = task_losses(net, TASKS, batch.images, batch.targets).mean()
        after = task_losses(net, TASKS, add_delta(batch.images, delta), batch.targets).mean()
    assert after > 10 * before


@pytest.mark.parametrize("attack", ["sep-fa(steps=20)", "sep-fa-vr(steps=10, inner_steps=6)"])
def test_feature_alignment_moves_features_to_the_shifted_labels_mean(
    attack: str, snapshots: list[MultiTaskNet]
) -> None:
    batch = whole(SPLIT)
    noise = craft(attack, snapshots)
    with torch.no_grad():
        for net in snapshots:
            before = net.eval().represent(batch.images)
            after = net.represent(add_delta(batch.images, noise.delta(batch)))
            for task, shift in zip(TASKS, SHIFTS, strict=True):
                label = SPLIT.targets[task.name]
                means = torch.stack([before[label == c].mean(0) for c in range(task.classes)])
                aim = means[((label + shift) % task.classes)]
                far = (before - aim).square().mean(1)[label != MISSING].mean()
                near = (after - aim).square().mean(1)[label != MISSING].mean()
                assert near < 0.8 * far


def test_feature_alignments_loss_is_the_mean_square_over_tasks_and_features(
    snapshots: list[MultiTaskNet],
) -> None:
    objective = FeatureAlignment(SPLIT, context(snapshots), snapshots[-1:])
    batch = whole(SPLIT)
    with torch.no_grad():
        features = snapshots[-1].eval().represent(batch.images)
        per_task = []
        for task, shift in zip(TASKS, SHIFTS, strict=True):
            label = SPLIT.targets[task.name]
            rows = [i for i in range(len(label)) if label[i] != MISSING]
            apart = []
            for i in rows:
                aim = (int(label[i]) + shift) % task.classes
                apart.append(float((features[i] - features[label == aim].mean(0)).square().mean()))
            per_task.append(sum(apart) / len(apart))
    (loss,) = objective.losses(batch)
    assert float(loss(torch.zeros_like(batch.images))) == pytest.approx(sum(per_task) / 3, rel=1e-4)


def test_variance_reduced_steps_worked_by_hand() -> None:
    # Two parabolas in δ (in steps of 1/255), at 7 and at -2: slopes 2(δ - 7) and 2(δ + 2), mean 2(δ - 2.5).
    # The correction makes either's slope that of the mean, whichever is drawn: the direction adds up
    # 2(δ - 2.5) along the moving δ. From 0: -5, -8, -9, -8; from 1: -3, -4, -3; from 2: -1; from 3: 1.
    batch = Batch(torch.full((1, 1, 1, 1), 0.5), {}, torch.tensor([0]))
    split = Split(torch.full((1, 1, 1, 1), 128, dtype=torch.uint8), {})
    losses = [lambda d: (255 * d - 7).square().sum(), lambda d: (255 * d + 2).square().sum()]

    def after(steps: int, inner: int) -> float:
        table = VarianceReducedTable(
            split, epsilon=EPSILON, steps=steps, step_size=1 / 255, inner_steps=inner
        )
        table.update(batch, losses)
        return 255 * float(table.delta(batch))

    for steps, inner, wanted in ((1, 1, 1), (1, 4, 1), (2, 3, 2), (3, 1, 3), (4, 1, 2)):
        assert after(steps, inner) == pytest.approx(wanted, abs=0.01)


# Where the steps begin


def test_the_best_of_several_starts_is_kept() -> None:
    batch = Batch(torch.full((1, 1, 1, 4), 0.5), {}, torch.tensor([0]))
    split = Split(torch.full((1, 1, 1, 4), 128, dtype=torch.uint8), {})

    def reached(restarts: int) -> float:
        torch.manual_seed(0)
        table = Table(split, epsilon=EPSILON, steps=1, step_size=0.1 / 255, start="normal", restarts=restarts)
        table.update(batch, [lambda d: d.abs().sum()])
        return float(table.delta(batch).abs().sum())

    values = [reached(restarts) for restarts in (1, 4, 64)]
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert values[-1] < values[0]


def test_a_uniform_start_does_not_go_on_from_the_rows() -> None:
    batch = Batch(torch.full((1, 3, 8, 8), 0.5), {}, torch.tensor([0]))
    split = Split(torch.full((1, 3, 8, 8), 128, dtype=torch.uint8), {})
    table = Table(split, epsilon=EPSILON, steps=1, step_size=1e-6, start="uniform")
    drawn = []
    for _ in range(2):
        table.update(batch, [lambda d: d.sum()])
        drawn.append(table.delta(batch))
    assert not torch.allclose(*drawn, atol=1e-3)
    assert all(4 / 255 < float(d.abs().mean() * 2) < 12 / 255 for d in drawn)


# Class-wise error-minimizing noise


@pytest.mark.parametrize("mode", ["patch", "average"])
def test_a_class_moves_by_the_mean_of_what_its_samples_ask(mode: str) -> None:
    split = easy_split(12)
    batch = whole(split)

    def zeros(classes: int, rows: int, columns: int) -> Tensor:
        return torch.zeros(classes, 3, rows, columns)

    start = lift_classwise(TASKS, mode, split, zeros)  # type: ignore[arg-type]
    table = ClasswiseTable(start, epsilon=EPSILON, step_size=2 / 255)
    slopes = torch.randn(batch.images.shape)
    table.update(batch, [lambda delta: (delta * slopes).sum()])
    wanted = torch.zeros_like(batch.images)
    for name, place in zip([task.name for task in start.tasks], start.cells, strict=True):
        for label in split.targets[name].unique().tolist():
            members = split.targets[name] == label
            move = -2 / 255 * slopes[members].sign().mean(0)
            cell = torch.zeros_like(move)
            place.crop(cell[None]).copy_(place.crop(move.clamp(-EPSILON, EPSILON)[None]))
            wanted[members] += start.scale * cell
    assert torch.allclose(table.delta(batch), wanted, atol=1e-6)


def test_class_wise_noise_makes_the_labels_easy_for_images_it_was_not_crafted_on() -> None:
    torch.manual_seed(0)
    split = easy_split(256)
    surrogates: list[MultiTaskNet] = []

    def new_surrogate() -> MultiTaskNet:
        surrogates.append(MultiTaskNet(Small(width=4), TASKS, (3, 32, 32)))
        return surrogates[-1]

    quick = "em-classwise(rounds=8, surrogate_steps=10, step_size=1.0, batch=32, portion=0.5, stop_error=0)"
    noise = build_part("attack", quick).craft(split, replace(context([]), new_surrogate=new_surrogate))
    batch = whole(split)
    with torch.no_grad():
        surrogates[0].eval()
        clean = task_losses(surrogates[0], TASKS, batch.images, batch.targets)
        poisoned = task_losses(surrogates[0], TASKS, batch.images + noise.delta(batch), batch.targets)
    assert float(poisoned.mean()) < 0.8 * float(clean.mean())
    fresh = Batch(
        torch.rand(192, 3, 16, 16), {n: t[:192] for n, t in split.targets.items()}, batch.index[:192]
    )
    assert torch.equal(noise.delta(fresh), noise.delta(batch)[:192])


# Robust error-minimizing noise


def test_robust_noise_survives_crops_and_an_adversary() -> None:
    torch.manual_seed(0)
    split, surrogates = easy_split(96), list[MultiTaskNet]()
    crops = Augmentation(crop=13, flip=True)

    def new_surrogate() -> MultiTaskNet:
        surrogates.append(MultiTaskNet(Small(width=4), TASKS, (3, 32, 32)))
        return surrogates[-1]

    means = replace(context([], crops), new_surrogate=new_surrogate)
    quick = (
        "rem(iterations=36, steps=4, step_size=4.0, samples=2, radius=2, attack_steps=2, attack_step_size=1,"
        " batch=32)"
    )
    noise = build_part("attack", quick).craft(split, means)
    net, batch = surrogates[0].eval(), whole(split)

    def under_attack(images: Tensor) -> float:
        """The loss of crops of these images, moved against the network by one full step."""
        seen = augment(replace(batch, images=images), crops, TASKS).images.requires_grad_(True)
        slope = torch.autograd.grad(task_losses(net, TASKS, seen, split.targets).sum(), seen)[0]
        worst = seen + 2 / 255 * slope.sign()
        with torch.no_grad():
            return float(task_losses(net, TASKS, worst, split.targets).mean())

    clean = sum(under_attack(batch.images) for _ in range(5))
    poisoned = sum(under_attack(add_delta(batch.images, noise.delta(batch))) for _ in range(5))
    assert poisoned < 0.8 * clean


# Perturbation-induced linearization


def test_a_linear_model_reads_every_task_off_the_noise() -> None:
    split = easy_split(300)
    delta = craft("pil(epochs=10, steps=15, step_size=1.6, batch=100)", [], split).delta(whole(split))
    features = delta.flatten(1).numpy()
    for task in TASKS:
        label = split.targets[task.name].numpy()
        fitted = LogisticRegression(max_iter=200).fit(features[:200], label[:200])
        assert fitted.score(features[200:], label[200:]) > 0.95


def test_linearisations_loss_worked_by_hand() -> None:
    tasks = (Classification("one", ("a", "b")),)
    split = Split(torch.zeros(2, 1, 1, 2, dtype=torch.uint8), {"one": torch.tensor([0, 1])})
    objective = LinearSeparability(
        split, replace(context([]), tasks=tasks), balance=0.75, epochs=1, learning_rate=0.1, batch_size=2
    )
    with torch.no_grad():
        for layer, weight in zip(
            objective._models[0][1:], ([[2.0, 0.0], [0.0, 1.0]], torch.eye(2)), strict=True
        ):  # type: ignore[index]
            layer.weight.copy_(torch.as_tensor(weight))
    batch = Batch(torch.full((2, 1, 1, 2), 0.5), split.targets, torch.arange(2))
    delta = torch.tensor([[-1.0, 0.0], [0.0, -3.0]]).view(2, 1, 1, 2)
    (loss,) = objective.losses(batch)
    # Of the noise n = -δ: logits (2, 0) and (0, 3), labels 0 and 1.
    cross_entropy = (functional.softplus(torch.tensor(-2.0)) + functional.softplus(torch.tensor(-3.0))) / 2
    # Of x - n: logits (2·(-0.5), 0.5) and (2·0.5, -2.5).
    seen = torch.tensor([[-1.0, 0.5], [1.0, -2.5]]).log_softmax(1)
    divergence = (-seen.mean(1) - torch.log(torch.tensor(2.0))).mean()
    objective._models.requires_grad_(False)
    assert float(loss(delta)) == pytest.approx(float(0.75 * cross_entropy + 0.25 * divergence), rel=1e-5)


# Unlearnable clusters


def test_clusters_move_to_the_next_ones_center_and_labels_have_no_part(
    snapshots: list[MultiTaskNet],
) -> None:
    quick = "uc(clusters=3, rounds=30, batch=64, learning_rate=0.01, width=8)"
    batch = whole(SPLIT)
    delta = craft(quick, snapshots).delta(batch)
    assert len(delta.unique(dim=0)) == 3
    others = Split(SPLIT.images, {name: torch.full_like(t, MISSING) for name, t in SPLIT.targets.items()})
    assert torch.equal(craft(quick, snapshots, others).delta(batch), delta)
    net = snapshots[-1].eval()
    patterns, member = delta.unique(dim=0, return_inverse=True)
    with torch.no_grad():
        before, after = net.represent(batch.images), net.represent(add_delta(batch.images, delta))
    centers = torch.stack([before[member == c].mean(0) for c in range(3)])
    home = torch.cdist(before, centers).argmin(1)
    assert (home == member).float().mean() > 0.9
    # Softmax of the features is what is aligned, so the distance is measured there.
    moved = torch.cdist(after.softmax(1), centers.softmax(1)).argmin(1)
    assert (moved != member).float().mean() > 0.5
    assert patterns.abs().max() <= EPSILON * (1 + 1e-6)


# MTL-UE's profiles and ablations


def test_away_is_minus_the_mean_loss_of_the_true_labels(snapshots: list[MultiTaskNet]) -> None:
    net, batch = snapshots[-1].eval(), whole(SPLIT)
    (loss,) = FixedSurrogate(SPLIT, context(snapshots), [net], view="image", aim="away").losses(batch)
    with torch.no_grad():
        two, three, five = task_losses(net, TASKS, batch.images, SPLIT.targets)
        measured = loss(torch.zeros_like(batch.images))
    assert float(measured) == pytest.approx(-float(two + three + five) / 3, rel=1e-4)


def test_a_shared_crop_is_the_same_for_all_images_of_a_batch() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16).expand(20, -1, -1, -1)
    batch = Batch(images, {}, torch.arange(20))
    crops = Augmentation(crop=10, flip=True)
    shared = surrogate_view(batch, "shared-crop", crops, ()).images
    assert all(torch.equal(shared[0], other) for other in shared[1:])
    each = surrogate_view(batch, "crop", crops, ()).images
    assert len(each.unique(dim=0)) > 10
    assert torch.equal(surrogate_view(batch, "image", crops, ()).images, images)


def crafted(attack: str) -> GeneratedNoise:
    noise = craft(attack, [])
    assert isinstance(noise, GeneratedNoise)
    return noise


MTLUE = "mtl-ue-em(rounds=1, surrogate_steps=1, batch=64, width=4, embedding_channels=2"


def test_the_official_profiles_clamp_is_a_little_wider() -> None:
    largest = {}
    for profile in ("paper", "official"):
        noise = crafted(f"{MTLUE}, profile={profile})")
        with torch.no_grad():
            for parameter in noise.generator.decoder.parameters():
                parameter.mul_(10)
        largest[profile] = float(noise.delta(whole(SPLIT)).abs().max())
    assert largest["paper"] == pytest.approx(8 / 255)
    assert largest["official"] == pytest.approx(0.0314)


@pytest.mark.parametrize(
    ("inputs", "of_labels", "of_image"),
    [("both", True, True), ("image", False, True), ("embeddings", True, False)],
)
def test_ablated_inputs_have_no_part_in_the_noise(inputs: str, of_labels: bool, of_image: bool) -> None:
    noise, batch = crafted(f"{MTLUE}, inputs={inputs})"), whole(easy_split(8))
    delta = noise.delta(batch)
    labels = {name: torch.zeros_like(t) for name, t in batch.targets.items()}
    assert torch.equal(noise.delta(replace(batch, targets=labels)), delta) != of_labels
    assert torch.equal(noise.delta(replace(batch, images=1 - batch.images)), delta) != of_image


def test_a_generator_is_restored_from_its_state() -> None:
    attack = build_part("attack", f"{MTLUE})")
    noise, batch = crafted(f"{MTLUE})"), whole(easy_split(8))
    restored = attack.restore(noise.state(), context([]), (3, 16, 16))
    assert torch.equal(restored.delta(batch), noise.delta(batch))


# Batches from a position


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 3, 4, 6])
def test_batches_go_on_from_a_position_as_if_nothing_had_happened(shuffle: bool, taken: int) -> None:
    split = easy_split(13)

    def indices(passes: ResumableLoader, count: int) -> list[list[int]]:
        stream = passes.endless()
        return [next(stream).index.tolist() for _ in range(count)]

    torch.manual_seed(0)
    unbroken = indices(ResumableLoader(split, 4, CPU, shuffle), 9)
    torch.manual_seed(0)
    first = ResumableLoader(split, 4, CPU, shuffle)
    before = indices(first, taken)
    second = ResumableLoader(split, 4, CPU, shuffle)
    second.load_state(first.state())
    assert before + indices(second, 9 - taken) == unbroken
