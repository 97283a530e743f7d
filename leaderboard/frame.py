"""Records to one tidy table: a row per finished cell and task, with its protection."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame, concat

from bench.errors import BenchError
from bench.record import AXES, CLEAN, Record
from leaderboard.scores import MIN_HEADROOM, is_clean

PHASES = ("surrogate", "craft", "load", "poison", "purify", "train", "score")
"""Phases of a cell as they follow each other; they always have columns, measured or not."""

COSTS = {
    "seconds": "s",
    "images_per_s": "images_per_s",
    "peak_host_mb": "host_mb",
    "peak_device_mb": "device_mb",
}
"""Field of `bench.record.Cost` → suffix of its column, as in ``craft_s``."""

NOISE = ("linf", "l2", "l0", "psnr", "ssim", "clamped")
"""Numbers of `bench.record.NoiseReport` that are columns of every row of a cell."""

TASK_NOISE = (
    *("intra_spread", "inter_distance"),
    *("linear_accuracy", "linear_balanced_accuracy", "linear_floor"),
)
"""Numbers of `bench.record.TaskNoise`, columns of the task's row."""

DERIVED = " (derived)"
"""Follows the name of a task whose truth was computed from another task's, so that no table mixes the two."""

METRIC = "metric_"
"""Begins the name of the column of a metric."""

_TASK_COLUMNS = (
    *("task", "kind", "position", "is_protected", "headline", "raw", "raw_peak", "floor_raw"),
    *("scored", "score", "floor", "perfect"),
    *TASK_NOISE,
)
_CELL_COLUMNS = (
    *(*AXES, "key", "victim", "poison", "suite", "bounded", "rate", "partial", "clean_part"),
    *(*NOISE, "peak_host_mb", "peak_device_mb"),
)
_TEXTS = frozenset({*AXES, "key", "victim", "poison", "suite", "task", "kind", "headline", "scored"})
_FLAGS = frozenset({"bounded", "partial", "clean_part", "is_protected"})


@dataclass(frozen=True)
class SelectedRecords:
    """The records that count.

    Attributes:
        done: one finished record per cell.
        failed: one failed record per cell that was not finished later.
        superseded: finished records left out since the same cell was finished again under other settings.
    """

    done: tuple[Record, ...]
    failed: tuple[Record, ...]
    superseded: int


def select_records(records: Iterable[Record]) -> SelectedRecords:
    """Keep, of the records with the same seven axis labels, the one finished last.

    The result is in the order of the axes, whatever the order of the records.

    Raises:
        BenchError: when the records that remain follow more than one protocol.
    """
    by_age = sorted({record.key: record for record in records}.values(), key=_age)
    finished = [record for record in by_age if record.status == "done"]
    done = {_labels(record): record for record in finished}
    failed = {
        _labels(record): record
        for record in by_age
        if record.status == "failed"
        and (_labels(record) not in done or _age(done[_labels(record)]) < _age(record))
    }
    protocols = sorted({record.protocol for record in done.values()})
    if len(protocols) > 1:
        listed = " and ".join(str(protocol) for protocol in protocols)
        raise BenchError(f"records of protocols {listed} cannot share a table; report them apart")
    return SelectedRecords(
        done=tuple(done[labels] for labels in sorted(done)),
        failed=tuple(failed[labels] for labels in sorted(failed)),
        superseded=len(finished) - len(done),
    )


def to_frame(records: Iterable[Record]) -> DataFrame:
    """Return the tidy table of the finished records, one row per cell and task.

    Columns:
        the axes, ``key``, ``victim``, ``poison``, ``suite``: the cell;
        ``bounded`` (False in the unbounded track), ``rate`` (share of the images that are perturbed),
        ``partial`` (some images or tasks only: not to be ranked), ``clean_part`` (the victim finds nothing
        but the images that an attack at this rate leaves alone);
        ``task`` (followed by `DERIVED` where it is so), ``kind``, ``position`` (of the task in its dataset),
        ``is_protected`` (False for a task the attack leaves alone);
        ``headline`` (the field's metric), ``raw`` (its last value), ``raw_peak``, ``floor_raw``;
        ``scored`` (the metric of protection), ``score``, ``floor``, ``perfect``;
        ``metric_NAME``: the last value of every metric that some task has;
        ``clean_score``, ``clean_raw``: of the clean counterpart, which has the same victim;
        ``paired`` (there is one), ``defined``, ``protection``;
        `NOISE` and, of the task, `TASK_NOISE`: see `bench.record.NoiseReport`;
        ``peak_host_mb``, ``peak_device_mb`` (MiB, over all phases), and per phase ``PHASE_s``,
        ``PHASE_images_per_s``, ``PHASE_host_mb``, ``PHASE_device_mb``.

    Protection is (clean - score) / (clean - floor): 1 where nothing was learned, 0 where the attack had no
    effect, above 1 where the victim was misled, and 0 for the clean attack. It is NaN where it is undefined:
    without a clean counterpart, with a value missing, or with the clean score within `MIN_HEADROOM` of the
    floor.

    Raises:
        BenchError: when the records follow more than one protocol.
    """
    done = select_records(records).done
    phases = sorted({phase for record in done for phase in record.cost} - set(PHASES))
    costs = tuple(f"{phase}_{suffix}" for phase in (*PHASES, *phases) for suffix in COSTS.values())
    known = {metric for record in done for info in record.tasks.values() for metric in info["perfect"]}
    metrics = tuple(f"{METRIC}{metric}" for metric in sorted(known))
    once = DataFrame([_cell_row(record) for record in done], columns=[*_CELL_COLUMNS, *costs])
    tasks = DataFrame(
        [row for record in done for row in _task_rows(record)], columns=[*_TASK_COLUMNS, *metrics]
    )
    place = [number for number, record in enumerate(done) for _ in record.tasks]
    frame = concat([once.take(place).reset_index(drop=True), tasks], axis=1)
    frame = frame[[*_CELL_COLUMNS, *_TASK_COLUMNS, *metrics, *costs]]
    numbers = [column for column in frame.columns if column not in _TEXTS | _FLAGS]
    types = dict.fromkeys(numbers, float) | dict.fromkeys(_FLAGS, bool) | {"position": int, "seed": int}
    return _protect(frame.astype(types))


