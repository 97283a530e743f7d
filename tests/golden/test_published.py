"""Measured and published scores compared, with the numbers worked out by hand.

After a wanted change: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/golden/test_published.py``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pandas import DataFrame

from bench.catalog.parts import CATALOG
from bench.record import Record
from leaderboard.board import render_board
from leaderboard.frame import to_frame
from leaderboard.sections.published import (
    BEST,
    COMPARED,
    PublishedScore,
    compare_with_published,
    published_scores,
    render_published,
)
from tests.golden.committed import expect
from tests.records import make_record, make_room, task_info

RECIPE = {"epochs": 60, "stl_epochs": 10, "batch": 512, "learning_rate": 1e-3, "weight_decay": 1e-4}

FACES = {
    "mtl": {"clean": 0.90, "ar": 0.80, "em": 0.75, "mtl-ue-tap": 0.60},
    "stl": {"clean": 0.89, "em": 0.88, "mtl-ue-tap": 0.70},
}
"""Regime → attack → accuracy of the first of two tasks; that of the second is 0.04 lower."""


def cell(
    score: float,
    attack: str = "em",
    dataset: str = "celeba",
    metric: str = "accuracy",
    images: int = 19962,
    recipe: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    **labels: Any,
) -> Record:
    """Return a record of two tasks that score ``score`` and 0.04 less, by default trained as published."""
    tasks = {name: {**task_info(headline=metric), "test": images} for name in ("a", "b")}
    settings = {
        "recipe": {**RECIPE, **(recipe or {})},
        **{axis: {"name": "", "params": values} for axis, values in (params or {}).items()},
    }
    scores = {"a": score, "b": score - 0.04}
    labels = {"backbone": "resnet18"} | labels
    return make_record(scores, tasks=tasks, settings=settings, attack=attack, dataset=dataset, **labels)


def faces() -> list[Record]:
    """Both regimes as published, two seeds, of which the second scores 0.02 more."""
    return [
        cell(score + 0.02 * seed, attack, regime=regime, seed=seed)
        for regime, scores in FACES.items()
        for attack, score in scores.items()
        for seed in (0, 1)
    ]


def small_faces() -> list[Record]:
    """Another dataset under the settings of a small suite; the best attack is one without a budget."""
    crop = {"size": 36, "crop": None, "limit": 4000, "test_fraction": 0.2, "data_seed": 3}
    how: dict[str, Any] = {
        "dataset": "utkface",
        "backbone": "small",
        "images": 800,
        "recipe": {"epochs": 10, "batch": 128, "stl_epochs": None},
    }
    rounds = {"attack": {"rounds": 10}}
    return [
        cell(0.68, "clean", params={"dataset": crop}, **how),
        cell(0.35, "mtl-ue-tap", params={"dataset": crop, **rounds}, **how),
        cell(0.50, "em", params={"dataset": crop}, **how),
        cell(0.50, "em", params={"dataset": crop}, **(how | {"defense": "jpeg"})),
        cell(0.20, "ops", params={"dataset": crop}, bounded=False, **how),
        cell(0.10, "em(rate=0.5)", params={"dataset": crop}, rate=0.5, **how),
    ]


def everything() -> list[Record]:
    """All datasets with published scores, one twice, and one without."""
    chest = {"dataset": "chestxray14", "metric": "auroc", "images": 25000, "recipe": {"batch": 128}}
    return [
        *faces(),
        cell(0.86, "clean", dataset="celeba(size=36)", recipe={"epochs": 10}, images=2000),
        cell(0.77, "clean", **chest),
        cell(0.70, "em", **chest),
        cell(0.66, "sep", **chest),
        *small_faces(),
        make_record({"a": 0.9}, attack="clean"),
    ]


def compared(records: Sequence[Record], scores: Sequence[PublishedScore] | None = None) -> DataFrame:
    return compare_with_published(to_frame(records), records, scores)


def section(records: Sequence[Record]) -> str:
    return render_published(to_frame(records), records)


def row(table: DataFrame, **labels: str) -> dict[str, Any]:
    for name, label in labels.items():
        table = table[table[name] == label]
    (found,) = table.to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_section_is_the_committed_one() -> None:
    expect("published.md", section(everything()))


def test_it_is_a_section_of_a_board_with_such_a_dataset_alone() -> None:
    assert "## Comparison with published scores" in render_board(faces())
    others = [make_record({"a": 0.9}, attack="clean"), make_room({"depth": 0.5}, attack="clean")]
    assert "published" not in render_board(others)
    assert section([]) == ""
    # The same dataset under a defense that the paper's table does not have.
    assert section([cell(0.9, "clean", defense="jpeg")]) == ""


def test_measured_is_the_mean_over_tasks_then_over_seeds() -> None:
    found = row(compared(faces()), attack="em", regime="mtl")
    assert found["measured"] == pytest.approx((0.73 + 0.75) / 2)
    assert found["spread"] == pytest.approx(0.02 / 2**0.5)
    assert found["published"] == pytest.approx(0.7566)
    assert found["difference"] == pytest.approx(0.74 - 0.7566)
    assert found["cells"] == 2
    assert found["measured_with"] == "resnet18, ew"


def test_a_regime_meets_its_own_column() -> None:
    table = compared(faces())
    assert row(table, attack="clean", regime="stl")["published"] == pytest.approx(0.9035)
    assert row(table, attack="clean", regime="stl")["measured"] == pytest.approx(0.88)
    assert not len(table[(table["attack"] == "ar") & (table["regime"] == "stl")])


def test_a_variant_of_an_attack_or_a_victim_of_its_own_is_not_taken_for_it() -> None:
    others = [
        cell(0.1, "em(rounds=2)"),
        cell(0.1, "em", backbone="small"),
        cell(0.1, "em", weighting="uw"),
        cell(0.1, "em", defense="jpeg"),
    ]
    assert row(compared([*faces(), *others]), attack="em", regime="mtl")["cells"] == 2


def test_where_its_victim_was_not_run_the_most_frequent_one_is_taken_and_named() -> None:
    records = [
        cell(0.9, attack, backbone=backbone, weighting=weighting)
        for attack in ("clean", "em")
        for backbone, weighting in (("small", "uw"), ("small", "rlw"), ("large", "uw"))
    ]
    found = row(compared(records), attack="em")
    assert found["measured_with"] == "small, uw"


def test_the_best_attack_is_the_bounded_one_that_leaves_least_and_is_named() -> None:
    found = row(compared(small_faces()), attack=BEST)
    assert found["measured_attack"] == "mtl-ue-tap"
    assert found["measured"] == pytest.approx(0.33)
    assert found["difference"] == pytest.approx(0.33 - 0.2584)
    assert "| best: mtl-ue-tap " in section(small_faces())


def test_the_best_attack_on_an_error_leaves_most() -> None:
    score = PublishedScore("a paper", "rooms", BEST, "small", "ew", "mtl", "none", "absolute_error", 1.5, {})
    learned = {"clean": 0.6, "em": 0.3, "mtl-ue-em": -0.1}
    records = [make_room({"depth": part}, attack=attack) for attack, part in learned.items()]
    found = row(compared(records, [score]))
    assert (found["measured_attack"], found["measured"]) == ("mtl-ue-em", pytest.approx(0.88))
    assert found["difference"] == pytest.approx(-0.62)


def test_what_differs_from_the_publication_is_said() -> None:
    text = row(compared(small_faces()), attack=BEST)["measured_with"]
    assert text == (
        "mtl-ue-tap(rounds=10), utkface(limit=4000, size=36), small, ew, "
        "epochs 10 (60), batch 128 (512), test images 800"
    )
    tiny = row(compared([cell(0.9, recipe={"epochs": 5}, images=300)]), attack="em")
    assert tiny["measured_with"] == "resnet18, ew, epochs 5 (60), test images 300 (19962)"
    # Single-task networks have epochs of their own.
    alone = row(compared([cell(0.9, recipe={"epochs": 5, "stl_epochs": 4}, regime="stl")]))
    assert alone["measured_with"] == "resnet18, ew, epochs 4 (10)"


def test_seeds_that_were_trained_otherwise_share_no_mean() -> None:
    table = compared([cell(0.9, seed=0), cell(0.5, seed=1, recipe={"epochs": 1})])
    assert sorted(table["measured"]) == pytest.approx([0.48, 0.88])


def test_what_is_to_be_known_of_a_column_stands_below_it() -> None:
    note = "separately for every task"
    assert note in section(faces())
    assert note not in section([record for record in faces() if record.cell["regime"] == "mtl"])


def test_a_victim_without_a_score_is_left_out() -> None:
    lost = cell(0.9, "clean", seed=1)
    lost.scores.update(a={"accuracy": None}, b={"accuracy": None})
    found = row(compared([cell(0.9, "clean"), lost]), attack="clean")
    assert (found["cells"], found["measured"]) == (1, pytest.approx(0.88))


# The scores themselves


def test_the_scores_are_those_of_the_paper() -> None:
    def values(dataset: str, regime: str) -> dict[str, float]:
        return {
            score.attack: score.value
            for score in published_scores()
            if (score.dataset, score.regime) == (dataset, regime)
        }

    attacks = ("clean", "ar", "em", "tap", "sep", "mtl-ue-em", "mtl-ue-tap", "mtl-ue-sep")
    mtl = (91.11, 73.12, 75.66, 85.24, 84.25, 74.38, 59.51, 63.77)
    stl = (90.35, 84.41, 89.91, 87.00, 89.91, 74.26, 68.65, 72.51)
    for regime, scores in (("mtl", mtl), ("stl", stl)):
        expected = {attack: value / 100 for attack, value in zip(attacks, scores, strict=True)}
        assert values("celeba", regime) == pytest.approx(expected)
    assert values("chestxray14", "mtl") == pytest.approx({"clean": 0.7577, BEST: 0.4813})
    assert values("utkface", "mtl") == pytest.approx({"clean": 0.7897, BEST: 0.2584})
    assert len(published_scores()) == 20


@pytest.mark.parametrize("score", published_scores(), ids=lambda f: f"{f.dataset}-{f.attack}-{f.regime}")
def test_a_score_names_parts_of_the_catalog_and_its_source(score: PublishedScore) -> None:
    assert score.attack in {*CATALOG["attack"], BEST}
    for axis in ("backbone", "weighting", "regime", "defense"):
        assert getattr(score, axis) in CATALOG[axis]
    assert score.source.startswith("Yu et al., ICML 2025 (MTL-UE)")
    assert set(score.settings) <= {*COMPARED, "stl_epochs"}
