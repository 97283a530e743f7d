"""A copy of the records in MLflow that can be rebuilt from them.

    experiment          a suite
    └─ run              counts of its cells, with the leaderboard and its figures as artifacts
       └─ nested run    a cell: settings, curve, scores, cost, noise, and the data it was trained on

MLflow is imported when the first run is logged, and only in the process that runs the suite.
"""

import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from bench.engine.tracking.record_to_mlflow import (
    CHECKSUM_TAG,
    KEY_TAG,
    KIND_TAG,
    NAME_LIMIT,
    PARENT_TAG,
    SUITE_TAG,
    dataset_inputs,
    record_metrics,
    record_params,
    record_tags,
    run_status,
    safe_name,
    time_span,
    truncate,
)
from bench.files import hash_bytes, hash_json
from bench.record import Record

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

RUNS_PER_CALL = 200
"""Runs come with all parameters and metrics, so not too many at once."""

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Databases that MLflow can use."""

DAMAGE_MESSAGES = ("file is not a database", "database disk image is malformed")
"""What SQLite says about a damaged file."""

UNFINISHED_MESSAGES = ("already exists", "duplicate column name", "no such table", "no such column")
"""What SQLite says about a database whose tables were made in part, because the disk was full."""

MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is down must not delay a run: two short attempts instead of eight long ones.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Environment variables of MLflow; values that the user has set stay."""

LogResult = Literal["added", "kept", "replaced"]

ArtifactFiles = Mapping[str, bytes]
"""Path among the artifacts → content of the file."""


def default_uri(out: Path) -> str:
    """Return the URI of the SQLite store in a run's folder."""
    path = str(out.absolute() / "mlflow.db")
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


@dataclass
class CellCounts:
    """How many cells of a suite are done and failed, and when the last one ended, in ms since 1970."""

    done: int = 0
    failed: int = 0
    end: int | None = None

    def add(self, record: Record) -> None:
        """Count a record."""
        self.done += record.status == "done"
        self.failed += record.status == "failed"
        self.end = max(filter(None, (self.end, time_span(record)[1])), default=None)


@dataclass(frozen=True)
class StoredRun:
    """What is needed of a run in the store."""

    run_id: str
    key: str | None
    is_suite: bool
    parent: str | None
    state: tuple[str, str | None]
    """Status and checksum."""


class MLflowStore:
    """An MLflow store: an experiment and a run for each suite, and a nested run for each record."""

    def __init__(self, uri: str, artifact_folder: Path | None) -> None:
        for name, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        # Errors are raised too and reported in one sentence; what is created needs no message.
        for name in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # The client creates the tables of a new database, and fails if another process does so too.
        with _lock_store(uri):
            try:
                self._artifact_uri = _check_database(uri, artifact_folder)
                self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            except Exception as error:  # a store raises whatever its driver raises
                if not _empty_if_broken(uri, artifact_folder, error):
                    raise
                self._artifact_uri = _check_database(uri, artifact_folder)
                self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._experiments: dict[str, str] = {}
        self._suite_runs: dict[str, str] = {}

    def set_suite_status(self, suite: str, status: str) -> None:
        """Set the status of a suite's run."""
        self._client.update_run(self._suite_run(suite), status=status)

    def find_runs(self, record: Record) -> list[StoredRun]:
        """Return the runs of a record."""
        return list(self._search(record.suite, f"tags.`{KEY_TAG}` = '{record.key}'"))

    def collect_runs(self, suite: str, start: int | None) -> dict[str, list[StoredRun]]:
        """Return the runs of a suite's records by key, all nested in the one run of the suite.

        Args:
            suite: its name.
            start: when the suite's run began, in ms since 1970, if it has to be created.
        """
        suite_run = self._suite_run(suite, start)
        runs = defaultdict(list)
        for run in list(self._search(suite)):
            if run.key is not None:
                runs[run.key].append(run)
                if run.parent != suite_run:
                    self._client.set_tag(run.run_id, PARENT_TAG, suite_run)
            elif run.is_suite and run.run_id != suite_run:
                self._client.delete_run(run.run_id)
        return runs

    def log_record(self, record: Record, runs: Sequence[StoredRun]) -> LogResult:
        """Log a record unless one of its runs is complete and up to date; delete its other runs."""
        checksum = hash_json(vars(record))
        current = [run for run in runs if run.state == (run_status(record), checksum)][:1]
        if not current:
            self._create_run(record, checksum)
        for run in runs:
            if run not in current:
                self._client.delete_run(run.run_id)
        return "kept" if current else "replaced" if runs else "added"

    def finish_suite(self, suite: str, cells: CellCounts, files: ArtifactFiles) -> None:
        """End a suite's run with these files, unless it has them already."""
        from mlflow.entities import Metric, RunTag

        suite_run = self._suite_run(suite)
        status = "FAILED" if cells.failed else "FINISHED"
        counts = {"cells/done": cells.done, "cells/failed": cells.failed}
        hashes = {path: hash_bytes(content) for path, content in files.items()}
        checksum = hash_json({**counts, **hashes})
        if _stored_run(self._client.get_run(suite_run)).state == (status, checksum):
            return
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            self._client.log_artifacts(suite_run, folder)
        metrics = [Metric(name, count, cells.end or 0, 0) for name, count in counts.items()]
        self._client.log_batch(suite_run, metrics, tags=[RunTag(CHECKSUM_TAG, checksum)])
        self._client.set_terminated(suite_run, status, cells.end)

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

    def _suite_run(self, suite: str, start: int | None = None) -> str:
        """Return the id of the suite's run, the first of several; it is created if there is none."""
        if suite not in self._suite_runs:
            run = next(self._search(suite, f"tags.`{SUITE_TAG}` LIKE '%'"), None)
            if run is None:
                name, tags = truncate(suite, NAME_LIMIT), {SUITE_TAG: suite}
                run = _stored_run(self._client.create_run(self._experiment(suite), start, tags, name))
            self._suite_runs[suite] = run.run_id
        return self._suite_runs[suite]

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

    def _create_run(self, record: Record, checksum: str) -> None:
        from mlflow.entities import Metric, Param

        start, end = time_span(record)
        tags = {**record_tags(record), CHECKSUM_TAG: checksum, PARENT_TAG: self._suite_run(record.suite)}
        name = truncate(record.label, NAME_LIMIT)
        run_id = self._client.create_run(self._experiment(record.suite), start, tags, name).info.run_id
        if inputs := dataset_inputs(record):
            self._log_inputs(run_id, inputs)
        params = [Param(name, value) for name, value in record_params(record).items()]
        metrics = [
            Metric(safe_name(name), value, end or 0, step) for name, value, step in record_metrics(record)
        ]
        self._client.log_batch(run_id, metrics, params)
        self._client.set_terminated(run_id, run_status(record), end)

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
    tags = run.data.tags
    state = run.info.status, tags.get(CHECKSUM_TAG)
    return StoredRun(run.info.run_id, tags.get(KEY_TAG), SUITE_TAG in tags, tags.get(PARENT_TAG), state)


