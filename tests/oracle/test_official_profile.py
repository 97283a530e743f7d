"""MTL-UE's profile ``official`` runs as the public code: one way for binary tasks, another for others."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from bench.catalog.build import build_part
from bench.tasks.classification import Classification
from bench.values import Batch, Split
from mtlue import attack as mtlue_attack
from mtlue.attack import GeneratedNoise
from tests.oracle.test_strengths import TASK, LinearNet, context

BINARY = (Classification("smile", ("no", "yes")), Classification("hat", ("no", "yes")))
FACES = (Classification("race", ("a", "b", "c", "d", "e")), Classification("gender", ("male", "female")))


class CraftingStartedError(Exception):
    """Raised before the first step."""


def steps_planned(attack: str, tasks: tuple[Classification, ...]) -> int:
    """Return rounds × batches for 1030 images, as the crafting announces them before its first step."""
    announced = []

    def announce(what: str, done: int, total: int) -> None:
        announced.append(total)
        raise CraftingStartedError

    targets = {task.name: torch.arange(1030) % task.classes for task in tasks}
    split = Split(torch.zeros(1030, 3, 4, 4, dtype=torch.uint8), targets)
    with pytest.raises(CraftingStartedError):
        build_part("attack", attack).craft(split, replace(context(8), tasks=tasks, progress=announce))
    return announced[0]


@pytest.mark.parametrize(
    ("base", "tasks", "rounds", "batches"),
    [  # 1030 images are 3 batches of 512, 2 of 1024, 9 of 128
        ("em", BINARY, 100, 3),
        ("tap", BINARY, 100, 3),
        ("sep", BINARY, 50, 2),
        ("em", FACES, 100, 9),
        ("tap", FACES, 100, 9),
        ("sep", FACES, 25, 9),
    ],
)
def test_rounds_and_batches_are_those_of_the_public_scripts(
    base: str, tasks: tuple[Classification, ...], rounds: int, batches: int
) -> None:
    small = "width=2, embedding_channels=1"
    assert steps_planned(f"mtl-ue-{base}(profile=official, {small})", tasks) == rounds * batches
    assert steps_planned(f"mtl-ue-{base}(profile=official, rounds=2, batch=600, {small})", tasks) == 2 * 2
    paper = {"em": 100, "tap": 100, "sep": 50}[base] * 3
    assert steps_planned(f"mtl-ue-{base}({small})", tasks) == paper


@pytest.mark.parametrize(
    ("base", "binary", "other", "paper"),
    [("em", 0.01, 0.01, 0.01), ("tap", 0.1, 1e-4, 1e-4), ("sep", 0.01, 1e-4, 1e-4)],
)
def test_stop_errors_are_those_of_the_public_scripts(
    base: str, binary: float, other: float, paper: float
) -> None:
    official = build_part("attack", f"mtl-ue-{base}(profile=official)")
    assert official.training(BINARY).stop_error == pytest.approx(binary)
    assert official.training(FACES).stop_error == pytest.approx(other)
    assert official.training((*BINARY, FACES[0])) == official.training(FACES)
    default = build_part("attack", f"mtl-ue-{base}")
    assert default.training(BINARY) == default.training(FACES)
    assert default.training(FACES).stop_error == paper
    assert build_part("attack", f"mtl-ue-{base}(profile=official, stop_error=0.3)").training(
        BINARY
    ).stop_error == pytest.approx(0.3)


def test_what_is_spelt_out_of_the_papers_training_is_the_same_attack() -> None:
    spelled = build_part("attack", "mtl-ue-tap(rounds=100, batch=512, stop_error=1e-4)")
    assert asdict(spelled) == asdict(build_part("attack", "mtl-ue-tap"))


@pytest.mark.parametrize(
    ("profile", "tasks", "aim"),
    [
        ("official", BINARY, "away"),
        ("official", FACES, "shifted"),  # all of them, the one with two classes too
        ("paper", BINARY, "shifted"),
    ],
)
def test_tap_is_untargeted_only_where_all_tasks_are_binary(
    profile: str, tasks: tuple[Classification, ...], aim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: dict[str, Any] = {}

    class Recorded(mtlue_attack.FixedSurrogate):
        def __init__(self, *args: Any, **options: Any) -> None:
            chosen.update(options)
            super().__init__(*args, **options)

    monkeypatch.setattr(mtlue_attack, "FixedSurrogate", Recorded)
    steps_planned(f"mtl-ue-tap(profile={profile}, width=2, embedding_channels=1)", tasks)
    assert chosen["aim"] == aim


def run(attack: str) -> tuple[int, float, GeneratedNoise]:
    """Return rounds, the share misled at the end, and the noise, on images of which one cannot be misled.

    The surrogate reads the sign of a pattern, which 19 images of 20 have faintly and one strongly.
    """
    pattern = torch.randint(2, (3, 8, 8), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    sizes = torch.full((20,), 2.0).index_fill_(0, torch.tensor([19]), 100.0)
    signs = torch.arange(20) % 2 * 2.0 - 1
    images = 100 + (signs * sizes).view(-1, 1, 1, 1) * pattern
    split = Split(images.to(torch.uint8), {TASK.name: torch.arange(20) % 2})
    net = LinearNet()
    with torch.no_grad():
        net.head.weight.copy_(0.3 * pattern.flatten())
        net.head.bias.fill_(-0.3 * float(pattern.sum()) * 100 / 255)
    reached: list[int] = []
    shares: list[float] = []
    here = replace(
        context(8),
        surrogate_snapshots=lambda count: [net] * count,
        progress=lambda what, done, total: reached.append(done // 4),  # 4 batches
        report_aim=lambda loss, hit_rate: shares.append(hit_rate),
    )
    torch.manual_seed(0)
    noise = build_part("attack", attack).craft(split, here)
    assert isinstance(noise, GeneratedNoise)
    return max(reached), shares[0], noise


SMALL = "rounds=30, batch=5, learning_rate=0.005, width=8, embedding_channels=4"


def test_official_tap_stops_once_nine_labels_of_ten_are_misled() -> None:
    rounds, misled, noise = run(f"mtl-ue-tap(profile=official, {SMALL})")
    assert rounds < 30
    assert misled == pytest.approx(0.95)
    assert 8 / 255 < max(abs(value) for value in noise_range(noise)) <= 0.0314 + 1e-6


@pytest.mark.parametrize("attack", ["mtl-ue-tap(", "mtl-ue-sep(profile=official, checkpoints=1, "])
def test_the_papers_tap_and_the_official_sep_want_more_than_nine_of_ten(attack: str) -> None:
    rounds, misled, _ = run(f"{attack}{SMALL})")
    assert rounds == 30
    assert misled == pytest.approx(0.95)


def noise_range(noise: GeneratedNoise) -> tuple[float, float]:
    images = torch.full((20, 3, 8, 8), 0.4)
    delta = noise.delta(Batch(images, {TASK.name: torch.arange(20) % 2}, torch.arange(20)))
    return float(delta.min()), float(delta.max())
