"""Explain a cell: everything that the files of a run say about it."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import TextWrapper, indent
from typing import Any

from bench.engine.storage.item_logs import log_path, read_tail
from bench.engine.storage.store import POISONS, PURIFIED, SURROGATES, Store
from bench.errors import BenchError, unknown_name_error
from bench.files import require_file
from bench.record import AXES, CLEAN, Record, is_same_data, read_record, read_records
from bench.table import fill_paragraphs, format_table
from bench.text import format_duration, to_printable

SHARED_KINDS = {SURROGATES: "surrogate", POISONS: "poison", PURIFIED: "purified set"}
"""Folder of items that cells share → what kind of item is in it."""

MAX_COLUMNS = 98
"""Values are wrapped at this width, or at that of a narrower terminal."""

INDENT = "  "
"""Of everything below the title of a section."""

MAX_LISTED = 20
"""Most items that are listed if several match."""

LOG_LINES = 12
"""So many last lines of a log are shown."""


@dataclass(frozen=True)
class FoundItem:
    """An item that matches a key or words.

    Attributes:
        key: its key.
        kind: ``cell``, a value of `SHARED_KINDS`, or ``unfinished`` if only its log exists.
        record: the cell's record.
        folder: the folder of a shared item.
    """

    key: str
    kind: str
    record: Record | None = None
    folder: Path | None = None


def find_items(out: Path, words: Sequence[str]) -> list[FoundItem]:
    """Return the items whose key begins with the one word, else the cells whose label contains all words.

    If some labels contain each word as a whole word, only those cells match: ``em`` is not ``mtl-ue-em``.

    Raises:
        BenchError: if nothing matches, with the nearest word as a hint; if the record of a matching key is
            damaged.
    """
    if len(words) == 1 and re.fullmatch("[0-9a-f]+", words[0]) and (items := _items_by_key(out, words[0])):
        return items
    records = [record for record in read_records(out / "records", curve=False) if isinstance(record, Record)]
    asked = [word for phrase in words for word in _split_words(phrase)]
    matches = [record for record in records if all(word in record.label for word in asked)]
    if not matches:
        raise _no_match_error(asked, records, out)
    exact = [record for record in matches if set(asked) <= set(_split_words(record.label))]
    return [FoundItem(record.key, "cell", record) for record in exact or matches]


def _items_by_key(out: Path, prefix: str) -> list[FoundItem]:
    records = [read_record(path, curve=False) for path in (out / "records").glob(f"{prefix}*.json")]
    items = {record.key: FoundItem(record.key, "cell", record) for record in records}
    for name, kind in SHARED_KINDS.items():
        folders = (out / name).glob(f"{prefix}*")
        items |= {folder.name: FoundItem(folder.name, kind, folder=folder) for folder in folders}
    for path in (out / "logs").glob(f"{prefix}*.log"):
        items.setdefault(path.stem, FoundItem(path.stem, "unfinished"))
    return [items[key] for key in sorted(items)]


def _split_words(text: str) -> list[str]:
    return text.replace(" · ", " ").split()


def _no_match_error(asked: Sequence[str], records: Sequence[Record], out: Path) -> BenchError:
    known = {word for record in records for word in _split_words(record.label)}
    unknown = [word for word in asked if not any(word in record.label for record in records)]
    if unknown and known:
        return unknown_name_error(f"word in the cells of {out}:", unknown[0], known)
    return BenchError(
        f"no cell in {out} matches {' '.join(asked)!r}; `bench report --format csv --rows` lists them"
    )


def find_clean_record(out: Path, record: Record) -> Record | None:
    """Return the record of a cell's clean counterpart, the latest one as in the leaderboard; None if none."""
    clean: Record | None = None
    for path in (out / "records").glob("*.json"):
        with contextlib.suppress(OSError, BenchError):  # files that cannot be read
            # Parsing a record takes a hundred times as long as searching its bytes.
            if record.victim.encode() not in require_file(path).read_bytes():
                continue
            other = read_record(path, curve=False)
            matches = (other.victim, other.cell["attack"], other.status) == (record.victim, CLEAN, "done")
            matches = matches and is_same_data(other.data, record.data)
            if matches and (clean is None or other.finished > clean.finished):
                clean = other
    return clean


