"""A board for the tests of the page: two datasets, six attacks, three defenses, three seeds, curves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from bench.record import Epoch, Record
from leaderboard.page.build import render_web_page
from leaderboard.summary import rank_records
from tests.records import fail, make_record, matrix

LEARNED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "clean": {"none": [0.0, 0.0], "jpeg": [0.1, 0.1], "grayscale": [0.7, 0.7]},
    "em": {"none": [0.8, 0.7], "jpeg": [0.2, 0.3], "grayscale": [0.9, 0.9]},
    "mtl-ue-em": {"none": [0.9, 0.8], "jpeg": [0.6, 0.5], "grayscale": [0.9, 0.8]},
    "tap": {"none": [0.3, 0.4], "jpeg": [0.3, 0.4], "grayscale": [0.8, 0.7]},
}


@cache
def records() -> tuple[Record, ...]:
    made = [*matrix(LEARNED), *matrix(LEARNED, dataset="faces", backbone="resnet18")]
    made += [  # differs so much between seeds that it cannot be ordered
        make_record({"a": score, "b": score}, attack="rem", defense=defense, seed=seed, **victim)
        for victim in ({}, {"dataset": "faces", "backbone": "resnet18"})
        for defense in ("none", "jpeg", "grayscale")
        for seed, score in enumerate((0.6, 0.8, 0.65))
    ]
    made += [
        make_record({"a": 0.9 - 0.1 * (attack != "clean"), "b": 0.9}, attack=attack, bounded=False, seed=seed)
        for attack in ("cuda",)
        for seed in range(3)
    ]
    return (*map(add_curve, made), fail(attack="sep"))


def add_curve(record: Record) -> Record:
    """Return a record with three epochs, in which the scores rise to the last ones."""
    curve = [
        Epoch(
            epoch=number,
            train_loss=1 / number,
            learning_rate=0.1,
            weights={},
            scores={
                task: {name: None if value is None else value * number / 3 for name, value in values.items()}
                for task, values in record.scores.items()
            },
        )
        for number in (1, 2, 3)
    ]
    return replace(record, curve=curve)


@cache
def page() -> dict[str, bytes]:
    return render_web_page(rank_records(records(), ["One file is damaged."]), records())


@cache
def page_without_jpeg() -> dict[str, bytes]:
    return render_web_page(rank_records(record for record in records() if record.cell["defense"] != "jpeg"))
