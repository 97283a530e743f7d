"""What becomes of a run and of its mirror when the tracking server is away, slow, or dies half-way."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.engine.execution.events import ItemFinished, RunStarted
from bench.engine.execution.runner import run_plan
from bench.engine.executors.inline import Inline
from bench.engine.tracking import listener
from bench.engine.tracking.listener import Tracker
from bench.engine.tracking.mlflow_database import default_uri
from bench.engine.tracking.record_to_mlflow import KEY_TAG
from bench.engine.tracking.sink import TrackedBoard
from bench.errors import BenchError
from bench.record import Record, write_record
from tests.engine import tiny
from tests.engine.tracking.mirror import all_runs, make_failed, make_record, make_tracker, rebuild, runs_of

# MLflow's own use of SQLAlchemy; warned about once, when the first store is opened.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")

PATIENT_S = 120
"""How long a test waits for what must come."""

BOARD = {"board.md": b"# Board", "figures/one.png": b"picture"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real MLflow server that the tests share, each with a suite of its own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"host": "127.0.0.1", "port": port, "workers": 1, "artifacts-destination": folder / "artifacts"}
    options["backend-store-uri"] = default_uri(folder)
    command = [sys.executable, "-m", "mlflow", "server", *(f"--{k}={v}" for k, v in options.items())]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: process.poll() is None and answers(port), (folder / "log").read_text)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def wait_for(condition: Callable[[], bool], explain: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.05)


class Proxy(ThreadingHTTPServer):
    """A server in front of the real one, that serves some requests and then does something else.

    Attributes:
        asked: how many requests came.
        serves: how many are served; the connections of others are cut, or whatever is asked for.
    """

    daemon_threads = True

    def __init__(self, port: int, serves: float = float("inf"), then: Callable[[], bool] = bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.asked, self.serves, self._then = port, 0, serves, then
        self._lock = threading.Lock()

    def admits(self) -> bool:
        """Return whether a request is passed on; False cuts the connection."""
        with self._lock:
            self.asked += 1
            in_time = self.asked <= self.serves
        return in_time or self._then()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = True
        if not self.server.admits():
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        with contextlib.suppress(ConnectionError):  # of those who did not wait
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            self.end_headers()
            self.wfile.write(content)

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class has it so
        pass


@contextlib.contextmanager
def proxy(port: int, serves: float = float("inf"), then: Callable[[], bool] = bool) -> Iterator[Proxy]:
    with Proxy(port, serves, then) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def listen(tracker: Tracker, suite: str, records: Sequence[Record]) -> None:
    """Tell what a run of these records would."""
    with tracker:
        tracker(RunStarted(suite, "out", {"cells": (len(records), 0)}))
        for record in records:
            tracker(ItemFinished("cells", record.key, record.label, 1.0, record))
    tracker.finish_suite(records, lambda: TrackedBoard(BOARD))


def shown(uri: str, suite: str) -> dict[str, int]:
    """Return how often a record is in the mirror."""
    return Counter(run.data.tags[KEY_TAG] for run in runs_of(uri, suite))


def artifacts(uri: str, suite: str) -> dict[str, bytes]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs_of(uri, suite)
    [parent] = [run.info.run_id for run in all_runs(uri, suite) if run.info.run_name == suite]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TQDM_DISABLE", "1")
        folder = Path(client.download_artifacts(parent, ""))
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def absent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("fault", "said"), [(absent, "Connection refused"), (mute, "no answer within 0 s")])
def test_a_run_ends_as_ever_without_its_server(
    fault: Callable[[], Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
    if fault is mute:
        monkeypatch.setattr(listener, "USUAL_S", 0.1)
        monkeypatch.setattr(listener, "MAX_DELAY_S", 0.1)
    messages: list[str] = []
    with fault() as uri, Inline() as workers:
        with make_tracker(uri, "tiny", None, messages.append) as tracker:
            finished = run_plan(tiny.plan(), tiny.run_context(tmp_path), workers, [tracker])
        tracker.finish_suite(list(tiny.records(tmp_path).values()), pytest.fail)
    assert (finished.done, finished.failed) == (2, 0)
    assert {record.status for record in tiny.records(tmp_path).values()} == {"done"}
    [sentence] = messages
    assert said in sentence
    assert sentence.startswith(f"MLflow at {uri} failed: ")
    assert sentence.endswith("Run `bench track` later to catch up")


def test_a_server_that_is_always_a_little_slow_is_given_up_before_long(
    server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "USUAL_S", 0.0)
    monkeypatch.setattr(listener, "MAX_DELAY_S", 1.5)

    def pause() -> bool:
        time.sleep(0.1)
        return True

    records = [make_record(f"a{number}", "little slow") for number in range(60)]
    messages: list[str] = []
    with proxy(server, 0, pause) as slow:
        listen(make_tracker(slow.uri, "little slow", None, messages.append), "little slow", records)
        settle()
        assert slow.asked < 4 * len(records), "it was not given up"
    assert len(messages) == 1
    assert "no answer within" in messages[0]


def settle() -> None:
    """Wait for what the tracker has left to itself."""
    for thread in threading.enumerate():
        if thread.name == listener.THREAD_NAME:
            thread.join(PATIENT_S)
            assert not thread.is_alive()


@pytest.mark.parametrize("serves", [3, 7])
def test_answers_that_come_too_late_put_nothing_twice(
    server: int, serves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = f"late after {serves}"
    records = [make_record(key, suite) for key in ("a1", "b2", "c3")]
    go = threading.Event()
    messages: list[str] = []
    with proxy(server, serves, lambda: go.wait(PATIENT_S)) as slow:
        monkeypatch.setattr(listener, "MAX_DELAY_S", 1.0)
        listen(make_tracker(slow.uri, suite, None, messages.append), suite, records)
        assert len(messages) == 1
        go.set()
        settle()
        assert sum(rebuild(slow.uri, records, files=BOARD)) == 3
        assert shown(slow.uri, suite) == {"a1": 1, "b2": 1, "c3": 1}


def test_a_server_that_dies_at_any_request_leaves_nothing_twice_and_nothing_out(
    server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    messages: list[str] = []
    for serves in range(1, 100, 4):
        suite = f"dies after {serves}"
        records = [make_record("a1", suite, epochs=1), make_failed("b2", suite)]
        messages.clear()
        with proxy(server, serves) as dying:
            listen(make_tracker(dying.uri, suite, None, messages.append), suite, records)
            dying.serves = float("inf")
            if messages:
                assert sum(rebuild(dying.uri, records, files=BOARD)) == 2
            assert shown(dying.uri, suite) == {"a1": 1, "b2": 1}
            assert artifacts(dying.uri, suite) == BOARD
            assert rebuild(dying.uri, records, files=BOARD) == (0, 2, 0)
        if not messages:
            break
        assert len(messages) == 1
        assert "onnection" in messages[0]
    assert messages == []
    assert serves > 16, "it was never cut"


def test_a_rebuild_that_was_cut_off_is_finished_by_the_next(server: int) -> None:
    suite = "rebuilt"
    records = [make_record(key, suite) for key in ("a1", "b2", "c3")]
    with proxy(server, 12) as dying:
        with pytest.raises(BenchError, match=f"^cannot track: MLflow at {dying.uri} failed: "):
            rebuild(dying.uri, records)
        dying.serves = float("inf")
        assert rebuild(dying.uri, records) == (1, 1, 1)
        assert shown(dying.uri, suite) == {"a1": 1, "b2": 1, "c3": 1}


TWINS = """
import sys, pathlib
from bench.engine.execution.events import ItemFinished, RunStarted
from bench.engine.tracking.listener import Tracker
from bench.engine.tracking.destinations import find_destinations
from bench.engine.tracking.sink import TrackedBoard
from leaderboard.cell_protection import CellProtections
from bench.record import read_records
import mlflow

