"""The tracker: a mirror of the records in MLflow that can be rebuilt from them.

    experiment          a suite
    └─ run              what became of its cells, with the board and its figures as artifacts
       └─ nested run    a cell: settings, curve, scores, cost, noise, and what it was trained on

MLflow is imported when the first run is logged, and only in the process that runs the suite.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from bench.engine.events import Event, ItemFinished, RunFinished, RunStarted
from bench.errors import BenchError
from bench.record import CLEAN, NoiseReport, Record, Scores, digest

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

KEY, CHECKSUM = "mtlue.key", "mtlue.checksum"
"""Tags of a cell's run: the record's key and its content's digest. Its status is set last, and so says
that the run is whole."""

SUITE = "mtlue.suite"
"""Tag of the run that the cells' runs are nested in; its checksum, set last, is that of its artifacts."""

PARENT, CONTEXT, KIND = "mlflow.parentRunId", "mlflow.data.context", "mlflow.experimentKind"
"""MLflow's own tags: the run a run is nested in, what an input was for, what an experiment is about."""

NAME_LIMIT, PARAM_LIMIT, TAG_LIMIT, SOURCE_LIMIT, DIGEST_LIMIT = 250, 6000, 5000, 60_000, 36
"""MLflow's longest names and values, in characters."""

PARAMS_PER_CALL, METRICS_PER_CALL = 100, 900
"""So many of both are one of MLflow's batches, which are of 1,000 values."""

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

USUAL_S = 1.0
"""What logging one thing may take."""

PATIENCE_S = 10.0
"""How long a run waits in all, beyond `USUAL_S` for each thing it logs, before it goes on without a store."""

THREAD = "tracking"
"""Name of a thread in which something is logged."""

Outcome = Literal["added", "kept", "replaced"]

Exhibits = Mapping[str, bytes]
"""Path of a file among the artifacts → what is in it."""


def default_uri(out: Path) -> str:
    """Return the URI of the SQLite store in a run's folder."""
    path = str(out.absolute() / "mlflow.db")
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


class Tracker:
    """A listener that logs every finished cell, and never stops the run.

    Where MLflow or its store fails, or takes longer than `PATIENCE_S`, the user is told once and nothing more
    is logged. The run waits for each thing to be logged: what is timed next has the machine to itself.

    Args:
        uri: MLflow's tracking URI.
        suite: name of the suite, which is the experiment's.
        artifacts: folder of the experiment's artifacts, for a store that is a database; by default
            ``mlartifacts`` beside an SQLite file.
        notice: called with the sentence for the user.
    """

    def __init__(self, uri: str, suite: str, artifacts: Path | None, notice: Callable[[str], None]) -> None:
        self._uri = uri
        self._suite = suite
        self._artifacts = artifacts
        self._notice = notice
        self._mirror: _Mirror | None = None
        self._cells = 0
        self._patience = PATIENCE_S
        self._away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark the suite's run as killed where the run did not come to its end."""
        if kind is not None and self._mirror is not None:
            self._try(lambda mirror: mirror.mark(self._suite, "KILLED"))

    def __call__(self, event: Event) -> None:
        """Open the store when cells are to come, log the record of each, and note where the run stopped."""
        match event:
            case RunStarted(waves=waves) if waves.get("cells", (0, 0))[0]:
                self._cells = sum(waves["cells"])
                self._try(lambda mirror: mirror.mark(self._suite, "RUNNING"))
            case RunFinished() if event.done + event.cached + event.failed < self._cells:
                self._try(lambda mirror: mirror.mark(self._suite, "KILLED"))
            case ItemFinished(wave="cells", record=Record() as record):
                self._try(lambda mirror: mirror.put(record, mirror.find(record)))

    def conclude(self, records: Iterable[Record], exhibits: Callable[[], Exhibits]) -> None:
        """End the suite's run, with files about the whole of it.

        Args:
            records: all of the folder, of any suites, with or without their curves.
            exhibits: returns the files; not called where nothing was logged.
        """
        if self._mirror is None or self._away:
            return
        tally = _Tally()
        for record in records:
            if record.suite == self._suite:
                tally.add(record)
        files = exhibits()
        self._try(lambda mirror: mirror.conclude(self._suite, tally, files))

    def _try(self, action: Callable[["_Mirror"], object]) -> None:
        if self._away:
            return
        try:
            mirror = self._mirror = self._mirror or _Mirror(self._uri, self._artifacts)
            took = _wait(lambda: action(mirror), USUAL_S + self._patience)
            self._patience -= max(0.0, took - USUAL_S)
        except Exception as error:  # a store raises whatever its driver does
            self._away = True
            away = f"the tracker at {_reason(self._uri, error)}"
            self._notice(f"{away}; nothing more is logged, run `bench track` to catch up")


