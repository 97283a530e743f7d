"""`bench conform` on the other axes: a fault of a part is found by the check that is there for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from bench.backbones.small import Small
from bench.catalog.parts import CATALOG, catalog_entries
from bench.cli.conform import find_axis
from bench.conformance.contracts import CONTRACTS, put_under_test
from bench.conformance.report import run_checks
from bench.datasets.digits import Digits
from bench.defenses.base import NoOp
from bench.regimes.mtl import MultiTask
from bench.weightings.ew import EqualWeights


class FirstTaskBalancer:
    """A balancer that trains the first task alone, and no other."""

    def parameters(self) -> tuple[()]:
        return ()

    def backward(self, step: Any) -> torch.Tensor:
        step.losses[0].backward()
        return torch.ones(len(step.losses))

    def finish_step(self, step: Any) -> None:
        pass

    def finish_epoch(self, losses: torch.Tensor) -> None:
        pass


@dataclass(frozen=True)
class FirstTask(EqualWeights):
    """Not from a paper."""

    def start(self, tasks: Any, device: Any) -> Any:
        return FirstTaskBalancer()


@dataclass(frozen=True)
class Overwrites(NoOp):
    """Not from a paper."""

    version: ClassVar[int] = 1

    def purify(self, released: Any, *_: Any) -> torch.Tensor:
        return released.images.fill_(0)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Relabels(NoOp):
    """Not from a paper."""

    version: ClassVar[int] = 1

    def augment(self, batch: Any, *_: Any) -> Any:
        return replace(batch, targets={name: target.flip(0) for name, target in batch.targets.items()})


@dataclass(frozen=True)
class Untrained(Small):
    """Not from a paper.

    Attributes:
        width: channels.
    """

    def build(self, shape: Any) -> tuple[nn.Module, int]:
        encoder, width = super().build(shape)
        encoder.register_parameter("unused", nn.Parameter(torch.zeros(2)))
        return encoder, width


@dataclass(frozen=True)
class Drawing(Digits):
    """Not from a paper.

    Attributes:
        train: number.
        test: number.
        data_seed: seed.
    """

    def load(self, *arguments: Any) -> Any:
        torch.rand(1)
        return super().load(*arguments)


@dataclass(frozen=True)
class Forgets(MultiTask):
    """Not from a paper."""

    def groups(self, tasks: Any) -> Any:
        return (tasks[:1],)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, type], str]]:
    def put(axis: str, kind: type) -> str:
        monkeypatch.setitem(CATALOG[axis], "faulty", f"{__name__}:{kind.__name__}")
        catalog_entries.cache_clear()
        return "faulty"

    yield put
    catalog_entries.cache_clear()


@pytest.mark.parametrize(
    ("axis", "kind", "check", "sentence"),
    [
        ("weighting", FirstTask, "trains every parameter", "gets no gradient"),
        ("defense", Overwrites, "purifies images and keeps their shape", "writes to the released images"),
        ("defense", Relabels, "augments images and keeps their labels", "augment() "),
        ("backbone", Untrained, "trains every parameter", "unused is not trained"),
        ("dataset", Drawing, "is the same every time", "changes torch's random state"),
        ("regime", Forgets, "trains every task once", "does not put every task into one group"),
    ],
)
def test_a_fault_is_found(
    axis: str, kind: type, check: str, sentence: str, register: Callable[[str, type], str]
) -> None:
    tested = put_under_test(axis, register(axis, kind))
    failures = {
        verdict.check: verdict.failure
        for verdict in run_checks(tested, CONTRACTS[axis].checks)
        if verdict.failure is not None
    }
    assert sentence in str(failures[check])


def test_the_axis_of_a_name_is_looked_up() -> None:
    names = ("em(steps=2)", "jpeg+cutmix", "uw", "resnet18", "digits", "stl", "no-such-part")
    axes = ["attack", "defense", "weighting", "backbone", "dataset", "regime", "attack"]
    assert [find_axis(name) for name in names] == axes
