"""A run: what is done in which order, each thing once, failures that stay where they are, equal numbers."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from bench.api import CraftContext, Norm
from bench.catalog.choice import Choice
from bench.engine.execution import runner
from bench.engine.execution.events import ItemFinished, ItemProgress, RunFinished, RunStarted
from bench.engine.executors.inline import Inline
from bench.engine.executors.processes import Processes
from bench.engine.planning.cell import Cell, ItemKind
from bench.engine.planning.durations import timing_labels
from bench.engine.planning.expand import Plan
from bench.engine.storage.store import POISONS, PURIFIED, SURROGATES
from bench.errors import BenchError
from bench.files import hash_json
from bench.record import AXES
from bench.values import Batch, Shape, Split
from tests.added_parts import parts_in_catalog
from tests.engine import tiny
from tests.engine.executors.test_executors import in_order

MATRIX = {"attack": ["clean", "random", "tap"], "defense": ["none", "grayscale"]}
KINDS: tuple[ItemKind, ...] = ("surrogates", "poisons", "purified", "cells")


@dataclass(frozen=True)
class Odd:
    """An attack that goes wrong in the way it is asked to.

    Attributes:
        way: how.
        working: while this file exists, it works.
    """

    way: str = "raise"
    working: str = ""
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> object:
        if self.way == "raise" and not (self.working and Path(self.working).exists()):
            raise RuntimeError("the attack broke")
        return None if self.way == "no noise" else self

    def delta(self, batch: Batch) -> object:
        delta = torch.full_like(batch.images, 8 / 255)
        wrong: dict[str, Callable[[], object]] = {
            "not a number": lambda: delta.index_fill(0, torch.tensor([1]), float("nan")),
            "infinite": lambda: delta * float("inf"),
            "one pattern": lambda: delta[:1],
            "another size": lambda: delta[:, :, 1:],
            "no channels": lambda: delta[:, 0],
            "no tensor": lambda: None,
            "array": delta.numpy,
            "zero": lambda: torch.zeros_like(delta),
            "less than half a step": lambda: delta * 0.06,
        }
        return wrong.get(self.way, lambda: delta)()


@dataclass(frozen=True)
class Greedy:
    """An attack that asks for more than the budget, beyond black and white too."""

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> "Greedy":
        return self

    def delta(self, batch: Batch) -> Tensor:
        return torch.where(batch.images > 0.5, 2.0, -2.0)


@dataclass(frozen=True)
class NoNet:
    """A backbone that cannot be built: breaks surrogates where it is theirs, victims where it is theirs."""

    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> object:
        raise MemoryError


@pytest.fixture(autouse=True)
def _test_parts() -> Iterator[None]:
    with parts_in_catalog(
        ("attack", "odd", Odd), ("attack", "greedy", Greedy), ("backbone", "no-net", NoNet)
    ):
        yield


def odd(way: str, **more: str) -> str:
    inner = ", ".join(f'{key}="{value}"' for key, value in {"way": way, **more}.items())
    return f"odd({inner})"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Ran]:
    """A finished run of `MATRIX`; for reading only."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        set_seconds(patch, tiny.plan(matrix=MATRIX))
        return out, tiny.run(tiny.plan(matrix=MATRIX), out)


@pytest.fixture
def copy(whole: tuple[Path, tiny.Ran], tmp_path: Path) -> Path:
    """The finished run again, to be changed."""
    return shutil.copytree(whole[0], tmp_path / "copy")


def set_seconds(patch: pytest.MonkeyPatch, plan: Plan, **by_word: float) -> None:
    """Let runs know how long items take: by the first word of their label, or one second."""
    items = [item for kind in KINDS for item in getattr(plan, kind)]
    seconds = {timing_labels(item): by_word.get(item.label.split(" ")[0], 1.0) for item in items}
    patch.setattr(runner, "measured_seconds", lambda _: seconds)


