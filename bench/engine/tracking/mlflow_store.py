"""A copy of the records in MLflow that can be rebuilt from them.

experiment          a suite
├─ run              the suite: counts of its cells, with the leaderboard, its figures and page as artifacts
└─ run              an attack: its line of the leaderboard, so that charts of the experiment compare attacks
   └─ nested run    a cell: settings, curve, scores, protection, cost, noise, the data it was trained on
"""

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engine.tracking.mlflow_database import open_client
from bench.engine.tracking.record_to_mlflow import (
    ATTACK_TAG,
    CHECKSUM_TAG,
    KEY_TAG,
    KIND_TAG,
    NAME_LIMIT,
    PARENT_TAG,
    SUITE_TAG,
    TAG_LIMIT,
    dataset_inputs,
    run_metrics,
    run_params,
    run_status,
    run_tags,
    safe_name,
)
from bench.engine.tracking.record_values import (
    BOARD,
    BY_ATTACK,
    PROTECTION,
    protection_numbers,
    record_checksum,
    time_span,
    truncate,
)
from bench.engine.tracking.sink import CellCounts, LogResult, SuiteStatus, TaskProtections, TrackedBoard
from bench.files import hash_bytes, hash_json
from bench.record import Record

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run

RUNS_PER_CALL = 200
"""Runs come with all parameters and metrics, so not too many at once."""

RESULTS = (PROTECTION, BOARD, BY_ATTACK)
"""What the names of metrics that depend on other records begin with."""


@dataclass(frozen=True)
class StoredRun:
    """What is needed of a run in the store."""

    run_id: str
    key: str | None
    suite: str | None
    attack: str | None
    parent: str | None
    state: tuple[str, str | None]
    """Status and checksum."""
    results: dict[str, float]
    """The metrics that depend on other records: protection, and lines of the leaderboard."""