out = pathlib.Path(sys.argv[1])
records = list(read_records(out / "records"))
print("ready", flush=True)
sys.stdin.readline()
[mlflow] = find_destinations(None, out)
with Tracker(mlflow, "twins", CellProtections().add, sys.exit) as tracker:
    tracker(RunStarted("twins", "out", {"cells": (len(records), 0)}))
    for record in records:
        tracker(ItemFinished("cells", record.key, record.label, 1.0, record))
tracker.finish_suite(records, TrackedBoard)
"""


def test_two_runs_on_a_new_store_at_once_and_then_nothing_is_twice(tmp_path: Path) -> None:
    records = [make_record(f"a{number}", "twins") for number in range(5)]
    for record in records:
        write_record(tmp_path / "records", record)
    command = [sys.executable, "-c", TWINS, str(tmp_path)]
    twins = [
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=tmp_path) for _ in range(2)
    ]
    for twin in twins:
        assert twin.stdout is not None
        assert twin.stdout.readline() == "ready\n"
    for twin in twins:
        assert twin.stdin is not None
        twin.stdin.write("go\n")
        twin.stdin.flush()
    for twin in twins:
        _, complaints = twin.communicate(timeout=PATIENT_S)
        assert (twin.returncode, complaints) == (0, "")

    uri = default_uri(tmp_path)
    assert rebuild(uri, records) == (0, 5, 0)
    assert shown(uri, "twins") == {record.key: 1 for record in records}