def cell(attack: str, defense: str = "none") -> str:
    return f"digits · {attack} · small · ew · {defense} · mtl · seed 0"


# -- order ------------------------------------------------------------------------------------------------


def test_a_run_tells_of_its_start_its_items_and_its_end(whole: tuple[Path, tiny.Ran]) -> None:
    _, ran = whole
    first, *between, last = ran.events
    assert isinstance(first, RunStarted)
    assert last == ran.finished
    assert {type(event) for event in between} == {ItemProgress, ItemFinished}
    ended = [event.key for event in between if isinstance(event, ItemFinished)]
    assert len(ended) == len(set(ended)) == 10
    for number, event in enumerate(between):
        if isinstance(event, ItemProgress):
            assert event.key in [e.key for e in between[number:] if isinstance(e, ItemFinished)]


def test_every_item_comes_after_those_it_is_made_from(whole: tuple[Path, tiny.Ran]) -> None:
    ended = [event.key for event in whole[1].events if isinstance(event, ItemFinished)]
    plan = tiny.plan(matrix=MATRIX)
    for item in (*plan.poisons, *plan.cells):
        assert all(ended.index(source) < ended.index(item.key) for source in item.sources)


class HoldingBack(Inline):
    """An executor with two workers, of which one works on one poison until nothing else is left."""

    def map(self, work, next_item, tell):  # type: ignore[no-untyped-def]
        held = next_item()
        yield from super().map(work, next_item, tell)
        yield from super().map(work, in_order([held]), tell)
        yield from super().map(work, next_item, tell)


