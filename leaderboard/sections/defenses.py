"""Attack against defense: what the exploiter scores, and how much of what the attack took he gets back."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, Series

from bench.record import AXES, CLEAN
from leaderboard.formatting import (
    NO_VALUE,
    Bold,
    escape_markdown,
    format_percent,
    format_protection,
    format_score,
    is_missing,
    markdown_table,
    metric_label,
)
from leaderboard.frame import full_protection_rows
from leaderboard.scores import MIN_HEADROOM
from leaderboard.sections.costs import rows_where_axis_varies
from leaderboard.sections.ranking import NO_DEFENSE, attack_order, rank_attacks, track_marker
from leaderboard.statistics import TIE

MIN_DEFENSES = 2
"""With fewer defenses beside ``none`` there is nothing to pick from."""

MUCH = 0.5
"""Recovery above which an attack is named in the sentence below the tables."""

LEGEND = (
    "Means over tasks after the last epoch. In parentheses the *recovery*, (defended - undefended) / (clean "
    "with the same defense - undefended) of the same victim: 1 where the defense gives back all that it "
    "could, 0 where nothing, below 0 where it takes more. It is left out where less than "
    f"{MIN_HEADROOM:.0%} of the way from the floor to a perfect score can be given back, or where the clean "
    "victim with the same defense comes less far than that. The *best defense* against an attack, in bold, "
    "is the one with which the exploiter scores best, picked on the test set: what a choice could give "
    "at most."
)

_VICTIM = [axis for axis in AXES if axis not in ("attack", "defense")]


def by_defense(frame: DataFrame, dataset: str) -> DataFrame:
    """Return what the victims of a dataset score under every attack and defense, and what defenses give back.

    Only settings of the other axes under which the defense was varied count (see `rows_where_axis_varies`).

    Returns:
        One row per attack (``clean``, then as ranked) and defense (``none``, then the alphabet): ``attack``,
        ``defense``; ``score`` (of the scored metric, NaN where tasks have different ones) and ``level`` (the
        way from the floor, 0, to a perfect score, 1), means over tasks, then over cells; ``recovery``;
        ``best``, whether no other defense leaves an attack's victims at a higher level (of several the first
        by the alphabet).

        Recovery is (defended - undefended) / (clean with the same defense - undefended), of the mean levels
        of the tasks that all three have, at the same dataset, backbone, weighting, regime and seed, then a
        mean over the cells where it is defined: where both the denominator and the clean level are at least
        `MIN_HEADROOM`.
    """
    rows = _levels(frame, dataset)
    pair = ["attack", "defense"]
    means = rows.groupby([*pair, "key"])[["score", "level"]].mean().groupby(level=pair).mean()
    found = means.assign(recovery=_recovery(rows).groupby(level=pair).mean()).reset_index()
    order = attack_order(frame)
    found = (
        found.assign(place=found["attack"].map(order.index), cleans=found["defense"] != NO_DEFENSE)
        .sort_values(["place", "cleans", "defense"], ignore_index=True)
        .drop(columns=["place", "cleans"])
    )
    cleaned = found[(found["attack"] != CLEAN) & (found["defense"] != NO_DEFENSE) & found["level"].notna()]
    best = cleaned.sort_values("level", ascending=False, kind="stable").drop_duplicates("attack")
    return found.assign(best=found.index.isin(best.index))


def most_lasting(frame: DataFrame, dataset: str) -> tuple[str, float, int] | None:
    """Return which attack within the budget keeps the most protection whatever the defense.

    Attacks are compared over the victims and defenses that all of them met.

    Returns:
        The attack, its worst case as in `rank_attacks`, and how many defenses beside ``none`` that was taken
        over. None where these are fewer than `MIN_DEFENSES`, or where no attack is ahead.
    """
    rows = _levels(frame, dataset)
    rows = rows[rows["bounded"] | (rows["attack"] == CLEAN)]
    met = rows.groupby([*_VICTIM, "defense"])["attack"].transform("nunique")
    common = rows[met == rows["attack"].nunique()]
    defenses = set(common.loc[common["protection"].notna(), "defense"]) - {NO_DEFENSE}
    ranked = rank_attacks(common).dropna(subset="rank")
    if len(defenses) < MIN_DEFENSES or len(ranked) < 2:
        return None
    first, second = ranked["worst"].iloc[:2]
    return (str(ranked["attack"].iloc[0]), float(first), len(defenses)) if first - second > TIE else None


def render_defenses(frame: DataFrame) -> str:
    """Return the section attack against defense in markdown, nothing where there are not several defenses."""
    parts = [_dataset(frame, dataset) for dataset in sorted(set(full_protection_rows(frame)["dataset"]))]
    parts = [part for part in parts if part]
    return "\n\n".join(["## Attack against defense", LEGEND, *parts]) if parts else ""


def _levels(frame: DataFrame, dataset: str) -> DataFrame:
    """Return a dataset's rows that compare defenses, with levels of their scores and of the clean ones."""
    rows = rows_where_axis_varies(full_protection_rows(frame[frame["dataset"] == dataset]), "defense")
    room = (rows["perfect"] - rows["floor"]).where(lambda width: width != 0)
    one_metric = rows["scored"].nunique() == 1
    # One unit for all tasks of one metric, so that levels are ordered, and differ, as the scores shown.
    unit = room.mean() if one_metric else room
    return rows.assign(
        score=rows["score"] if one_metric else float("nan"),
        level=(rows["score"] - rows["floor"]) / unit,
        clean_level=(rows["clean_score"] - rows["floor"]) / unit,
    )


