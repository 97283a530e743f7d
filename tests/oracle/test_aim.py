"""What an attack reports of its surrogates, and what rounding leaves of its noise."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from baselines.crafting import loop
from baselines.crafting.loop import LossOfDelta, ObjectiveHooks, craft_noise
from baselines.crafting.noise_table import Table
from bench.catalog.build import build_part
from bench.engine.stages.budget import quantize_delta
from bench.tasks.classification import Classification
from bench.values import MISSING, Augmentation, Batch, Budget, CraftContext, Split
from tests.oracle.test_strengths import COUNT, CPU, SPLIT, TASK, LinearNet, context


class EveryThird(ObjectiveHooks):
    """Wants large noise; the aim is missed on every third image, and every fifth has no label."""

    def losses(self, batch: Batch) -> list[LossOfDelta]:
        return [lambda delta: -delta.mean() - 1, lambda delta: -3 * delta.mean() * torch.rand(())]

    def error(self, batch: Batch, delta: Tensor) -> Tensor:
        missed = (batch.index % 3 == 0).float()
        return torch.where(batch.index % 5 == 0, torch.nan, missed)


def report(split: Split, batch_size: int) -> tuple[Tensor, list[tuple[float, float]]]:
    reports: list[tuple[float, float]] = []
    here = replace(context(8), report_aim=lambda loss, hits: reports.append((loss, hits)))
    torch.manual_seed(0)
    table = Table(split, epsilon=8 / 255, steps=1, step_size=8 / 255)
    noise = craft_noise(split, here, EveryThird(), table, batch_size=batch_size)
    after = torch.rand(3)
    return torch.cat([noise.delta(whole(split)).flatten(), after]), reports


def whole(split: Split) -> Batch:
    return Batch(split.images / 255, split.targets, torch.arange(len(split)))


@pytest.mark.parametrize("batch_size", [COUNT, 5])
def test_the_hit_rate_is_over_labeled_images_and_the_loss_over_all(batch_size: int) -> None:
    _, ((loss, hits),) = report(SPLIT, batch_size)
    labeled = [image for image in range(COUNT) if image % 5]
    assert hits == pytest.approx(sum(image % 3 > 0 for image in labeled) / len(labeled))
    # Half of (-δ - 1) + (-3 δ u) at δ = 8/255, with u in [0, 1].
    assert -0.5 - 2 * 8 / 255 <= loss <= -0.5 - 8 / 255 / 2 + 1e-4


def test_the_report_changes_neither_the_noise_nor_later_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    reported, _ = report(SPLIT, 5)
    monkeypatch.setattr(loop, "_report_aim", lambda *_: None)
    silent, nothing = report(SPLIT, 5)
    assert nothing == []
    assert torch.equal(reported, silent)


def test_at_most_some_images_meet_the_surrogates_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "AIM_IMAGES", 4)
    seen: list[int] = []

    class Watched(EveryThird):
        def error(self, batch: Batch, delta: Tensor) -> Tensor:
            seen.extend(batch.index.tolist())
            return super().error(batch, delta)

    table = Table(SPLIT, epsilon=8 / 255, steps=1, step_size=8 / 255)
    craft_noise(SPLIT, context(8), Watched(), table, batch_size=3)
    assert len(set(seen)) == len(seen) == 4


@pytest.mark.parametrize(
    ("attack", "reaches"),
    [
        ("tap(steps=60, restarts=1)", True),
        ("tap(steps=1, step_size=0.01, restarts=1)", False),
    ],
)
def test_an_unfinished_crafting_misses_its_own_surrogate(attack: str, reaches: bool) -> None:
    """The surrogate reads a label that one pixel decides, by a margin that a δ of 2/255 turns over."""
    images = torch.full((COUNT, 3, 8, 8), 100, dtype=torch.uint8)
    images[::2] += 1
    split = Split(images, {TASK.name: torch.arange(COUNT).add(1).remainder(2)})
    net = LinearNet()
    with torch.no_grad():
        net.head.weight.fill_(1.0)
        net.head.bias.fill_(-(100.5 / 255) * 3 * 8 * 8)
    reports: list[tuple[float, float]] = []
    here = replace(
        context(8),
        surrogate_snapshots=lambda count: [net],
        report_aim=lambda loss, hits: reports.append((loss, hits)),
    )
    torch.manual_seed(0)
    build_part("attack", attack).craft(split, here)
    ((loss, hits),) = reports
    assert (hits == 1.0) == reaches
    assert (loss < 0.1) == reaches


def test_the_average_of_forty_tasks_loses_half_of_its_values_to_rounding() -> None:
    tasks = tuple(Classification(f"t{i}", ("a", "b")) for i in range(40))
    generator = torch.Generator().manual_seed(0)
    targets = {task.name: torch.randint(2, (64,), generator=generator) for task in tasks}
    split = Split(torch.full((64, 3, 16, 16), 128, dtype=torch.uint8), targets)
    here = CraftContext(tasks, Augmentation(), 8 / 255, LinearNet, lambda count: [], CPU, lambda *_: None)
    lost = {}
    for attack in ("random", "random(lift=average)"):
        torch.manual_seed(0)
        noise = build_part("attack", attack).craft(split, here)
        lost[attack] = quantize_delta(noise, split, Budget("linf", 8), CPU, attack)[1]["lost_to_rounding"]
    # Uniform in ±8: 1/16. The mean of 40 of them is nearly normal with σ = 8/√3/√40 = 0.73: 0.506.
    assert lost["random"] == pytest.approx(1 / 16, abs=0.02)
    assert lost["random(lift=average)"] == pytest.approx(0.506, abs=0.02)
    hidden = replace(split, targets={name: torch.full_like(t, MISSING) for name, t in targets.items()})
    noise = build_part("attack", "random").craft(hidden, here)
    assert quantize_delta(noise, hidden, Budget("linf", 8), CPU, "random")[1]["lost_to_rounding"] == 0
