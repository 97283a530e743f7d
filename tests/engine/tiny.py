"""A suite so small that a cell takes a tenth of a second, and runs of it in this process."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.engine.execution.events import Event, ItemFinished, Notice, RunFinished, RunStarted
from bench.engine.execution.runner import run_plan
from bench.engine.executors.base import Executor
from bench.engine.executors.inline import Inline
from bench.engine.planning.cell import ItemKind
from bench.engine.planning.expand import Plan, expand_suite
from bench.engine.planning.remaining_work import RerunPolicy
from bench.engine.planning.suite_file import Suite
from bench.engine.stages.context import RunContext
from bench.record import Epoch, Record, Scores, read_record

TOML = """
name = "tiny"
description = "Everything as small as it gets."
star = true

[matrix]
dataset = ["digits"]
attack = ["clean", "random"]
backbone = ["small"]
weighting = ["ew"]
defense = ["none"]
regime = ["mtl"]
seed = [0]

[recipe]
epochs = 2
batch = 8
learning_rate = 0.01

[surrogate]
backbone = "small(width=3)"

[params.dataset.digits]
train = 64
test = 32

[params.backbone.small]
width = 2

[params.attack.em]
rounds = 1
surrogate_steps = 1
steps = 1
step_size = 8.0

[params.attack.tap]
steps = 1
step_size = 8.0
restarts = 1

[params.attack.mtl-ue-em]
rounds = 1
surrogate_steps = 1
batch = 32
width = 2
"""


def document(**tables: Any) -> dict[str, Any]:
    """Return the suite file's content; tables are merged into it, other values replace its own."""
    return _merge(tomllib.loads(TOML), tables)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def suite(**tables: Any) -> Suite:
    return Suite.model_validate(document(**tables))


def plan(*only: str, **tables: Any) -> Plan:
    return expand_suite(suite(**tables), only)


def plan_listed(**tables: Any) -> Plan:
    """Return the plan without the clean victims that are added because no listed defense is ``none``."""
    planned = plan(**tables)
    defenses = suite(**tables).matrix["defense"]
    return replace(planned, cells=tuple(cell for cell in planned.cells if cell.defense.label in defenses))


def run_context(out: Path) -> RunContext:
    return RunContext(out, None, out / "cache", "cpu", 1, "tiny")


@dataclass
class Ran:
    """A run's result and everything it told its listener."""

    finished: RunFinished = field(init=False)
    events: list[Event] = field(default_factory=list)

    def of(self, kind: ItemKind) -> list[ItemFinished]:
        """Return the ends of the items of a kind, in order."""
        return [event for event in self.events if isinstance(event, ItemFinished) and event.kind == kind]

    def labels(self, kind: ItemKind) -> list[str]:
        return [event.label for event in self.of(kind)]

    @property
    def announced(self) -> dict[ItemKind, tuple[int, int]]:
        """Kind → (to do, already there)."""
        return next(event.counts for event in self.events if isinstance(event, RunStarted))

    @property
    def notices(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Cells done, there before, failed."""
        return self.finished.done, self.finished.cached, self.finished.failed


def run(chosen: Plan, out: Path, executor: Executor | None = None, rerun: RerunPolicy = "failed") -> Ran:
    ran, context = Ran(), run_context(out)
    context.store.prepare()
    with executor or Inline() as entered:
        ran.finished = run_plan(chosen, context, entered, [ran.events.append], rerun)
    return ran


def records(out: Path) -> dict[str, Record]:
    """Return the records of a run's folder by label."""
    found = map(read_record, sorted((out / "records").glob("*.json")))
    return {record.label: record for record in found}


def results(out: Path) -> dict[str, tuple[Scores, Scores, Sequence[Epoch], Mapping[str, float | None]]]:
    """Return what of the records must never depend on how or when they were made, by label."""
    return {label: (r.scores, r.peak, r.curve, r.noise) for label, r in records(out).items()}
