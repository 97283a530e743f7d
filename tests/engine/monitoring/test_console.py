import io
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

import pytest
from rich.console import Console

from bench.engine.execution.events import (
    Event,
    ItemFinished,
    ItemProgress,
    Listener,
    Notice,
    RunFinished,
    RunStarted,
)
from bench.engine.monitoring.console import render_snapshot, show_activity, show_progress
from bench.engine.monitoring.progress import RunProgress
from bench.engine.monitoring.short_labels import ShortLabels
from bench.engine.planning.cell import ItemKind
from bench.record import Record
from tests.records import make_record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def listening(progress: RunProgress, stream: TextIO | None) -> Iterator[Listener]:
    """Yield what takes events as a run's listeners do: first the progress, then what shows it."""
    with show_progress(progress, stream) as show:

        def tell(event: Event) -> None:
            progress(event)
            show(event)

        yield tell


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")


def started(**counts: tuple[int, int]) -> RunStarted:
    """Return the start of a run, by kind the numbers of items (to do, already made)."""
    return RunStarted("smoke", "runs/smoke", cast("dict[ItemKind, tuple[int, int]]", counts))


def step(key: str, done: int, total: int = 12, what: str = "epoch", kind: ItemKind = "cells") -> ItemProgress:
    return ItemProgress(kind, key, f"em · {key}", what, done, total)


def finished(
    key: str, seconds: float = 30.0, error: str | None = None, kind: ItemKind = "cells"
) -> ItemFinished:
    return ItemFinished(kind, key, f"em · {key}", seconds, error=error)


def test_a_run_in_plain_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    with listening(RunProgress(clock=clock), stream) as tell:
        tell(RunStarted("smoke", "runs/smoke", {"cells": (3, 2)}))
        tell(step("a", 0))
        tell(finished("a", 120))
        tell(step("b", 0))
        tell(finished("b", 1, error="ValueError: no"))
        tell(Notice("a damaged record is rebuilt"))
        tell(step("c", 0))
        tell(finished("c", 31.2))
        tell(RunFinished(2, 2, 1, 250))
    assert stream.getvalue().splitlines() == [
        "suite smoke, results in runs/smoke",
        "cells: 3 to do, 2 cached",
        "cells 1/3  em · a  2 min  ~4 min left",
        "cells 2/3  FAILED em · b: ValueError: no",
        "note: a damaged record is rebuilt",
        "cells 3/3  em · c  31.2 s",
        "one cell every 1 min",
        "cells: 2 done, 2 cached, 1 failed in 4 min 10 s",
    ]


def test_plain_lines_tell_of_an_item_in_progress_only_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    with listening(RunProgress(clock=clock), stream) as tell:
        tell(started(cells=(1, 0)))
        for epoch in range(13):
            tell(step("a", epoch))
            clock.now += 7
    assert stream.getvalue().splitlines() == [
        "suite smoke, results in runs/smoke",
        "cells: 1 to do, 0 cached",
        "cells 0/1  em · a  epoch 5/12  ~49 s left",
        "cells 0/1  em · a  epoch 10/12  ~14 s left",
    ]


def test_an_item_that_another_run_has_made_is_said_to_be() -> None:
    stream, clock = io.StringIO(), Clock()
    with listening(RunProgress(clock=clock), stream) as tell:
        tell(started(cells=(2, 0)))
        clock.now += 60
        tell(finished("a", 0.0))
        tell(finished("b", 60.0))
    assert stream.getvalue().splitlines()[2:] == [
        "cells 1/2  em · a  made by another run",
        "cells 2/2  em · b  1 min",
        "one cell every 1 min",
    ]


def test_late_events_get_no_line() -> None:
    stream, clock = io.StringIO(), Clock()
    with listening(RunProgress(clock=clock), stream) as tell:
        tell(step("early", 3))
        tell(started(cells=(2, 0)))
        tell(finished("a", 10))
        clock.now += 100
        tell(step("a", 11))
        tell(step("p", 3, kind="poisons"))
        clock.now += 100
        tell(step("a", 12))
        tell(step("p", 4, kind="poisons"))
    assert stream.getvalue().splitlines() == [
        "suite smoke, results in runs/smoke",
        "cells: 2 to do, 0 cached",
        "cells 1/2  em · a  10.0 s  ~10 s left",
    ]


class Leading:
    """A ranking in which the attack of the last record leads."""

    records: list[Record]

    def __init__(self) -> None:
        self.records = []

    def add(self, record: Record) -> None:
        self.records.append(record)

    def best(self) -> tuple[str, float, int] | None:
        return (str(self.records[-1].cell["attack"]), 0.5, len(self.records)) if self.records else None


