"""The log file of every item: what is in it, and that it changes and breaks nothing."""

import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.engine.executors.base import Executor
from bench.engine.executors.inline import Inline
from bench.engine.executors.processes import Processes
from bench.engine.storage.item_logs import OWN, log_item, read_tail
from bench.values import ignore_progress
from tests.engine import tiny

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdef"


def lines(out: Path, key: str = KEY) -> list[str]:
    """Return a log's lines without their times."""
    text = (out / "logs" / f"{key}.log").read_text()
    stamped = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")
    assert all(
        stamped.match(line) for line in text.splitlines() if re.search(r" (INFO|WARNING|ERROR) ", line)
    )
    return [stamped.sub("", line, count=1) for line in text.splitlines()]


def test_what_is_said_is_kept_with_its_beginning_its_steps_and_its_end(tmp_path: Path) -> None:
    told = []
    with (
        warnings.catch_warnings(record=True) as shown,
        log_item(tmp_path, KEY, "em · digits", lambda *step: told.append(step)) as progress,
    ):
        warnings.simplefilter("always")
        logging.getLogger("bench.training").info("plain")
        logging.getLogger("bench").debug("too much")
        chatty = logging.getLogger("benchmarks")
        chatty.setLevel(logging.INFO)
        chatty.info("of another package")
        logging.getLogger("library").warning("careful")
        warnings.warn("odd", UserWarning, stacklevel=1)
        for done in range(4):
            progress("epoch", done, 3)
    assert told == [("epoch", done, 3) for done in range(4)], "steps are passed on"
    assert [str(warning.message) for warning in shown] == ["odd"], "warnings are still shown"
    first, *rest, last = lines(tmp_path)
    assert re.fullmatch(rf"INFO bench: started: em · digits \(process {os.getpid()} on \S+\)", first)
    assert re.fullmatch(r"INFO bench: done in \d+\.\d s", last)
    assert [line for line in rest if "odd" not in line] == [
        "INFO bench.training: plain",
        "WARNING library: careful",
        "INFO bench: epoch 0/3",
        "INFO bench: epoch 3/3",
    ]
    assert sum(re.search(r"test_item_logs.py:\d+: UserWarning: odd$", line) is not None for line in rest) == 1


def test_a_failure_is_kept_with_its_traceback_and_a_rerun_goes_below(tmp_path: Path) -> None:
    def work() -> None:
        with log_item(tmp_path, KEY, "em", ignore_progress):
            raise ValueError("no \x1b[31mroom")

    with pytest.raises(ValueError, match="room"):
        work()
    with log_item(tmp_path, KEY, "em", ignore_progress):
        pass
    text = "\n".join(lines(tmp_path))
    assert re.search(
        r"ERROR bench: failed after \d+\.\d s\nTraceback \(most recent call last\):\n  File", text
    )
    assert "ValueError: no  [31mroom" in text, "nothing that steers a terminal"
    assert text.count("started: em") == 2
    assert text.count("done in") == 1


@contextmanager
def unchanged() -> Iterator[None]:
    """Check that logging and warnings are afterwards as they were before."""

    def state() -> object:
        loggers = [logging.getLogger(name) for name in ("", *OWN)]
        return [(each.level, list(each.handlers), each.propagate) for each in loggers], warnings.showwarning

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG, logging.ERROR])
def test_logging_and_warnings_are_left_as_they_were(tmp_path: Path, level: int) -> None:
    logger = logging.getLogger("bench")
    old = logger.level
    logger.setLevel(level)
    try:
        with unchanged(), log_item(tmp_path, KEY, "em", ignore_progress):
            assert logger.isEnabledFor(logging.INFO)
        with unchanged(), pytest.raises(KeyboardInterrupt), log_item(tmp_path, KEY, "em", ignore_progress):
            raise KeyboardInterrupt
    finally:
        logger.setLevel(old)


def test_nobody_else_hears_of_beginnings_steps_and_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        with log_item(tmp_path, KEY, "em", ignore_progress) as progress:
            progress("epoch", 1, 1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()
    assert caplog.records == []


@pytest.mark.parametrize("how", ["no folder", "no file", "full disk"])
def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if how == "no folder":
        (tmp_path / "logs").touch()
    elif how == "no file":
        (tmp_path / "logs" / f"{KEY}.log").mkdir(parents=True)
    else:
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full")
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / f"{KEY}.log").symlink_to("/dev/full")
    told = []
    with unchanged(), log_item(tmp_path, KEY, "em", lambda *step: told.append(step)) as progress:
        logging.getLogger("bench").info("lost")
        progress("epoch", 1, 1)
    assert told == [("epoch", 1, 1)]
    assert capfd.readouterr() == ("", "")


def test_of_a_killed_worker_the_log_ends_where_it_did(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, logging; from pathlib import Path\n"
        "from bench.engine.storage.item_logs import log_item\n"
        "with log_item(Path(sys.argv[1]), sys.argv[2], 'em', lambda *_: None):\n"
        "    logging.getLogger('bench').info('the last word')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), KEY], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert lines(tmp_path)[1:] == ["INFO bench: the last word"]


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert read_tail(path, 3) == []
    path.write_bytes(b"x" * 200_000 + b"\none\n\xff\nthree\n")
    assert read_tail(path, 3) == ["one", "\ufffd", "three"]


@pytest.mark.slow
@pytest.mark.parametrize("executor", [Inline(), Processes(2)], ids=["inline", "processes"])
def test_every_item_of_a_run_has_a_log_whoever_does_the_work(tmp_path: Path, executor: Executor) -> None:
    plan = tiny.plan(matrix={"attack": ["clean", "tap"]})
    tiny.run(plan, tmp_path, executor)
    items = [*plan.surrogates, *plan.poisons, *plan.cells]
    assert {path.stem for path in (tmp_path / "logs").glob("*.log")} == {item.key for item in items}
    for item in items:
        first, *_, last = lines(tmp_path, item.key)
        assert f"started: {item.label} (process " in first
        assert (f"process {os.getpid()} on" in first) == isinstance(executor, Inline)
        assert "done in" in last