def test_a_cell_does_not_wait_for_a_poison_of_others(
    whole: tuple[Path, tiny.Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny.plan(matrix=MATRIX)
    set_seconds(monkeypatch, plan, random=100.0)
    ran = tiny.run(plan, tmp_path, HoldingBack())
    ended = [event.label for event in ran.events if isinstance(event, ItemFinished)]
    slow = ended.index("random · digits · seed 0")
    assert set(ended[slow + 1 :]) == {cell("random"), cell("random", "grayscale")}
    assert tiny.results(tmp_path) == tiny.results(whole[0])


def test_the_longest_poison_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny.plan(matrix=MATRIX)
    set_seconds(monkeypatch, plan, random=100.0, clean=10.0)
    ran = tiny.run(plan, tmp_path)
    assert [label.split(" ")[0] for label in ran.labels("poisons")] == ["random", "clean", "tap"]


def test_each_distinct_thing_is_made_once(whole: tuple[Path, tiny.Ran]) -> None:
    out, ran = whole
    plan = tiny.plan(matrix=MATRIX)
    assert ran.announced == {"surrogates": (1, 0), "poisons": (3, 0), "cells": (6, 0)}
    assert ran.labels("surrogates") == ["small(width=3) · digits · seed 0"]
    assert ran.labels("poisons") == [f"{attack} · digits · seed 0" for attack in ("clean", "random", "tap")]
    assert ran.labels("cells") == [cell.label for cell in plan.cells]
    assert {path.name for path in (out / POISONS).iterdir()} == {poison.key for poison in plan.poisons}
    assert {path.name for path in (out / SURROGATES).iterdir()} == {s.key for s in plan.surrogates}
    assert {path.stem for path in (out / "records").iterdir()} == {cell.key for cell in plan.cells}
    assert ran.counts == (6, 0, 0)


def test_every_item_tells_of_its_progress(whole: tuple[Path, tiny.Ran]) -> None:
    _, ran = whole
    for label in (*ran.labels("cells"), *ran.labels("surrogates")):
        steps = [
            (e.what, e.done, e.total) for e in ran.events if isinstance(e, ItemProgress) and e.label == label
        ]
        assert steps[-2:] == [("epoch", 1, 2), ("epoch", 2, 2)]


def test_a_record_says_everything(whole: tuple[Path, tiny.Ran]) -> None:
    out, ran = whole
    plan = {cell.label: cell for cell in tiny.plan(matrix=MATRIX).cells}
    told = {event.label: event.record for event in ran.of("cells") if event.record}
    for label, record in tiny.records(out).items():
        assert hash_json(asdict(told[label])) == hash_json(asdict(record))  # listeners see what was written
        assert (record.status, record.suite, record.error) == ("done", "tiny", None)
        assert tuple(record.cell) == AXES
        assert hash_json(record.settings) == hash_json(plan[label].settings())
        assert (record.key, record.victim, record.poison) == (
            plan[label].key,
            plan[label].victim,
            plan[label].poison.key,
        )
        assert list(record.tasks) == list(record.scores) == ["left", "right", "larger", "sum-odd"]
        assert [epoch["epoch"] for epoch in record.curve] == [1, 2]
        assert record.curve[-1]["scores"] == record.scores
        phases = {"craft", "load", "poison", "purify", "train", "score"}
        assert set(record.cost) == phases | ({"surrogate"} if record.cell["attack"] == "tap" else set())
        assert record.noise["linf"] == {"clean": 0}.get(str(record.cell["attack"]), 8)
        assert record.environment["threads"] == 1


def test_the_best_epoch_is_kept(whole: tuple[Path, tiny.Ran]) -> None:
    for record in tiny.records(whole[0]).values():
        for task, metric in itertools.product(record.tasks, ("loss", "accuracy", "auroc")):
            values = [epoch["scores"][task][metric] for epoch in record.curve]
            best = min if metric == "loss" else max
            assert record.peak[task][metric] == best(value for value in values if value is not None)


def test_attacks_and_defenses_matter(whole: tuple[Path, tiny.Ran]) -> None:
    losses = {tuple(epoch["train_loss"] for epoch in r.curve) for r in tiny.records(whole[0]).values()}
    assert len(losses) == 6


def test_a_finished_run_has_nothing_to_do(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    ran = tiny.run(tiny.plan(matrix=MATRIX), copy)
    assert ran.announced == {"surrogates": (0, 1), "poisons": (0, 3), "cells": (0, 6)}
    assert ran.counts == (0, 6, 0)
    assert not [event for event in ran.events if isinstance(event, ItemFinished | ItemProgress)]
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def test_a_larger_plan_makes_only_what_is_new(copy: Path) -> None:
    ran = tiny.run(tiny.plan(matrix={**MATRIX, "seed": [0, 1]}, exclude=[{"seed": 1, "attack": "tap"}]), copy)
    assert ran.announced == {"surrogates": (0, 1), "poisons": (2, 3), "cells": (4, 6)}
    assert all(label.endswith("seed 1") for label in (*ran.labels("poisons"), *ran.labels("cells")))


PURIFYING = {
    "attack": ["clean"],
    "defense": ["none", "orthogonal-projection(epochs=1)"],
    "regime": ["mtl", "stl"],
}


def test_a_set_is_purified_once_for_all_its_victims(tmp_path: Path) -> None:
    plan = tiny.plan(star=False, matrix=PURIFYING)
    ran = tiny.run(plan, tmp_path)
    assert ran.counts == (4, 0, 0)
    assert ran.announced == {"surrogates": (0, 0), "poisons": (1, 0), "purified": (1, 0), "cells": (4, 0)}
    (cleaned,) = plan.purified
    assert [event.key for event in ran.of("purified")] == [cleaned.key]
    assert [path.name for path in (tmp_path / PURIFIED).iterdir()] == [cleaned.key]

    before = tiny.results(tmp_path)
    for label in (label for label in before if "orthogonal" not in label or "stl" in label):
        (tmp_path / "records" / f"{tiny.records(tmp_path)[label].key}.json").unlink()
    flip(tmp_path / PURIFIED / cleaned.key / "tensors.safetensors")
    again = tiny.run(plan, tmp_path)
    assert again.announced["purified"] == (1, 0)
    assert [event.key for event in again.of("purified")] == [cleaned.key]
    assert [cleaned.key in notice for notice in again.notices] == [True]
    assert tiny.results(tmp_path) == before


def test_a_set_that_cannot_be_purified_fails_its_cells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("too dirty")

    monkeypatch.setitem(runner.WORK, "purified", fail)
    ran = tiny.run(tiny.plan("regime=mtl", star=False, matrix=PURIFYING), tmp_path)
    assert ran.counts == (1, 0, 1)
    (failed,) = [record for record in tiny.records(tmp_path).values() if record.error]
    assert failed.cell["defense"] == "orthogonal-projection(epochs=1)"
    assert failed.error is not None
    assert failed.error["message"] == "too dirty"


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    plan = tiny.plan("attack=clean", skip_missing_data=True, matrix={"dataset": ["digits", "utkface"]})
    ran = tiny.run(plan, tmp_path)
    assert ran.notices == list(plan.left_out)
    assert len(ran.notices) == 1


def test_steps_that_cannot_cross_the_budget_are_warned_of(tmp_path: Path) -> None:
    plan = tiny.plan("attack=random", matrix={"attack": ["random", "em(step_size=2.0)"]})
    assert tiny.run(plan, tmp_path / "not asked for").notices == []
    ran = tiny.run(tiny.plan(matrix={"attack": ["em(step_size=2.0)"]}), tmp_path / "out")
    assert [notice.partition(":")[0] for notice in ran.notices] == ["attack 'em(step_size=2.0)'"]


def test_a_record_says_how_the_noise_fared_on_its_surrogates_and_in_rounding(tmp_path: Path) -> None:
    tiny.run(tiny.plan("attack=em,random", matrix={"attack": ["em", "random"]}), tmp_path)
    noise = {str(record.cell["attack"]): record.noise for record in tiny.records(tmp_path).values()}
    assert 0 <= (noise["em"]["hit_rate"] or 0) <= 1
    assert (noise["em"]["surrogate_loss"] or 0) > 0
    assert "hit_rate" not in noise["random"]
    assert 0 < noise["random"]["lost_to_rounding"] < 0.1
    assert noise["clean"]["lost_to_rounding"] == 0


# -- failures ---------------------------------------------------------------------------------------------


def test_a_failing_poison_fails_its_cells_alone(tmp_path: Path) -> None:
    bad = odd("raise")
    ran = tiny.run(tiny.plan(matrix={"attack": [bad, "random"], "defense": ["none", "jpeg"]}), tmp_path)
    assert ran.counts == (4, 0, 2)
    assert {event.label: event.error for event in ran.of("poisons") if event.error} == {
        f"{Choice.parse(bad).label} · digits · seed 0": "the attack broke"
    }
    records = tiny.records(tmp_path)
    failed = {label: record for label, record in records.items() if record.status == "failed"}
    assert len(failed) == 2
    for record in failed.values():
        assert record.error is not None
        assert (record.error["type"], record.error["message"]) == ("RuntimeError", "the attack broke")
        assert "in craft" in record.error["traceback"]
        assert record.scores == {}
        assert record.settings["attack"]["params"]["way"] == "raise"
    assert {record.status for label, record in records.items() if label not in failed} == {"done"}
    # What fails for another's sake is told of too, after the other, so that a display can count it.
    (broken,) = [event for event in ran.of("poisons") if event.error]
    of_broken = [event for event in ran.of("cells") if event.error]
    assert [event.error for event in of_broken] == ["the attack broke"] * 2
    assert all(ran.events.index(event) > ran.events.index(broken) for event in of_broken)
    assert len(ran.of("cells")) == 6


def test_a_failing_surrogate_fails_what_needs_it_alone(tmp_path: Path) -> None:
    ran = tiny.run(
        tiny.plan(matrix={"attack": ["tap", "random"]}, surrogate={"backbone": "no-net"}), tmp_path
    )
    assert ran.counts == (2, 0, 1)
    assert [bool(event.error) for event in ran.of("surrogates")] == [True]
    assert [event.label for event in ran.of("poisons") if event.error] == ["tap · digits · seed 0"]
    assert ran.announced["poisons"] == (len(ran.of("poisons")), 0)
    error = tiny.records(tmp_path)[cell("tap")].error
    assert error is not None
    assert error["type"] == "MemoryError"
    assert error["message"] == "MemoryError"  # it has no message of its own


def test_a_failing_cell_fails_alone(tmp_path: Path) -> None:
    ran = tiny.run(tiny.plan(matrix={"backbone": ["small", "no-net"]}), tmp_path)
    assert ran.counts == (2, 0, 2)
    errors = {label: record.error for label, record in tiny.records(tmp_path).items() if record.error}
    assert all("no-net" in label for label in errors)
    assert all(
        error["type"] == "MemoryError" and "in build" in error["traceback"] for error in errors.values()
    )
    assert [event.error for event in ran.of("cells") if event.error] == ["MemoryError", "MemoryError"]


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("not a number", ["NaN"]),
        ("infinite", ["infinite"]),
        ("one pattern", ["(1, 3, 32, 32)", "(64, 3, 32, 32)"]),
        ("another size", ["(64, 3, 31, 32)"]),
        ("no channels", ["(64, 32, 32)"]),
        ("no tensor", ["NoneType"]),
        ("array", ["ndarray"]),
        ("no noise", ["NoneType", "delta"]),
        ("zero", ["changed no pixel", "'digits'"]),
        ("less than half a step", ["changed no pixel"]),
    ],
)
def test_noise_that_is_none_is_refused_by_name(tmp_path: Path, way: str, words: list[str]) -> None:
    ran = tiny.run(tiny.plan(matrix={"attack": [odd(way)]}), tmp_path)
    assert ran.counts == (1, 0, 1)
    (record,) = (record for record in tiny.records(tmp_path).values() if record.status == "failed")
    assert record.error is not None
    assert record.error["type"] == "BenchError"
    for word in (f"'{record.cell['attack']}'", *words):
        assert word in record.error["message"]


def test_the_budget_is_not_up_to_the_attack(tmp_path: Path) -> None:
    tiny.run(tiny.plan(matrix={"attack": ["greedy"]}, budget={"epsilon": 5}), tmp_path)
    noise = tiny.records(tmp_path)[cell("greedy(epsilon=5)")].noise
    assert noise["linf"] == 5
    assert noise["clamped"] == 1


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    plan = tiny.plan(matrix={"attack": [odd("raise", working=str(switch)), "random"]})
    out = tmp_path / "out"
    assert tiny.run(plan, out).counts == (2, 0, 1)
    done = {record.key for record in tiny.records(out).values() if record.status == "done"}
    assert tiny.run(plan, out, rerun="none").counts == (0, 3, 0)
    switch.touch()
    ran = tiny.run(plan, out, rerun="failed")
    assert ran.counts == (1, 2, 0)
    assert not {event.key for event in ran.of("cells")} & done
    assert {record.status for record in tiny.records(out).values()} == {"done"}


def test_everything_again(copy: Path) -> None:
    before = tiny.results(copy)
    made = {path: path.stat().st_mtime_ns for path in copy.rglob("*.json")}
    ran = tiny.run(tiny.plan(matrix=MATRIX), copy, rerun="all")
    assert ran.announced == {"surrogates": (1, 0), "poisons": (3, 0), "cells": (6, 0)}
    assert {path for path in made if path.stat().st_mtime_ns == made[path]} == set()
    assert tiny.results(copy) == before


def test_a_poison_made_from_other_data_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy / "records")
    monkeypatch.setattr("bench.engine.stages.loaded_data.fingerprint", lambda data: "other")
    ran = tiny.run(tiny.plan("attack=random", matrix=MATRIX), copy)
    assert ran.counts == (0, 0, 4)
    assert all(
        "other data" in (event.error or "") and "--out" in (event.error or "") for event in ran.of("cells")
    )


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    with pytest.raises(BenchError, match="cannot write to the output folder") as caught:
        tiny.run(tiny.plan(), out)
    assert str(out) in str(caught.value)


