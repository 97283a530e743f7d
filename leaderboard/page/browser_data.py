"""The data that the pages read as scripts, since a browser reads no other file from disk.

Every file is one statement, ``mtlue.data["NAME"] = JSON;``.
"""

import json
import marshal
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pandas import DataFrame

from bench.record import AXES, Record
from bench.text import to_one_line, to_printable
from leaderboard.formatting import METRICS
from leaderboard.page.content import CELLS_PER_FILE, PageContent
from leaderboard.page.ranking_view import RankedTrack, number_or_none
from leaderboard.ranking import RAW
from leaderboard.rows import cell_rows, full_protection_rows
from leaderboard.scores import SETTING_AXES

FILTER_AXES = (*SETTING_AXES, "defense")
"""Axes by which the cells of a ranking can be filtered."""


def encode_script(name: str, value: object) -> bytes:
    """Return the file of a value."""
    return f"mtlue.data[{json.dumps(name)}]={encode_value(value)};\n".encode()


def encode_value(value: object) -> str:
    """Return a value as JSON without unprintable characters and without those that can end a script."""
    text = _dump_compactly(value)
    if not text.isprintable() or _ESCAPED_CONTROL.search(text):
        text = _dump_compactly(_printable_value(value))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


_ESCAPED_CONTROL = re.compile(r"\\[bfrtu]")
"""How JSON writes a control character that is not the end of a line."""


