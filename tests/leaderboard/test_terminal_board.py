"""The rankings on a terminal: every width, long and hostile names, few seeds, no color, ASCII."""

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from leaderboard.interval_bars import Estimate, axis_ends, draw_axis, draw_interval
from leaderboard.summary import BoardSummary
from leaderboard.terminal_board import print_board
from leaderboard.terminal_table import Column, break_name, fit_table, print_fitted

LONG = 'mtl-ue-tap(epsilon=4,tasks=["left","right"],rate=0.5)'
HOSTILE = "[bold]a\x1b[31m\x07\n\u202e[/bold]漢字\u0301(x=1)"


def row(attack: str, protection: float | None, *interval: float, track: str = "linf", **more: Any) -> Any:
    low, high = interval or (None, None)
    return {
        "track": track,
        "rank": None if protection is None or attack == "clean" else 1,
        "attack": attack,
        "protection": protection,
        "low": low,
        "high": high,
        "undefended": protection,
        "defense": None if protection is None else "jpeg(quality=30)+cutmix",
        "craft_s": 3600.0,
        "surrogate_s": None,
        "unfinished": False,
    } | more


def summary(*rows: Any, **more: Any) -> BoardSummary:
    ranking = [row | ({} if row["rank"] is None else {"rank": place + 1}) for place, row in enumerate(rows)]
    board: Any = {
        "suites": ["tiny"],
        "protocol": 2,
        "done": 12,
        "failed": 0,
        "seeds": [0, 1, 2],
        "ranking": ranking,
        "unordered": {},
        "notes": ["1 cell without protection."],
        "left_out": [],
    }
    return board | more


BOARD = summary(
    row(LONG, 0.9, 0.7, 1.1, unfinished=True),
    row("em", 0.5, 0.3, 0.6),
    row(HOSTILE, 0.4, -4.0, 3.0),
    row("ops", 0.1),
    row("clean", 0.0),
    row("broken", None),
    row("cuda", 7.0, track="unbounded"),
    failed=2,
    left_out=[f"{HOSTILE} needs files {number}" for number in range(4)],
    unordered={"linf": [[LONG, "em"], ["em", HOSTILE, "ops"]]},
)


