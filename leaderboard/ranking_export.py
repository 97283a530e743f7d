"""The ranking for other programs: CSV and LaTeX, from a summary. Pandas is not imported."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.text import to_one_line
from leaderboard.formatting import RANKING_TITLES, TOO_FEW, escape_formula, format_number, format_protection
from leaderboard.scores import TRACKS, Track

if TYPE_CHECKING:
    from leaderboard.summary import BoardSummary


def ranking_to_csv(summary: "BoardSummary") -> str:
    """Return the ranking as CSV, a row per track and attack, missing values empty."""
    columns = list(dict.fromkeys(column for row in summary["ranking"] for column in row))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([escape_formula(column) for column in columns or ["track", "rank", "attack"]])
    writer.writerows([escape_formula(row.get(column)) for column in columns] for row in summary["ranking"])
    return file.getvalue()


def ranking_to_latex(summary: "BoardSummary") -> str:
    r"""Return the ranking as LaTeX, a table per track; they need ``\usepackage{booktabs}``."""
    tables = [
        _latex_table(track, rows)
        for track in TRACKS
        if (rows := [row for row in summary["ranking"] if row["track"] == track])
    ]
    return "\n".join(["% \\usepackage{booktabs}", *tables]) + "\n"


_HEADS = {
    "rank": r"\#",
    "attack": "attack",
    "protection": "protection",
    "interval": r"95\,\% interval",
    "undefended": "without a defense",
    "defense": "defense picked",
    "craft": "craft (s)",
}
"""Column of a LaTeX table → its header."""


def _latex_table(track: Track, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [_latex_cells(row) for row in rows]
    columns = [column for column in _HEADS if any(row[column] for row in cells)]
    align = "".join("l" if column in ("attack", "interval", "defense") else "r" for column in columns)
    body = [" & ".join(row[column] or "--" for column in columns) + r" \\" for row in cells]
    return "\n".join(
        (
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(RANKING_TITLES[track])}. Protection under the best defense.}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(_HEADS[column] for column in columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        )
    )


def _latex_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of an attack, empty where there is no value."""
    interval = TOO_FEW if row["rank"] is not None else ""
    if row["low"] is not None:
        interval = f"$[{row['low']:z.2f}, {row['high']:z.2f}]$"
    seconds = None if row["craft_s"] is None else row["craft_s"] + (row["surrogate_s"] or 0.0)
    return {
        "rank": str(row["rank"] or ""),
        "attack": escape_latex(row["attack"]),
        "protection": _latex_number(row["protection"]),
        "interval": interval,
        "undefended": _latex_number(row["undefended"]),
        "defense": escape_latex(row["defense"] or "") if row["rank"] is not None else "",
        "craft": "" if seconds is None else format_number(seconds),
    }


def _latex_number(value: float | None) -> str:
    return "" if value is None else f"${format_protection(value)}$"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
"""Character with a meaning → what prints it."""


def escape_latex(text: str) -> str:
    """Return a text as one line in which no character has a meaning in LaTeX.

    A character that LaTeX may not know by itself is shown by its number, as in ``(U+4E2D)``.
    """
    line = re.sub(r"[^ -~À-ÏÑ-ÖØ-Ýß-ïñ-öø-ýÿ]", lambda match: f"(U+{ord(match[0]):04X})", to_one_line(text))
    escaped = "".join(_LATEX.get(character, character) for character in line)
    return re.sub(r"(?<=[-'`,!?])(?=[-'`,])", "{}", escaped)  # else two of them become another sign
