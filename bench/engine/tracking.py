"""The tracker: one MLflow run per cell, a mirror of the records that can be rebuilt from them.

MLflow is imported when the first run is logged, and only in the process that runs the suite.
"""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from bench.engine.events import Event, ItemFinished, RunStarted
from bench.errors import BenchError
from bench.record import NoiseReport, Record, Scores, digest

if TYPE_CHECKING:
    from mlflow.entities import Run

KEY, CHECKSUM, COMPLETE = "mtlue.key", "mtlue.checksum", "mtlue.complete"
"""Tags of a run: the record's key, its content's digest, and, set last, that nothing is missing."""

NAME_LIMIT, PARAM_LIMIT, TAG_LIMIT = 250, 6000, 5000
"""MLflow's longest names and values, in characters."""

PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000
"""MLflow's largest batches."""

RUNS_PER_CALL = 200
"""Runs come with every parameter and metric, so no more of them at once."""

SHARED_PHASES = ("surrogate", "craft")
"""Phases of the shared poison: not part of the time the cell itself took."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is away must not hold a run up: two short tries instead of eight long ones.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Environment of MLflow, where the user has not set it."""

Outcome = Literal["added", "kept", "replaced"]


def default_uri(out: Path) -> str:
    """Return the URI of the SQLite store in a run's folder."""
    path = str(out.absolute() / "mlflow.db")
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


class Tracker:
    """A listener that logs every finished cell, and never stops the run.

    Where MLflow or its store fails, the user is told once and nothing more is logged.

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
        self._away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mirror = None

    def __call__(self, event: Event) -> None:
        """Open the store when cells are to come, and log the record of each."""
        match event:
            case RunStarted(waves=waves) if waves.get("cells", (0, 0))[0]:
                self._try(lambda mirror: mirror.experiment(self._suite))
            case ItemFinished(wave="cells", record=Record() as record):
                self._try(lambda mirror: mirror.put(record, mirror.find(record)))

    def _try(self, action: Callable[["_Mirror"], object]) -> None:
        if self._away:
            return
        try:
            self._mirror = self._mirror or _Mirror(self._uri, self._artifacts)
            action(self._mirror)
        except Exception as error:  # a store raises whatever its driver does
            self._away = True
            self._notice(
                f"the tracker at {_reason(self._uri, error)}; the run goes on, run `bench track` to catch up"
            )


def rebuild(uri: str, records: Iterable[Record], artifacts: Path | None = None) -> tuple[int, int, int]:
    """Make the mirror show these records, each once.

    A complete run of an unchanged record is kept; incomplete and outdated ones are logged anew.

    Args:
        uri: MLflow's tracking URI.
        records: what to show, of any suites.
        artifacts: as for `Tracker`.

    Returns:
        How many runs were added, kept and replaced.

    Raises:
        BenchError: when MLflow or its store fails.
    """
    counts: dict[Outcome, int] = {"added": 0, "kept": 0, "replaced": 0}
    try:
        mirror = _Mirror(uri, artifacts)
        known: dict[str, dict[str, list[_Seen]]] = {}
        for record in records:
            if record.suite not in known:
                known[record.suite] = mirror.index(record.suite)
            counts[mirror.put(record, known[record.suite].get(record.key, []))] += 1
    except BenchError:
        raise
    except Exception as error:  # a store raises whatever its driver does
        raise BenchError(f"cannot track: {_reason(uri, error)}") from error
    return counts["added"], counts["kept"], counts["replaced"]


@dataclass(frozen=True)
class _Seen:
    """What is remembered of a run in the store."""

    run_id: str
    key: str
    state: tuple[str, str | None, bool]


class _Mirror:
    """An MLflow store: its experiments, and the runs of records in them."""

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

    def experiment(self, suite: str) -> str:
        """Return the id of the suite's experiment, created or restored where it has to be."""
        if suite not in self._experiments:
            self._experiments[suite] = self._open(suite)
        return self._experiments[suite]

    def _open(self, suite: str) -> str:
        found = self._client.get_experiment_by_name(suite)
        if found is None:
            return self._client.create_experiment(suite, artifact_location=self._location)
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def find(self, record: Record) -> list[_Seen]:
        """Return the runs of a record."""
        return list(self._search(record.suite, f"tags.`{KEY}` = '{record.key}'"))

    def index(self, suite: str) -> dict[str, list[_Seen]]:
        """Return the runs of a suite by their record's key."""
        runs = defaultdict(list)
        for run in self._search(suite):
            runs[run.key].append(run)
        return runs

    def _search(self, suite: str, query: str = "") -> Iterator[_Seen]:
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment(suite)], query, max_results=RUNS_PER_CALL, page_token=token
            )
            yield from map(_see, page)
            token = page.token
            if not token:
                return

    def put(self, record: Record, runs: Sequence[_Seen]) -> Outcome:
        """Log a record unless one of its runs shows it already; delete its other runs."""
        checksum = digest(asdict(record))
        good = [run for run in runs if run.state == (_status(record), checksum, True)][:1]
        if not good:
            self._log(record, checksum)
        for run in runs:
            if run not in good:
                self._client.delete_run(run.run_id)
        return "kept" if good else "replaced" if runs else "added"

    def _log(self, record: Record, checksum: str) -> None:
        from mlflow.entities import Metric, Param

        start, end = _span(record)
        run = self._client.create_run(
            self.experiment(record.suite),
            start_time=start,
            tags={**_tags(record), CHECKSUM: checksum},
            run_name=_cut(record.label, NAME_LIMIT),
        )
        run_id = run.info.run_id
        params = [Param(name, value) for name, value in _params(record).items()]
        for i in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[i : i + PARAMS_PER_CALL], synchronous=True)
        metrics = [Metric(_name(name), value, end or 0, step) for name, value, step in _metrics(record)]
        for i in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[i : i + METRICS_PER_CALL], synchronous=True)
        self._client.set_terminated(run_id, _status(record), end)
        self._client.set_tag(run_id, COMPLETE, "true")


