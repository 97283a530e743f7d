"""Strengths are in proportion to the budget, so half of it gives half the noise."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines import rem
from bench.api import CraftContext
from bench.catalog.build import build_part
from bench.catalog.parts import catalog_entries
from bench.engine.stages.budget import quantize_delta
from bench.tasks.classification import Classification
from bench.values import EPSILON, Augmentation, Batch, Budget, Split

CPU = torch.device("cpu")
TASK = Classification("two", ("a", "b"))
COUNT = 12
GRAYS = torch.randint(100, 156, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0))
SPLIT = Split(GRAYS.to(torch.uint8), {TASK.name: torch.arange(COUNT).remainder(2)})


class LinearNet(nn.Module):
    """A network whose loss has, for one task with two classes, a gradient of the same signs everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, TASK.outputs)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.head(images.flatten(1))]

    def represent(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def context(epsilon: float) -> CraftContext:
    return CraftContext(
        (TASK,),
        Augmentation(),
        epsilon / 255,
        LinearNet,
        lambda count: [LinearNet() for _ in range(count)],
        CPU,
        lambda *_: None,
    )


def crafted_delta(attack: str, epsilon: float) -> Tensor:
    """Return δ of all images in steps of 1/255."""
    torch.manual_seed(0)
    noise = build_part("attack", attack).craft(SPLIT, context(epsilon))
    return 255 * noise.delta(Batch(SPLIT.images / 255, SPLIT.targets, torch.arange(COUNT)))


ONE_STEP = {
    "em(rounds=1, surrogate_steps=1, steps=1, learning_rate=1e-9)": 0.8,
    "em-classwise(rounds=1, surrogate_steps=1, portion=1.0, learning_rate=1e-9)": 0.8,
    "sep(checkpoints=1, steps=1)": 1.0,
    "sep-fa(checkpoints=1, steps=1)": 1.0,
    "sep-fa-vr(checkpoints=1, steps=1, inner_steps=1)": 1.0,
}
"""An attack that starts from zero and takes one step → its published size at 8/255."""


@pytest.mark.parametrize("attack", ONE_STEP)
@pytest.mark.parametrize("epsilon", [8, 4, 2])
def test_a_step_has_its_published_size_at_eight_and_shrinks_with_the_budget(
    attack: str, epsilon: int
) -> None:
    sizes = crafted_delta(attack, epsilon).abs()
    assert float(sizes.max()) == pytest.approx(ONE_STEP[attack] * epsilon / 8, rel=1e-2)


@pytest.mark.parametrize(
    "attack",
    [
        "tap(steps=6, restarts=1)",
        "tap-untargeted(steps=6, restarts=1)",
        "rem(iterations=1, samples=1, learning_rate=1e-9)",
        "rem(iterations=1, samples=1, steps=2, radius=8.0, attack_steps=2, learning_rate=1e-9)",
        "pil(steps=3, epochs=1, balance=1.0)",
        "lsp(patches=2)",
        "lsp(patches=2, lift=average)",
        "ar",
        "ar(lift=average)",
        "random",
        "random-samplewise",
    ],
)
def test_half_the_budget_gives_half_the_noise(attack: str) -> None:
    full, half = crafted_delta(attack, 8), crafted_delta(attack, 4)
    assert full.abs().max() > 4
    assert (half - full / 2).abs().max() < 0.01


@pytest.mark.parametrize(("attack", "norm"), [("ar-l2", 1.0), ("lsp-l2(patches=2)", 6 / 255 * 3072**0.5)])
@pytest.mark.parametrize("epsilon", [1.0, 0.5, 0.25])
def test_noise_with_a_norm_as_budget_has_its_published_norm(attack: str, norm: float, epsilon: float) -> None:
    """On images of d values its norm is √(d / 3072) times that on 3·32·32 values, clamped or not."""
    torch.manual_seed(0)
    here = replace(context(8), epsilon=epsilon, norm="l2")
    noise = build_part("attack", attack).craft(SPLIT, here)
    delta = noise.delta(Batch(SPLIT.images / 255, SPLIT.targets, torch.arange(COUNT)))
    wanted = norm * epsilon * (delta[0].numel() / 3072) ** 0.5
    assert delta.flatten(1).norm(dim=1).numpy() == pytest.approx(wanted, rel=1e-3)


def test_every_attack_that_takes_a_step_or_a_strength_is_held_to_its_budget_here() -> None:
    tested = {attack.partition("(")[0] for attack in ONE_STEP} | {
        "tap", "tap-untargeted", "rem", "pil", "lsp", "lsp-l2", "ar", "ar-l2",
    }  # fmt: skip
    fields = ("step_size", "strength", "radius")
    stepping = {
        name
        for name in catalog_entries("attack")
        if any(hasattr(build_part("attack", name), field) for field in fields)
    }
    assert stepping == tested


def test_the_adversary_that_rem_resists_shrinks_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    strengths = []

    class Recorded(rem.RobustErrorMinimizing):
        def __init__(self, *args: Any, **settings: Any) -> None:
            strengths.append((255 * settings["radius"], 255 * settings["attack_step_size"]))
            super().__init__(*args, **settings)

    monkeypatch.setattr(rem, "RobustErrorMinimizing", Recorded)
    for epsilon in (8, 4):
        crafted_delta("rem(iterations=1, samples=1, steps=1, attack_steps=1)", epsilon)
    assert strengths == [pytest.approx((4.0, 0.8)), pytest.approx((2.0, 0.4))]


def test_at_half_the_budget_no_more_of_lsp_is_clamped() -> None:
    shares = []
    for epsilon in (8, 4):
        torch.manual_seed(0)
        noise = build_part("attack", "lsp").craft(SPLIT, context(epsilon))
        shares.append(quantize_delta(noise, SPLIT, Budget("linf", epsilon), CPU, "lsp")[1]["clamped"] or 0.0)
    assert 0.02 < shares[1] <= shares[0] < 0.2, shares


# Steps that cannot cross the budget


@pytest.mark.parametrize(
    ("attack", "warning"),
    [
        ("tap(steps=20)", None),
        (
            "tap(steps=19)",
            "its steps (19 of size 0.4) change a value by 95% of the budget at most; raise its parameters "
            "'steps' or 'step_size'",
        ),
        ("em(rounds=2, steps=5)", None),
        ("em(rounds=1, steps=5)", "its steps (5 of size 0.8) change a value by 50% of the budget"),
        ("sep-fa-vr(steps=2, step_size=3)", "its steps (2 of size 3) change a value by 75% of the budget"),
        ("pil(steps=1)", "its steps (1 of size 0.8)"),
        ("rem(steps=4)", "its steps (4 of size 1.6)"),
    ],
)
def test_steps_that_cannot_cross_the_budget_are_warned_of(attack: str, warning: str | None) -> None:
    found = build_part("attack", attack).parameter_warning()
    assert found is None if warning is None else found.startswith(warning)


def test_no_attack_warns_of_its_published_parameters() -> None:
    parts = [build_part("attack", name) for name in catalog_entries("attack")]
    warned = [part.parameter_warning() for part in parts if hasattr(part, "parameter_warning")]
    assert len(warned) == 8
    assert not any(warned)


def test_the_usual_budget_is_that_of_the_published_values() -> None:
    assert EPSILON == 8
    assert context(8).scale_strength(6.0) == 6 / 255
