"""Published figures compared with what was measured."""

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
from bench.record import CLEAN, Record
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
"""Attack of a figure that is a paper's best result; it is compared with the best attack of a board."""

STL = "stl"
"""The regime of single-task networks, which can be trained for another number of epochs."""

COMPARED = ("epsilon", "epochs", "batch", "learning_rate", "test_images")
"""Settings, besides a part's parameters, in which a measurement can differ from a publication."""


@dataclass(frozen=True)
class Figure:
    """One published number.

    Attributes:
        source: the paper, and where in it.
        dataset: name of the part, whatever its parameters.
        attack: label in this project, or `BEST`.
        backbone: label in this project, as are ``weighting``, ``regime`` and ``defense``.
        metric: the headline metric; the number is its mean over tasks.
        value: the number, in the unit of the records.
        settings: the settings in `COMPARED` that the source gives; ``stl_epochs`` if those differ.
        note: a sentence that is printed with the figure; may be empty.
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
def published_figures() -> tuple[Figure, ...]:
    """Return every figure of ``published.toml``, in its order."""
    content = tomllib.loads((files("leaderboard") / "published.toml").read_text(encoding="utf-8"))
    return tuple(figure for table in content["table"] for figure in _figures_of_table(table))


def _figures_of_table(table: Mapping[str, Any]) -> list[Figure]:
    fields = {key: value for key, value in table.items() if key not in ("regime", "unit", "notes")}
    factor, notes = 0.01 if table.get("unit") == "%" else 1.0, table.get("notes", {})
    return [
        Figure(**fields, regime=regime, attack=attack, value=factor * value, note=notes.get(regime, ""))
        for regime, values in table["regime"].items()
        for attack, value in values.items()
    ]


def compare_with_published(
    frame: DataFrame, records: Iterable[Record], figures: Sequence[Figure] | None = None
) -> DataFrame:
    """Compare measurements with published figures.

    A figure is compared with the cells of its dataset (whatever the dataset's parameters), attack, regime and
    defense that have its backbone and weighting, or the most frequent ones if those were not run. `BEST` is
    compared with the bounded attack that leaves the worst score. Figures without such cells are left out.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        records: those it was made from.
        figures: by default those of `published_figures`.

    Returns:
        One row per figure and setting it was measured in: ``dataset``, ``attack``, ``measured_attack``
        (differs from ``attack`` for `BEST` only), ``regime``, ``metric``, ``published``, ``measured`` (mean
        over tasks, then over seeds), ``spread`` (standard deviation over seeds), ``difference`` (measured -
        published), ``cells``, ``measured_with`` (in words), ``source``, ``note``.
    """
    by_key, frame = {record.key: record for record in records}, full_protection_rows(frame)
    return DataFrame(
        [
            row
            for figure in (published_figures() if figures is None else figures)
            for row in _compare_figure(figure, frame, by_key)
        ]
    )


def _compare_figure(figure: Figure, frame: DataFrame, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    rows = frame[
        frame["dataset"].map(lambda label: label.partition("(")[0] == figure.dataset).astype(bool)
        & (frame["regime"] == figure.regime)
        & (frame["defense"] == figure.defense)
        & (frame["headline"] == figure.metric)
    ]
    measurements = []
    for _, of_dataset in rows.groupby("dataset"):
        for _, victims in _select_victims(of_dataset, figure).groupby(["backbone", "weighting"]):
            measured = _measure(victims, figure, records)
            if figure.attack == BEST and measured:
                worst = min if (victims["perfect"] > victims["floor"]).all() else max
                measured = [worst(measured, key=lambda row: row["measured"])]
            measurements += measured
    return [
        {
            "dataset": figure.dataset,
            "attack": figure.attack,
            "regime": figure.regime,
            "metric": figure.metric,
            "published": figure.value,
            "difference": row["measured"] - figure.value,
            "source": figure.source,
            "note": figure.note,
        }
        | row
        for row in measurements
    ]


def _select_victims(rows: DataFrame, figure: Figure) -> DataFrame:
    """Return the rows with the figure's backbone and weighting, or the most frequent ones if it has none."""
    kept = rows
    for axis, wanted in (("backbone", figure.backbone), ("weighting", figure.weighting)):
        labels = {wanted} if wanted in set(rows[axis]) else most_frequent(rows[axis])
        selected = kept[kept[axis].isin(labels)]
        kept = selected if len(selected) else kept
    return kept


def _measure(rows: DataFrame, figure: Figure, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    if figure.attack == BEST:
        rows = rows[rows["bounded"] & (rows["attack"] != CLEAN)]
    else:
        rows = rows[rows["attack"] == figure.attack]
    cells = rows.groupby("key", sort=False).agg({"attack": "first", "raw": "mean", "seed": "first"}).dropna()
    cells["measured_with"] = [_describe_setting(records[str(key)], figure) for key in cells.index]
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


def _describe_setting(record: Record, figure: Figure) -> str:
    """Return the victim, and every difference from the source's attack, dataset and settings."""
    published = {str(record.cell["attack"]), figure.dataset}
    labels = [_full_label(record, axis) for axis in ("attack", "dataset", "backbone", "weighting")]
    parts = [label for label in labels if label not in published]
    ours = _settings_of_regime(_compared_settings(record), figure.regime)
    theirs = _settings_of_regime(figure.settings, figure.regime)
    for name in COMPARED:
        value, other = ours.get(name), theirs.get(name)
        if value is not None and value != other:
            parts.append(f"{name.replace('_', ' ')} {value:g}" + ("" if other is None else f" ({other:g})"))
    return ", ".join(parts)


def _compared_settings(record: Record) -> dict[str, Any]:
    test_images = max(info["test"] for info in record.tasks.values())
    recipe = record.settings.get("recipe", {})
    return {**recipe, "epsilon": record.settings.get("epsilon"), "test_images": test_images}


def _settings_of_regime(settings: Mapping[str, Any], regime: str) -> dict[str, Any]:
    """Return settings with the number of epochs of a network of this regime."""
    stl_epochs = settings.get("stl_epochs") if regime == STL else None
    return {**settings, "epochs": stl_epochs or settings.get("epochs")}


def _full_label(record: Record, axis: str) -> str:
    """Return a part's label with every parameter that is not its default, even if a suite sets it."""
    choice = Choice.parse(str(record.cell[axis]))
    params: Mapping[str, Any] = record.settings.get(axis, {}).get("params", {})
    defaults = _default_params(axis, choice.name)
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
    """Return the section in markdown, empty if no published figure was measured."""
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
        f"number or the training differ, compare the order of the attacks, not the figures.{notes}"
    )
    return join_blocks("## Comparison with published figures", markdown_table(rows), legend)
