"""One tidy table made from records: a row per finished cell and task, with its protection."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pandas import DataFrame, concat

from bench.record import AXES, CLEAN, Record, is_clean, is_same_data
from leaderboard.formatting import escape_formula
from leaderboard.scores import add_protection, is_partial, track_of

PHASES = ("surrogate", "craft", "load", "poison", "purify", "train", "score")
"""Phases of a cell in their order. They always have columns, even if nothing was measured."""

COSTS = {
    "seconds": "s",
    "images_per_s": "images_per_s",
    "peak_host_mb": "host_mb",
    "peak_device_mb": "device_mb",
}
"""Field of `bench.record.Cost` → suffix of its column, as in ``craft_s``."""

NOISE = (
    "linf", "l2", "l0", "psnr", "ssim", "clamped", "scaled", "lost_to_rounding", "surrogate_loss", "hit_rate",
    "forward_passes", "backward_passes", "surrogate_passes",
)  # fmt: skip
"""Fields of `bench.record.NoiseReport` that are columns of every row of a cell."""

TASK_NOISE = (
    *("intra_spread", "inter_distance"),
    *("linear_accuracy", "linear_balanced_accuracy", "linear_floor"),
)
"""Fields of `bench.record.TaskNoise` that are columns of the row of a task."""

DERIVED = " (derived)"
"""Suffix of a task whose labels were computed from those of another task, so that no table mixes the two."""

METRIC = "metric_"
"""Prefix of the column of a metric."""

TASK_COLUMNS = (
    *("task", "kind", "position", "is_protected", "headline", "raw", "raw_peak", "floor_raw"),
    *("scored", "score", "floor", "perfect"),
    *TASK_NOISE,
)
_CELL_COLUMNS = (
    *(*AXES, "key", "victim", "poison", "suite", "track", "epsilon", "rate", "partial"),
    *("clean_part", "knows_backbone"),
    *(*NOISE, "peak_host_mb", "peak_device_mb"),
)
_TEXTS = frozenset({*AXES, "key", "victim", "poison", "suite", "track", "task", "kind", "headline", "scored"})


@dataclass(frozen=True)
class SelectedRecords:
    """The newest record of each cell.

    Attributes:
        done: one finished record per cell.
        failed: one failed record per cell that was not finished later.
        superseded: number of finished records left out because the cell was finished again later with other
            settings.
        other_data: number of finished records left out because the newest record of the same dataset is of
            other data: its files have changed, or it is that of another data root.
        other_protocol: number of finished records left out because others follow a later protocol.
    """

    done: tuple[Record, ...]
    failed: tuple[Record, ...]
    superseded: int
    other_data: int
    other_protocol: int


def records_of_latest_protocol(records: Iterable[Record]) -> list[Record]:
    """Return the records that follow the latest protocol among them; those of others cannot be compared."""
    records = list(records)
    latest = max((record.protocol for record in records), default=None)
    return [record for record in records if record.protocol == latest]


def select_records(records: Iterable[Record]) -> SelectedRecords:
    """Select, from the records with the same seven axis labels, the one finished last.

    Of a dataset only the records of one state of its data are selected, that of the newest record: scores on
    other data cannot be compared. Nor can those of another protocol: only the latest one's are selected. The
    result is sorted by the labels and does not depend on the order of the records.
    """
    by_key = {record.key: record for record in records}
    latest = records_of_latest_protocol(by_key.values())
    oldest_first = sorted(latest, key=_time_finished)
    all_finished = [record for record in oldest_first if record.status == "done"]
    datasets = [_dataset_settings(record) for record in all_finished]
    newest_data = {dataset: record.data for dataset, record in zip(datasets, all_finished, strict=True)}
    finished = [
        record
        for dataset, record in zip(datasets, all_finished, strict=True)
        if is_same_data(record.data, newest_data[dataset])
    ]
    done = {_labels(record): record for record in finished}
    failed = {
        _labels(record): record
        for record in oldest_first
        if record.status == "failed"
        and (_labels(record) not in done or _time_finished(done[_labels(record)]) < _time_finished(record))
    }
    return SelectedRecords(
        done=tuple(done[labels] for labels in sorted(done)),
        failed=tuple(failed[labels] for labels in sorted(failed)),
        superseded=len(finished) - len(done),
        other_data=len(all_finished) - len(finished),
        other_protocol=sum(record.status == "done" for record in by_key.values()) - len(all_finished),
    )


def to_frame(records: Iterable[Record]) -> DataFrame:
    """Return the tidy table of the finished records, one row per cell and task.

    Columns:
        the axes, ``key``, ``victim``, ``poison``, ``suite``: of the cell;
        ``track`` (see `leaderboard.scores.Track`), ``epsilon`` (its budget, in the unit of its norm),
        ``rate`` (share of the images that are perturbed),
        ``partial`` (only some images or tasks are protected: not ranked), ``clean_part`` (the victim is
        trained only on the images that an attack at this rate does not perturb), ``knows_backbone`` (False
        if the surrogate is known to have another backbone than the victim, whatever their parameters);
        ``task`` (with the suffix `DERIVED` if derived), ``kind``, ``position`` (of the task in its dataset),
        ``is_protected`` (False for a task that the attack does not protect);
        ``headline`` (metric the field reports), ``raw`` (its last value), ``raw_peak``, ``floor_raw``;
        ``scored`` (metric that protection is computed from), ``score``, ``floor``, ``perfect``;
        ``metric_NAME``: the last value of every metric of any task;
        ``clean_score``, ``clean_raw``: of the clean counterpart, which has the same victim;
        ``skill``, ``share``, ``protection``: see `leaderboard.scores.add_protection`;
        ``paired`` (the clean counterpart is there, and the clean victim of the setting without a defense),
        ``defined`` (there is a protection);
        `NOISE` and, of the task, `TASK_NOISE`: see `bench.record.NoiseReport`;
        ``peak_host_mb``, ``peak_device_mb`` (MiB, over all phases), and per phase ``PHASE_s``,
        ``PHASE_images_per_s``, ``PHASE_host_mb``, ``PHASE_device_mb``.

    Protection is 1 if nothing was learned, 0 if the attack had no effect, above 1 if the victim was misled.
    It is NaN if it is undefined: the row is not paired, its score is missing, or the clean victims without a
    defense are not clearly above the floor (`leaderboard.scores.is_clearly_positive`).
    """
    return frame_of_selected(select_records(records).done)


def frame_of_selected(done: Sequence[Record]) -> DataFrame:
    """Return the tidy table of `to_frame` of records that are selected already."""
    phases = (*PHASES, *sorted({phase for record in done for phase in record.cost} - set(PHASES)))
    names = {metric for record in done for info in record.tasks.values() for metric in info["perfect"]}
    costs = [f"{phase}_{suffix}" for phase in phases for suffix in COSTS.values()]
    metrics = [f"{METRIC}{name}" for name in sorted(names)]
    cells = concat(
        [
            DataFrame(_cell_labels(done)),
            _number_table([_measures_of_cell(record, phases) for record in done], [*_CELL_MEASURES, *costs]),
        ],
        axis=1,
    )
    numbers = [row for record in done for row in _measures_of_tasks(record, sorted(names))]
    tasks = concat(
        [DataFrame(_task_labels(done)), _number_table(numbers, [*_TASK_MEASURES, *metrics])], axis=1
    )
    cell_of_task = np.repeat(np.arange(len(done)), [len(record.tasks) for record in done])
    frame = concat([cells.take(cell_of_task).reset_index(drop=True), tasks], axis=1)
    return add_protection(_add_clean_scores(frame[[*_CELL_COLUMNS, *TASK_COLUMNS, *metrics, *costs]]))


def _add_clean_scores(frame: DataFrame) -> DataFrame:
    clean = frame.loc[frame["attack"] == CLEAN, ["victim", "task", "score", "raw"]]
    columns = {"score": "clean_score", "raw": "clean_raw"}
    return frame.merge(
        clean.drop_duplicates(["victim", "task"]).rename(columns=columns), "left", ["victim", "task"]
    )


def to_csv(frame: DataFrame) -> str:
    """Return the tidy table as CSV, missing values empty.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    safe = frame.rename(columns=escape_formula)
    for name in filter(_TEXTS.__contains__, safe.columns):
        safe[name] = safe[name].map({text: escape_formula(text) for text in safe[name].unique()})
    return safe.to_csv(index=False, lineterminator="\n")


