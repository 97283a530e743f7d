"""A device whose memory is full: halved batches, then a sentence; nothing of the first try is left."""

import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.api import CraftContext, Norm
from bench.backbones.small import Small
from bench.defenses.base import NoOp
from bench.engine.planning.expand import Plan
from bench.engine.stages import device
from bench.engine.stages.craft import craft_poison
from bench.engine.stages.evaluate import evaluate_cell
from bench.engine.stages.surrogate import train_surrogate
from bench.engine.storage.store import SURROGATES
from bench.record import Record
from bench.values import Batch, Shape, Split, ignore_progress
from tests.added_parts import parts_in_catalog
from tests.engine import tiny

FULL = "CUDA out of memory. Tried to allocate 20.00 GiB"
ENCODERS: "list[weakref.ref[nn.Module]]" = []
"""Every encoder that was built, in order."""

ALIVE: list[int] = []
"""How many of them there still were when each was built."""


@dataclass(frozen=True)
class Limited(Small):
    """A backbone whose network fills the device's memory with more than ``most`` images in training.

    Attributes:
        most: how many fit.
    """

    most: int = 4
    version: ClassVar[int] = 1

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        encoder, width = super().build(shape)
        ALIVE.append(sum(reference() is not None for reference in ENCODERS))
        ENCODERS.append(weakref.ref(encoder))
        first = next(encoder.children())  # what runs under every regime, layer by layer or as a whole
        first.register_forward_pre_hook(self._refuse)
        return encoder, width

    def _refuse(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if layer.training and len(arguments[0]) > self.most:
            raise torch.OutOfMemoryError(FULL)


@dataclass(frozen=True)
class Hungry:
    """An attack that asks for more memory than there is."""

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> "Hungry":
        return self

    def delta(self, batch: Batch) -> Tensor:
        raise torch.OutOfMemoryError(FULL)


@dataclass(frozen=True)
class HungryDefense(NoOp):
    """A defense that asks for more memory than there is."""

    version: ClassVar[int] = 1

    def purify(self, released: Split, *_: Any) -> Tensor:
        raise torch.OutOfMemoryError(FULL)


@pytest.fixture(autouse=True)
def _test_parts() -> Iterator[None]:
    ENCODERS.clear()
    ALIVE.clear()
    with parts_in_catalog(
        ("attack", "hungry", Hungry), ("defense", "hungry", HungryDefense), ("backbone", "limited", Limited)
    ):
        yield


def plan(most: int, **matrix: list[str]) -> Plan:
    chosen = {"attack": ["clean"], "backbone": [f"limited(width=2, most={most})"], **matrix}
    return tiny.plan(matrix=chosen)


def record_of(chosen: Plan, out: Path) -> Record:
    run_context = tiny.run_context(out)
    craft_poison(chosen.poisons[0], run_context, ignore_progress)
    return evaluate_cell(chosen.cells[0], run_context, ignore_progress)


def test_a_victim_is_trained_again_with_halved_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = record_of(plan(most=4), tmp_path)
    (warning,) = (entry for entry in caplog.records if entry.levelno == logging.WARNING)
    assert warning.name.startswith("bench.")
    assert plan(most=4).cells[0].label in warning.getMessage()
    assert "batches of 8 images" in warning.getMessage()
    assert record.environment["batch_pieces"] == 2
    assert len(record.curve) == 2
    assert ALIVE == [0, 0]


def test_the_second_try_is_a_training_in_halves_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halved = record_of(plan(most=4), tmp_path)
    monkeypatch.setattr(device, "PIECES", (2,))
    meant = record_of(plan(most=8), tmp_path)
    assert meant.environment["batch_pieces"] == 2
    assert (meant.curve, meant.scores) == (halved.curve, halved.scores)


def test_where_whole_batches_fit_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = record_of(plan(most=8), tmp_path)
    assert "batch_pieces" not in record.environment
    assert not caplog.records
    assert len(ALIVE) == 1


@pytest.mark.parametrize(
    ("weighting", "regime", "defense"),
    [
        ("mgda", "mtl", "adversarial(steps=1)"),
        ("ew", "mtl", "linear-probe"),
        ("ew", "stl", "none"),
        ("ew", "cross-stitch", "none"),
        ("gradnorm", "mmoe", "none"),
        ("ew", "contrastive(batch=4)", "none"),  # two views of each image
    ],
)
def test_weightings_regimes_and_defenses_can_be_halved(
    weighting: str, regime: str, defense: str, tmp_path: Path
) -> None:
    chosen = plan(4, weighting=[weighting], regime=[regime], defense=[defense])
    assert record_of(chosen, tmp_path).environment["batch_pieces"] == 2


def test_a_surrogate_is_trained_again_with_halved_batches(tmp_path: Path) -> None:
    chosen = tiny.plan(matrix={"attack": ["tap"]}, surrogate={"backbone": "limited(width=2, most=4)"})
    run_context = tiny.run_context(tmp_path)
    (surrogate,) = chosen.surrogates
    train_surrogate(surrogate, run_context, ignore_progress)
    about = run_context.store.read_about(SURROGATES, surrogate.key)
    assert about is not None
    assert about["environment"]["batch_pieces"] == 2
    assert about["snapshots"] == [1, 2]
    assert ALIVE == [0, 0]


def test_where_halves_do_not_fit_the_cell_fails_with_a_sentence_that_helps(tmp_path: Path) -> None:
    ran = tiny.run(plan(most=3), tmp_path)
    assert ran.counts == (0, 0, 1)
    (record,) = tiny.records(tmp_path).values()
    assert record.error is not None
    assert record.error["type"] == "BenchError"
    for part in (plan(most=3).cells[0].label, "batches of 8 images", "--set recipe.batch=2"):
        assert part in record.error["message"]


@pytest.mark.parametrize(
    ("matrix", "named"),
    [({"attack": ["hungry"]}, "crafting hungry"), ({"defense": ["hungry"]}, "defense 'hungry'")],
)
def test_crafting_and_cleaning_fail_at_once_with_a_sentence(
    matrix: dict[str, list[str]], named: str, tmp_path: Path
) -> None:
    tiny.run(tiny.plan(matrix=matrix), tmp_path)
    failed = [r.error for r in tiny.records(tmp_path).values() if r.error is not None]
    assert failed
    for error in failed:
        assert error["message"].startswith("the device's memory is too small for")
        assert named in error["message"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_memory_suffices_for_halves(tmp_path: Path) -> None:
    settings = {"matrix": {"attack": ["clean"], "backbone": ["small(width=64)"]}}
    chosen = tiny.plan(**settings, recipe={"batch": 512}, params={"dataset": {"digits": {"train": 1024}}})
    run_context = replace(tiny.run_context(tmp_path), device="cuda")
    craft_poison(chosen.poisons[0], run_context, ignore_progress)
    peaks = []
    with pytest.MonkeyPatch.context() as patch:
        for pieces in (1, 2):
            patch.setattr(device, "PIECES", (pieces,))
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            evaluate_cell(chosen.cells[0], run_context, ignore_progress)
            peaks.append(torch.cuda.max_memory_reserved())
    whole, halves = peaks
    assert halves < 0.75 * whole
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((whole + halves) / 2 / total)
    try:
        assert evaluate_cell(chosen.cells[0], run_context, ignore_progress).environment["batch_pieces"] == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
