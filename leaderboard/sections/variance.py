"""How much of the spread over seeds comes from the draw of the images, the poison and the victim."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

import numpy as np
from pandas import DataFrame

from bench.files import hash_json
from bench.record import AXES, CLEAN, DATA_SEED, NO_DEFENSE, Record
from leaderboard.formatting import join_blocks, markdown_table
from leaderboard.scores import is_partial, mean_relative_score

SOURCES = ("images", "poison", "victim")
"""What differs between the seeds of a board."""


_SEEDED = frozenset({"dataset", "surrogate", "poison_seed", "seed"})
"""Settings that hold seeds."""


_COLUMNS = ["source", "sd", "share", "draws"]


def variance_by_source(records: Iterable[Record]) -> DataFrame:
    """Return the variance of protection that comes from each source, estimated by the method of moments.

    For two cells that are equal but for their seeds, half the squared difference has as its mean the sum of
    the variances of the sources in which they differ. So the variances are the least squares solution over
    all such pairs of attacked cells, which serves crossed and nested seeds alike (the principle of ANOVA
    estimators; Searle et al., Variance Components, 1992). Negative ones are set to 0. Protection is that of
    the cell, without a choice: 1 - its mean relative score over that of the clean victims without a defense.

    Args:
        records: of one protocol, several with the same labels as well, such as those of suites that set
            another ``poison_seed``.

    Returns:
        ``source`` (one of `SOURCES`, or several that always vary together, joined by ``and``), ``sd`` (in
        protection), ``share`` (of the sum of the variances), ``draws`` (number of different ones). Empty if
        fewer than two sources can be told apart.
    """
    finished = [record for record in records if record.status == "done" and not is_partial(record)]
    if not _vary_apart(finished):
        return DataFrame(columns=_COLUMNS)
    clean = _clean_scores(finished)
    groups: defaultdict[str, list[tuple[float, tuple[str, ...]]]] = defaultdict(list)
    for record in finished:
        score, reference = mean_relative_score(record.scores, record.tasks), clean.get(_setting(record))
        if record.cell["attack"] != CLEAN and score is not None and reference:
            groups[_group(record)].append((1 - score / reference, _draws(record)))
    pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
    differ = np.array([[x != y for x, y in zip(a, b, strict=True)] for (_, a), (_, b) in pairs], dtype=float)
    halves = np.array([(a - b) ** 2 / 2 for (a, _), (b, _) in pairs])
    draws = [len({cell[1][place] for group in groups.values() for cell in group}) for place in range(3)]
    return _solve(differ.reshape(-1, 3), halves, draws)


def render_variance(records: Iterable[Record]) -> str:
    """Return the sources of the spread in markdown, empty if fewer than two can be told apart."""
    table = variance_by_source(records)
    if not len(table):
        return ""
    rows = [
        {
            "source": row["source"],
            "sd of protection": f"{row['sd']:.3f}",
            "share %": f"{100 * row['share']:.0f}",
            "draws": str(row["draws"]),
        }
        for row in table.to_dict("records")
    ]
    legend = (
        "Estimated from pairs of attacked cells that are equal but for their seeds (method of moments). A "
        "poison is made from its images: *images* is what other images change beyond another poison."
    )
    return join_blocks("## Where the spread comes from", markdown_table(rows), legend)


def _vary_apart(records: Iterable[Record]) -> bool:
    """Return whether some cells share a poison but not the victim's seed, or the reverse: a quick check."""
    draws = {(_labels_without_seed(record), record.poison, record.cell["seed"]) for record in records}
    poisons = {(labels, poison) for labels, poison, _ in draws}
    return not len(draws) == len(poisons) == len({(labels, seed) for labels, _, seed in draws})


def _solve(differ: np.ndarray, halves: np.ndarray, draws: list[int]) -> DataFrame:
    columns: dict[tuple[float, ...], list[int]] = {}
    for place in range(len(SOURCES)):
        if differ[:, place].any():
            columns.setdefault(tuple(differ[:, place]), []).append(place)
    design = np.array(list(columns)).T
    if len(columns) < 2 or np.linalg.matrix_rank(design) < len(columns):
        return DataFrame(columns=_COLUMNS)
    variances = np.linalg.lstsq(design, halves, rcond=None)[0].clip(min=0)
    return DataFrame(
        {
            "source": [" and ".join(SOURCES[place] for place in places) for places in columns.values()],
            "sd": np.sqrt(variances),
            "share": variances / max(variances.sum(), 1e-12),
            "draws": [max(draws[place] for place in places) for places in columns.values()],
        }
    )


def _clean_scores(records: Iterable[Record]) -> dict[tuple[object, ...], float]:
    scores = defaultdict(list)
    for record in records:
        score = mean_relative_score(record.scores, record.tasks)
        if record.cell["attack"] == CLEAN and record.cell["defense"] == NO_DEFENSE and score is not None:
            scores[_setting(record)].append(score)
    return {setting: float(np.mean(each)) for setting, each in scores.items() if np.mean(each) > 0}


def _setting(record: Record) -> tuple[object, ...]:
    return tuple(record.cell[axis] for axis in ("dataset", "backbone", "weighting", "regime"))


def _labels_without_seed(record: Record) -> tuple[str | int, ...]:
    return tuple(record.cell[axis] for axis in AXES if axis != "seed")


def _group(record: Record) -> str:
    """Return what is equal for cells that differ in seeds only."""
    settings = {name: value for name, value in record.settings.items() if name not in _SEEDED}
    dataset = record.settings.get("dataset") or {}
    params = {name: value for name, value in dataset.get("params", {}).items() if name != DATA_SEED}
    return hash_json([_labels_without_seed(record), settings, {**dataset, "params": params}])


def _draws(record: Record) -> tuple[str, ...]:
    return hash_json(record.settings.get("dataset")), record.poison, str(record.cell["seed"])
