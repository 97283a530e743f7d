"""Why a cell's result is what it is: everything known of one cell, from its files alone."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, indent
from typing import Any

from tabulate import tabulate

from bench.engine.storage.item_logs import log_path, read_tail
from bench.engine.storage.store import POISONS, PURIFIED, SURROGATES, Store
from bench.errors import BenchError, unknown_name_error
from bench.record import AXES, CLEAN, Record, read_record, read_records
from bench.text import format_duration, to_printable

SHARED = {SURROGATES: "surrogate", POISONS: "poison", PURIFIED: "purified set"}
"""Folders of what cells share, and what is in them."""

COLUMNS = 98
"""Entries are wrapped at this width."""

LISTED = 20
"""Most cells that are listed where several match."""

LOG_LINES = 12
"""Lines of the end of a log that are shown."""


@dataclass(frozen=True)
class FoundItem:
    """What a key or some words mean.

    Attributes:
        key: its key.
        kind: ``cell``, one of `SHARED`, or ``unfinished`` where nothing but a log is there yet.
        record: a cell's.
        folder: that of what cells share.
    """

    key: str
    kind: str
    record: Record | None = None
    folder: Path | None = None

    @property
    def label(self) -> str:
        """Its label, where it is a cell."""
        return self.record.label if self.record else ""


def find_items(out: Path, words: Sequence[str]) -> list[FoundItem]:
    """Return what is meant by the beginning of a key, or the cells that are meant by words of a label.

    All words must occur in the label. Where some cells have every word as a word of its own, only those are
    meant: ``em`` is not ``mtl-ue-em``.

    Raises:
        BenchError: when there is nothing, with the nearest word as a hint, or when a cell's file is damaged.
    """
    if len(words) == 1 and re.fullmatch("[0-9a-f]+", words[0]):
        found = _begin_with(out, words[0])
        if found:
            return found
    records = [record for record in read_records(out / "records", curve=False) if isinstance(record, Record)]
    asked = [word for phrase in words for word in _words(phrase)]
    meant = [record for record in records if all(word in record.label for word in asked)]
    if not meant:
        raise _not_found_error(asked, records, out)
    own = [record for record in meant if set(asked) <= set(_words(record.label))]
    return [FoundItem(record.key, "cell", record) for record in own or meant]


def _begin_with(out: Path, beginning: str) -> list[FoundItem]:
    cells = [read_record(path, curve=False) for path in (out / "records").glob(f"{beginning}*.json")]
    found = {record.key: FoundItem(record.key, "cell", record) for record in cells}
    for name, kind in SHARED.items():
        folders = (out / name).glob(f"{beginning}*")
        found |= {folder.name: FoundItem(folder.name, kind, folder=folder) for folder in folders}
    for path in (out / "logs").glob(f"{beginning}*.log"):
        found.setdefault(path.stem, FoundItem(path.stem, "unfinished"))
    return [found[key] for key in sorted(found)]


def find_clean_record(out: Path, record: Record) -> Record | None:
    """Return the clean counterpart of a cell, as in the tables the one finished last; None without any."""
    same = []
    for path in (out / "records").glob("*.json"):
        with contextlib.suppress(OSError, BenchError):  # files that cannot be read
            # Reading a record takes a hundred times as long as looking for a word in it.
            if record.victim.encode() in path.read_bytes():
                same.append(read_record(path, curve=False))
    wanted = record.victim, CLEAN, "done"
    clean = (other for other in same if (other.victim, other.cell["attack"], other.status) == wanted)
    return max(clean, key=lambda other: other.finished, default=None)


def list_items(found: Sequence[FoundItem]) -> str:
    """Return one line for each of the first of several things."""
    rows = [(one.key, one.record.status if one.record else one.kind, one.label) for one in found[:LISTED]]
    more = f"\nand {len(found) - LISTED} more" if len(found) > LISTED else ""
    return to_printable(tabulate(rows, (), "plain", disable_numparse=True) + more)


def explain_cell(record: Record, out: Path, clean: Record | None, protections: Mapping[str, float]) -> str:
    """Return everything known of a cell.

    Args:
        record: the cell.
        out: its run's folder.
        clean: its clean counterpart, where there is one.
        protections: task → protection, where it is defined.
    """
    poison = out / "poisons" / record.poison
    purified = record.environment.get("purified")
    provenance = {
        "key": record.key,
        "victim": f"{record.victim}, shared by all cells that differ in the attack alone",
        "clean cell": clean.key if clean else "none is finished",
        "poison": f"{poison}{'' if poison.exists() else ', which is not there'}",
        "surrogate": _find_surrogate(out, record.settings.get("surrogate")),
        "purified set": str(out / "purified" / purified) if purified else None,
        "images": record.environment.get("data"),
        "noise": {name: value for name, value in record.noise.items() if name != "tasks"},
        "environment": {
            name: value for name, value in record.environment.items() if name not in ("purified", "data")
        },
        "protocol": record.protocol,
    }
    sections = [f"{record.label}\n{record.status} {record.finished}, suite {record.suite}"]
    if record.error is not None:
        type_, message, trace = record.error["type"], record.error["message"], record.error["traceback"]
        sections.append(_section("error", f"{type_}: {message}\n{trace}".rstrip()))
    sections += [
        _section("scores", _scores_table(record, clean, protections) if record.scores else ""),
        _section("configuration", _settings_lines(record.settings)),
        _section("provenance", _aligned_lines(provenance)),
        _section("costs", _costs_table(record.cost)),
        _section("log", _log_tail(out, record.key)),
        _section("log of its poison", _log_tail(out, record.poison) if record.error else ""),
    ]
    return to_printable("\n\n".join(filter(None, sections)))


def explain_shared(found: FoundItem, out: Path) -> str:
    """Return everything known of what cells share, or of what is not there yet."""
    sections = [f"{found.kind} {found.key}"]
    if found.folder:
        about = _about(out, found.folder)
        settings, costs = about.pop("settings", {}), about.pop("cost", {})
        sections += [
            _section("configuration", _settings_lines(settings)),
            _section("provenance", _aligned_lines({"folder": str(found.folder), **about})),
            _section("costs", _costs_table(costs)),
        ]
    sections.append(_section("log", _log_tail(out, found.key)))
    return to_printable("\n\n".join(filter(None, sections)))


def _words(text: str) -> list[str]:
    return text.replace(" · ", " ").split()


def _not_found_error(asked: Sequence[str], records: Sequence[Record], out: Path) -> BenchError:
    """Return the error for words no cell has, all or together."""
    known = {word for record in records for word in _words(record.label)}
    strange = [word for word in asked if not any(word in record.label for record in records)]
    if strange and known:
        return unknown_name_error(f"word in the cells of {out}:", strange[0], known)
    return BenchError(
        f"no cell in {out} is called {' '.join(asked)!r}; `bench report --format csv` lists them"
    )


def _section(title: str, text: str) -> str:
    return f"{title}\n{indent(text, '  ')}" if text else ""


def _aligned_lines(entries: Mapping[str, Any]) -> str:
    """Return one line per entry, continued on the next where it is long; paths and names stay whole."""
    told = {name: _format_value(value) for name, value in entries.items() if value not in (None, "", {}, [])}
    width = max(map(len, told), default=0) + 2
    return "\n".join(
        fill(
            text,
            COLUMNS,
            initial_indent=name.ljust(width),
            subsequent_indent=" " * width,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in told.items()
    )


def _settings_lines(settings: Mapping[str, Any]) -> str:
    named = {
        name.replace("_", " "): settings[name]
        for name in (*AXES, *sorted(set(settings) - set(AXES)))
        if name in settings
    }
    if "epsilon" in named:
        epsilon = named.pop("epsilon")
        named["budget"] = "none" if epsilon is None else f"{epsilon}/255 a pixel"
    if "rate" in named:
        named["rate"] = "all images" if named["rate"] == 1 else f"{named['rate']:.4g} of the images"
    if "protected" in named:
        named["protected"] = named["protected"] or "all tasks"
    return _aligned_lines(named)


def _format_value(value: Any) -> str:
    """Spell a part with its version and parameters, any other value as people write it."""
    if _is_part(value):
        params = value["params"].get("parts", value["params"])
        return f"{value['name']} v{value['version']}" + (f" ({_format_value(params)})" if params else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_enclose(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(_enclose, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _enclose(value: Any) -> str:
    several = isinstance(value, Mapping | list) and not _is_part(value)
    return f"[{_format_value(value)}]" if several else _format_value(value)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and {"name", "version", "params"} <= set(value)


def _scores_table(record: Record, clean: Record | None, protections: Mapping[str, float]) -> str:
    """Return a row per task for the metric protection is computed from, and one for the headline."""
    rows = []
    for task, info in record.tasks.items():
        for metric in dict.fromkeys((info["scored"], info["headline"])):
            values = [
                record.scores[task].get(metric),
                clean.scores.get(task, {}).get(metric) if clean else None,
                info["floor"].get(metric),
                record.peak.get(task, {}).get(metric),
                protections.get(task) if metric == info["scored"] else None,
            ]
            rows.append((task, metric, *values))
    headers = ("task", "metric", "score", "clean", "floor", "best epoch", "protection")
    align = ("left", "left", *["right"] * 5)
    return tabulate(rows, headers, "plain", floatfmt=".3f", missingval="-", colalign=align)


def _costs_table(costs: Mapping[str, Mapping[str, Any]]) -> str:
    if not costs:
        return ""
    rows = [
        (
            phase,
            format_duration(cost["seconds"]),
            *(
                None if cost[name] is None else f"{cost[name]:,.0f}"
                for name in ("images_per_s", "peak_host_mb", "peak_device_mb")
            ),
        )
        for phase, cost in costs.items()
    ]
    headers = ("phase", "time", "images/s", "host MiB", "device MiB")
    align = ("left", *["right"] * 4)
    return tabulate(rows, headers, "plain", missingval="-", disable_numparse=True, colalign=align)


def _log_tail(out: Path, key: str) -> str:
    path = log_path(out, key)
    return "\n".join([str(path), *read_tail(path, LOG_LINES)]) if path.exists() else "there is none"


def _find_surrogate(out: Path, settings: Mapping[str, Any] | None) -> str | None:
    """Return where the surrogate with these settings is; None where none is needed, or it is not there."""
    for folder in (out / "surrogates").glob("[!.]*"):  # those that are being written begin with a dot
        if _about(out, folder).get("settings", {}) == settings:
            return str(folder)
    return None


def _about(out: Path, folder: Path) -> dict[str, Any]:
    """Return the note beside what cells share; what is wrong with it, where it is damaged."""
    try:
        return Store(out).about(folder.parent.name, folder.name) or {}
    except BenchError as error:
        return {"damaged": str(error)}
