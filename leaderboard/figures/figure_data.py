"""What every figure is drawn from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pandas import DataFrame, Series, concat

from bench.record import CLEAN, Record
from leaderboard.frame import to_frame
from leaderboard.ranking import rank_tracks
from leaderboard.scores import Track, mean_relative_score
from leaderboard.sections.budgets import rows_at_track_budgets
from leaderboard.summary import RankedBoard


@dataclass(frozen=True)
class FigureData:
    """What every figure is drawn from.

    Attributes:
        all_budgets: the tidy table, see `leaderboard.frame.to_frame`.
        curves: key of a cell → the relative score of its victim, a mean over tasks, by epoch.
        run: the folder of the run; None if there is none.
        width: of the figure, in inches.
        rankings: from `leaderboard.ranking.rank_tracks`; None: they are made when they are needed.
    """

    all_budgets: DataFrame
    curves: "Mapping[str, Series[float]]"
    run: Path | None
    width: float
    rankings: Mapping[Track, DataFrame] | None = None

    @cached_property
    def frame(self) -> DataFrame:
        """The rows of the tidy table at the budget of their track: those that are ranked."""
        return rows_at_track_budgets(self.all_budgets)

    @cached_property
    def ranking(self) -> DataFrame:
        """The ranked attacks, track by track: ``track``, and the columns of `rank_attacks`."""
        rankings = self.rankings or rank_tracks(self.frame)
        tables = [table.assign(track=track) for track, table in rankings.items()]
        if not tables:
            return DataFrame(columns=["track", "attack", "protection"])
        table = concat(tables, ignore_index=True)
        return table[(table["attack"] != CLEAN) & table["protection"].notna()]


def collect_figure_data(
    records: Iterable[Record], run: Path | None, width: float, board: RankedBoard | None = None
) -> FigureData:
    """Return what figures are drawn from.

    Args:
        records: with their learning curves, if these are to be drawn.
        run: the folder of the run.
        width: of the figures, in inches.
        board: the same records ranked, if they are.
    """
    without_curves, curves = [], {}
    for record in records:  # one at a time: most of a record is its curve
        points = {
            point["epoch"]: mean_relative_score(point["scores"], record.tasks) for point in record.curve
        }
        curves[record.key] = Series(points, dtype=float)
        without_curves.append(replace(record, curve=[]))
    if board is not None:
        return FigureData(board.all_budgets, curves, run, width, board.rankings)
    return FigureData(to_frame(without_curves), curves, run, width)