# -- numbers ----------------------------------------------------------------------------------------------


def test_a_warm_cache_gives_the_same_numbers(whole: tuple[Path, tiny.Ran], copy: Path) -> None:
    shutil.rmtree(copy / "records")
    ran = tiny.run(tiny.plan(matrix=MATRIX), copy)
    assert ran.announced == {"surrogates": (0, 1), "poisons": (0, 3), "cells": (6, 0)}
    assert tiny.results(copy) == tiny.results(whole[0])


def test_a_cold_cache_gives_the_same_numbers(whole: tuple[Path, tiny.Ran], tmp_path: Path) -> None:
    from bench.engine.stages import loaded_data

    loaded_data._loaded.clear()
    tiny.run(tiny.plan(matrix=MATRIX), tmp_path)
    assert tiny.results(tmp_path) == tiny.results(whole[0])


def test_a_poison_made_again_is_the_same(whole: tuple[Path, tiny.Ran], tmp_path: Path) -> None:
    plan = tiny.plan("attack=tap", matrix=MATRIX)
    tiny.run(plan, tmp_path)
    first, again = tiny.run_context(whole[0]).store, tiny.run_context(tmp_path).store
    for poison in plan.poisons:
        assert first.verify(POISONS, poison.key)
        mine, theirs = first.load(POISONS, poison.key), again.load(POISONS, poison.key)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


