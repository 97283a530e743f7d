"""The record of a cell, which the engine writes and the leaderboard reads."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import orjson

from bench.errors import BenchError
from bench.files import hash_bytes, hash_json, require_file, write_atomically
from bench.shared_parts import Pool, share_parts

RECORD_SCHEMA = 2
"""Version of the file layout, raised when a field changes its meaning. Files of version 1 are read too."""

_HEADER = re.compile(rb'\{"schema": %d, "checksum": "([0-9a-f]{64})", "record":\n' % RECORD_SCHEMA)

_CURVE, _END = b',\n"curve":\n', b"\n}\n"
"""Separators of a file's parts. Indented JSON contains no such line inside of a value."""

PROTOCOL = 2
"""Version of the rules that make scores comparable. Records of different protocols never share a table."""

POISON_PHASES = ("surrogate", "craft")
"""Phases that are measured once per poison. The record of every cell that trains on it repeats them."""

AXES = ("dataset", "attack", "backbone", "weighting", "defense", "regime", "seed")
"""The axes of the matrix, in the order of every listing."""

CLEAN = "clean"
"""The attack that changes nothing. Every victim is compared with its clean counterpart."""

DATA_SEED = "data_seed"
"""The parameter of a dataset that draws its split, or its selection of images."""

NO_DEFENSE = "none"
"""The defense that does nothing. Skill is measured in that of the clean victim without a defense."""

Scores = dict[str, dict[str, float | None]]
"""Task → metric → value; None if a metric is undefined on this test split."""


class TaskInfo(TypedDict):
    """What a table needs to know about a task.

    Attributes:
        kind: ``classification``, ``segmentation``, ``depth`` or ``normals``.
        classes: number of classes, for classification and segmentation.
        derived: the truth is computed from another task's, as normals from depth; False if absent.
        headline: the metric the field reports for it.
        scored: the metric protection is computed from.
        floor: metric → the score of an answer that ignores the image.
        perfect: metric → the best possible value.
        test: labeled test samples.
    """

    kind: str
    classes: NotRequired[int]
    derived: NotRequired[bool]
    headline: str
    scored: str
    floor: dict[str, float]
    perfect: dict[str, float]
    test: int


def is_clean(attack: str) -> bool:
    """Return whether an attack's label is that of ``clean``, with or without a rate."""
    return attack.partition("(")[0].strip() == CLEAN


def is_same_data(one: str, other: str) -> bool:
    """Return whether two fingerprints can be of the same data.

    Earlier versions noted only the first half, of the training images and labels, or nothing.
    """
    return one.startswith(other) or other.startswith(one)


def relative_score(info: TaskInfo, score: float | None) -> float | None:
    """Return where a score of the task's ``scored`` metric lies between the floor (0) and perfect (1).

    None if the score is undefined, or if the floor is the perfect score.
    """
    floor, perfect = info["floor"][info["scored"]], info["perfect"][info["scored"]]
    return None if score is None or perfect == floor else (score - floor) / (perfect - floor)


class Epoch(TypedDict):
    """One point of the learning curve.

    Attributes:
        epoch: its number, from 1 on.
        train_loss: loss on the training set, the mean over tasks of the mean over their labeled samples; None
            if it was not finite.
        learning_rate: the learning rate of its steps.
        weights: task → its mean weight over the steps in which it has a label and the weights are finite;
            None if there are none.
        unanswered: steps in which the weights were not finite, because the weighting has no answer for the
            gradients or the training diverged; absent if there were none.
        scores: test scores.
        validation: task → its scored metric on held-out released images, scaled from the floor (0) to
            perfect (1); only for a defense that picks the epoch by it. Each network uses the epoch with the
            best mean over its tasks, the earliest if several are equal.
    """

    epoch: int
    train_loss: float | None
    learning_rate: float
    weights: dict[str, float | None]
    scores: Scores
    unanswered: NotRequired[int]
    validation: NotRequired[dict[str, float]]


