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
from bench.training.net import MultiTaskNet
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


@dataclass(frozen=True)
class OnlyBuilds(MultiTask):
    """Not from a paper."""

    def build(self, *arguments: Any) -> Any:
        return MultiTaskNet(*arguments)


class LeakyNet(MultiTaskNet):
    """A network whose heads see the images through the encoder a second time."""

    def apply_heads(self, features: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
        return super().apply_heads(features + self.encode(images), images)


@dataclass(frozen=True)
class Leaks(OnlyBuilds):
    """Not from a paper."""

    def explain_misfit(self, *_: Any) -> None:
        return None

    def build(self, *arguments: Any) -> Any:
        return LeakyNet(*arguments)


@dataclass(frozen=True)
class TrainsHeads(MultiTask):
    """Not from a paper."""

    def pretraining_epochs(self, recipe: Any) -> int:
        return 1

    def pretrain(self, net: Any, *_: Any) -> Iterator[None]:
        for parameter in net.parameters():
            parameter.data.add_(1)
        yield


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
        ("regime", OnlyBuilds, "has the methods of its kind", "it has build(), but not explain_misfit()"),
        ("regime", Leaks, "shares what is below the features", "read shared parameters past the features"),
        ("regime", TrainsHeads, "learns without labels", "pretraining changes heads."),
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