def _wait(action: Callable[[], object], seconds: float) -> float:
    """Run an action in a thread of its own and return the seconds it took.

    Raises:
        _SlowError: when it takes longer. It is left to itself then, and does not keep the process alive.
        Exception: whatever the action raises.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            action()
        except BaseException as error:  # raised again where it is waited for
            raised.append(error)

    thread, started = Thread(target=work, name=THREAD, daemon=True), time.perf_counter()
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _SlowError(f"no answer within {seconds:.0f} s")
    if raised:
        raise raised[0]
    return time.perf_counter() - started


class _SlowError(Exception):
    """A store did not answer in time."""


def rebuild(
    uri: str,
    records: Iterable[Record],
    artifacts: Path | None = None,
    exhibits: Callable[[], Exhibits] = dict,
) -> tuple[int, int, int]:
    """Make the mirror show these records, each once.

    A complete run of an unchanged record is kept; incomplete and outdated ones are logged anew.

    Args:
        uri: MLflow's tracking URI.
        records: what to show, of any suites; they are taken one after the other.
        artifacts: as for `Tracker`.
        exhibits: as for `Tracker.conclude`; each suite's run gets the files.

    Returns:
        How many runs of cells were added, kept and replaced.

    Raises:
        BenchError: when MLflow or its store fails.
    """
    counts: dict[Outcome, int] = {"added": 0, "kept": 0, "replaced": 0}
    known: dict[str, dict[str, list[_Seen]]] = {}
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    with _named(uri):
        mirror = _Mirror(uri, artifacts)
        for record in records:
            suite = record.suite
            if suite not in known:
                known[suite] = mirror.gather(suite, since=_span(record)[0])
            counts[mirror.put(record, known[suite].get(record.key, []))] += 1
            tallies[suite].add(record)
    files = exhibits()
    with _named(uri):
        for suite, tally in tallies.items():
            mirror.conclude(suite, tally, files)
    return counts["added"], counts["kept"], counts["replaced"]


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Say in one sentence which store failed."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # a store raises whatever its driver does
        raise BenchError(f"cannot track: {_reason(uri, error)}") from error


@dataclass
class _Tally:
    """What became of a suite's cells, and when the last of them ended, in ms since 1970."""

    done: int = 0
    failed: int = 0
    end: int | None = None

    def add(self, record: Record) -> None:
        self.done += record.status == "done"
        self.failed += record.status == "failed"
        self.end = max(filter(None, (self.end, _span(record)[1])), default=None)

    @property
    def status(self) -> str:
        return "FAILED" if self.failed else "FINISHED"


@dataclass(frozen=True)
class _Seen:
    """What is remembered of a run in the store."""

    run_id: str
    key: str | None
    of_suite: bool
    parent: str | None
    state: tuple[str, str | None]