def _see(run: "Run") -> _Seen:
    tags = run.data.tags
    state = run.info.status, tags.get(CHECKSUM), tags.get(COMPLETE) == "true"
    return _Seen(run.info.run_id, tags.get(KEY, ""), state)


def _status(record: Record) -> str:
    return "FINISHED" if record.status == "done" else "FAILED"


def _tags(record: Record) -> dict[str, str]:
    tags = {axis: str(label) for axis, label in record.cell.items()} | {
        KEY: record.key,
        "key": record.key,
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
    """Yield (name, value, step) of every number of a record that is not None."""
    for name, value, step in _numbers(record):
        if value is not None:
            yield name, float(value), step


def _numbers(record: Record) -> Iterator[tuple[str, float | None, int]]:
    for point in record.curve:
        step = point["epoch"]
        yield "train_loss", point["train_loss"], step
        yield "learning_rate", point["learning_rate"], step
        yield from ((f"weight/{task}", weight, step) for task, weight in point["weights"].items())
        yield from ((name, value, step) for name, value in _scores(point["scores"]))
    yield from ((f"final/{name}", value, 0) for name, value in _scores(record.scores))
    yield from ((f"peak/{name}", value, 0) for name, value in _scores(record.peak))
    yield from ((f"noise/{name}", value, 0) for name, value in _noise(record.noise))
    for phase, cost in record.cost.items():
        yield f"cost/{phase}/seconds", cost["seconds"], 0
        yield f"cost/{phase}/images_per_s", cost["images_per_s"], 0
        yield f"cost/{phase}/peak_host_mb", cost["peak_host_mb"], 0
        yield f"cost/{phase}/peak_device_mb", cost["peak_device_mb"], 0


def _noise(noise: NoiseReport) -> Iterator[tuple[str, float | None]]:
    numbers: Mapping[str, Any] = noise
    for name, value in numbers.items():
        if name == "tasks":
            yield from _scores(value)
        else:
            yield name, value


def _scores(scores: Scores) -> Iterator[tuple[str, float | None]]:
    for task, metrics in scores.items():
        yield from ((f"{task}/{metric}", value) for metric, value in metrics.items())


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
    took = sum(cost["seconds"] for phase, cost in record.cost.items() if phase not in SHARED_PHASES)
    return round((end.timestamp() - took) * 1000), round(end.timestamp() * 1000)


def _prepare(uri: str, artifacts: Path | None) -> str | None:
    """Connect to a store that is a database, and return where its artifacts belong; None for a server.

    MLflow itself goes on for minutes when a database cannot be opened, and would have the artifacts in the
    working directory.
    """
    from mlflow.store.db.db_types import DATABASE_ENGINES
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
    finally:
        engine.dispose()
    return artifacts.absolute().as_uri() if artifacts else None


def _reason(uri: str, error: BaseException) -> str:
    """Say in one line which store failed and why, without the URI's user and password."""
    cause, step = error, error.__cause__ or error.__context__
    while step is not None:  # "connection refused" lies below several layers of client
        cause, step = step if isinstance(step, OSError) else cause, step.__cause__ or step.__context__
    text = str(cause).strip() or type(cause).__name__
    return re.sub(r"//[^/@\s]+@", "//", f"{uri} failed: {_cut(text.splitlines()[0], 200)}")
