"""The tracker: a mirror of the records in MLflow that can be rebuilt from them.

    experiment          a suite
    └─ run              what became of its cells, with the board and its figures as artifacts
       └─ nested run    a cell: settings, curve, scores, cost, noise, and what it was trained on

MLflow is imported when the first run is logged, and only in the process that runs the suite.
"""

import hashlib
import logging
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from bench.files import hash_json
from bench.record import Record

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run
from bench.engine.tracking.convert import (
    CHECKSUM_TAG,
    KEY_TAG,
    KIND_TAG,
    METRICS_PER_CALL,
    NAME_LIMIT,
    PARAMS_PER_CALL,
    PARENT_TAG,
    SUITE_TAG,
    dataset_inputs,
    metric_batches,
    record_metrics,
    record_params,
    record_tags,
    run_status,
    safe_name,
    time_span,
    truncate,
)

RUNS_PER_CALL = 200
"""Runs come with every parameter and metric, so no more of them at once."""

DAMAGED = ("file is not a database", "database disk image is malformed")
"""What SQLite says of a file that it cannot read any more."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is away must not hold a run up: two short tries instead of eight long ones.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Environment of MLflow, where the user has not set it."""

PutResult = Literal["added", "kept", "replaced"]

ArtifactFiles = Mapping[str, bytes]
"""Path of a file among the artifacts → what is in it."""


def default_uri(out: Path) -> str:
    """Return the URI of the SQLite store in a run's folder."""
    path = str(out.absolute() / "mlflow.db")
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


@dataclass
class CellCounts:
    """What became of a suite's cells, and when the last of them ended, in ms since 1970."""

    done: int = 0
    failed: int = 0
    end: int | None = None

    def add(self, record: Record) -> None:
        """Count a record."""
        self.done += record.status == "done"
        self.failed += record.status == "failed"
        self.end = max(filter(None, (self.end, time_span(record)[1])), default=None)

    @property
    def status(self) -> str:
        """MLflow's status for the suite's run."""
        return "FAILED" if self.failed else "FINISHED"


@dataclass(frozen=True)
class StoredRun:
    """What is remembered of a run in the store."""

    run_id: str
    key: str | None
    of_suite: bool
    parent: str | None
    state: tuple[str, str | None]


