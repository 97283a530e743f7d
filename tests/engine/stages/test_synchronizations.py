"""No step waits for a GPU: what makes the processor wait is counted per step.

On a GPU torch itself tells what waits. On a CPU the operations that would wait are counted: those that read
a tensor's values into Python, and those whose result has a size that depends on values. What waits once per
training, epoch or crafting does not matter: the same is done with twice the batches, and only the difference
counts.
"""

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.crafting import loop
from bench.api import CraftContext
from bench.catalog.build import build_part
from bench.conformance.cases import Case
from bench.conformance.part import build_quick_part
from bench.training.loaders import to_device_if_it_fits
from bench.training.loop import score_network, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, NoCheckpoint, Recipe, ignore_progress

ROOT = Path(__file__).resolve().parents[3]
BATCH = 20
WAITING = {
    *("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::bincount"),
    *("aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::unique_dim_consecutive"),
    *("aten::histc", "aten::linalg_eigh"),
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WAITS_PER_BATCH = {"maps": 200, "famo": 12, "gradnorm": 6}
"""Most waits of what has some: scorers of maps, and two weightings that may leave out a step."""

FLAT, DENSE = {"classes": (2, 5, 2), "missing": 0.3}, {"classes": (2,), "dense": True, "missing": 0.1}


class Count(TorchDispatchMode):
    """Notes operations that would wait for a GPU, and the line of ours that they were called from.

    Not those of optimizers, which count their steps on the processor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._in_optimizer = False

    def __enter__(self) -> "Count":
        self._hooks = (
            register_optimizer_step_pre_hook(lambda *_: setattr(self, "_in_optimizer", True)),
            register_optimizer_step_post_hook(lambda *_: setattr(self, "_in_optimizer", False)),
        )
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        indices = args[1] if name in ("aten::index", "aten::index_put_", "aten::index_put") else ()
        picks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if (picks or name in WAITING) and not self._in_optimizer:
            ours = [frame for frame in traceback.extract_stack() if str(ROOT) in frame.filename][:-1]
            self.waits.append(f"{name} at {Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}")
        return function(*args, **(kwargs or {}))


@contextmanager
def count_waits(device: str) -> Iterator[list[str]]:
    """Yield a list that gets one entry per wait in the block."""
    if device == "cpu":
        with Count() as count:
            yield count.waits
        return
    waits: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits += [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]


def waits_per_batch(work: Callable[[int], object], device: str) -> dict[str, float]:
    """Return the waits that one more batch brings, and how many of each."""
    counts = []
    work(BATCH)  # what is set up once
    for batches in (2, 4):
        with count_waits(device) as waits:
            work(batches * BATCH)
        counts.append(Counter(waits))
    return {wait: more / 2 for wait in counts[1] if (more := counts[1][wait] - counts[0][wait])}


def build_net(case: Case, device: str) -> MultiTaskNet:
    backbone = build_part("backbone", "dense-small(width=2)" if case.dense else "small(width=2)")
    return MultiTaskNet(backbone, case.tasks, (3, 16, 16)).to(device)


def train(case: Case, device: str, weighting: str = "ew", defense: str = "none") -> None:
    chosen = torch.device(device)
    list(
        train_epochs(
            build_net(case, device),
            to_device_if_it_fits(case.split(), chosen),
            case.tasks,
            Recipe(epochs=1, batch=BATCH),
            Augmentation(crop=16, flip=True),
            build_part("weighting", weighting).start(case.tasks, chosen),
            build_quick_part("defense", defense),
            chosen,
        )
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [FLAT, DENSE], ids=["labels", "maps"])
def test_a_training_step_does_not_wait(kind: dict[str, Any], device: str) -> None:
    assert waits_per_batch(lambda count: train(Case(**kind, count=count), device), device) == {}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighting", ["uw", "dwa", "rlw", "gls", "imtl-l", "famo", "gradnorm", "graddrop"])
def test_a_step_under_a_weighting_does_not_wait(weighting: str, device: str) -> None:
    waits = waits_per_batch(lambda count: train(Case(**FLAT, count=count), device, weighting), device)
    assert sum(waits.values()) <= WAITS_PER_BATCH.get(weighting, 0), waits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [FLAT, DENSE], ids=["labels", "maps"])
def test_scoring_a_batch_does_not_wait(
    kind: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.training.loop.SCORING_BATCH", BATCH)

    def score(count: int) -> None:
        case = Case(**kind, count=count)
        split = to_device_if_it_fits(case.split(), torch.device(device))
        score_network(build_net(case, device), split, case.tasks, Augmentation(), torch.device(device))

    waits = waits_per_batch(score, device)
    assert sum(waits.values()) <= (WAITS_PER_BATCH["maps"] if "dense" in kind else 0), waits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "attack", ["tap", "em", "rem", "sep", "pil", "mtl-ue-em", "mtl-ue-tap", "mtl-ue-sep"]
)
def test_a_crafting_step_does_not_wait(attack: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "AIM_IMAGES", BATCH)
    part = build_quick_part("attack", f"{attack}(batch={BATCH})")

    def craft(count: int) -> None:
        case = Case(**FLAT, count=count)
        context = CraftContext(
            tasks=case.tasks,
            augmentation=Augmentation(crop=16, flip=True),
            epsilon=8 / 255,
            new_surrogate=lambda: build_net(case, device),
            surrogate_snapshots=lambda number: [build_net(case, device) for _ in range(number)],
            device=torch.device(device),
            progress=ignore_progress,
            checkpoint=NoCheckpoint(),
        )
        part.craft(case.split(), context)

    assert waits_per_batch(craft, device) == {}


def test_what_waits_is_counted() -> None:
    values = torch.arange(4.0)

    def work(count: int) -> None:
        for _ in range(count // BATCH):
            float(values.sum())
            bool(values[0] > 1)
            values[values > 1] = 3
            values[values > 1].sum()

    assert sum(waits_per_batch(work, "cpu").values()) == 4