def list_items(items: Sequence[FoundItem], width: int | None = None) -> str:
    """Return a row for each of the first items, for a terminal of a width."""
    rows = [
        (item.key, item.record.status, item.record.label) if item.record else (item.key, item.kind, "")
        for item in items[:MAX_LISTED]
    ]
    more = f"\nand {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return to_printable(format_table(rows, (), width, style="plain") + more)


def explain_cell(
    record: Record,
    out: Path,
    clean: Record | None,
    protections: Mapping[str, float],
    width: int | None = None,
) -> str:
    """Return everything that is known about a cell.

    Args:
        record: the cell.
        out: its run's folder.
        clean: its clean counterpart, if there is one.
        protections: task → protection, for the tasks in which it is defined.
        width: of the terminal that the text fits; None: `MAX_COLUMNS`, and tables as wide as they are.
    """
    inner = width and width - len(INDENT)
    poison = out / POISONS / record.poison
    environment = dict(record.environment)
    purified, data = environment.pop("purified", None), environment.pop("data", None)
    provenance = {
        "key": record.key,
        "victim": f"{record.victim}, shared by all cells that differ only in the attack",
        "clean cell": clean.key if clean else "none is finished",
        "poison": f"{poison}{'' if poison.exists() else ', which is missing'}",
        "surrogate": _find_surrogate(out, record.settings.get("surrogate")),
        "purified set": str(out / PURIFIED / purified) if purified else None,
        "data": data,
        "noise": {name: value for name, value in record.noise.items() if name != "tasks"},
        "environment": environment,
        "protocol": record.protocol,
    }
    error = record.error
    return _join_sections(
        fill_paragraphs(record.label, width) + f"\n{record.status} {record.finished}, suite {record.suite}",
        {
            "error": f"{error['type']}: {error['message']}\n{error['traceback']}".rstrip() if error else "",
            "scores": _scores_table(record, clean, protections, inner) if record.scores else "",
            "configuration": _settings_lines(record.settings, inner),
            "provenance": _aligned_lines(provenance, inner),
            "costs": _costs_table(record.cost, inner),
            "log": _log_tail(out, record.key),
            "log of its poison": _log_tail(out, record.poison) if error else "",
        },
    )


def explain_shared(item: FoundItem, out: Path, width: int | None = None) -> str:
    """Return everything that is known about an item that cells share, or about an unfinished one."""
    inner = width and width - len(INDENT)
    about = _read_about(out, item.folder) if item.folder else {}
    settings, costs = about.pop("settings", {}), about.pop("cost", {})
    folder = {"folder": str(item.folder)} if item.folder else {}
    return _join_sections(
        f"{item.kind} {item.key}",
        {
            "configuration": _settings_lines(settings, inner),
            "provenance": _aligned_lines({**folder, **about}, inner),
            "costs": _costs_table(costs, inner),
            "log": _log_tail(out, item.key),
        },
    )


def explain_as_mapping(
    item: FoundItem, out: Path, clean: Record | None, protections: Mapping[str, float]
) -> dict[str, Any]:
    """Return what is known about an item, as JSON has it; arguments as for `explain_cell`."""
    record, log = item.record, log_path(out, item.key)
    return {
        "kind": item.kind,
        "key": item.key,
        "label": record.label if record else None,
        "record": record,
        "clean": clean.key if clean else None,
        "protection": dict(protections),
        "surrogate": _find_surrogate(out, record.settings.get("surrogate")) if record else None,
        "folder": item.folder,
        "about": _read_about(out, item.folder) if item.folder else None,
        "log": read_tail(log, LOG_LINES) if log.exists() else [],
    }