class MLflowStore:
    """An MLflow store: its experiments, the run of each suite, and the runs of records in them."""

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        # What fails is raised as well, and said in one sentence; what is created is not worth a line.
        for chatty in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
            logging.getLogger(chatty).setLevel(logging.CRITICAL)
        self._location = _prepare_location(uri, artifacts)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._experiments: dict[str, str] = {}
        self._parents: dict[str, str] = {}

    def mark(self, suite: str, status: str) -> None:
        """Set the status of a suite's run."""
        self._client.update_run(self._parent(suite), status=status)

    def find(self, record: Record) -> list[StoredRun]:
        """Return the runs of a record."""
        return list(self._search(record.suite, f"tags.`{KEY_TAG}` = '{record.key}'"))

    def put(self, record: Record, runs: Sequence[StoredRun]) -> PutResult:
        """Log a record unless one of its runs shows it already; delete its other runs."""
        checksum = hash_json(vars(record))
        good = [run for run in runs if run.state == (run_status(record), checksum)][:1]
        if not good:
            self._log(record, checksum)
        for run in runs:
            if run not in good:
                self._client.delete_run(run.run_id)
        return "kept" if good else "replaced" if runs else "added"

    def gather(self, suite: str, since: int | None) -> dict[str, list[StoredRun]]:
        """Nest all runs of a suite's records in one run, and return them by the record's key.

        Args:
            suite: its name.
            since: when its run began, in ms since 1970, where there is none yet.
        """
        parent = self._parent(suite, since)
        known = defaultdict(list)
        for run in list(self._search(suite)):
            if run.key is not None:
                known[run.key].append(run)
                if run.parent != parent:
                    self._client.set_tag(run.run_id, PARENT_TAG, parent)
            elif run.of_suite and run.run_id != parent:
                self._client.delete_run(run.run_id)
        return known

    def conclude(self, suite: str, tally: CellCounts, files: ArtifactFiles) -> None:
        """End a suite's run with these files, unless it shows them already."""
        from mlflow.entities import Metric, RunTag

        parent = self._parent(suite)
        counts = {"cells/done": tally.done, "cells/failed": tally.failed}
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        checksum = hash_json({**counts, **hashes})
        if _stored_run(self._client.get_run(parent)).state == (tally.status, checksum):
            return
        self._attach(parent, files)
        self._client.log_batch(
            parent,
            metrics=[Metric(name, count, tally.end or 0, 0) for name, count in counts.items()],
            tags=[RunTag(CHECKSUM_TAG, checksum)],
            synchronous=True,
        )
        self._client.set_terminated(parent, tally.status, tally.end)

    def _attach(self, run_id: str, files: ArtifactFiles) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            self._client.log_artifacts(run_id, folder)

    def _experiment(self, suite: str) -> str:
        """Return the id of the suite's experiment, created or restored where it has to be."""
        if suite not in self._experiments:
            self._experiments[suite] = self._open(suite)
        return self._experiments[suite]

    def _open(self, suite: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(suite)
        if found is None:
            try:
                return self._client.create_experiment(
                    suite, self._location, {KIND_TAG: "custom_model_development"}
                )
            except MlflowException:
                found = self._client.get_experiment_by_name(suite)
                if found is None:  # so it is not that another process was faster
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _parent(self, suite: str, since: int | None = None) -> str:
        """Return the id of the suite's run, of several the first; it is created where there is none."""
        if suite not in self._parents:
            found = next(self._search(suite, f"tags.`{SUITE_TAG}` LIKE '%'"), None)
            self._parents[suite] = found.run_id if found else self._begin(suite, since)
        return self._parents[suite]

    def _begin(self, suite: str, since: int | None) -> str:
        name, tags = truncate(suite, NAME_LIMIT), {SUITE_TAG: suite}
        run = self._client.create_run(self._experiment(suite), since, tags, run_name=name)
        return str(run.info.run_id)

    def _search(self, suite: str, query: str = "") -> Iterator[StoredRun]:
        """Yield runs of a suite, those that began first before the others."""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment(suite)],
                query,
                max_results=RUNS_PER_CALL,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from map(_stored_run, page)
            token = page.token
            if not token:
                return

    def _log(self, record: Record, checksum: str) -> None:
        from mlflow.entities import Metric, Param

        start, end = time_span(record)
        run = self._client.create_run(
            self._experiment(record.suite),
            start_time=start,
            tags={**record_tags(record), CHECKSUM_TAG: checksum, PARENT_TAG: self._parent(record.suite)},
            run_name=truncate(record.label, NAME_LIMIT),
        )
        run_id = run.info.run_id
        inputs = dataset_inputs(record)
        if inputs:
            self._feed(run_id, inputs)
        params = [Param(name, value) for name, value in record_params(record).items()]
        metrics = [
            Metric(safe_name(name), value, end or 0, step) for name, value, step in record_metrics(record)
        ]
        batches = zip_longest(
            metric_batches(params, PARAMS_PER_CALL), metric_batches(metrics, METRICS_PER_CALL), fillvalue=()
        )
        for some_params, some_metrics in batches:
            self._client.log_batch(run_id, some_metrics, some_params, synchronous=True)
        self._client.set_terminated(run_id, run_status(record), end)

    def _feed(self, run_id: str, inputs: "list[DatasetInput]") -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # Another process was faster with the same data; now MLflow finds them.
            self._client.log_inputs(run_id, inputs)


def _stored_run(run: "Run") -> StoredRun:
    tags = run.data.tags
    state = run.info.status, tags.get(CHECKSUM_TAG)
    return StoredRun(run.info.run_id, tags.get(KEY_TAG), SUITE_TAG in tags, tags.get(PARENT_TAG), state)


def _prepare_location(uri: str, artifacts: Path | None) -> str | None:
    """Connect to a store that is a database, and return where its artifacts belong; None for a server.

    MLflow itself goes on for minutes when a database cannot be opened, and would have the artifacts in the
    working directory.
    """
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.store.db.utils import _safe_initialize_tables
    from sqlalchemy import create_engine, inspect, make_url

    if urlsplit(uri).scheme.partition("+")[0] not in DATABASE_ENGINES:
        return None
    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database:
        file = Path(url.database)
        file.parent.mkdir(parents=True, exist_ok=True)
        artifacts = artifacts or file.parent / "mlartifacts"
    engine = create_engine(url)
    try:
        inspect(engine)
        _safe_initialize_tables(engine)  # one process at a time, unlike the client
    finally:
        engine.dispose()
    return artifacts.absolute().as_uri() if artifacts else None


def failure_reason(uri: str, error: BaseException) -> str:
    """Say in one line which store failed and why, without the URI's user and password."""
    cause, step = error, error.__cause__ or error.__context__
    while step is not None:  # "connection refused" lies below several layers of client
        cause, step = step if isinstance(step, OSError) else cause, step.__cause__ or step.__context__
    text = truncate((str(cause).strip() or type(cause).__name__).splitlines()[0], 200)
    remedy = ", so move it away" if any(words in text for words in DAMAGED) else ""
    return re.sub(r"//[^/@\s]+@", "//", f"{uri} failed: {text}{remedy}")