class _Mirror:
    """An MLflow store: its experiments, the run of each suite, and the runs of records in them."""

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        # What fails is raised as well, and said in one sentence; what is created is not worth a line.
        for chatty in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
            logging.getLogger(chatty).setLevel(logging.CRITICAL)
        self._location = _prepare(uri, artifacts)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._experiments: dict[str, str] = {}
        self._parents: dict[str, str] = {}

    def mark(self, suite: str, status: str) -> None:
        """Set the status of a suite's run."""
        self._client.update_run(self._parent(suite), status=status)

    def find(self, record: Record) -> list[_Seen]:
        """Return the runs of a record."""
        return list(self._search(record.suite, f"tags.`{KEY}` = '{record.key}'"))

    def put(self, record: Record, runs: Sequence[_Seen]) -> Outcome:
        """Log a record unless one of its runs shows it already; delete its other runs."""
        checksum = digest(vars(record))
        good = [run for run in runs if run.state == (_status(record), checksum)][:1]
        if not good:
            self._log(record, checksum)
        for run in runs:
            if run not in good:
                self._client.delete_run(run.run_id)
        return "kept" if good else "replaced" if runs else "added"

    def gather(self, suite: str, since: int | None) -> dict[str, list[_Seen]]:
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
                    self._client.set_tag(run.run_id, PARENT, parent)
            elif run.of_suite and run.run_id != parent:
                self._client.delete_run(run.run_id)
        return known

    def conclude(self, suite: str, tally: _Tally, files: Exhibits) -> None:
        """End a suite's run with these files, unless it shows them already."""
        from mlflow.entities import Metric, RunTag

        parent = self._parent(suite)
        counts = {"cells/done": tally.done, "cells/failed": tally.failed}
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        checksum = digest({**counts, **hashes})
        if _see(self._client.get_run(parent)).state == (tally.status, checksum):
            return
        self._attach(parent, files)
        self._client.log_batch(
            parent,
            metrics=[Metric(name, count, tally.end or 0, 0) for name, count in counts.items()],
            tags=[RunTag(CHECKSUM, checksum)],
            synchronous=True,
        )
        self._client.set_terminated(parent, tally.status, tally.end)

    def _attach(self, run_id: str, files: Exhibits) -> None:
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
                    suite, self._location, {KIND: "custom_model_development"}
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
            found = next(self._search(suite, f"tags.`{SUITE}` LIKE '%'"), None)
            self._parents[suite] = found.run_id if found else self._begin(suite, since)
        return self._parents[suite]

    def _begin(self, suite: str, since: int | None) -> str:
        name, tags = _cut(suite, NAME_LIMIT), {SUITE: suite}
        run = self._client.create_run(self._experiment(suite), since, tags, run_name=name)
        return str(run.info.run_id)

    def _search(self, suite: str, query: str = "") -> Iterator[_Seen]:
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
            yield from map(_see, page)
            token = page.token
            if not token:
                return

    def _log(self, record: Record, checksum: str) -> None:
        from mlflow.entities import Metric, Param

        start, end = _span(record)
        run = self._client.create_run(
            self._experiment(record.suite),
            start_time=start,
            tags={**_tags(record), CHECKSUM: checksum, PARENT: self._parent(record.suite)},
            run_name=_cut(record.label, NAME_LIMIT),
        )
        run_id = run.info.run_id
        inputs = _inputs(record)
        if inputs:
            self._feed(run_id, inputs)
        params = [Param(name, value) for name, value in _params(record).items()]
        metrics = [Metric(_name(name), value, end or 0, step) for name, value, step in _metrics(record)]
        batches = zip_longest(
            _batches(params, PARAMS_PER_CALL), _batches(metrics, METRICS_PER_CALL), fillvalue=()
        )
        for some_params, some_metrics in batches:
            self._client.log_batch(run_id, some_metrics, some_params, synchronous=True)
        self._client.set_terminated(run_id, _status(record), end)

    def _feed(self, run_id: str, inputs: "list[DatasetInput]") -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # Another process was faster with the same data; now MLflow finds them.
            self._client.log_inputs(run_id, inputs)


def _see(run: "Run") -> _Seen:
    tags = run.data.tags
    state = run.info.status, tags.get(CHECKSUM)
    return _Seen(run.info.run_id, tags.get(KEY), SUITE in tags, tags.get(PARENT), state)