def _join_sections(head: str, sections: Mapping[str, str]) -> str:
    texts = [f"{title}\n{indent(text, INDENT)}" for title, text in sections.items() if text]
    return to_printable("\n\n".join([head, *texts]))


def _aligned_lines(values: Mapping[str, Any], width: int | None) -> str:
    """Return a line per value; a long one continues in its column, with paths and names in one piece."""
    texts = {name: _format_value(value) for name, value in values.items() if value not in (None, "", {}, [])}
    column = max(map(len, texts), default=0) + 2
    wrapper = TextWrapper(
        min(width or MAX_COLUMNS, MAX_COLUMNS),
        subsequent_indent=" " * column,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = []
    for name, text in texts.items():
        wrapper.initial_indent = name.ljust(column)
        lines.append(wrapper.fill(text))
    return "\n".join(lines)


def _settings_lines(settings: Mapping[str, Any], width: int | None) -> str:
    names = [*(axis for axis in AXES if axis in settings), *sorted(set(settings) - set(AXES))]
    named = {name.replace("_", " "): settings[name] for name in names}
    if "epsilon" in named:
        norm, epsilon = named.pop("norm", "linf"), named.pop("epsilon")
        limits = {"linf": f"{epsilon}/255 per pixel", "l2": f"ℓ2 norm {epsilon} per 3·32·32 values"}
        named["budget"] = "none" if epsilon is None else limits[norm]
    if "rate" in named:
        named["rate"] = "all images" if named["rate"] == 1 else f"{named['rate']:.4g} of the images"
    if "protected" in named:
        named["protected"] = named["protected"] or "all tasks"
    return _aligned_lines(named, width)


def _format_value(value: Any) -> str:
    """Return a part with its version and parameters, any other value without the syntax of code."""
    if _is_part(value):
        params = value["params"].get("parts", value["params"])
        return f"{value['name']} v{value['version']}" + (f" ({_format_value(params)})" if params else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_bracket_if_several(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(_bracket_if_several, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _bracket_if_several(value: Any) -> str:
    several = isinstance(value, Mapping | list) and not _is_part(value)
    return f"[{_format_value(value)}]" if several else _format_value(value)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and {"name", "version", "params"} <= set(value)


def _scores_table(
    record: Record, clean: Record | None, protections: Mapping[str, float], width: int | None
) -> str:
    """Return two rows per task: the metric that protection is computed from, and the headline metric."""
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
            rows.append((task, metric, *("-" if value is None else f"{value:.3f}" for value in values)))
    headers = ("task", "metric", "score", "clean", "floor", "best epoch", "protection")
    return format_table(rows, headers, width, right=range(2, 7), style="plain")


def _costs_table(costs: Mapping[str, Mapping[str, Any]], width: int | None) -> str:
    if not costs:
        return ""
    rows = []
    for phase, cost in costs.items():
        numbers = (cost[name] for name in ("images_per_s", "peak_host_mb", "peak_device_mb"))
        counts = ("-" if number is None else f"{number:,.0f}" for number in numbers)
        rows.append((phase, format_duration(cost["seconds"]), *counts))
    headers = ("phase", "time", "images/s", "host MiB", "device MiB")
    return format_table(rows, headers, width, right=range(1, 5), style="plain")


def _log_tail(out: Path, key: str) -> str:
    path = log_path(out, key)
    return "\n".join([str(path), *read_tail(path, LOG_LINES)]) if path.exists() else "no log"


def _find_surrogate(out: Path, settings: Mapping[str, Any] | None) -> str | None:
    """Return the folder of the surrogate with these settings; None if none is needed or it is missing."""
    folders = (out / SURROGATES).glob("[!.]*")  # the name begins with a dot while it is being written
    return next((str(one) for one in folders if _read_about(out, one).get("settings", {}) == settings), None)


def _read_about(out: Path, folder: Path) -> dict[str, Any]:
    """Return the description of a shared item, or what is wrong with it."""
    try:
        return Store(out).read_about(folder.parent.name, folder.name) or {}
    except BenchError as error:
        return {"damaged": str(error)}
