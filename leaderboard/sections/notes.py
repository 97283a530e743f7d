"""Failed cells, and what else a reader of the board must know."""

from collections.abc import Sequence

from pandas import DataFrame

from bench.record import AXES, CLEAN, Record
from leaderboard.formatting import NO_VALUE, escape_markdown, format_count, markdown_table
from leaderboard.frame import SelectedRecords
from leaderboard.rows import cell_rows, full_protection_rows


def render_failures(failed: Sequence[Record]) -> str:
    """Return the failed cells and their errors in markdown, empty if none failed."""
    if not failed:
        return ""
    rows = []
    for record in failed:
        error = record.error
        text = f"{error['type']}: {error['message']}".splitlines()[0] if error else NO_VALUE
        rows.append({"cell": record.label, "error": text})
    return f"## Failed cells\n\n{markdown_table(rows)}"


def list_notes(frame: DataFrame, selected: SelectedRecords) -> list[str]:
    """Return what was left out of the board, failed or cannot be compared, in sentences."""
    cells = cell_rows(frame)
    undefined, unpaired = int(cells["undefined"].sum()), int(cells["unpaired"].sum())
    notes = []
    if undefined:
        notes.append(
            f"{format_count(undefined, 'task score')} left out of all means of protection: the clean victims "
            "without a defense are not clearly above the floor, or a score is missing."
        )
    if unpaired:
        notes.append(
            f"{format_count(unpaired, 'cell')} without protection: a clean counterpart is missing, with the "
            f"same defense or with none."
        )
    if selected.superseded:
        notes.append(
            f"{format_count(selected.superseded, 'older record')} left out: the same cell was finished again "
            "later with other settings."
        )
    if selected.other_data:
        count = format_count(selected.other_data, "record")
        notes.append(f"{count} left out: the newest record of the same dataset is of other images or labels.")
    if selected.other_protocol:
        count = format_count(selected.other_protocol, "record")
        notes.append(f"{count} left out: protocols cannot be mixed, and others follow a later one.")
    if selected.failed:
        notes.append(f"{format_count(len(selected.failed), 'cell')} failed.")
    if _cells_differ_by_attack(full_protection_rows(cells)):
        notes.append("Not all attacks were run on the same cells; `bench compare` compares paired cells.")
    return notes


def render_notes(notes: Sequence[str], left_out: Sequence[str]) -> str:
    """Return notes in markdown, empty if there is none.

    Args:
        notes: of `list_notes`.
        left_out: one sentence for each thing that is missing, which may have any characters.
    """
    lines = [f"- {note}" for note in (*notes, *map(escape_markdown, left_out))]
    return "## Notes\n\n" + "\n".join(lines) if lines else ""


def _cells_differ_by_attack(cells: DataFrame) -> bool:
    """Return whether some attack, except clean, lacks a cell that another one has."""
    others = [axis for axis in AXES if axis != "attack"]
    attacks = cells[cells["attack"] != CLEAN].groupby("attack")
    return len({frozenset(rows[others].itertuples(index=False, name=None)) for _, rows in attacks}) > 1
