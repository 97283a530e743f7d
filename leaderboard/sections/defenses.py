"""Attack against defense: the scores of the exploiter, and how much of the attack's damage is undone."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, Series

from bench.record import CLEAN, NO_DEFENSE
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
from leaderboard.ranking import headline_columns, sort_attacks, sort_table, track_marker
from leaderboard.rows import cell_rows, dataset_names, full_protection_rows, rows_where_axis_varies
from leaderboard.scores import SETTING_AXES, is_clearly_positive
from leaderboard.statistics import TIE

MIN_DEFENSES = 2
"""With fewer defenses besides ``none`` an exploiter has no choice, and there is no section."""

HIGH_RECOVERY = 0.5
"""Recovery above which an attack is named in the sentence below the tables."""

LEGEND = (
    "Means over tasks after the last epoch. In parentheses the *recovery* of a defense d, "
    "(U(a, d) - U(a, none)) / (U(clean) - U(a, none)): 1 if it gives back all that the attack a took, 0 if "
    "nothing, below 0 if it takes more. It is left out if what the attack takes without a defense is not "
    "clearly above 0. The *best defense* against an attack, in bold, is the one that leaves most, chosen on "
    "the test set: it is an upper bound on what an exploiter could gain by choosing."
)


def scores_by_defense(frame: DataFrame, dataset: str) -> DataFrame:
    """Return the scores of a dataset's victims under every attack and defense, and the recovery.

    Only settings of the other axes under which the defense was varied count (see
    `leaderboard.rows.rows_where_axis_varies`).

    Returns:
        One row per attack (``clean``, then as ranked) and defense (``none``, then by name): ``attack``,
        ``defense``; ``score`` (of the scored metric, NaN if tasks have different ones), a mean over tasks,
        then over cells; ``share`` (U(a, d), see `leaderboard.scores.add_protection`), ``protection`` and
        ``recovery``, means over seeds, then over settings; ``best``, whether no other defense leaves a
        larger share (the first by name of a tie; ``none`` does not count).

        Recovery is 1 - protection / protection without a defense, which is (U(a, d) - U(a, none)) /
        (U(clean) - U(a, none)). It is defined in the settings where the denominator is clearly above 0
        (`leaderboard.scores.is_clearly_positive`).
    """
    rows, pair = _rows_with_several_defenses(frame, dataset), ["attack", "defense"]
    cells, score = cell_rows(rows), rows.groupby([*pair, "key"])["score"].mean().groupby(level=pair).mean()
    by_setting = cells.groupby([*pair, *SETTING_AXES])[["share", "protection"]].mean()
    means = by_setting.assign(recovery=_recovery(cells, by_setting["protection"])).groupby(level=pair).mean()
    table = sort_table(means.assign(score=score).reset_index(), frame, pair)
    if rows["scored"].nunique() > 1:
        table["score"] = float("nan")
    defended = table[(table["attack"] != CLEAN) & (table["defense"] != NO_DEFENSE) & table["share"].notna()]
    best = defended.sort_values("share", ascending=False, kind="stable").drop_duplicates("attack")
    return table.assign(best=table.index.isin(best.index))


def most_robust_attack(frame: DataFrame, dataset: str) -> tuple[str, float, int] | None:
    """Return the attack of the linf track that keeps the most protection under the best defenses.

    Attacks are compared over the victims and defenses that all of them were run with.

    Returns:
        The attack, its protection as in `leaderboard.ranking.rank_attacks`, and the number of
        defenses besides ``none`` in it. None if there are fewer than `MIN_DEFENSES`, or if no attack leads.
    """
    rows = _rows_with_several_defenses(frame, dataset)
    rows = rows[(rows["track"] == "linf") | (rows["attack"] == CLEAN)]
    attacks = rows.groupby([*SETTING_AXES, "defense"])["attack"].transform("nunique")
    shared = rows[attacks == rows["attack"].nunique()]
    defenses = set(shared.loc[shared["protection"].notna(), "defense"].unique()) - {NO_DEFENSE}
    ranked = sort_attacks(headline_columns(cell_rows(shared))).dropna(subset="protection")
    ranked = ranked[ranked["attack"] != CLEAN]
    if len(defenses) < MIN_DEFENSES or len(ranked) < 2:
        return None
    first, second = ranked["protection"].iloc[:2]
    return (str(ranked["attack"].iloc[0]), float(first), len(defenses)) if first - second > TIE else None


def render_defenses(frame: DataFrame) -> str:
    """Return the section in markdown, empty if no dataset has `MIN_DEFENSES` defenses."""
    tables = join_blocks(*(_render_defenses_of(frame, dataset) for dataset in dataset_names(frame)))
    return join_blocks("## Attack against defense", LEGEND, tables) if tables else ""


def _rows_with_several_defenses(frame: DataFrame, dataset: str) -> DataFrame:
    return rows_where_axis_varies(full_protection_rows(frame[frame["dataset"] == dataset]), "defense")


def _recovery(cells: DataFrame, protection: "Series[float]") -> "Series[float]":
    """Return the recovery by attack, defense and setting, NaN where it is undefined."""
    undefended = cells[(cells["defense"] == NO_DEFENSE) & (cells["attack"] != CLEAN)].dropna(
        subset="protection"
    )
    by_setting = undefended.groupby(["attack", *SETTING_AXES])["protection"]
    is_clear = by_setting.agg(lambda taken: is_clearly_positive(list(taken))).astype(bool)
    taken = by_setting.mean()[is_clear].rename("taken")
    pairs = protection.to_frame().join(taken, on=["attack", *SETTING_AXES])
    is_defended = pairs.index.get_level_values("defense") != NO_DEFENSE
    return (1 - pairs["protection"] / pairs["taken"]).where(is_defended)


def _render_defenses_of(frame: DataFrame, dataset: str) -> str:
    rows = _rows_with_several_defenses(frame, dataset)
    defenses = set(rows.loc[rows["attack"] != CLEAN, "defense"].unique()) - {NO_DEFENSE}
    if len(defenses) < MIN_DEFENSES:
        return ""
    scores = scores_by_defense(frame, dataset)
    metric = str(rows["scored"].iloc[0]) if rows["scored"].nunique() == 1 else None
    unit = metric_label(metric) if metric else "% of what the clean victim learns without a defense"
    mark = track_marker(frame)
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
    return format_score(row["score"], metric) if metric else format_percent(row["share"])


def _conclusion(scores: DataFrame, most_robust: tuple[str, float, int] | None) -> str:
    """Return the conclusions for the owner of the data, empty if the numbers are not clear."""
    undefended = scores[scores["defense"] == NO_DEFENSE].set_index("attack")["protection"]
    # For an attack that does little damage on its own, a recovery says little.
    strong = undefended.index[undefended > HIGH_RECOVERY]
    undone = scores[scores["best"] & (scores["recovery"] > HIGH_RECOVERY) & scores["attack"].isin(strong)]
    sentences = []
    for defense, rows in undone.groupby("defense"):
        parts = [f"{row['recovery']:.0%} of the damage of {row['attack']}" for row in rows.to_dict("records")]
        sentences.append(f"With {defense} as the best defense the exploiter undoes {_join_words(parts)}.")
    if most_robust:
        attack, protection, defenses = most_robust
        sentences.append(
            f"Of the attacks within the budget {attack} keeps the most protection: "
            f"{format_protection(protection)} under the best of the {defenses} defenses that all of them "
            "were run with, or none."
        )
    return escape_markdown(" ".join(sentences))


def _join_words(items: Sequence[str]) -> str:
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
