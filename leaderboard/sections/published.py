"""Published scores compared with measured ones."""

import ast
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pandas import DataFrame

from bench.catalog.choice import Choice
from bench.catalog.description import describe_part
from bench.errors import BenchError
from bench.record import AXES, CLEAN, DATA_SEED, Record
from leaderboard.formatting import (
    escape_markdown,
    format_score,
    is_missing,
    join_blocks,
    markdown_table,
    metric_label,
)
from leaderboard.rows import full_protection_rows, most_frequent
from leaderboard.statistics import seed_spread

BEST = "best"
"""Attack of a score that is the best of a paper; it is compared with the best attack of a board."""

STL = "stl"
"""The regime of single-task networks."""

COMPARED = ("epsilon", "epochs", "batch", "learning_rate", "test_images")
"""Settings, besides a part's parameters, in which a measurement can differ from a publication."""


@dataclass(frozen=True)
class PublishedScore:
    """One published number.

    Attributes:
        source: the paper, and where in it.
        dataset: name of the part, whatever its parameters.
        attack: label in this project, or `BEST`.
        backbone: label in this project, as are ``weighting``, ``regime`` and ``defense``.
        metric: the headline metric; the number is its mean over tasks.
        value: the number, in the unit of the records.
        settings: the settings in `COMPARED` that the source gives; ``stl_epochs`` if those differ.
        note: a sentence that is printed with the score; may be empty.
    """

    source: str
    dataset: str
    attack: str
    backbone: str
    weighting: str
    regime: str
    defense: str
    metric: str
    value: float
    settings: Mapping[str, float]
    note: str = ""


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """Return every score in ``published.toml``, in its order."""
    content = tomllib.loads((files("leaderboard") / "published.toml").read_text(encoding="utf-8"))
    return tuple(score for table in content["table"] for score in _scores_of_table(table))


def _scores_of_table(table: Mapping[str, Any]) -> list[PublishedScore]:
    fields = {key: value for key, value in table.items() if key not in ("regime", "unit", "notes")}
    factor, notes = 0.01 if table.get("unit") == "%" else 1.0, table.get("notes", {})
    return [
        PublishedScore(
            **fields, regime=regime, attack=attack, value=factor * value, note=notes.get(regime, "")
        )
        for regime, values in table["regime"].items()
        for attack, value in values.items()
    ]


def compare_with_published(
    frame: DataFrame, records: Iterable[Record], scores: Sequence[PublishedScore] | None = None
) -> DataFrame:
    """Compare measurements with published scores.

    A score is compared with the cells of its dataset (whatever the dataset's parameters), attack, regime and
    defense that have its backbone and weighting, or the most frequent ones if those were not run. `BEST` is
    compared with the attack of the linf track that leaves the worst score. Scores without such cells are
    left out.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        records: those it was made from.
        scores: by default those of `published_scores`.

    Returns:
        One row per score and setting it was measured in: ``dataset``, ``attack``, ``measured_attack``
        (differs from ``attack`` for `BEST` only), ``regime``, ``metric``, ``published``, ``measured`` (mean
        over tasks, then over seeds), ``spread`` (standard deviation over seeds), ``difference`` (measured -
        published), ``cells``, ``measured_with`` (in words), ``source``, ``note``.
    """
    scores = published_scores() if scores is None else scores
    names = {score.dataset for score in scores}
    datasets = [label for label in frame["dataset"].unique() if label.partition("(")[0] in names]
    frame = full_protection_rows(frame[frame["dataset"].isin(datasets)])
    by_key = {record.key: record for record in records}
    frame = frame[[*AXES, "key", "track", "headline", "raw", "floor", "perfect"]]
    return DataFrame([row for score in scores for row in _compare_score(score, frame, by_key)])