class Backwards(Inline):
    """Takes all items that can start, and starts the last one first."""

    def map(self, work, next_item, tell):  # type: ignore[no-untyped-def]
        while items := list(iter(next_item, None)):
            yield from super().map(work, in_order(items[::-1]), tell)


def test_the_order_does_not_matter(
    whole: tuple[Path, tiny.Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny.plan(matrix=MATRIX)
    set_seconds(monkeypatch, plan)
    ran = tiny.run(plan, tmp_path, Backwards())
    for kind in ("poisons", "cells"):
        assert ran.labels(kind) != whole[1].labels(kind)
        assert sorted(ran.labels(kind)) == sorted(whole[1].labels(kind))
    assert tiny.results(tmp_path) == tiny.results(whole[0])


def test_a_cell_alone_has_the_numbers_it_has_in_company(whole: tuple[Path, tiny.Ran], tmp_path: Path) -> None:
    plan = tiny.plan("attack=tap", "defense=grayscale", matrix=MATRIX)
    alone = Plan(plan.suite, tuple(c for c in plan.cells if c.labels["attack"] == "tap"), ())
    torch.manual_seed(99)
    assert tiny.run(alone, tmp_path).counts == (1, 0, 0)
    (label,) = found = tiny.results(tmp_path)
    assert found[label] == tiny.results(whole[0])[label]


def test_a_run_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    tiny.run(tiny.plan(), tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_seeds_give_other_numbers(tmp_path: Path) -> None:
    tiny.run(tiny.plan("attack=clean", matrix={"seed": [0, 1]}), tmp_path)
    first, second = tiny.results(tmp_path).values()
    assert first != second


@pytest.mark.slow
def test_worker_processes_give_the_same_numbers(whole: tuple[Path, tiny.Ran], tmp_path: Path) -> None:
    ran = tiny.run(tiny.plan(matrix=MATRIX), tmp_path, Processes(2))
    assert ran.announced == whole[1].announced
    assert ran.counts == (6, 0, 0)
    assert tiny.results(tmp_path) == tiny.results(whole[0])
    assert sorted(ran.labels("cells")) == sorted(whole[1].labels("cells"))
    assert {event.label for event in ran.events if isinstance(event, ItemProgress)} >= set(
        ran.labels("cells")
    )


# -- damage -----------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("file", ["tensors.safetensors", "about.json"])
@pytest.mark.parametrize("kind", [POISONS, SURROGATES])
def test_damage_is_named_and_made_good(
    whole: tuple[Path, tiny.Ran], copy: Path, kind: str, file: str, harm: Callable[[Path], None]
) -> None:
    plan = tiny.plan("attack=tap", "defense=none", matrix=MATRIX)
    tap = plan.poisons[-1]
    key = tap.key if kind == POISONS else tap.surrogate.key
    harm(copy / kind / key / file)
    shutil.rmtree(copy / "records")
    if kind == SURROGATES:  # nobody asks for a surrogate as long as its poisons are there
        shutil.rmtree(copy / POISONS / tap.key)
    ran = tiny.run(plan, copy)
    (notice,) = ran.notices
    assert str(copy / kind / key / file) in notice
    assert notice.endswith("it is made again")
    assert [event.key for event in ran.of("poisons" if kind == POISONS else "surrogates")] == [key]
    assert ran.counts == (2, 0, 0)
    assert tiny.run_context(copy).store.verify(kind, key)
    expected = tiny.results(whole[0])
    assert tiny.results(copy) == {label: expected[label] for label in tiny.results(copy)}


def test_a_damaged_surrogate_is_no_concern_of_a_poison_that_is_there(copy: Path) -> None:
    plan = tiny.plan("attack=tap", "defense=none", matrix=MATRIX)
    truncate(copy / SURROGATES / plan.surrogates[0].key / "about.json")
    shutil.rmtree(copy / "records")
    assert tiny.run(plan, copy).counts == (2, 0, 0)


@pytest.mark.parametrize("harm", [truncate, flip, empty])
@pytest.mark.parametrize("rerun", ["failed", "none"])
def test_a_damaged_record_is_named_and_run_again(
    whole: tuple[Path, tiny.Ran], copy: Path, harm: Callable[[Path], None], rerun: str
) -> None:
    plan = tiny.plan(matrix=MATRIX)
    path = copy / "records" / f"{plan.cells[2].key}.json"
    if harm is flip:
        path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 3'))
    else:
        harm(path)
    ran = tiny.run(plan, copy, rerun=rerun)  # type: ignore[arg-type]
    (notice,) = ran.notices
    assert str(path) in notice
    assert notice.endswith("the cell is run again")
    assert ran.labels("cells") == [plan.cells[2].label]
    assert ran.counts == (1, 5, 0)
    assert tiny.results(copy) == tiny.results(whole[0])


def test_finished_records_are_never_touched(tmp_path: Path) -> None:
    """Whoever stops a run after k cells finds k records, and the next run adds to them."""
    plan = tiny.plan(matrix=MATRIX)

    class StoppedError(Exception):
        """Stands for whatever ends a run from outside."""

    class Stopping(Inline):
        def map(self, work, next_item, tell):  # type: ignore[no-untyped-def]
            cells = 0
            for outcome in super().map(work, next_item, tell):
                cells += isinstance(outcome.item, Cell)
                if cells == 3:
                    raise StoppedError
                yield outcome

    with pytest.raises(StoppedError):
        tiny.run(plan, tmp_path, Stopping())
    first = {path: path.read_bytes() for path in (tmp_path / "records").iterdir()}
    assert len(first) == 2
    assert tiny.run(plan, tmp_path).counts == (4, 2, 0)
    assert {path: path.read_bytes() for path in first} == first


def test_events_are_told_to_every_listener(tmp_path: Path) -> None:
    from bench.engine.execution.runner import run_plan

    first: list[object] = []
    second: list[object] = []
    with Inline() as executor:
        finished = run_plan(tiny.plan(), tiny.run_context(tmp_path), executor, [first.append, second.append])
    assert first == second
    assert isinstance(first[-1], RunFinished)
    assert replace(finished, seconds=0.0) == RunFinished(done=2, cached=0, failed=0, seconds=0.0)