class TaskNoise(TypedDict):
    """What the released δ of a poison reveals about one task, over the images that have its label.

    Attributes:
        intra_spread: the root of the mean squared ℓ2 distance of an image's δ from the mean δ of its class,
            averaged over the classes, in [0, 1] pixel units; 0 for one pattern per class.
        inter_distance: the ℓ2 distance between the mean δ of two classes, averaged over all pairs of classes,
            in the same unit; None with fewer than two classes.
        linear_accuracy: accuracy of a linear classifier that was fitted to δ alone, on held-out images;
            None with fewer than two classes.
        linear_balanced_accuracy: the mean of its recall over the classes.
        linear_floor: accuracy of always answering the most frequent class.
    """

    intra_spread: float | None
    inter_distance: float | None
    linear_accuracy: float | None
    linear_balanced_accuracy: float | None
    linear_floor: float | None


class NoiseReport(TypedDict, total=False):
    """Measures of the released δ of a poison; absent entries were not measured.

    Attributes:
        linf: the largest change of a pixel value, in steps of 1/255.
        l2: the mean ℓ2 norm of an image's δ, in [0, 1] pixel units.
        l0: the share of pixel values that changed.
        psnr: peak signal-to-noise ratio in dB; None if nothing changed.
        clamped: the share of pixel values that the attack put outside the budget; None if none limits values.
        scaled: the share of images whose δ was longer than a budget for its norm, and was scaled down; None
            with another budget or none.
        lost_to_rounding: the share of pixel values that the attack wanted to change by less than half a step
            of 1/255, and which are unchanged.
        surrogate_loss: the attack's own loss on the surrogates that it was crafted with, at the end; absent
            for an attack without surrogates.
        hit_rate: the share of labels on which the (last) surrogate does what the attack wants, at the end.
        forward_passes: how often a training image passed through a network while the noise was crafted,
            with its surrogates as they were; a mean.
        backward_passes: the same backward.
        surrogate_passes: the same, forward and backward, for the training of the surrogates.
        ssim: the mean structural similarity of clean and released images, 1 if nothing changed.
        tasks: classification task → `TaskNoise`; empty if nothing changed.
    """

    linf: float | None
    l2: float | None
    l0: float | None
    psnr: float | None
    clamped: float | None
    scaled: float | None
    lost_to_rounding: float
    surrogate_loss: float | None
    hit_rate: float | None
    forward_passes: float
    backward_passes: float
    surrogate_passes: float
    ssim: float | None
    tasks: dict[str, TaskNoise]


class Cost(TypedDict):
    """The cost of a phase: wall seconds, throughput, and peak memory in MiB."""

    seconds: float
    images_per_s: float | None
    peak_host_mb: float | None
    peak_device_mb: float | None


