"""Defects that are planted in a part or in the score, and that a check against a reference must find.

``nox -s planted`` plants them in the suite `nightly` and checks against its committed reference.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import baselines.lsp
from baselines.crafting.loop import project_delta
from baselines.crafting.noise_table import Table
from bench.api import MultiTaskData, Step
from bench.datasets.digits import Digits
from bench.defenses.bit_depth import Posterize
from bench.defenses.grayscale import Grayscale
from bench.engine.planning.expand import Plan, expand_suite
from bench.engine.planning.suite_file import read_suite
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, Split, ignore_progress
from bench.weightings.uw import _UWBalancer
from leaderboard.reference import read_reference, summarize_records
from leaderboard.regression import Change, check_against_reference
from tests.added_parts import parts_in_catalog
from tests.engine import tiny

pytestmark = pytest.mark.slow

NIGHTLY = os.environ.get("MTLUE_PLANTED") == "nightly"
REFERENCE = Path(__file__).parents[1] / "golden" / "nightly.json"


@dataclass(frozen=True)
class Colors:
    """Noisy images of one color, brighter at the top or at the bottom: learned in a few epochs.

    Source: made for this test
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe()
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    quick_params: ClassVar[dict[str, object]] = {}

    def missing(self, root: Path | None) -> None:
        """Return None: nothing is needed."""

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Draw 128 images for training and 128 for the test."""
        rng = np.random.default_rng(0)
        tasks = (Classification("color", ("red", "green", "blue")), Classification("half", ("top", "bottom")))
        return MultiTaskData(tasks, _draw(rng), _draw(rng), Augmentation())


def _draw(rng: np.random.Generator, count: int = 128) -> Split:
    color, half = rng.integers(0, 3, count), rng.integers(0, 2, count)
    images = rng.normal(100, 10, (count, 3, 8, 8))
    images[np.arange(count), color] += 60
    images.reshape(count, 3, 2, 4, 8)[np.arange(count), :, half] += 60
    targets = {"color": torch.from_numpy(color), "half": torch.from_numpy(half)}
    return Split(torch.from_numpy(images.clip(0, 255).astype(np.uint8)), targets)


def _plan(*only: str) -> Plan:
    if NIGHTLY:
        return expand_suite(read_suite("nightly"), only)
    clean = {"attack": "clean", "seed": [0, 1, 2]}
    return tiny.plan(
        *only,
        matrix={"dataset": ["colors"], "attack": ["lsp"], "seed": [0, 1, 2]},
        include=[clean, clean | {"weighting": "uw"}, clean | {"defense": "grayscale"}],
        recipe={"epochs": 3, "batch": 8, "learning_rate": 0.01},
        params={"backbone": {"small": {"width": 8}}},
    )


def _use_labels_of_next_image(original: Callable[..., Any]) -> Callable[..., Any]:
    def draw(labels: Tensor, *arguments: Any) -> Any:
        return original(labels.roll(1, 0), *arguments)

    return draw


def _flip_step(self: Table, images: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    return project_delta(images, delta + self._step_size * direction.sign(), self._epsilon)


def _drop_first_task(original: Callable[..., Any]) -> Callable[..., Any]:
    def backward(self: _UWBalancer, step: Step) -> Tensor:
        labeled = step.labeled.clone()
        labeled[0] = False
        result: Tensor = original(self, replace(step, labeled=labeled))
        return result

    return backward


def _shift_labels(original: Callable[..., Any]) -> Callable[..., Any]:
    def load(*arguments: Any) -> MultiTaskData:
        data: MultiTaskData = original(*arguments)
        shifted = {name: target.roll(1, 0) for name, target in data.train.targets.items()}
        return replace(data, train=Split(data.train.images, shifted))

    return load


def _raise_floor(original: Callable[..., Any]) -> Callable[..., Any]:
    def describe(*arguments: Any) -> dict[str, Any]:
        info: dict[str, Any] = original(*arguments)
        return info | {"floor": info["floor"] | {"balanced_accuracy": info["floor"]["accuracy"]}}

    return describe


@dataclass(frozen=True)
class Defect:
    """A method that is replaced, the cells that show it, and a number that must change."""

    owner: Any
    method: str
    wrong: Callable[[Callable[..., Any]], Callable[..., Any]]
    only: tuple[str, ...]
    item: str
    quantity: str


DEFECTS = {
    "an attack takes the labels of the next image": Defect(
        baselines.lsp,
        "draw_clusters",
        _use_labels_of_next_image,
        ("attack=lsp",),
        "· lsp",
        "linear_balanced_accuracy",
    ),
    "a weighting drops a task": Defect(
        _UWBalancer, "backward", _drop_first_task, ("weighting=uw",), "· uw", " accuracy"
    ),
    "a dataset's labels belong to the next image": Defect(
        Digits if NIGHTLY else Colors, "load", _shift_labels, (), "· clean", " accuracy"
    ),
    "a score has another floor": Defect(
        Classification, "describe", _raise_floor, (), "", " balanced_accuracy floor"
    ),
}


if NIGHTLY:
    DEFECTS |= {
        "a metric counts the least likely class": Defect(
            Classification,
            "predict",
            lambda _: lambda self, outputs: outputs.argmin(-1),
            (),
            "",
            " accuracy",
        ),
        "a defense returns black images": Defect(
            Posterize,
            "purify",
            lambda _: lambda self, released, *rest: torch.zeros_like(released.images),
            ("defense=posterize",),
            "· posterize",
            " accuracy",
        ),
        "the steps of an attack go uphill": Defect(
            Table, "_step", lambda _: _flip_step, ("attack=em",), "· em", "hit_rate"
        ),
    }
else:
    DEFECTS |= {
        "a defense does nothing": Defect(
            Grayscale,
            "purify",
            lambda _: lambda self, released, *rest: released.images,
            ("defense=grayscale",),
            "· grayscale",
            " accuracy",
        ),
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The committed reference, or that of the small suite without a defect."""
    with parts_in_catalog(("dataset", "colors", Colors)):
        if NIGHTLY:
            yield read_reference(REFERENCE)
        else:
            out = tmp_path_factory.mktemp("sound")
            tiny.run(_plan(), out)
            yield summarize_records(tiny.records(out).values())


def _changes(reference: dict[str, Any], only: Sequence[str], out: Path) -> list[Change]:
    """Return what fails in a run of some cells, whose other cells are not expected."""
    usual = {"dataset": "digits" if NIGHTLY else "colors", "attack": "clean", "backbone": "small"}
    usual |= {"weighting": "ew", "defense": "none", "regime": "mtl", "seed": "0,1"}
    chosen = usual | dict(part.split("=") for part in only)
    tiny.run(_plan(*(f"{axis}={value}" for axis, value in chosen.items())), out)
    changes = check_against_reference(reference, tiny.records(out).values())
    return [change for change in changes if change.fails and change.verdict != "missing"]


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_planted_defect_is_found(
    defect: Defect, reference: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defect.owner, defect.method, defect.wrong(getattr(defect.owner, defect.method)))
    changes = _changes(reference, defect.only, tmp_path)
    print(*changes, sep="\n")
    assert any(defect.item in change.item and defect.quantity in change.quantity for change in changes)


def test_sound_parts_raise_no_alarm(reference: dict[str, Any], tmp_path: Path) -> None:
    assert _changes(reference, ("attack=lsp",), tmp_path) == []