_CONTROLS = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")
"""Characters that JSON allows in texts, and that could control a terminal or cannot be written."""


def to_json(frame: DataFrame) -> str:
    """Return the tidy table as a JSON list of rows, missing values null."""
    text = json.dumps(list_rows(frame), indent=1, allow_nan=False, ensure_ascii=False)
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def list_rows(frame: DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries, missing values None."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _time_finished(record: Record) -> tuple[str, str]:
    return record.finished, record.key


def _dataset_settings(record: Record) -> str:
    return json.dumps(record.settings.get("dataset", record.cell["dataset"]), sort_keys=True)


def _labels(record: Record) -> tuple[str | int, ...]:
    return tuple(record.cell[axis] for axis in AXES)


def _number_table(rows: Sequence[Sequence[float | None]], columns: Sequence[str]) -> DataFrame:
    """Return rows of numbers as a table, None as NaN."""
    return DataFrame(np.array(rows, np.float64).reshape(len(rows), len(columns)), columns=list(columns))


def _cell_labels(done: Sequence[Record]) -> dict[str, Any]:
    """Return the texts and flags that are the same for all tasks of a record, by column."""
    return {
        **{axis: [record.cell[axis] for record in done] for axis in AXES if axis != "seed"},
        "seed": np.array([record.cell["seed"] for record in done], np.int64),
        **{name: [getattr(record, name) for record in done] for name in ("key", "victim", "poison", "suite")},
        "track": [track_of(record) for record in done],
        "partial": np.array([is_partial(record) for record in done], bool),
        "clean_part": np.array([_is_clean_part(record) for record in done], bool),
        "knows_backbone": np.array([_knows_backbone(record) for record in done], bool),
    }


_CELL_MEASURES = ("epsilon", "rate", *NOISE, "peak_host_mb", "peak_device_mb")


def _measures_of_cell(record: Record, phases: Sequence[str]) -> tuple[float | None, ...]:
    """Return the values of `_CELL_MEASURES`, then the costs of all phases."""
    noise: Mapping[str, Any] = record.noise
    costs: Mapping[str, Mapping[str, Any]] = record.cost
    return (
        record.settings.get("epsilon"),
        record.settings.get("rate", 1.0),
        *(noise.get(name) for name in NOISE),
        _maximum(cost["peak_host_mb"] for cost in costs.values()),
        _maximum(cost["peak_device_mb"] for cost in costs.values()),
        *(costs.get(phase, {}).get(name) for phase in phases for name in COSTS),
    )


def _is_clean_part(record: Record) -> bool:
    return record.settings.get("rate", 1.0) < 1 and is_clean(str(record.cell["attack"]))


def _knows_backbone(record: Record) -> bool:
    surrogate, backbone = record.settings.get("surrogate"), record.settings.get("backbone")
    return not surrogate or not backbone or surrogate["backbone"]["name"] == backbone["name"]


def _task_labels(done: Sequence[Record]) -> dict[str, Any]:
    """Return the texts and flags of the tasks, by column."""
    rows = [
        (position, task, info, record.settings.get("protected"))
        for record in done
        for position, (task, info) in enumerate(record.tasks.items())
    ]
    return {
        "task": [f"{task}{DERIVED}" if info.get("derived") else task for _, task, info, _ in rows],
        "kind": [info["kind"] for _, _, info, _ in rows],
        "position": np.array([position for position, *_ in rows], np.int64),
        "is_protected": np.array([not names or task in names for _, task, _, names in rows], bool),
        "headline": [info["headline"] for _, _, info, _ in rows],
        "scored": [info["scored"] for _, _, info, _ in rows],
    }


_TASK_MEASURES = ("raw", "raw_peak", "floor_raw", "score", "floor", "perfect", *TASK_NOISE)


def _measures_of_tasks(record: Record, metrics: Sequence[str]) -> Iterator[tuple[float | None, ...]]:
    """Yield, for each task, the values of `_TASK_MEASURES`, then those of its metrics."""
    noise_of_tasks: Mapping[str, Mapping[str, Any]] = record.noise.get("tasks", {})
    for task, info in record.tasks.items():
        headline, scored, perfect = info["headline"], info["scored"], info["perfect"]
        scores, noise = record.scores.get(task, {}), noise_of_tasks.get(task, {})
        yield (
            scores.get(headline),
            record.peak.get(task, {}).get(headline),
            info["floor"].get(headline),
            scores.get(scored),
            info["floor"].get(scored),
            perfect.get(scored),
            *(noise.get(name) for name in TASK_NOISE),
            *(scores.get(name) if name in perfect else None for name in metrics),
        )


def _maximum(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