def cell(key: str, seconds: float = 30.0, **labels: object) -> ItemFinished:
    """Return the end of a cell that trained on 1,000 images a second for 30 s."""
    return ItemFinished("cells", key, f"em · {key}", seconds, record=make_record({"a": 0.6}, **labels))


def test_plain_lines_sum_up_now_and_then_and_at_the_end_of_a_kind() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = RunProgress(Leading(), clock)
    with listening(progress, stream) as tell:
        tell(started(cells=(4, 0)))
        for key in "abcd":
            clock.now += 140
            tell(cell(key, 140))
            progress.memory_mib = (800.4, 912.0)
    assert stream.getvalue().splitlines() == [
        "suite smoke, results in runs/smoke",
        "cells: 4 to do, 0 cached",
        "cells 1/4  em · a  2 min 20 s  ~7 min left",
        "cells 2/4  em · b  2 min 20 s  ~5 min left",
        "cells 3/4  em · c  2 min 20 s  ~2 min left",
        "one cell every 2 min 20 s · 214 images/s · 2 workers, 800 to 912 MiB each",
        "best so far: em, protection 0.50 (3 cells)",
        "cells 4/4  em · d  2 min 20 s",
        "one cell every 2 min 20 s · 214 images/s · 2 workers, 800 to 912 MiB each",
        "best so far: em, protection 0.50 (4 cells)",
    ]


def drawn(progress: RunProgress, width: int) -> list[str]:
    """Return what is shown of a run, line by line, without colors."""
    screen = Console(file=io.StringIO(), width=width)
    screen.print(render_snapshot(progress.snapshot(), width))
    shown: str = screen.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in shown.splitlines()]


def test_what_is_shown_on_80_and_on_120_columns() -> None:
    clock = Clock()
    progress = RunProgress(Leading(), clock)
    assert drawn(progress, 80) == [""]
    progress(started(cells=(12, 5)))
    assert [line.split() for line in drawn(progress, 80)] == [["cells", "0/12", "5", "cached"]]
    label = "digits · em · small · ew · grayscale · mtl · seed 0"
    progress(ItemProgress("cells", "a", label, "epoch", 0, 12))
    progress(step("b", 0, what="round"))
    clock.now += 60
    progress(ItemProgress("cells", "a", label, "epoch", 3, 12))
    progress(step("b", 6, what="round", total=600))
    progress(step("b", 206, what="round", total=600))
    progress(cell("c", 60, attack="mtl-ue-em"))
    progress(finished("d", error="no"))
    progress.memory_mib = (812.0,)
    assert drawn(progress, 80) == [
        "cells 2/12  ━━━━━                           5 cached  1 failed  ~6 min left",
        "  500 images/s · 812 MiB in one process",
        "  best so far: mtl-ue-em, protection 0.50 (1 cell)",
        "  digits · em · small · ew · grayscale · mtl · see…  epoch 3/12      ~3 min left",
        "  em · b                                             round 206/600   ~2 min left",
    ]
    # What is left of the two and 8 waiting cells of a minute each, two at a time: (180 + 115 + 480) / 2 s.
    assert [re.split(r"\s{2,}", line.strip()) for line in drawn(progress, 120)[3:]] == [
        [label, "epoch 3/12", "20.0 s/epoch", "~3 min left"],
        ["em · b", "round 206/600", "3.4 round/s", "~2 min left"],
    ]


def test_kinds_in_progress_have_a_line_each() -> None:
    clock = Clock()
    progress = RunProgress(clock=clock)
    progress(started(surrogates=(1, 0), poisons=(10, 0), cells=(40, 2)))
    progress(finished("s", 30, kind="surrogates"))
    progress(step("p", 0, kind="poisons"))
    progress(step("a", 0))
    clock.now += 30
    progress(finished("b", 20, error="no", kind="cells"))
    progress(step("p", 6, kind="poisons"))
    assert [re.split(r"\s{2,}", line.strip()) for line in drawn(progress, 80)] == [
        ["poisons 0/10", "0 cached", "~5 min left"],
        ["cells 1/40", "╸", "2 cached", "1 failed"],
        ["em · p", "epoch 6/12", "~30 s left"],
        ["em · a", "epoch 0/12"],
    ]
    assert [line.index("cached") for line in drawn(progress, 80)[:2]] == [48, 48]


