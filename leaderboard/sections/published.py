"""Figures as published, beside what was measured."""

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
from leaderboard.formatting import escape_markdown, format_score, is_missing, markdown_table, metric_label
from leaderboard.frame import full_protection_rows
from leaderboard.statistics import seed_spread

BEST = "best"
"""Stands for whichever attack of a board leaves the least, beside the best of a paper."""

STL = "stl"
"""The regime of single-task networks, which have epochs of their own."""

COMPARED = ("epsilon", "epochs", "batch", "learning_rate", "test_images")
"""Settings, beside a part's parameters, by which a measurement can differ from a publication."""


@dataclass(frozen=True)
class Figure:
    """One published number.

    Attributes:
        source: the paper, and where in it.
        dataset: name of the part, whatever its parameters.
        attack: our label, or `BEST`.
        backbone: our label, as ``weighting``, ``regime`` and ``defense``.
        metric: the headline metric it is a mean of.
        value: the number, in the unit we record.
        settings: what the source says of `COMPARED`; ``stl_epochs`` where those differ.
        note: a sentence on what else is to be known; empty: nothing.
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
    return tuple(figure for table_ in content["table"] for figure in _figures(table_))


def _figures(content: Mapping[str, Any]) -> list[Figure]:
    about = {key: value for key, value in content.items() if key not in ("regime", "unit", "notes")}
    factor, notes = 0.01 if content.get("unit") == "%" else 1.0, content.get("notes", {})
    return [
        Figure(**about, regime=regime, attack=attack, value=factor * value, note=notes.get(regime, ""))
        for regime, values in content["regime"].items()
        for attack, value in values.items()
    ]


def compare_with_published(
    frame: DataFrame, records: Iterable[Record], figures: Sequence[Figure] | None = None
) -> DataFrame:
    """Put what was measured beside what was published.

    A figure meets the cells of its dataset (whatever the dataset's parameters), attack, regime and defense
    that have its backbone and weighting, or those most often run where these were not. Beside `BEST` stands
    the bounded attack that leaves the worst score. Figures without such cells are left out.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        records: those it was made of.
        figures: by default those of `published_figures`.

    Returns:
        One row per figure and setting it was measured in: ``dataset``, ``attack``, ``measured_attack``
        (another one beside `BEST` only), ``regime``, ``metric``, ``published``, ``measured`` (mean over
        tasks, then over seeds), ``spread`` (standard deviation over seeds), ``difference`` (measured -
        published), ``cells``, ``measured_with`` (in words), ``source``, ``note``.
    """
    by_key, frame = {record.key: record for record in records}, full_protection_rows(frame)
    rows = [
        row
        for figure in (published_figures() if figures is None else figures)
        for row in _beside(figure, _matching(frame, figure), by_key)
    ]
    return DataFrame(rows)


def _matching(frame: DataFrame, figure: Figure) -> DataFrame:
    """Return the rows of every attack on the figure's dataset, under its regime and defense."""
    datasets = [name for name in set(frame["dataset"]) if name.partition("(")[0] == figure.dataset]
    return frame[
        frame["dataset"].isin(datasets)
        & (frame["regime"] == figure.regime)
        & (frame["defense"] == figure.defense)
        & (frame["headline"] == figure.metric)
    ]


def _beside(figure: Figure, rows: DataFrame, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    found = []
    for _, some in rows.groupby("dataset"):
        victims = _victims(some, figure)
        for _, same in victims.groupby(["backbone", "weighting"]):
            measured = _measured(same, figure, records)
            found += _worst(measured, same) if figure.attack == BEST else measured
    return [
        {
            "dataset": figure.dataset,
            "attack": figure.attack,
            "measured_attack": row["attack"],
            "regime": figure.regime,
            "metric": figure.metric,
            "published": figure.value,
            "measured": row["measured"],
            "spread": row["spread"],
            "difference": row["measured"] - figure.value,
            "cells": row["cells"],
            "measured_with": row["measured_with"],
            "source": figure.source,
            "note": figure.note,
        }
        for row in found
    ]


def _victims(rows: DataFrame, figure: Figure) -> DataFrame:
    """Return the rows of the figure's backbone and weighting, of the commonest where these were not run."""
    kept = rows
    for axis, wanted in (("backbone", figure.backbone), ("weighting", figure.weighting)):
        counts = rows[axis].value_counts()
        usual = {wanted} if wanted in counts.index else set(counts.index[counts == counts.max()])
        some = kept[kept[axis].isin(usual)]
        kept = some if len(some) else kept
    return kept


def _measured(rows: DataFrame, figure: Figure, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    if figure.attack == BEST:
        rows = rows[rows["bounded"] & (rows["attack"] != CLEAN)]
    else:
        rows = rows[rows["attack"] == figure.attack]
    cells = rows.groupby("key", sort=False).agg({"attack": "first", "raw": "mean", "seed": "first"}).dropna()
    cells["measured_with"] = [_measured_with(records[str(key)], figure) for key in cells.index]
    return [
        {
            "attack": attack,
            "measured": same["raw"].mean(),
            "spread": seed_spread(same["raw"], same["seed"]),
            "cells": len(same),
            "measured_with": text,
        }
        for (attack, text), same in cells.groupby(["attack", "measured_with"])
    ]


def _worst(measured: list[dict[str, Any]], rows: DataFrame) -> list[dict[str, Any]]:
    upward = bool((rows["perfect"] > rows["floor"]).all())
    choose = min if upward else max
    return [choose(measured, key=lambda row: row["measured"])] if measured else []


def _measured_with(record: Record, figure: Figure) -> str:
    """Return the victim, what of attack and dataset is not as usual, and what the source had otherwise."""
    usual = {str(record.cell["attack"]), figure.dataset}
    parts = [_in_full(record, axis) for axis in ("attack", "dataset", "backbone", "weighting")]
    parts = [part for part in parts if part not in usual]
    mine, theirs = (_trained(settings, figure.regime) for settings in (_settings(record), figure.settings))
    for name in COMPARED:
        value, other = mine.get(name), theirs.get(name)
        if value is not None and value != other:
            parts.append(f"{name.replace('_', ' ')} {value:g}" + ("" if other is None else f" ({other:g})"))
    return ", ".join(parts)


def _settings(record: Record) -> dict[str, Any]:
    tested = max(info["test"] for info in record.tasks.values())
    recipe = record.settings.get("recipe", {})
    return {**recipe, "epsilon": record.settings.get("epsilon"), "test_images": tested}


def _trained(settings: Mapping[str, Any], regime: str) -> dict[str, Any]:
    """Return settings with the epochs that a network of this regime has."""
    own = settings.get("stl_epochs") if regime == STL else None
    return {**settings, "epochs": own or settings.get("epochs")}


def _in_full(record: Record, axis: str) -> str:
    """Return a part's label with every parameter that is not its default, one set by a suite too."""
    choice = Choice.parse(str(record.cell[axis]))
    params: Mapping[str, Any] = record.settings.get(axis, {}).get("params", {})
    defaults = _defaults(axis, choice.name)
    changed = {name: value for name, value in params.items() if name in defaults and value != defaults[name]}
    return Choice(choice.name, tuple(sorted((changed | dict(choice.params)).items()))).label


@cache
def _defaults(axis: str, name: str) -> dict[str, Any]:
    """Return parameter → default of a part, as a record would have it; nothing of a part unknown here."""
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
    """Return the section in markdown, nothing where nothing of what was run was published."""
    beside = compare_with_published(frame, records)
    if not len(beside):
        return ""
    rows = [
        {
            "dataset": row["dataset"],
            "attack": _named(row["attack"], row["measured_attack"]),
            "regime": row["regime"],
            "metric": metric_label(row["metric"]),
            "published": format_score(row["published"], row["metric"], decimals=2),
            "measured": _with_spread(row["measured"], row["spread"], row["metric"]),
            "difference": format_score(row["difference"], row["metric"]),
            "cells": str(row["cells"]),
            "measured with": row["measured_with"],
        }
        for row in beside.to_dict("records")
    ]
    sources = "; ".join(escape_markdown(source) for source in dict.fromkeys(beside["source"]))
    notes = "".join(f" {escape_markdown(note)}" for note in dict.fromkeys(beside["note"]) if note)
    spread = "; ± is the standard deviation over seeds" if beside["spread"].notna().any() else ""
    legend = (
        f"Means over tasks, without a defense{spread}. Published: {sources}. *Measured with* names the "
        "victim, the attack or dataset where a parameter of theirs is not the default, and what was "
        "otherwise than published (that in parentheses). Where images, their number or the training differ, "
        f"compare the order of the attacks, not the figures.{notes}"
    )
    return "\n\n".join(["## Beside the published figures", markdown_table(rows), legend])


def _named(attack: str, measured: str) -> str:
    return attack if attack == measured else f"{attack}: {measured}"


def _with_spread(value: float, spread: float | None, metric: str) -> str:
    shown = format_score(value, metric)
    return shown if is_missing(spread) else f"{shown} ± {format_score(spread, metric)}"
