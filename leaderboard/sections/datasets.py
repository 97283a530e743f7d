"""Rankings over several datasets: the mean, the Borda count, and critical differences of mean ranks."""

import numpy as np
from pandas import DataFrame
from scipy.special import chdtrc, ndtr

from leaderboard.formatting import escape_markdown, format_protection, join_blocks, markdown_table
from leaderboard.scores import TRACKS
from leaderboard.sections.groups import game_protections, join_tracks

ALPHA = 0.05
"""Level of the test of mean ranks."""


def protection_by_dataset(frame: DataFrame) -> DataFrame:
    """Return the headline of each attack (rows) on each dataset (columns), NaN where it was not run."""
    return game_protections(frame).groupby(level=["attack", "dataset"]).mean().unstack()


def rank_over_datasets(protections: DataFrame) -> DataFrame:
    """Rank attacks over datasets, the best first.

    Args:
        protections: of `protection_by_dataset`, without missing values.

    Returns:
        Indexed by attack: ``mean`` (protection), ``borda`` (number of attacks that it beats, summed over
        datasets, ties count half), ``rank`` (mean over datasets, 1 is best, ties share the mean).
    """
    ranks = protections.rank(ascending=False)
    table = DataFrame(
        {
            "mean": protections.mean(axis=1),
            "borda": (len(protections) - ranks).sum(axis=1),
            "rank": ranks.mean(axis=1),
        }
    )
    return table.sort_values(["rank", "mean"], ascending=[True, False], kind="stable")


def friedman_p_value(protections: DataFrame) -> float:
    """Return the p-value of equal mean ranks (Friedman's test, with ties; chi-squared approximation).

    Args:
        protections: attacks (rows) on datasets (columns), without missing values.
    """
    ranks = protections.rank().to_numpy()
    attacks, datasets = ranks.shape
    spread = ((ranks.mean(axis=1) - (attacks + 1) / 2) ** 2).sum() * datasets * (attacks - 1)
    variance = ((ranks - (attacks + 1) / 2) ** 2).sum() / datasets
    return 1.0 if variance == 0 else float(chdtrc(attacks - 1, spread / variance))


def critical_difference(attacks: int, datasets: int, alpha: float = ALPHA) -> float:
    """Return how much two mean ranks must differ (Nemenyi's test; Demšar, JMLR 2006, Sec. 3.2.2)."""
    return studentized_range(attacks, alpha) * float(np.sqrt(attacks * (attacks + 1) / (12 * datasets)))


def studentized_range(groups: int, alpha: float) -> float:
    """Return the upper quantile of the range of standard normal values.

    SciPy's ``studentized_range`` gives the same, but importing it takes longer than the rest of a report.

    Args:
        groups: number of values.
        alpha: probability of a larger range.
    """
    # P(range <= q) = k ∫ φ(z) (Φ(z) - Φ(z - q))ᵏ⁻¹ dz, which grows with q: the inverse is interpolated.
    z, ranges = np.linspace(-8, 16, 401), np.linspace(0, 8, 801)
    inside = (ndtr(z) - ndtr(z - ranges[:, None])) ** (groups - 1)
    probabilities = groups * (inside * np.exp(-(z**2) / 2)).sum(axis=1) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    return float(np.interp(1 - alpha, probabilities, ranges))


def render_datasets(frame: DataFrame) -> str:
    """Return the rankings over datasets in markdown, empty with one dataset or one attack."""
    texts = {track: _render_ranking_of_track(frame[frame["track"] == track]) for track in TRACKS}
    return join_tracks("## Over datasets", texts)


def _render_ranking_of_track(frame: DataFrame) -> str:
    protections = protection_by_dataset(frame).dropna()
    attacks, datasets = protections.shape
    if datasets < 2 or attacks < 2:
        return ""
    table = rank_over_datasets(protections)
    rows: list[dict[str, str]] = [
        {
            "attack": row.pop("attack"),
            "mean": format_protection(row.pop("mean")),
            "Borda": f"{row.pop('borda'):g}",
            "mean rank": f"{row.pop('rank'):.2f}",
            **{str(name): format_protection(value) for name, value in row.items()},
        }
        for row in table.join(protections).rename_axis("attack").reset_index().to_dict("records")
    ]
    difference = critical_difference(attacks, datasets)
    legend = (
        "Attacks that were run on every dataset. *Borda* counts the attacks that one beats, summed over "
        f"datasets. Friedman's test of equal mean ranks: p = {friedman_p_value(protections):.2g}. One attack "
        f"is better over datasets if mean ranks differ by {difference:.2f} (Nemenyi, {ALPHA:.0%})"
    )
    groups = _unordered(list(table.index), list(table["rank"]), difference)
    if groups == [list(table.index)]:
        return join_blocks(f"{legend}: no two differ that much.", markdown_table(rows))
    lines = "\n".join(f"- {', '.join(map(escape_markdown, group))}" for group in groups)
    ending = ". Attacks of one line cannot be ordered:" if groups else "."
    return join_blocks(legend + ending, lines, markdown_table(rows))


def _unordered(attacks: list[str], ranks: list[float], difference: float) -> list[list[str]]:
    """Return the largest runs of attacks whose mean ranks, in ascending order, differ by less."""
    ends = np.searchsorted(ranks, np.array(ranks) + difference, side="left")
    starts = [0, *(place for place in range(1, len(ends)) if ends[place] > ends[place - 1])]
    return [attacks[start : ends[start]] for start in starts if ends[start] - start > 1]
