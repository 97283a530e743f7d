"""The ranking as CSV and LaTeX: complete, and harmless whatever the names are."""

import csv
import io
import re

import pytest

from leaderboard.ranking_export import escape_latex, ranking_to_csv, ranking_to_latex
from tests.leaderboard.test_terminal_board import BOARD, row, summary

SPECIAL = "\\input{x} & 100% $x_1^2$ #~<a|b> \"--'' ``\x1b\n漢é"


def test_csv_has_a_row_per_track_and_attack_and_no_formula() -> None:
    board = summary(row("=1+1", 0.5, 0.25, 0.75), row("em", None), row("cuda", 1.0, track="unbounded"))
    rows = list(csv.DictReader(io.StringIO(ranking_to_csv(board))))
    assert [(row["track"], row["rank"], row["attack"]) for row in rows] == [
        ("linf", "1", "'=1+1"),
        ("linf", "", "em"),
        ("unbounded", "3", "cuda"),
    ]
    assert [row["low"] for row in rows] == ["0.25", "", ""]
    assert ranking_to_csv(summary()) == "track,rank,attack\n"


def test_latex_has_a_table_per_track() -> None:
    text = ranking_to_latex(BOARD)
    assert text.count(r"\begin{tabular}{rlrlrlr}") == 2
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2
    assert r"2 & em & $0.50$ & $[0.30, 0.60]$ & $0.50$ & jpeg(quality=30)+cutmix & 3600 \\" in text
    assert r"4 & ops & $0.10$ & too few seeds & " in text
    assert all(line.count(" & ") == 6 for line in text.splitlines() if line.endswith(r"\\"))
    assert text.isascii()
    assert ranking_to_latex(summary()) == "% \\usepackage{booktabs}\n"


def test_no_character_of_a_name_has_a_meaning_in_latex() -> None:
    escaped = escape_latex(SPECIAL)
    known = r"\\text(backslash|asciitilde|asciicircum|less|greater|bar)|\\symbol\{34\}"
    plain = re.sub(rf"({known}|\\[&%$#_{{}}])", "", escaped).replace("{}", "")
    assert not set(plain) & set('\\{}&%$#_^~<>|"\n\x1b')
    assert not re.search(r"--|''|``", escaped)
    assert "(U+6F22)é" in escaped


@pytest.mark.parametrize("text", ["em", "mtl-ue-em", "jpeg(quality=30)+cutmix"])
def test_usual_names_are_left_as_they_are(text: str) -> None:
    assert escape_latex(text) == text