@pytest.mark.parametrize(
    ("made", "seconds", "speed"),
    [
        (2, 300, ""),
        (60, 29, ""),
        (3, 30, "one cell every 10 s"),
        (4, 240, "one cell every 1 min"),
        (3, 2 * 3600, "one cell every 40 min"),
        (50, 100, "one cell every 2.0 s"),
        (90, 30, "3.0 cells/s"),
    ],
)
def test_a_speed_has_the_unit_that_suits_it_and_is_not_shown_until_it_is_known(
    made: int, seconds: float, speed: str
) -> None:
    clock = Clock()
    progress = RunProgress(clock=clock)
    progress(started(cells=(1000, 0)))
    progress(step("running", 0))
    clock.now += seconds
    for number in range(made):
        progress(finished(str(number), 0.1))
    assert [line.strip() for line in drawn(progress, 80)[1:-1]] == [speed][: bool(speed)]


def test_an_estimate_that_is_used_up_is_not_shown_while_the_work_goes_on() -> None:
    clock = Clock()
    progress = RunProgress(clock=clock)
    progress(started(cells=(1, 0)))
    progress(step("a", 0))
    clock.now += 60
    progress(step("a", 6))
    assert "~1 min left" in drawn(progress, 80)[1]
    clock.now += 59.5
    assert [line.split() for line in drawn(progress, 80)] == [
        ["cells", "0/1", "0", "cached"],
        ["em", "·", "a", "epoch", "6/12"],
    ]


CELLS = [
    f"utkface · {attack} · small · ew · jpeg · mtl · seed {seed}"
    for attack in ("em", "ar")
    for seed in (0, 1)
]


def test_labels_name_what_differs_and_the_rest_is_said_once() -> None:
    start = RunStarted(
        "faces", "out", {"poisons": (1, 0), "cells": (4, 0)}, {"cells": CELLS, "poisons": ["em · x"]}
    )
    stream = io.StringIO()
    progress = RunProgress(clock=Clock())
    with listening(progress, stream) as tell:
        tell(start)
        tell(ItemProgress("cells", "b", CELLS[1], "epoch", 3, 12))
        tell(ItemFinished("cells", "a", CELLS[0], 3))
        tell(ItemFinished("poisons", "p", "em · x", 3))
        tell(ItemFinished("cells", "c", CELLS[2], 3, error="no"))
    assert stream.getvalue().splitlines() == [
        "suite faces, results in out",
        "poisons: 1 to do, 0 cached",
        "cells: 4 to do, 0 cached; all: utkface · small · ew · jpeg · mtl",
        "cells 1/4  em · seed 0  3.0 s  ~9 s left",
        "poisons 1/1  em · x  3.0 s",
        "one poison every 3.0 s",
        "cells 2/4  FAILED ar · seed 0: no",
    ]
    assert drawn(progress, 80)[-1].split() == ["em", "·", "seed", "1", "epoch", "3/12"]
    terminal = Terminal()
    with listening(RunProgress(), terminal) as tell:
        tell(start)
    assert "all cells: utkface · small · ew · jpeg · mtl" in plain(terminal.getvalue())


@pytest.mark.parametrize(
    ("labels", "label", "short"),
    [
        (["a · b · 1", "a · c · 1"], "a · c · 1", "c"),
        (["a · b", "a · b"], "a · b", "a · b"),
        (["a · b"], "a · b", "a · b"),
        (["a · b", "a · b · c"], "a · b", "a · b"),
        (["a · b", "a · c"], "a · x · c", "a · x · c"),
        ([], "a", "a"),
    ],
)
def test_a_label_is_shortened_only_where_all_have_the_same_parts(
    labels: list[str], label: str, short: str
) -> None:
    assert ShortLabels.of(labels).shorten(label) == short


def test_what_goes_on_is_a_line_or_is_shown_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    file, terminal = io.StringIO(), Terminal()
    with show_activity("drawing the\nboard", file):
        assert file.getvalue() == "drawing the board\n"
    with show_activity("drawing the board", terminal):
        wait_for(terminal, "drawing the board")
    assert terminal.getvalue().rindex("\x1b[2K") > terminal.getvalue().rindex("drawing"), "it is gone again"
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    with show_activity("drawing the board", dumb):
        pass
    assert dumb.getvalue() == "drawing the board\n"