def shown(board: BoardSummary, width: int, **views: str) -> str:
    file = io.StringIO()
    print_board(board, Console(file=file, width=width), {key.replace("_", " "): views[key] for key in views})
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120, 200])
def test_a_board_fits_every_width(width: int) -> None:
    text = shown(BOARD, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert all(character.isprintable() or character == "\n" for character in text)
    assert not any(line.endswith(" ") for line in text.split("\n"))
    if width >= 60:
        assert {"attack", "protection", "defense"} <= set(text.split())
        assert re.search(r"^2 +em +(ab +)?0\.50 [^\n]*├─*●─*┤", text, re.MULTILINE)
    assert LONG in re.sub(r"\s+", "", text) or width > 60 or "".join(break_name(LONG, 12)) == LONG


def test_what_there_is_room_for_is_shown_in_order_of_importance() -> None:
    head = {width: " ".join(shown(BOARD, width).splitlines()) for width in (40, 60, 80, 200)}
    assert "a defense" not in head[40]
    assert "craft time" not in head[60]
    assert "a defense" in head[60]
    assert "  1 h" in head[80]
    assert "[0.30, 0.60]" not in head[80]
    assert "[0.30, 0.60]" in head[200]


def test_the_main_ranking_and_the_places_come_last() -> None:
    path = "a" * 100 + "/leaderboard.md"
    text = shown(BOARD, 60, full_board=path, page="index.html")
    lines = text.splitlines()
    assert lines[-2:] == [f"full board: {path}", "page:       index.html"]  # paths are never broken
    order = [text.index(part) for part in ("2 cells failed", "Ranking, unbounded track", "Ranking\n", path)]
    assert order == sorted(order)
    assert "clean" not in text


def test_what_is_missing_is_said_in_few_lines() -> None:
    text = shown(BOARD, 200)
    assert text.count("left out:") == 3
    assert "left out: 2 more, which the full board lists" in text
    assert "2 cells failed: the full board has the errors, and the same `bench run` tries again" in text
    assert "° crafting may be unfinished" in text
    assert f"{LONG} °" in text


def test_a_ranking_says_what_its_seeds_leave_open() -> None:
    some = shown(BOARD, 120)
    assert "Without ├─┤: too few seeds, or not the same ones for all cells" in some
    assert "Attacks with a letter in common cannot be ordered with these seeds" in some
    none = shown(summary(row("em", 0.5), row("tap", 0.4), unordered={"linf": [["em", "tap"]]}), 120)
    assert "No intervals: too few seeds, or not the same ones for all cells. The order may be chance." in none
    assert "95 %" not in none
    assert "letter" not in none
    rows = (row("em", 0.5, 0.4, 0.6), row("tap", 0.4, 0.3, 0.5))
    assert "No two of these attacks can" in shown(summary(*rows, unordered={"linf": [["em", "tap"]]}), 120)
    assert "ordered" not in shown(summary(*rows, unordered={"linf": []}), 120)


def test_a_board_without_a_ranked_attack_says_why() -> None:
    assert shown(summary(done=0), 80) == "No cell is finished yet.\n"
    for board in (summary(), summary(row("broken", None)), summary(row("clean", 0.0))):
        assert "No attack can be ranked.\n1 cell without protection.\n" in shown(board, 80)


def test_a_terminal_that_knows_ascii_only_gets_ascii() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")  # any other character is an error
    print_board(summary(row("em", 0.5, 0.3, 0.6, unfinished=True)), Console(file=file, width=80), {})
    file.seek(0)
    text = file.read()
    assert "em *" in text
    assert re.search(r"0\.50 :[ ]+\|-*o-*\|[ ]+:", text)


@pytest.mark.parametrize("without_color", [True, False])
def test_colors_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, without_color: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if without_color:
        monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    print_board(BOARD, Console(file=file, width=80, force_terminal=True, color_system="standard"), {})
    codes = set(re.findall(r"\x1b\[([0-9;]*)m", file.getvalue()))
    assert any(re.fullmatch(r"(.*;)?3\d(;.*)?", code) for code in codes) is not without_color
    assert "\x1b" not in re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


def test_an_interval_is_drawn_on_the_common_axis() -> None:
    estimates = [
        Estimate(0.5, 0.25, 0.75),
        Estimate(1.0, 0.9, 1.5),
        Estimate(-9.0, -20.0, 0.1),
        Estimate(0.2),
    ]
    assert axis_ends([Estimate(0.5)]) == (0.0, 1.0)
    ends = axis_ends(estimates)
    assert ends == (-0.5, 1.5)
    assert [draw_axis(ends, 21), *(draw_interval(each, ends, 21) for each in estimates)] == [
        "     0         1     ",
        "     ┊  ├─●─┤  ┊",
        "     ┊        ├●────┤",
        "<─────┤        ┊",
        "     ┊ ●       ┊",
    ]


def test_a_column_without_any_value_is_left_out() -> None:
    file = io.StringIO()
    columns = [Column("a", ["x", "y"], 1), Column("b", ["–", ""], 2)]
    print_fitted(Console(file=file, width=80), fit_table(columns, 80))
    assert file.getvalue() == "a\nx\ny\n"


def test_a_name_is_broken_between_its_parts() -> None:
    assert break_name("jpeg(quality=30)+cutmix", 12) == ["jpeg(", "quality=30)+", "cutmix"]
    assert break_name("abcdefgh", 3) == ["abc", "def", "gh"]
    assert break_name("漢字漢字", 5) == ["漢字", "漢字"]
    assert break_name("", 5) == [""]
