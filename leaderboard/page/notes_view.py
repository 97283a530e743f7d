"""Sentences and small tables of the page: published scores, failed cells, what a reader must know."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.record import CLEAN
from leaderboard.formatting import NO_VALUE, format_score, is_missing, metric_label
from leaderboard.page.content import PageContent
from leaderboard.page.ranking_view import RankedTrack
from leaderboard.sections.noise import MIN_HIT_RATE
from leaderboard.sections.published import compare_with_published


@dataclass(frozen=True)
class PublishedLine:
    """A published score beside a measured one, as texts."""

    dataset: str
    attack: str
    measured_attack: str
    regime: str
    metric: str
    published: str
    measured: str
    difference: str
    measured_with: str
    source: str
    note: str


def list_published(content: PageContent) -> list[PublishedLine]:
    """Return the published scores that were measured."""
    if not len(content.board.frame):
        return []
    compared = compare_with_published(content.board.frame, content.board.selected.done)
    lines = []
    for row in compared.to_dict("records"):
        metric = row["metric"]
        spread = "" if is_missing(row["spread"]) else f" ± {format_score(row['spread'], metric)}"
        lines.append(
            PublishedLine(
                dataset=row["dataset"],
                attack=row["attack"],
                measured_attack=row["measured_attack"],
                regime=row["regime"],
                metric=metric_label(metric),
                published=format_score(row["published"], metric, decimals=2),
                measured=f"{format_score(row['measured'], metric)}{spread}",
                difference=format_score(row["difference"], metric),
                measured_with=row["measured_with"],
                source=row["source"],
                note=row["note"],
            )
        )
    return lines


def list_failures(content: PageContent) -> list[tuple[str, str, str]]:
    """Return the failed cells: label, address of the page, error."""
    failures = []
    for record in content.board.selected.failed:
        error = record.error
        text = f"{error['type']}: {error['message']}".splitlines()[0] if error else NO_VALUE
        failures.append((record.label, content.places[record.key], text))
    return failures


def list_rankings_notes(content: PageContent, tracks: Sequence[RankedTrack]) -> list[str]:
    """Return what the marks in the rankings mean, and what is missing there."""
    shown = {row.attack for track in tracks for row in track.rows}
    notes = []
    if unfinished := sorted(content.board.unfinished & shown):
        notes.append(
            f"The crafting of {', '.join(unfinished)} may be unfinished: on its own surrogate less than "
            f"{MIN_HIT_RATE:.0%} of the labels are as intended."
        )
    ranked = [row for track in tracks for row in track.rows if row.attack != CLEAN]
    if any(row.values["low"] is None for row in ranked):
        notes.append(
            "No interval: fewer seeds than it needs, or not the same ones for all cells of the attack."
        )
    return notes
