"""Passes of images through networks are counted exactly, whatever crafts, and also after a resume."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.engine.stages.craft import craft_poison
from bench.engine.stages.passes import CountingCheckpoint, PassCounter
from bench.engine.stages.surrogate import train_surrogate
from bench.engine.storage.store import POISONS
from bench.values import ignore_progress
from tests.engine import tiny

CHECKED = 8 / 64
"""Passes per image of the tiny suite for the four images on which a frozen surrogate is compared with the
original, forward through both."""


@pytest.mark.parametrize(
    ("attack", "forward", "backward", "surrogate"),
    [
        ("ar-l2", 0, 0, 0),
        # Two rounds of three steps, the error after the first one, loss and error at the end; the surrogate
        # takes four steps with eight images per round.
        ("em(rounds=2, steps=3, surrogate_steps=4, batch=8, stop_error=0)", 9 + 2 * CHECKED, 7, 2),
        # Twice five steps, the loss of both results, loss and error at the end; two epochs of a surrogate.
        ("tap(steps=5, restarts=2, step_size=2.0)", 14 + CHECKED, 13, 4),
        # Two linear losses in each of two steps and at the end, the error at the end; three epochs.
        ("pil(steps=2, epochs=3, step_size=8.0)", 7, 6, 6),
        # Generator and surrogate: twice in training, for the error after the first round, for loss and error
        # at the end; the generator once more for the released images.
        ("mtl-ue-tap(rounds=2, batch=8, width=2, embedding_channels=2)", 10 + CHECKED, 5, 4),
    ],
)
def test_passes_are_those_that_the_parameters_ask_for(
    attack: str, forward: float, backward: float, surrogate: float, tmp_path: Path
) -> None:
    poison = next(p for p in tiny.plan(matrix={"attack": [attack]}).poisons if p.attack.name != "clean")
    context = tiny.run_context(tmp_path)
    if poison.sources:
        train_surrogate(poison.surrogate, context, ignore_progress)
    craft_poison(poison, context, ignore_progress)
    noise: dict[str, Any] = (context.store.read_about(POISONS, poison.key) or {})["noise"]
    assert noise["forward_passes"] == forward
    assert noise["backward_passes"] == backward
    assert noise["surrogate_passes"] == surrogate


@dataclass
class Memory:
    """A checkpoint in memory."""

    kept: list[dict[str, Any]] = field(default_factory=list)

    def load(self) -> dict[str, Any] | None:
        return self.kept[-1] if self.kept else None

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        self.kept.append(state())


def test_a_resumed_crafting_counts_on_from_its_checkpoint() -> None:
    memory, first, second = Memory(), PassCounter(), PassCounter()
    before = CountingCheckpoint(memory, first)
    assert before.load() is None
    first.count(torch.zeros(5, 2, requires_grad=True).exp())
    first.count(torch.zeros(3, 2), is_training=True)
    before.save(lambda: {"step": 7})
    first.count(torch.zeros(100, 2))  # lost with the process

    second.count(torch.zeros(5, 2))  # what is done again before the state is asked for
    assert CountingCheckpoint(memory, second).load() == {"step": 7}
    assert second.images == {"forward": 5, "backward": 0, "surrogate": 3}
    second.count(torch.zeros(2, 2))
    assert second.per_image(10, training_epochs=3) == {
        "forward_passes": 0.7,
        "backward_passes": 0.0,
        "surrogate_passes": 6.3,
    }


def test_backward_passes_are_counted_when_they_happen_and_as_often() -> None:
    counter, images = PassCounter(), torch.zeros(4, 2, requires_grad=True)
    output = images.exp()
    counter.count(output)
    assert counter.images["backward"] == 0
    for _ in range(3):
        torch.autograd.grad(output.sum(), images, retain_graph=True)
    assert counter.images == {"forward": 4, "backward": 12, "surrogate": 0}