def _check_database(uri: str, artifact_folder: Path | None) -> str | None:
    """Connect to a store that is a database, and return the URI for its artifacts; None for a server.

    MLflow itself tries for minutes to open a damaged database, and puts artifacts in the working directory.
    """
    from sqlalchemy import create_engine, inspect, make_url

    if urlsplit(uri).scheme.partition("+")[0] not in DATABASES:
        return None
    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database:
        file = Path(url.database)
        file.parent.mkdir(parents=True, exist_ok=True)
        artifact_folder = artifact_folder or file.parent / "mlartifacts"
    engine = create_engine(url)
    try:
        inspect(engine)
    finally:
        engine.dispose()
    return artifact_folder.absolute().as_uri() if artifact_folder else None


@contextmanager
def _lock_store(uri: str) -> Iterator[None]:
    """Hold a lock that only one process of this user and machine can hold for a store."""
    path = Path(tempfile.gettempdir(), f"mtlue-{os.getuid()}-{hash_json(uri)[:16]}.lock")
    # All users may write there: a link is not followed, a pipe does not make it wait, and no file is emptied.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _empty_if_broken(uri: str, artifact_folder: Path | None, error: Exception) -> bool:
    """Empty the database of a run's folder if that is what the error is about: it can be made again.

    A copy is kept as ``mlflow.db.broken``. The file stays the same, since MLflow keeps it open.

    Returns:
        Whether it was emptied; no other database ever is.
    """
    if artifact_folder is None or uri != default_uri(artifact_folder.parent):
        return False
    if not any(message in str(error) for message in (*DAMAGE_MESSAGES, *UNFINISHED_MESSAGES)):
        return False
    database = artifact_folder.parent / "mlflow.db"
    shutil.copyfile(database, f"{database}.broken")
    for suffix in ("-journal", "-wal", "-shm"):  # an old journal would be applied to the new database
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    os.truncate(database, 0)
    return True


def failure_reason(uri: str, error: BaseException) -> str:
    """Return in one line which store failed and why, without the user and password of the URI."""
    cause, step = error, error.__cause__ or error.__context__
    while step is not None:  # "connection refused" lies below several layers of the client
        cause, step = step if isinstance(step, OSError) else cause, step.__cause__ or step.__context__
    text = truncate((str(cause).strip() or type(cause).__name__).splitlines()[0], 200)
    advice = "; move the file away" if any(message in text for message in DAMAGE_MESSAGES) else ""
    return re.sub(r"//[^/@\s]+@", "//", f"{uri} failed: {text}{advice}")