class MLflowStore:
    """An MLflow store: an experiment for each suite, with runs of the suite, its attacks and its cells."""

    def __init__(self, uri: str, artifact_folder: Path | None) -> None:
        self._client, self._artifact_uri = open_client(uri, artifact_folder)
        self._experiments: dict[str, str] = {}
        self._parents: dict[str, dict[str | None, str]] = {}  # suite → attack, None for the suite itself
        self._created: dict[tuple[str, str], StoredRun] = {}  # suite, key
        self._prepared: dict[str, dict[str, list[StoredRun]]] = {}  # suite → key

    def set_suite_status(self, suite: str, status: SuiteStatus) -> None:
        """Set the status of the runs of a suite and its attacks."""
        self._parent_run(suite)
        for run_id in self._parents[suite].values():
            self._client.update_run(run_id, status=status)

    def prepare_suite(self, suite: str, start: int | None) -> None:
        """Look all runs of a suite up, nest them, and delete what is there twice."""
        self._parent_run(suite, start=start)
        runs = defaultdict(list)
        for run in list(self._search(suite)):
            if run.key is not None:
                runs[run.key].append(run)
                if run.parent != (parent := self._parent_run(suite, run.attack, start)):
                    self._client.set_tag(run.run_id, PARENT_TAG, parent)
            elif run.suite is not None and run.run_id != self._parent_run(suite, run.attack):
                self._client.delete_run(run.run_id)
        self._prepared[suite] = runs

    def log_record(self, record: Record, protections: TaskProtections) -> LogResult:
        """Log a record unless one of its runs is complete and up to date; delete its other runs."""
        checksum, numbers = record_checksum(record), protection_numbers(protections)
        runs = self._runs_of(record)
        current = next((run for run in runs if run.state == (run_status(record), checksum)), None)
        if current is None:
            created = self._create_run(record, checksum, numbers)
            self._created[record.suite, record.key] = created
        else:
            self._update_results(current, numbers)
        for run in runs:
            if run is not current:
                self._client.delete_run(run.run_id)
        return "kept" if current else "replaced" if runs else "added"

    def _runs_of(self, record: Record) -> list[StoredRun]:
        if record.suite in self._prepared:
            return self._prepared[record.suite].pop(record.key, [])
        if (created := self._created.get((record.suite, record.key))) is not None:
            return [created]
        return list(self._search(record.suite, f"tags.`{KEY_TAG}` = '{record.key}'"))

    def finish_suite(self, suite: str, cells: CellCounts, board: TrackedBoard) -> None:
        """End the runs of a suite and its attacks with what the board says, unless they have it already."""
        from mlflow.entities import RunTag

        self._prepared.pop(suite, None)
        suite_run = self._read_run(self._parent_run(suite))
        status = "FAILED" if cells.failed else "FINISHED"
        for attack, run_id in self._parents[suite].items():
            if attack is not None:
                self._finish_attack(run_id, board.attack_numbers(attack), cells.end)
        self._update_results(suite_run, board.numbers_by_attack())
        counts = cells.numbers()
        hashes = {path: hash_bytes(content) for path, content in board.files.items()}
        checksum = hash_json({**counts, **hashes})
        if suite_run.state == (status, checksum):
            return
        with tempfile.TemporaryDirectory() as folder:
            for path, content in board.files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            self._client.log_artifacts(suite_run.run_id, folder)
        metrics = _metrics(counts, cells.end or 0)
        self._client.log_batch(suite_run.run_id, metrics, tags=[RunTag(CHECKSUM_TAG, checksum)])
        self._client.set_terminated(suite_run.run_id, status, cells.end)

    def _finish_attack(self, run_id: str, numbers: Mapping[str, float], end: int | None) -> None:
        run = self._read_run(run_id)
        self._update_results(run, numbers)
        if run.state[0] != "FINISHED":
            self._client.set_terminated(run_id, "FINISHED", end)

    def _update_results(self, run: StoredRun, numbers: Mapping[str, float]) -> None:
        """Log what has changed of a run's results; what is there no more becomes NaN."""
        wanted = dict.fromkeys(run.results, math.nan)
        wanted |= {safe_name(name): value for name, value in numbers.items()}
        changed = {
            name: value for name, value in wanted.items() if not _is_same_number(value, run.results.get(name))
        }
        if changed:
            self._client.log_batch(run.run_id, _metrics(changed, _now_ms()))
            run.results.update(changed)

    def _read_run(self, run_id: str) -> StoredRun:
        return _stored_run(self._client.get_run(run_id))

    def _experiment(self, suite: str) -> str:
        """Return the id of the suite's experiment, created or restored if necessary."""
        if suite not in self._experiments:
            self._experiments[suite] = self._open_experiment(suite)
        return self._experiments[suite]

    def _open_experiment(self, suite: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(suite)
        if experiment is None:
            try:
                tags = {KIND_TAG: "custom_model_development"}
                return self._client.create_experiment(suite, self._artifact_uri, tags)
            except MlflowException:
                experiment = self._client.get_experiment_by_name(suite)
                if experiment is None:  # so the reason is not that another process was faster
                    raise
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def _parent_run(self, suite: str, attack: str | None = None, start: int | None = None) -> str:
        """Return the id of the first run of a suite or an attack; create it if there is none."""
        parents = self._parents.setdefault(suite, {})
        if attack not in parents:
            for run in self._search(suite, f"tags.`{SUITE_TAG}` LIKE '%'"):
                parents.setdefault(run.attack, run.run_id)
        if attack not in parents:
            tags = {SUITE_TAG: suite} | ({} if attack is None else {ATTACK_TAG: attack, "attack": attack})
            tags = {name: truncate(text, TAG_LIMIT) for name, text in tags.items()}
            name = truncate(suite if attack is None else attack, NAME_LIMIT)
            created = self._client.create_run(self._experiment(suite), start, tags, name)
            parents[attack] = created.info.run_id
        return parents[attack]

    def _search(self, suite: str, query: str = "") -> Iterator[StoredRun]:
        """Yield runs of a suite in the order of their start."""
        experiments, order, token = [self._experiment(suite)], ["attributes.start_time ASC"], None
        while True:
            page = self._client.search_runs(
                experiments, query, max_results=RUNS_PER_CALL, order_by=order, page_token=token
            )
            yield from map(_stored_run, page)
            token = page.token
            if not token:
                return

    def _create_run(self, record: Record, checksum: str, results: Mapping[str, float]) -> StoredRun:
        from mlflow.entities import Metric, Param

        start, end = time_span(record)
        attack, status = str(record.cell["attack"]), run_status(record)
        parent = self._parent_run(record.suite, attack, start)
        tags = {**run_tags(record), CHECKSUM_TAG: checksum, PARENT_TAG: parent}
        name = truncate(record.label, NAME_LIMIT)
        run_id = self._client.create_run(self._experiment(record.suite), start, tags, name).info.run_id
        if inputs := dataset_inputs(record):
            self._log_inputs(run_id, inputs)
        params = [Param(name, value) for name, value in run_params(record).items()]
        metrics = [Metric(name, value, end or 0, step) for name, value, step in run_metrics(record)]
        self._client.log_batch(run_id, metrics + _metrics(results, _now_ms()), params)
        self._client.set_terminated(run_id, status, end)
        shown = {safe_name(name): value for name, value in results.items()}
        return StoredRun(run_id, record.key, None, attack, parent, (status, checksum), shown)

    def _log_inputs(self, run_id: str, inputs: "list[DatasetInput]") -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # Another process has just stored the same data; the second time MLflow finds them.
            self._client.log_inputs(run_id, inputs)


def _stored_run(run: "Run") -> StoredRun:
    tags, metrics = run.data.tags, run.data.metrics
    return StoredRun(
        run.info.run_id,
        key=tags.get(KEY_TAG),
        suite=tags.get(SUITE_TAG),
        attack=tags.get(ATTACK_TAG) if SUITE_TAG in tags else tags.get("attack"),
        parent=tags.get(PARENT_TAG),
        state=(run.info.status, tags.get(CHECKSUM_TAG)),
        results={name: metrics[name] for name in metrics if name.startswith(RESULTS)},
    )


def _metrics(numbers: Mapping[str, float], time_ms: int) -> "list[Metric]":
    from mlflow.entities import Metric

    return [Metric(safe_name(name), value, time_ms, 0) for name, value in numbers.items()]


def _now_ms() -> int:
    """Return when a number that depends on other records is logged: the latest one is the valid one."""
    return time.time_ns() // 1_000_000


def _is_same_number(one: float, other: float | None) -> bool:
    return one == other or (math.isnan(one) and (other is None or math.isnan(other)))
