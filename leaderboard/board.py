"""The leaderboard as a markdown page.

The text depends on the records only, not on their order: a committed page changes only if results change.
"""

from collections.abc import Iterable, Sequence

from pandas import DataFrame

from bench.record import Record
from leaderboard.formatting import escape_markdown, format_count, join_blocks
from leaderboard.frame import SelectedRecords, select_records, to_frame
from leaderboard.sections.axes import render_axes
from leaderboard.sections.costs import render_costs
from leaderboard.sections.datasets import render_datasets
from leaderboard.sections.defenses import render_defenses
from leaderboard.sections.groups import render_groups
from leaderboard.sections.noise import render_noise
from leaderboard.sections.notes import render_failures, render_notes
from leaderboard.sections.partial import render_partial_protection
from leaderboard.sections.peaks import render_peaks
from leaderboard.sections.published import render_published
from leaderboard.sections.ranking_tables import render_ranking, render_unbounded_ranking
from leaderboard.sections.regimes import render_regimes
from leaderboard.sections.tasks import render_tasks
from leaderboard.sections.variance import render_variance

PROTECTION = (
    "**Protection** of a task is (clean - poisoned) / (clean - floor), where *clean* is the score of the "
    "same victim trained on clean data and *floor* the score of an answer that ignores the image: 1 means "
    "that nothing was learned, 0 that the attack had no effect, above 1 that the victim was misled."
)


def render_board(records: Iterable[Record], left_out: Sequence[str] = ()) -> str:
    """Return the whole board in markdown.

    Args:
        records: finished and failed records of one protocol, in any order.
        left_out: one sentence for each thing that is missing on the board, such as a damaged file.

    Raises:
        BenchError: if the records follow more than one protocol.
    """
    records = list(records)
    selected, frame = select_records(records), to_frame(records)
    sections = (
        _render_head(selected, frame),
        render_ranking(frame),
        render_unbounded_ranking(frame),
        render_groups(frame),
        render_datasets(frame),
        render_variance(records),
        render_tasks(frame),
        render_axes(frame),
        render_defenses(frame),
        render_regimes(frame),
        render_published(frame, selected.done),
        render_peaks(frame),
        render_partial_protection(frame),
        render_noise(frame),
        render_costs(frame),
        render_failures(selected.failed),
        render_notes(frame, selected, left_out),
    )
    return join_blocks(*sections) + "\n"


def _render_head(selected: SelectedRecords, frame: DataFrame) -> str:
    if not selected.done:
        return join_blocks("# Leaderboard", "No cell is finished yet.")
    suites = ", ".join(sorted({record.suite for record in selected.done}))
    summary = (
        f"{len(selected.done)} cells of suite {escape_markdown(suites)}, "
        f"{format_count(frame['seed'].nunique(), 'seed')}, protocol {selected.done[0].protocol}."
    )
    return join_blocks("# Leaderboard", summary, PROTECTION)