def full_protection_rows(frame: DataFrame) -> DataFrame:
    """Return the rows that may stand beside each other: those of attacks on all images and tasks."""
    return frame[~frame["partial"]]


def cell_rows(frame: DataFrame) -> DataFrame:
    """Return one row per cell: its columns, its mean ``protection`` over the defined tasks, and counts.

    ``undefined`` counts the tasks that have a clean counterpart but no defined protection; ``unpaired`` says
    that there is no counterpart.
    """
    task_columns = {*_TASK_COLUMNS, "clean_score", "clean_raw", "protection", "defined", "paired"}
    names = [name for name in frame.columns if name not in task_columns and not name.startswith(METRIC)]
    cell = frame.loc[~frame["key"].duplicated(), names].set_index("key", drop=False)
    tasks = frame[["key", "paired", "protection"]].assign(undefined=frame["paired"] & ~frame["defined"])
    by_cell = tasks.groupby("key", sort=False)
    return cell.assign(
        protection=by_cell["protection"].mean(),
        undefined=by_cell["undefined"].sum(),
        unpaired=~by_cell["paired"].any(),
    ).reset_index(drop=True)


def _age(record: Record) -> tuple[str, str]:
    return record.finished, record.key


def _labels(record: Record) -> tuple[str | int, ...]:
    return tuple(record.cell[axis] for axis in AXES)


def _cell_row(record: Record) -> dict[str, Any]:
    """Return what is the same for all tasks of a record."""
    noise: Mapping[str, Any] = record.noise
    rate, protected = record.settings.get("rate", 1.0), record.settings.get("protected", [])
    cell: dict[str, Any] = {
        **record.cell,
        "key": record.key,
        "victim": record.victim,
        "poison": record.poison,
        "suite": record.suite,
        "bounded": record.settings.get("epsilon", ...) is not None,
        "rate": rate,
        "partial": rate < 1 or bool(protected and set(record.tasks) - set(protected)),
        "clean_part": rate < 1 and is_clean(str(record.cell["attack"])),
        **{name: noise.get(name) for name in NOISE},
        "peak_host_mb": _highest(cost["peak_host_mb"] for cost in record.cost.values()),
        "peak_device_mb": _highest(cost["peak_device_mb"] for cost in record.cost.values()),
    }
    for phase, cost in record.cost.items():
        measured: Mapping[str, Any] = cost
        cell |= {f"{phase}_{suffix}": measured.get(name) for name, suffix in COSTS.items()}
    return cell


def _task_rows(record: Record) -> Iterator[dict[str, Any]]:
    noise: Mapping[str, Any] = record.noise
    protected = record.settings.get("protected", [])
    for position, (task, info) in enumerate(record.tasks.items()):
        headline, scored = info["headline"], info["scored"]
        scores = record.scores.get(task, {})
        yield {
            "task": f"{task}{DERIVED}" if info.get("derived") else task,
            "kind": info["kind"],
            "position": position,
            "is_protected": not protected or task in protected,
            "headline": headline,
            "raw": scores.get(headline),
            "raw_peak": record.peak.get(task, {}).get(headline),
            "floor_raw": info["floor"].get(headline),
            "scored": scored,
            "score": scores.get(scored),
            "floor": info["floor"].get(scored),
            "perfect": info["perfect"].get(scored),
            **{f"{METRIC}{metric}": scores.get(metric) for metric in info["perfect"]},
            **{name: noise.get("tasks", {}).get(task, {}).get(name) for name in TASK_NOISE},
        }


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _protect(frame: DataFrame) -> DataFrame:
    clean = (
        frame.loc[frame["attack"] == CLEAN, ["victim", "task", "score", "raw"]]
        .drop_duplicates(["victim", "task"])
        .rename(columns={"score": "clean_score", "raw": "clean_raw"})
    )
    frame = frame.merge(clean, on=["victim", "task"], how="left")
    learned = frame["clean_score"] - frame["floor"]
    room = (frame["perfect"] - frame["floor"]).where(lambda width: width != 0)
    reference = frame["attack"] == CLEAN
    defined = reference | ((learned / room >= MIN_HEADROOM) & frame["score"].notna())
    protection = (frame["clean_score"] - frame["score"]) / learned.where(defined & ~reference)
    return frame.assign(
        paired=frame["victim"].isin(clean["victim"]),
        defined=defined,
        protection=protection.mask(reference, 0.0),
    )
