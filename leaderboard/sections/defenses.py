"""Attack against defense: the scores of the exploiter, and how much of the attack's damage is undone."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, Series

from bench.record import CLEAN
from leaderboard.formatting import (
    NO_VALUE,
    Bold,
    cross_table,
    escape_markdown,
    format_percent,
    format_protection,
    format_score,
    join_blocks,
    markdown_table,
    metric_label,
    with_protection,
)
from leaderboard.ranking import rank_attacks, sort_table, unbounded_marker
from leaderboard.rows import NO_DEFENSE, dataset_names, full_protection_rows, rows_where_axis_varies
from leaderboard.scores import MIN_HEADROOM, SETTING_AXES, relative_scores
from leaderboard.statistics import TIE

MIN_DEFENSES = 2
"""With fewer defenses besides ``none`` an exploiter has no choice, and there is no section."""

HIGH_RECOVERY = 0.5
"""Recovery above which an attack is named in the sentence below the tables."""

LEGEND = (
    "Means over tasks after the last epoch. In parentheses the *recovery*, (defended - undefended) / (clean "
    "with the same defense - undefended) of the same victim: 1 if the defense undoes all of the damage that "
    "it could, 0 if none, below 0 if it adds damage. It is left out if less than "
    f"{MIN_HEADROOM:.0%} of the way from the floor to a perfect score can be recovered, or if the clean "
    "victim with the same defense is less than that above the floor. The *best defense* against an attack, "
    "in bold, is the one with the best score, chosen on the test set: it is an upper bound on what an "
    "exploiter could gain by choosing."
)


def scores_by_defense(frame: DataFrame, dataset: str) -> DataFrame:
    """Return the scores of a dataset's victims under every attack and defense, and the recovery.

    Only settings of the other axes under which the defense was varied count (see
    `leaderboard.rows.rows_where_axis_varies`).

    Returns:
        One row per attack (``clean``, then as ranked) and defense (``none``, then by name): ``attack``,
        ``defense``; ``score`` (of the scored metric, NaN if tasks have different ones) and ``relative``
        (the relative score, 0 at the floor and 1 at a perfect score), means over tasks, then over cells;
        ``recovery``; ``best``, whether no other defense leaves an attack's victims with a higher relative
        score (of several such defenses the first by name).

        Recovery is (defended - undefended) / (clean with the same defense - undefended), of the mean relative
        scores of the tasks that all three have, for the same dataset, backbone, weighting, regime and seed,
        then a mean over the cells where it is defined: where both the denominator and the clean relative
        score are at least `leaderboard.scores.MIN_HEADROOM`.
    """
    rows = _rows_with_relative_scores(frame, dataset)
    pair = ["attack", "defense"]
    means = rows.groupby([*pair, "key"])[["score", "relative"]].mean().groupby(level=pair).mean()
    table = means.assign(recovery=_recovery(rows).groupby(level=pair).mean()).reset_index()
    table = sort_table(table, frame, pair)
    defended = table[
        (table["attack"] != CLEAN) & (table["defense"] != NO_DEFENSE) & table["relative"].notna()
    ]
    best = defended.sort_values("relative", ascending=False, kind="stable").drop_duplicates("attack")
    return table.assign(best=table.index.isin(best.index))


def most_robust_attack(frame: DataFrame, dataset: str) -> tuple[str, float, int] | None:
    """Return the attack within the budget that keeps the most protection in its worst case.

    Attacks are compared over the victims and defenses that all of them were run with.

    Returns:
        The attack, its worst case as in `leaderboard.ranking.rank_attacks`, and the number of
        defenses besides ``none`` in it. None if there are fewer than `MIN_DEFENSES`, or if no attack leads.
    """
    rows = _rows_with_relative_scores(frame, dataset)
    rows = rows[rows["bounded"] | (rows["attack"] == CLEAN)]
    attacks = rows.groupby([*SETTING_AXES, "defense"])["attack"].transform("nunique")
    shared = rows[attacks == rows["attack"].nunique()]
    defenses = set(shared.loc[shared["protection"].notna(), "defense"]) - {NO_DEFENSE}
    ranked = rank_attacks(shared).dropna(subset="rank")
    if len(defenses) < MIN_DEFENSES or len(ranked) < 2:
        return None
    first, second = ranked["worst"].iloc[:2]
    return (str(ranked["attack"].iloc[0]), float(first), len(defenses)) if first - second > TIE else None


def render_defenses(frame: DataFrame) -> str:
    """Return the section in markdown, empty if no dataset has `MIN_DEFENSES` defenses."""
    tables = join_blocks(*(_render_defenses_of(frame, dataset) for dataset in dataset_names(frame)))
    return join_blocks("## Attack against defense", LEGEND, tables) if tables else ""


def _rows_with_relative_scores(frame: DataFrame, dataset: str) -> DataFrame:
    rows = rows_where_axis_varies(full_protection_rows(frame[frame["dataset"] == dataset]), "defense")
    one_metric = rows["scored"].nunique() == 1
    return rows.assign(
        score=rows["score"] if one_metric else float("nan"),
        relative=relative_scores(rows, one_range=one_metric),
        clean_relative=relative_scores(rows, "clean_score", one_range=one_metric),
    )


def _recovery(rows: DataFrame) -> "Series[float]":
    same_victim = [*SETTING_AXES, "attack", "task"]
    undefended = rows.loc[rows["defense"] == NO_DEFENSE, [*same_victim, "relative"]]
    defended = rows[(rows["attack"] != CLEAN) & (rows["defense"] != NO_DEFENSE)]
    tasks = defended.merge(undefended, on=same_victim, suffixes=("", "_undefended"))
    columns = ["relative", "relative_undefended", "clean_relative"]
    cells = tasks.dropna(subset=columns).groupby(["attack", "defense", "key"])[columns].mean()
    damage = cells["clean_relative"] - cells["relative_undefended"]
    defined = (damage >= MIN_HEADROOM) & (cells["clean_relative"] >= MIN_HEADROOM)
    return ((cells["relative"] - cells["relative_undefended"]) / damage).where(defined)


def _render_defenses_of(frame: DataFrame, dataset: str) -> str:
    rows = _rows_with_relative_scores(frame, dataset)
    defenses = set(rows.loc[rows["attack"] != CLEAN, "defense"]) - {NO_DEFENSE}
    if len(defenses) < MIN_DEFENSES:
        return ""
    scores = scores_by_defense(frame, dataset)
    metric = str(rows["scored"].iloc[0]) if rows["scored"].nunique() == 1 else None
    unit = metric_label(metric) if metric else "% of the way from the floor to a perfect score"
    mark = unbounded_marker(frame)
    return join_blocks(
        f"### {escape_markdown(dataset)}: {unit}",
        _score_table(scores, metric, mark),
        _best_defense_table(scores, metric, mark),
        _conclusion(scores, most_robust_attack(frame, dataset)),
    )


def _score_table(scores: DataFrame, metric: str | None, mark: Callable[[str], str]) -> str:
    attacks = scores["attack"].drop_duplicates()
    defenses = sorted(set(scores["defense"]), key=lambda defense: (defense != NO_DEFENSE, defense))
    cells = {(mark(attack), defense): NO_VALUE for attack in attacks for defense in defenses}
    for row in scores.to_dict("records"):
        text = with_protection(_format_score(row, metric), row["recovery"])
        cells[mark(row["attack"]), row["defense"]] = Bold(text) if row["best"] else text
    return cross_table(cells, columns="defense", transposed=len(defenses) >= len(attacks))


def _best_defense_table(scores: DataFrame, metric: str | None, mark: Callable[[str], str]) -> str:
    by_pair = {(row["attack"], row["defense"]): row for row in scores.to_dict("records")}
    rows = [
        {
            "attack": mark(attack),
            "undefended": _format_score(by_pair.get((attack, NO_DEFENSE)), metric),
            "best defense": defense,
            "defended": _format_score(row, metric),
            "clean, defended": _format_score(by_pair.get((CLEAN, defense)), metric),
            "recovery": format_protection(row["recovery"]),
        }
        for (attack, defense), row in by_pair.items()
        if row["best"]
    ]
    return markdown_table(rows) if rows else ""


def _format_score(row: Mapping[Hashable, Any] | None, metric: str | None) -> str:
    if row is None:
        return NO_VALUE
    return format_score(row["score"], metric) if metric else format_percent(row["relative"])


def _conclusion(scores: DataFrame, most_robust: tuple[str, float, int] | None) -> str:
    """Return the conclusions for the owner of the data, empty if the numbers are not clear."""
    undefended = scores[scores["defense"] == NO_DEFENSE].set_index("attack")["relative"]
    # For an attack that does little damage on its own, a recovery says little.
    clean = undefended.get(CLEAN, float("nan"))
    strong = undefended.index[clean - undefended > HIGH_RECOVERY * clean]
    undone = scores[scores["best"] & (scores["recovery"] > HIGH_RECOVERY) & scores["attack"].isin(strong)]
    sentences = []
    for defense, rows in undone.groupby("defense"):
        parts = [f"{row['recovery']:.0%} of the damage of {row['attack']}" for row in rows.to_dict("records")]
        sentences.append(f"With {defense} as the best defense the exploiter undoes {_join_words(parts)}.")
    if most_robust:
        attack, worst, defenses = most_robust
        sentences.append(
            f"Of the attacks within the budget {attack} keeps the most protection: "
            f"{format_protection(worst)} in the worst case over the {defenses} defenses that all of them "
            "were run with."
        )
    return escape_markdown(" ".join(sentences))


def _join_words(items: Sequence[str]) -> str:
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