class Failure(TypedDict):
    """Why a cell failed."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Record:
    """Everything known about one cell.

    Attributes:
        key: hash of every setting that can change the cell's result; also the name of the file.
        status: ``done`` or ``failed``; only ``done`` is ever reused.
        suite: name of the suite it was run for.
        cell: axis → label, for every axis in `AXES`; the seed is an int, the others are strings such as
            ``em`` or ``jpeg(quality=30)``.
        victim: hash of every setting of the victim. Cells that differ in the attack alone share it, so the
            clean counterpart of a cell is the one with the same victim and the attack ``clean``.
        poison: key of the poison trained on.
        settings: every setting, resolved: axis → {name, version, params}, recipe, surrogate, ``epsilon``
            (None in the unbounded track), ``rate`` (share of the images that are perturbed, 1 if absent)
            and ``protected`` (names of the protected tasks, all if empty or absent).
        tasks: task → `TaskInfo`.
        scores: scores after the last epoch, as the field reports them; after the chosen epoch for a defense
            that chooses one.
        peak: per task and metric, the best value over all epochs (early stopping by an oracle).
        curve: one `Epoch` per epoch.
        noise: measures of the released δ.
        cost: phase → `Cost`; ``surrogate`` and ``craft`` belong to the shared poison, measured once.
        environment: versions, device, threads, machine, the fingerprint of the data, the augmentation its
            labels allow, and ``source``: the commit of the code and whether it was ``clean``; no entry
            without git.
        error: set if the status is ``failed``.
        finished: UTC time, ISO 8601.
    """

    key: str
    status: Literal["done", "failed"]
    suite: str
    cell: dict[str, str | int]
    victim: str
    poison: str
    settings: dict[str, Any]
    tasks: dict[str, TaskInfo] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    peak: Scores = field(default_factory=dict)
    curve: list[Epoch] = field(default_factory=list)
    noise: NoiseReport = field(default_factory=NoiseReport)
    cost: dict[str, Cost] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    error: Failure | None = None
    finished: str = ""
    protocol: int = PROTOCOL

    @property
    def data(self) -> str:
        """The fingerprint of the data, see `is_same_data`; empty if it is not known."""
        return str(self.environment.get("data", ""))

    @property
    def shared_phases(self) -> tuple[str, ...]:
        """Phases spent once for several cells: those of the poison, and purifying if its result is shared."""
        return (*POISON_PHASES, "purify") if "purified" in self.environment else POISON_PHASES

    @property
    def own_seconds(self) -> float:
        """The seconds that the cell took without the shared phases."""
        return sum(cost["seconds"] for phase, cost in self.cost.items() if phase not in self.shared_phases)

    @property
    def label(self) -> str:
        """The cell in one line, axes in the order of `AXES`."""
        return " · ".join(f"seed {self.cell[a]}" if a == "seed" else str(self.cell[a]) for a in AXES)


def write_record(folder: Path, record: Record) -> Path:
    """Write a record to ``folder/KEY.json`` and return the path.

    The file is one JSON value. The checksum covers all bytes after the first line, so a file is verified
    without being parsed. The learning curve, which is most of it, comes last, so it can be skipped.
    """
    body = asdict(record)
    curve = body.pop("curve")
    content = b"".join((_encode_json(body), _CURVE, _encode_json(curve), _END))
    header = f'{{"schema": {RECORD_SCHEMA}, "checksum": "{hash_bytes(content)}", "record":\n'
    path = folder / f"{record.key}.json"
    write_atomically(path, header.encode() + content)
    return path


def _encode_json(value: object) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).encode()


def read_record(path: Path, *, curve: bool = True, pool: Pool | None = None) -> Record:
    """Read one record, with or without its learning curve; the whole file is verified in both cases.

    Records that are read with the same pool share what is equal in them, see `bench.shared_parts`.

    Raises:
        BenchError: if the file is truncated, altered, of another schema or no record.
    """
    try:
        content = require_file(path).read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        header = _HEADER.match(content)
        body = (
            _decode_record(content[header.end() :], header[1], curve) if header else _decode_schema_1(content)
        )
    except _NotARecordError as error:
        raise BenchError(f"{path} {error}") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is damaged: {error}") from error
    if not isinstance(body, dict) or body.keys() != _FIELDS or body["key"] != path.stem:
        raise BenchError(f"{path} is not the record its name says")
    values = body if curve else {**body, "curve": []}
    return Record(**(values if pool is None else share_parts(values, pool)))


class _NotARecordError(Exception):
    """Says why a file is not a record."""


def _decode_record(content: bytes, checksum: bytes, curve: bool) -> object:
    """Return the fields in the bytes after the first line of a file."""
    if hash_bytes(content).encode() != checksum:
        raise _NotARecordError("is damaged: its checksum does not match")
    summary, _, rest = content.removesuffix(_END).partition(_CURVE)
    body: object = orjson.loads(summary)
    return body | {"curve": orjson.loads(rest) if curve else []} if isinstance(body, dict) else body


def _decode_schema_1(content: bytes) -> object:
    """Return the fields in a file of schema 1. Its checksum covers the record as canonical JSON."""
    document = orjson.loads(content)
    if not isinstance(document, Mapping) or "record" not in document:
        raise _NotARecordError("is not a record")
    schema = document.get("schema")
    if schema not in (1, RECORD_SCHEMA):
        raise _NotARecordError(f"has schema {schema}, this version reads schemas 1 and {RECORD_SCHEMA}")
    # A file of the present schema gets here only if another program has rewritten it.
    if schema != 1 or document.get("checksum") != hash_json(document["record"]):
        raise _NotARecordError("is damaged: its checksum does not match")
    body: object = document["record"]
    return body


_FIELDS = {field.name for field in fields(Record)}


def read_records(folder: Path, *, curve: bool = True) -> Iterator[Record | BenchError]:
    """Yield the records of a folder, sorted by key; for a file that is no record, the error."""
    pool: Pool = {}
    for path in sorted(folder.glob("*.json")):
        try:
            yield read_record(path, curve=curve, pool=pool)
        except BenchError as error:
            yield error