def _compare_score(
    published: PublishedScore, frame: DataFrame, records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    datasets = [label for label in frame["dataset"].unique() if label.partition("(")[0] == published.dataset]
    rows = frame[
        frame["dataset"].isin(datasets)
        & (frame["regime"] == published.regime)
        & (frame["defense"] == published.defense)
        & (frame["headline"] == published.metric)
    ]
    measurements = []
    for _, of_dataset in rows.groupby("dataset"):
        for _, victims in _select_victims(of_dataset, published).groupby(["backbone", "weighting"]):
            measured = _measure(victims, published, records)
            if published.attack == BEST and measured:
                worst = min if (victims["perfect"] > victims["floor"]).all() else max
                measured = [worst(measured, key=lambda row: row["measured"])]
            measurements += measured
    names = ("dataset", "attack", "regime", "metric", "source", "note")
    labels = {name: getattr(published, name) for name in names} | {"published": published.value}
    return [labels | row | {"difference": row["measured"] - published.value} for row in measurements]


def _select_victims(rows: DataFrame, published: PublishedScore) -> DataFrame:
    """Return the rows with the published backbone and weighting, or the most frequent ones if not run."""
    kept = rows
    for axis, wanted in (("backbone", published.backbone), ("weighting", published.weighting)):
        labels = {wanted} if wanted in rows[axis].unique() else most_frequent(rows[axis])
        selected = kept[kept[axis].isin(labels)]
        kept = selected if len(selected) else kept
    return kept


def _measure(
    rows: DataFrame, published: PublishedScore, records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    if published.attack == BEST:
        rows = rows[(rows["track"] == "linf") & (rows["attack"] != CLEAN)]
    else:
        rows = rows[rows["attack"] == published.attack]
    cells = rows.groupby("key", sort=False).agg({"attack": "first", "raw": "mean", "seed": "first"}).dropna()
    cells["measured_with"] = [_describe_setting(records[str(key)], published) for key in cells.index]
    return [
        {
            "measured_attack": attack,
            "measured": group["raw"].mean(),
            "spread": seed_spread(group["raw"], group["seed"]),
            "cells": len(group),
            "measured_with": setting,
        }
        for (attack, setting), group in cells.groupby(["attack", "measured_with"])
    ]


def _describe_setting(record: Record, published: PublishedScore) -> str:
    """Return the victim, and every difference from the source's attack, dataset and settings."""
    labels = [_full_label(record, axis) for axis in ("attack", "dataset", "backbone", "weighting")]
    parts = [label for label in labels if label not in (str(record.cell["attack"]), published.dataset)]
    ours: dict[str, Any] = {
        **record.settings.get("recipe", {}),
        "epsilon": record.settings.get("epsilon"),
        "test_images": max(info["test"] for info in record.tasks.values()),
    }
    for name in COMPARED:
        # Single-task networks can have a number of epochs of their own.
        names = ("stl_epochs", name) if name == "epochs" and published.regime == STL else (name,)
        value, other = (_first_set(settings, names) for settings in (ours, published.settings))
        if value is not None and value != other:
            parts.append(f"{name.replace('_', ' ')} {value:g}" + ("" if other is None else f" ({other:g})"))
    return ", ".join(parts)


def _first_set(settings: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), None)


def _full_label(record: Record, axis: str) -> str:
    """Return a part's label with every parameter that is not its default, even if a suite sets it.

    Seeds are averaged over, those of the data too.
    """
    choice = Choice.parse(str(record.cell[axis]))
    params: Mapping[str, Any] = record.settings.get(axis, {}).get("params", {})
    defaults = {
        name: value for name, value in _default_params(axis, choice.name).items() if name != DATA_SEED
    }
    changed = {name: value for name, value in params.items() if name in defaults and value != defaults[name]}
    return Choice(choice.name, tuple(sorted((changed | dict(choice.params)).items()))).label


@cache
def _default_params(axis: str, name: str) -> dict[str, Any]:
    """Return parameter → default of a part, as a record has it; empty for an unknown part."""
    try:
        parameters = describe_part(axis, name).parameters
    except BenchError:
        return {}
    defaults = {}
    for parameter in parameters:
        try:
            defaults[parameter.name] = json.loads(json.dumps(ast.literal_eval(parameter.default)))
        except ValueError:  # an expression
            continue
    return defaults


def render_published(frame: DataFrame, records: Iterable[Record]) -> str:
    """Return the section in markdown, empty if no published score was measured."""
    compared = compare_with_published(frame, records)
    if not len(compared):
        return ""
    rows = []
    for row in compared.to_dict("records"):
        attack, metric = row["attack"], row["metric"]
        spread = "" if is_missing(row["spread"]) else f" ± {format_score(row['spread'], metric)}"
        rows.append(
            {
                "dataset": row["dataset"],
                "attack": attack
                if attack == row["measured_attack"]
                else f"{attack}: {row['measured_attack']}",
                "regime": row["regime"],
                "metric": metric_label(metric),
                "published": format_score(row["published"], metric, decimals=2),
                "measured": f"{format_score(row['measured'], metric)}{spread}",
                "difference": format_score(row["difference"], metric),
                "cells": str(row["cells"]),
                "measured with": row["measured_with"],
            }
        )
    sources = "; ".join(escape_markdown(source) for source in dict.fromkeys(compared["source"]))
    notes = "".join(f" {escape_markdown(note)}" for note in dict.fromkeys(compared["note"]) if note)
    spread = "; ± is the standard deviation over seeds" if compared["spread"].notna().any() else ""
    legend = (
        f"Means over tasks, without a defense{spread}. Published: {sources}. *Measured with* names the "
        "victim, the attack or dataset if a parameter of theirs is not the default, and every setting that "
        "differs from the publication (with the published value in parentheses). If the images, their "
        f"number or the training differ, compare the order of the attacks, not the numbers.{notes}"
    )
    return join_blocks("## Comparison with published scores", markdown_table(rows), legend)