def test_plain_lines_hold_no_control_characters_and_stay_lines() -> None:
    stream = io.StringIO()
    with listening(RunProgress(), stream) as tell:
        tell(started(cells=(1, 0)))
        tell(ItemFinished("cells", "a", "jpeg(quality=[30])", 1, error="bad\r\n\x1b[31mred [bold]"))
    line = stream.getvalue().splitlines()[2]
    assert line == "cells 1/1  FAILED jpeg(quality=[30]): bad   [31mred [bold]"
    assert len(stream.getvalue().splitlines()) == 3


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with listening(RunProgress(), stream) as tell:
        tell(started(poisons=(0, 7)))
    assert stream.getvalue() == "suite smoke, results in runs/smoke\npoisons: 0 to do, 7 cached\n"


def test_colors_forced_on_a_file_do_not_make_it_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with listening(RunProgress(), stream) as tell:
        tell(RunFinished(1, 0, 1, 2))
    assert stream.getvalue() == "cells: 1 done, 0 cached, 1 failed in 2.0 s\n"


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(RunProgress(), None) as tell:
        tell(Notice("the tracker is away"))
    assert capsys.readouterr() == ("", "note: the tracker is away\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def wait_for(stream: Terminal, *texts: str) -> str:
    """Return the output once the display, which redraws several times a second, has shown the texts."""
    pause = threading.Event()
    for _ in range(100):
        shown = plain(stream.getvalue())
        if all(text in shown for text in texts):
            return shown
        pause.wait(0.1)
    raise AssertionError(f"{texts} not in {plain(stream.getvalue())}")


def test_a_terminal_shows_what_is_left_and_each_item_in_progress() -> None:
    stream, clock = Terminal(), Clock()
    with listening(RunProgress(clock=clock), stream) as tell:
        tell(started(cells=(5, 3)))
        tell(step("a", 0))
        tell(ItemProgress("cells", "j", "jpeg(quality=[30])", "round", 2, 9))
        clock.now += 35
        tell(step("a", 7))
        shown = wait_for(
            stream, "cells 0/5", "3 cached", "em · a", "epoch 7/12", "jpeg(quality=[30])", "round 2/9"
        )
        # 25 s of this one are left; the others take its 60 s each, two at a time: (25 + 25 + 180) / 2.
        assert "~25 s left" in shown
        assert "~2 min left" in shown
        tell(finished("a", 40))
        tell(finished("b", 1, error="ValueError: no"))
        tell(Notice("look here"))
        shown = wait_for(stream, "cells 2/5", "1 failed")
        assert "cells 2/5  FAILED em · b: ValueError: no" in shown
        assert "note: look here" in shown
        tell(RunFinished(4, 3, 1, 250))
    output = plain(stream.getvalue())
    assert output.count("cells: 4 done, 3 cached, 1 failed in 4 min 10 s") == 1
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l"), "the cursor is back"


def test_a_terminal_keeps_one_line_of_a_kind_that_is_made() -> None:
    stream, clock = Terminal(), Clock()
    with listening(RunProgress(clock=clock), stream) as tell:
        tell(started(poisons=(1, 2)))
        tell(step("p", 0, kind="poisons"))
        clock.now += 90
        tell(finished("p", 90, kind="poisons"))
    assert "poisons: 1 done, 2 cached in 1 min 30 s" in plain(stream.getvalue())


def test_the_terminal_is_given_back_when_a_run_breaks() -> None:
    stream = Terminal()
    before = sys.stdout, sys.stderr

    def broken_run() -> None:
        with listening(RunProgress(), stream) as tell:
            tell(started(cells=(5, 3)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_run()
    assert (sys.stdout, sys.stderr) == before
    assert "\x1b[?25h" in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_events_may_come_from_several_threads(kind: type[io.StringIO]) -> None:
    stream, one_at_a_time = kind(), threading.Lock()

    def work(worker: int) -> None:
        for number in range(25):
            key = f"{worker}-{number}"
            for epoch in range(4):
                tell(step(key, epoch, 3))
            with one_at_a_time:  # as in a run, whose items end in its main thread
                tell(finished(key, 0.1, error="no" if number % 5 == 0 else None))

    with listening(RunProgress(), stream) as tell:
        tell(started(cells=(100, 0)))
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shown = plain(stream.getvalue())
    failed = re.findall(r"^.*cells \d+/100  FAILED em · (\S+): no\s*$", shown, re.MULTILINE)
    assert sorted(failed) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(0, 25, 5))
    if kind is io.StringIO:
        counts = [int(found) for found in re.findall(r"^cells (\d+)/100  ", shown, re.MULTILINE)]
        assert sorted(counts) == list(range(1, 101))