def _recovery(rows: DataFrame) -> "Series[float]":
    same = [*_VICTIM, "attack", "task"]
    undefended = rows.loc[rows["defense"] == NO_DEFENSE, [*same, "level"]]
    defended = rows[(rows["attack"] != CLEAN) & (rows["defense"] != NO_DEFENSE)]
    tasks = defended.merge(undefended, on=same, suffixes=("", "_undefended"))
    levels = ["level", "level_undefended", "clean_level"]
    cell = tasks.dropna(subset=levels).groupby(["attack", "defense", "key"])[levels].mean()
    lost = cell["clean_level"] - cell["level_undefended"]
    defined = (lost >= MIN_HEADROOM) & (cell["clean_level"] >= MIN_HEADROOM)
    return ((cell["level"] - cell["level_undefended"]) / lost).where(defined)


def _dataset(frame: DataFrame, dataset: str) -> str:
    compared = _levels(frame, dataset)
    met = set(compared.loc[compared["attack"] != CLEAN, "defense"]) - {NO_DEFENSE}
    if len(met) < MIN_DEFENSES:
        return ""
    found = by_defense(frame, dataset)
    metrics = list(compared["scored"].unique())
    metric = str(metrics[0]) if len(metrics) == 1 else None
    unit = metric_label(metric) if metric else "% of the way from the floor to a perfect score"
    tables = _tables(found, metric, track_marker(frame))
    sentence = _conclusion(found, most_lasting(frame, dataset))
    return "\n\n".join(
        part for part in (f"### {escape_markdown(dataset)}: {unit}", *tables, sentence) if part
    )


def _tables(found: DataFrame, metric: str | None, marked: Callable[[str], str]) -> list[str]:
    """Return the table of all defenses and that of the best ones."""
    at = {(str(row["attack"]), str(row["defense"])): row for row in found.to_dict("records")}
    attacks = list(dict.fromkeys(attack for attack, _ in at))
    defenses = sorted({defense for _, defense in at}, key=lambda defense: (defense != NO_DEFENSE, defense))
    entries = {pair: _entry(row, metric) for pair, row in at.items()}

    def entry(attack: str, defense: str) -> str:
        return entries.get((attack, defense), NO_VALUE)

    if len(defenses) < len(attacks):
        lines = [
            {"attack": marked(attack)} | {name: entry(attack, name) for name in defenses}
            for attack in attacks
        ]
    else:
        lines = [
            {"defense": name} | {marked(attack): entry(attack, name) for attack in attacks}
            for name in defenses
        ]
    best = [
        {
            "attack": marked(attack),
            "undefended": _score(at.get((attack, NO_DEFENSE)), metric),
            "best defense": defense,
            "defended": _score(row, metric),
            "clean, defended": _score(at.get((CLEAN, defense)), metric),
            "recovery": format_protection(row["recovery"]),
        }
        for (attack, defense), row in at.items()
        if row["best"]
    ]
    return [markdown_table(lines), markdown_table(best)] if best else [markdown_table(lines)]


def _score(row: Mapping[Hashable, Any] | None, metric: str | None) -> str:
    if row is None:
        return NO_VALUE
    return format_score(row["score"], metric) if metric else format_percent(row["level"])


def _entry(row: Mapping[Hashable, Any], metric: str | None) -> str:
    shown = _score(row, metric)
    text = shown if is_missing(row["recovery"]) else f"{shown} ({format_protection(row['recovery'])})"
    return Bold(text) if row["best"] else text


def _conclusion(found: DataFrame, lasting: tuple[str, float, int] | None) -> str:
    """Say in one sentence what the owner of data should know, nothing where the numbers are not clear."""
    plain = found[found["defense"] == NO_DEFENSE].set_index("attack")["level"]
    # Of an attack that takes little by itself a recovery says little.
    clean = plain.get(CLEAN, float("nan"))
    strong = plain.index[clean - plain > MUCH * clean]
    undone = found[found["best"] & (found["recovery"] > MUCH) & found["attack"].isin(strong)]
    parts = []
    for defense, rows in undone.groupby("defense"):
        given = [f"{row['recovery']:.0%} of what {row['attack']} took" for row in rows.to_dict("records")]
        parts.append(f"with {defense} as the best defense the exploiter gets back {_listed(given)}")
    if lasting:
        attack, worst, defenses = lasting
        parts.append(
            f"of the attacks within the budget none keeps more protection than {attack}, "
            f"{format_protection(worst)} in the worst case of the {defenses} defenses that met them all"
        )
    sentence = escape_markdown("; ".join(parts))
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _listed(items: Sequence[str]) -> str:
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