def _dump_compactly(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _printable_value(value: Any) -> Any:
    """Return a JSON value whose texts are printable; that is slow, and names are seldom hostile."""
    if isinstance(value, str):
        return to_printable(value)
    if isinstance(value, Mapping):
        return {to_one_line(str(name)): _printable_value(entry) for name, entry in value.items()}
    return [_printable_value(entry) for entry in value] if isinstance(value, list | tuple) else value


def ranking_data(content: PageContent, tracks: Sequence[RankedTrack]) -> dict[str, Any]:
    """Return what the browser needs to rank the attacks by another metric, or from some of the cells only.

    ``games`` has, by attack, setting and defense, U (the mean share over tasks, then over seeds; null if it
    is not defined), the number of cells, and the mean of every headline metric: one list per column, labels
    as positions in ``labels``. Protection follows from it as `leaderboard.scores` defines it.
    """
    return {
        **_list_games(full_protection_rows(content.board.frame)),
        "metrics": {
            metric: _describe_metric(metric, content.board.frame)
            for metric in sorted({metric for track in tracks for metric in track.metrics})
        },
        "tracks": {
            track.track: [{"attack": row.attack, **row.values, "raw": row.raw} for row in track.rows]
            for track in tracks
        },
    }


def _list_games(frame: DataFrame) -> dict[str, Any]:
    cells, axes = cell_rows(frame), ["attack", *FILTER_AXES]
    raw = frame.groupby(["key", "headline"])["raw"].mean().unstack().add_prefix(RAW)
    cells = cells[~cells["unpaired"]][[*axes, "key", "share"]].join(raw, on="key")
    how: dict[str, Any] = {"share": ("share", "mean"), "cells": ("key", "size")}
    games = cells.groupby(axes).agg(**how, **{str(name): (name, "mean") for name in raw}).reset_index()
    labels = {axis: sorted(games[axis].unique()) for axis in axes}
    columns = {
        axis: games[axis].map({label: place for place, label in enumerate(labels[axis])}).tolist()
        for axis in axes
    }
    columns |= {name: list(map(number_or_none, games[name])) for name in ("share", *raw)}
    return {
        "labels": {axis: list(names) for axis, names in labels.items()},
        "games": columns | {"cells": games["cells"].tolist()},
    }


def _describe_metric(metric: str, frame: DataFrame) -> dict[str, Any]:
    """Return how a metric is written, and whether a high value is a good score of the victim."""
    known = METRICS.get(metric)
    rows = frame[frame["headline"] == metric]
    return {
        "factor": known.factor if known else 1,
        "decimals": known.decimals if known else 3,
        "highIsGood": bool((rows["perfect"] > rows["floor"]).all()),
    }


def cells_data(content: PageContent) -> dict[str, Any]:
    """Return one line per cell for the list of all cells: labels, state, protection and key, by column."""
    records = content.records
    labels = {axis: sorted({record.cell[axis] for record in records}, key=_natural_order) for axis in AXES}
    places = {axis: {label: place for place, label in enumerate(names)} for axis, names in labels.items()}
    return {
        "labels": {axis: [str(name) for name in names] for axis, names in labels.items()},
        "axes": {axis: [places[axis][record.cell[axis]] for record in records] for axis in AXES},
        "failed": [number for number, record in enumerate(records) if record.status == "failed"],
        "protection": [_round_to_3(content.protections.get(record.key)) for record in records],
        "pages": [content.places[record.key].partition(":")[2] for record in records],
        "per_file": CELLS_PER_FILE,
    }


def _natural_order(label: str | int) -> tuple[bool, int, str]:
    return (False, label, "") if isinstance(label, int) else (True, 0, label)


def _round_to_3(value: float | None) -> float | None:
    number = number_or_none(value)
    return None if number is None else round(number, 3)


def cell_files(content: PageContent) -> Iterator[tuple[str, bytes]]:
    """Yield the files with everything about the cells: name and content.

    What many cells share, such as their environment, is in a file once.
    """
    rows, clean = _TaskRows(content), _clean_cells(content)
    for number, start in enumerate(range(0, len(content.records), CELLS_PER_FILE)):
        shared = _SharedValues()
        cells = {}
        for record in content.records[start : start + CELLS_PER_FILE]:
            key = content.places[record.key].partition(":")[2]
            cells[key] = _describe_cell(record, content, rows, clean, shared)
        name = f"cells-{number}"
        yield f"data/{name}.js", encode_script(name, {"shared": shared.values, "cells": cells})


SEEDS = ("seed", "poison_seed")
"""Settings that differ between cells which are equal otherwise."""


def _without_seeds(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in SEEDS}


_MARSHAL_WITHOUT_REFERENCES: Final = 2
"""Version of the format in which equal values have equal bytes."""


class _SharedValues:
    """Values of which each is stored once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[bytes, int] = {}

    def place(self, value: Any) -> int:
        """Return the position of a value."""
        content = marshal.dumps(value, _MARSHAL_WITHOUT_REFERENCES)  # ten times as fast as JSON
        if content not in self._places:
            self._places[content] = len(self.values)
            self.values.append(value)
        return self._places[content]


def _clean_cells(content: PageContent) -> dict[str, str]:
    """Return victim → address of its clean cell."""
    cells = content.cells[content.cells["attack"] == "clean"]
    return {
        str(victim): content.places[str(key)]
        for victim, key in zip(cells["victim"], cells["key"], strict=True)
    }


class _TaskRows:
    """The rows of the tasks of every cell, as lists: cutting a table into 100,000 takes a minute."""

    NUMBERS = ("raw", "clean_raw", "floor_raw", "raw_peak", "protection")

    def __init__(self, content: PageContent) -> None:
        frame = content.board.all_budgets
        self._names = list(zip(frame["task"], frame["headline"], strict=True))
        numbers = frame[list(self.NUMBERS)].round(4).astype(object)
        self._numbers = [numbers[name].where(frame[name].notna(), None).tolist() for name in self.NUMBERS]
        self._rows: dict[str, list[int]] = {}
        for row, key in enumerate(frame["key"]):
            self._rows.setdefault(key, []).append(row)

    def tasks_of(self, key: str) -> list[tuple[str, str]]:
        """Return the tasks of a cell and their headline metrics."""
        return [self._names[row] for row in self._rows.get(key, ())]

    def numbers_of(self, key: str) -> list[list[float | None]]:
        """Return each of `NUMBERS` of the tasks of a cell."""
        rows = self._rows.get(key, ())
        return [[column[row] for row in rows] for column in self._numbers]


def _describe_cell(
    record: Record,
    content: PageContent,
    rows: _TaskRows,
    clean: Mapping[str, str],
    shared: _SharedValues,
) -> dict[str, Any]:
    curve = content.curves.get(record.key)
    cell: dict[str, Any] = {
        "labels": [record.cell[axis] for axis in AXES],
        "attackPage": content.pages[str(record.cell["attack"])],
        "status": record.status,
        "finished": record.finished,
        "suite": record.suite,
        "key": record.key,
        "poison": record.poison,
        "victim": record.victim,
        "protocol": record.protocol,
        "clean": clean.get(record.victim),
        "settings": shared.place(_without_seeds(record.settings)),
        "seeds": [record.settings.get(name) for name in SEEDS],
        "environment": shared.place(record.environment),
        "noise": shared.place({name: value for name, value in record.noise.items() if name != "tasks"}),
        "cost": {phase: list(cost.values()) for phase, cost in record.cost.items()},
    }
    if record.status == "done":
        cell["tasks"] = shared.place(rows.tasks_of(record.key))
        cell["scores"] = rows.numbers_of(record.key)
    if record.error is not None:
        cell["error"] = record.error
    if curve is not None:
        cell["curve"] = {
            "epochs": shared.place(list(curve.epochs)),
            "mean": curve.mean,
            "loss": curve.train_loss,
            "tasks": dict(curve.tasks),
        }
    return cell