def _status(record: Record) -> str:
    return "FINISHED" if record.status == "done" else "FAILED"


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _inputs(record: Record) -> "list[DatasetInput]":
    """Return the data a victim was trained on and the poison in it; nothing where that is not known."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if record.status == "failed" or "data" not in record.environment:
        return []
    used: list[tuple[str, str, str, Mapping[str, Any]]] = [
        ("dataset", record.environment["data"], "training", {"tasks": record.tasks})
    ]
    if str(record.cell["attack"]).partition("(")[0] != CLEAN:
        used.append(("attack", record.poison, "poison", record.noise))
    return [
        DatasetInput(
            Dataset(
                name=_cut(str(record.cell[axis]), NAME_LIMIT),
                digest=_cut(identity, DIGEST_LIMIT),
                source_type="mtlue",
                source=_cut(json.dumps(record.settings.get(axis)), SOURCE_LIMIT),
                profile=json.dumps(profile),
            ),
            [InputTag(CONTEXT, context)],
        )
        for axis, identity, context, profile in used
    ]


def _tags(record: Record) -> dict[str, str]:
    tags = {axis: str(label) for axis, label in record.cell.items()} | {
        KEY: record.key,
        "suite": record.suite,
        "status": record.status,
        "poison": record.poison,
        "victim": record.victim,
    }
    if record.error:
        tags["error"] = f"{record.error['type']}: {record.error['message']}"
    return {_name(name): _cut(value, TAG_LIMIT) for name, value in tags.items()}


def _params(record: Record) -> dict[str, str]:
    values = {**dict(_flatten(record.settings)), **record.cell}
    return {_name(name): _cut(_spell(value), PARAM_LIMIT) for name, value in values.items()}


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _spell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _metrics(record: Record) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step) of every number of a record that is not None.

    MLflow shows what is before the last slash of a name as one section of charts.
    """
    for name, value, step in _numbers(record):
        if value is not None:
            yield name, float(value), step


def _numbers(record: Record) -> Iterator[tuple[str, float | None, int]]:
    for point in record.curve:
        step = point["epoch"]
        yield "train/loss", point["train_loss"], step
        yield "train/learning_rate", point["learning_rate"], step
        yield from ((f"weight/{task}", weight, step) for task, weight in point["weights"].items())
        yield from ((f"{metric}/{task}", value, step) for metric, task, value in _scores(point["scores"]))
        yield from (
            (f"validation/{task}", value, step) for task, value in point.get("validation", {}).items()
        )
    yield from ((f"final/{metric}.{task}", value, 0) for metric, task, value in _scores(record.scores))
    yield from ((f"peak/{metric}.{task}", value, 0) for metric, task, value in _scores(record.peak))
    yield from ((f"noise/{name}", value, 0) for name, value in _noise(record.noise))
    for phase, cost in record.cost.items():
        yield f"cost/seconds.{phase}", cost["seconds"], 0
        yield f"cost/images_per_s.{phase}", cost["images_per_s"], 0
        yield f"cost/peak_host_mb.{phase}", cost["peak_host_mb"], 0
        yield f"cost/peak_device_mb.{phase}", cost["peak_device_mb"], 0


def _noise(noise: NoiseReport) -> Iterator[tuple[str, float | None]]:
    numbers: Mapping[str, Any] = noise
    for name, value in numbers.items():
        if name == "tasks":
            yield from ((f"{measure}.{task}", number) for measure, task, number in _scores(value))
        else:
            yield name, value


def _scores(scores: Scores) -> Iterator[tuple[str, str, float | None]]:
    for task, metrics in scores.items():
        yield from ((metric, task, value) for metric, value in metrics.items())


@cache
def _name(text: str) -> str:
    """Return a name MLflow takes: that very text, else a similar one with a digest that tells it apart."""
    plain = re.sub(r"[^\w\-. /:]", "_", text)
    plain = "/".join(piece if piece.strip(".") else "_" for piece in plain.split("/"))
    if plain == text and len(text) <= NAME_LIMIT:
        return text
    return f"{plain[: NAME_LIMIT - 9]}-{digest(text)[:8]}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _span(record: Record) -> tuple[int | None, int | None]:
    """Return when the cell began and ended, in ms since 1970; None where the record does not say."""
    if not record.finished:
        return None, None
    finished = datetime.fromisoformat(record.finished)
    end = finished if finished.tzinfo else finished.replace(tzinfo=UTC)
    return round((end.timestamp() - record.own_seconds) * 1000), round(end.timestamp() * 1000)


def _prepare(uri: str, artifacts: Path | None) -> str | None:
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


def _reason(uri: str, error: BaseException) -> str:
    """Say in one line which store failed and why, without the URI's user and password."""
    cause, step = error, error.__cause__ or error.__context__
    while step is not None:  # "connection refused" lies below several layers of client
        cause, step = step if isinstance(step, OSError) else cause, step.__cause__ or step.__context__
    text = _cut((str(cause).strip() or type(cause).__name__).splitlines()[0], 200)
    remedy = ", so move it away" if any(words in text for words in DAMAGED) else ""
    return re.sub(r"//[^/@\s]+@", "//", f"{uri} failed: {text}{remedy}")
