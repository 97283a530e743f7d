"""Data that no part can change for others, and the fingerprint that tells it from other data."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.api import CraftContext, MultiTaskData, Noise, Norm, Progress, Split, ignore_progress
from bench.backbones.small import Small
from bench.catalog.build import build_part
from bench.datasets.digits import Digits
from bench.defenses.base import NoOp
from bench.engine.stages.loaded_data import _checksum, fingerprint
from bench.tasks.classification import Classification
from bench.values import Augmentation
from tests.added_parts import parts_in_catalog
from tests.engine import tiny


def _detach_and_zero(split: Split) -> None:
    split.images.data.zero_()


def _zero_and_fail(split: Split) -> None:
    split.images.zero_()
    raise ValueError("crafting failed too")


WAYS: dict[str, Callable[[Any], object]] = {
    "images": lambda split: split.images.zero_(),
    "one-pixel": lambda split: split.images[3, 1, 5, 5].add_(1),
    "order": lambda split: split.images.copy_(split.images.flip(0)),
    "numpy": lambda split: split.images.numpy().fill(0),
    "data": _detach_and_zero,
    "shape": lambda split: split.images.resize_(2, 3, 32, 32),
    "labels": lambda split: split.targets["left"].zero_(),
    "entry": lambda split: split.targets.update(left=split.targets["right"].clone()),
    "no-tensor": lambda split: split.targets.update(left=[0]),
    "removed": lambda split: split.targets.pop("left"),
    "added": lambda split: split.targets.update(more=split.targets["left"]),
    "and-fails": _zero_and_fail,
}


@dataclass(frozen=True)
class WritingAttack:
    """Writes to what it is given. Not from a paper."""

    way: str = "images"
    in_delta: bool = False
    version: ClassVar[int] = 1
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False

    def craft(self, train: Split, context: CraftContext) -> Noise:
        noise = build_part("attack", "random").craft(train, context)
        if not self.in_delta:
            WAYS[self.way](train)
            return noise

        class Late:
            def delta(self, batch: Any) -> Tensor:
                train.images.zero_()
                return noise.delta(batch)

        return Late()


@dataclass(frozen=True)
class WritingDefense(NoOp):
    """Writes to what it is given. Not from a paper."""

    way: str = "images"
    version: ClassVar[int] = 1

    def purify(self, released: Split, *_: Any) -> Tensor:
        WAYS[self.way](released)
        return released.images


@dataclass(frozen=True)
class WritingBackbone(Small):
    """Writes to its input. Not from a paper."""

    def build(self, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
        encoder, width = Small.build(self, shape)
        return nn.Sequential(nn.ReLU(inplace=True), encoder), width


@cache
def _kept_digits() -> MultiTaskData:
    return Digits(train=64, test=32).load(None, Path())


@dataclass(frozen=True)
class KeepingDataset(Digits):
    """Keeps its tensors in memory and gives the same ones each time. Not from a paper."""

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        return _kept_digits()


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    with parts_in_catalog(
        ("attack", "writes", WritingAttack),
        ("defense", "writes", WritingDefense),
        ("backbone", "writes", WritingBackbone),
        ("dataset", "keeps", KeepingDataset),
    ):
        yield


def errors(out: Path) -> dict[str, str]:
    """Return label → message of the failed cells."""
    return {label: record.error["message"] for label, record in tiny.records(out).items() if record.error}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed")
    tiny.run(tiny.plan(), out)
    return tiny.results(out)


def test_an_attack_that_writes_to_the_data_fails_alone(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    writers = [*(f"writes(way={way})" for way in WAYS), "writes(in_delta=true)"]
    ran = tiny.run(tiny.plan(matrix={"attack": [*writers, "clean", "random"]}), tmp_path)
    assert ran.counts == (2, 0, len(writers))
    sentence = "writes to the images or labels that it is given; change a copy of them"
    labels = {str(cell.labels["attack"]) for cell in tiny.plan(matrix={"attack": writers}).cells} - {"clean"}
    assert set(errors(tmp_path).values()) == {f"attack {label!r} {sentence}" for label in labels}
    results = tiny.results(tmp_path)
    assert {label: results[label] for label in undisturbed} == undisturbed


@pytest.mark.parametrize("way", ["images", "numpy", "labels", "removed"])
def test_a_defense_that_writes_to_the_released_set_fails_alone(
    undisturbed: dict[str, Any], tmp_path: Path, way: str
) -> None:
    """On the clean set, whose images are those of the dataset, and on a poisoned one."""
    writer = f"writes(way={way})"
    ran = tiny.run(tiny.plan(star=False, matrix={"defense": [writer, "none"]}), tmp_path)
    assert ran.counts == (2, 0, 2)
    assert set(errors(tmp_path).values()) == {
        f"defense {writer!r} writes to the images or labels that it is given; change a copy of them"
    }
    results = tiny.results(tmp_path)
    assert {label: results[label] for label in undisturbed} == undisturbed


def test_a_backbone_that_writes_to_its_input_fails_alone(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    ran = tiny.run(tiny.plan(star=False, matrix={"backbone": ["writes", "small"]}), tmp_path)
    assert ran.counts == (2, 0, 2)
    assert all(
        "WritingBackbone" in text and "writes to its input" in text for text in errors(tmp_path).values()
    )
    results = tiny.results(tmp_path)
    assert {label: results[label] for label in undisturbed} == undisturbed


def test_a_dataset_that_keeps_what_was_written_is_not_used_again(tmp_path: Path) -> None:
    matrix = {"dataset": ["keeps"], "attack": ["clean", "writes", "random"]}
    ran = tiny.run(tiny.plan(matrix=matrix), tmp_path)
    assert ran.counts == (0, 0, 3)
    assert (
        sum("is not what it was when this run first read it" in text for text in errors(tmp_path).values())
        == 2
    )


def test_the_checksum_sees_what_a_hash_sees() -> None:
    """Of 153,600 bytes: four blocks of sums, and the rest."""
    images = torch.randint(
        256, (50, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    one_byte = [images.clone() for _ in range(100)]
    for number, changed in enumerate(one_byte):
        changed.view(-1)[number * 1531] += 1
    exchanged = images.clone()
    exchanged.view(-1)[:16] = images.view(-1)[:16].roll(8)  # two words in one row
    others = [
        *one_byte,
        exchanged,
        images.flip(0),
        images.flip(1),
        images.flip(2),
        images.flip(3),
        images.roll(1, 0),
        images.roll(1, 2),
        images.transpose(2, 3),
        images.view(-1).sort()[0],
        images[:49],
    ]
    assert _checksum(images) == _checksum(images.clone())
    assert len({_checksum(each) for each in (images, *others)}) == 1 + len(others)
    assert _checksum(torch.tensor(3)) != _checksum(torch.tensor(4))
    assert _checksum(images[:0]) == _checksum(images[:0].clone())


def _data(**changes: Any) -> MultiTaskData:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    train = Split(images, {"b": torch.tensor([0, 1, 0, 1]), "a": torch.tensor([2, 1, 0, 2])})
    test = Split(images[:2] + 1, {"b": torch.tensor([1, 0]), "a": torch.tensor([0, 0])})
    tasks = (Classification("a", ("x", "y", "z")), Classification("b", ("no", "yes")))
    return replace(MultiTaskData(tasks, train, test), **changes)


def test_the_first_half_of_a_fingerprint_is_the_hash_of_earlier_versions() -> None:
    data = _data()
    content = b"".join(
        values.numpy().tobytes()
        for values in (data.train.images, data.train.targets["a"], data.train.targets["b"])
    )
    assert fingerprint(data)[:16] == hashlib.sha256(content).hexdigest()[:16]
    assert fingerprint(data) == fingerprint(_data())
    assert len(fingerprint(data)) == 32


def test_everything_that_results_depend_on_is_in_the_fingerprint() -> None:
    base = _data()
    others = [
        _data(train=replace(base.train, images=base.train.images.flip(0))),
        _data(train=replace(base.train, targets={**base.train.targets, "b": torch.tensor([1, 1, 0, 1])})),
        _data(test=replace(base.test, images=base.test.images + 1)),
        _data(test=replace(base.test, targets={**base.test.targets, "a": torch.tensor([0, 1])})),
        _data(test=replace(base.test, images=base.test.images.view(2, 3, 1, 4))),
        _data(tasks=base.tasks[::-1]),
        _data(tasks=(Classification("a", ("x", "y", "z", "w")), base.tasks[1])),
        _data(augmentation=Augmentation(flip=True)),
    ]
    assert len({fingerprint(data) for data in (base, *others)}) == 1 + len(others)
    assert [fingerprint(data)[:16] == fingerprint(base)[:16] for data in others] == [False] * 2 + [True] * 6
