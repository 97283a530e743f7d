"""The board of dense tasks and of both regimes, byte for byte: units, and which way is better.

After a wanted change of the page: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/golden/test_dense_board.py``.
"""

import csv
import io
import json
import random

import pytest
import torch
from torch import Tensor

from bench.api import Task
from bench.record import Record
from leaderboard.board import render_board
from leaderboard.comparison import compare_labels, render_comparison
from leaderboard.formatting import METRICS, format_score, metric_label
from leaderboard.frame import to_csv, to_frame, to_json
from leaderboard.ranking import rank_attacks
from leaderboard.reference import summarize_records
from leaderboard.regression import check_against_reference
from leaderboard.regression_report import render_changes
from leaderboard.sections.dense import scores_by_metric
from leaderboard.sections.peaks import peak_and_last_scores
from leaderboard.sections.regimes import scores_by_regime
from leaderboard.sections.tasks import scores_by_task
from tests.golden.committed import expect
from tests.records import make_record, make_room

ROOMS = {
    "mtl": {"clean": (0.6, 0.5, 0.4), "em": (0.3, 0.25, -0.2), "mtl-ue-em": (0.06, -0.5, 0.1)},
    "stl": {"clean": (0.5, 0.6, 0.2), "em": (0.4, 0.3, 0.1)},
}
"""Regime → attack → part of the way from floor to perfect in segmentation, depth and normals."""


def rooms() -> list[Record]:
    """Three dense tasks, two seeds, two regimes, and a weighting that one of these alone was run with."""
    cells = [(regime, attack, "ew") for regime, attacks in ROOMS.items() for attack in attacks]
    cells += [("mtl", attack, "uw") for attack in ("clean", "em")]
    return [
        make_room(
            {
                task: part - 0.02 * seed * (attack != "clean") + 0.1 * (weighting == "uw")
                for task, part in zip(
                    ("segmentation", "depth", "normals"), ROOMS[regime][attack], strict=True
                )
            },
            attack=attack,
            regime=regime,
            weighting=weighting,
            seed=seed,
        )
        for regime, attack, weighting in cells
        for seed in (0, 1)
    ]


def everything() -> list[Record]:
    """The rooms and a dataset of classification tasks."""
    scores = {"clean": 0.9, "em": 0.7, "mtl-ue-em": 0.55}
    return [*rooms(), *(make_record({"a": score, "b": score}, attack=a) for a, score in scores.items())]


def test_board_is_the_committed_one() -> None:
    expect("dense.md", render_board(everything()))


def test_comparison_is_the_committed_one() -> None:
    expect(
        "dense-comparison.md", render_comparison(compare_labels(to_frame(everything()), "em", "mtl-ue-em"))
    )


def test_no_text_depends_on_the_order_of_the_records() -> None:
    shuffled = everything()
    random.Random(0).shuffle(shuffled)
    assert render_board(shuffled) == render_board(everything())
    assert to_csv(to_frame(shuffled)) == to_csv(to_frame(everything()))


def test_protection_of_errors_and_angles_by_hand() -> None:
    learned = {"clean": (0.6, 0.5, 0.4), "em": (0.3, 0.25, -0.2)}
    tasks = ("segmentation", "depth", "normals")
    frame = to_frame([make_room(dict(zip(tasks, v, strict=True)), attack=a) for a, v in learned.items()])
    em = frame[frame["attack"] == "em"].set_index("task")
    assert list(em.index) == ["segmentation", "depth", "normals (derived)"]
    assert em["raw"].tolist() == pytest.approx([0.314, 0.6, 48.0])
    # (0.608 - 0.314) / (0.608 - 0.02); (0.4 - 0.6) / (0.4 - 0.8); (24 - 48) / (24 - 40): misled.
    assert em["protection"].tolist() == pytest.approx([0.5, 0.5, 1.5])
    assert em["raw_peak"].tolist() == pytest.approx([0.363, 0.56, 46.0])


def test_an_attack_that_raises_an_error_ranks_first() -> None:
    ranked = rank_attacks(to_frame([record for record in rooms() if record.cell["regime"] == "mtl"]))
    assert list(ranked["attack"]) == ["mtl-ue-em", "em", "clean"]
    worst = ranked.set_index("attack")
    assert worst.loc["mtl-ue-em", "raw_absolute_error"] == pytest.approx(0.8 * 1.51)
    assert worst.loc["clean", "raw_mean_angle"] == pytest.approx(40 * (1 - (0.4 + 0.5) / 2))
    # The victims of the digits score accuracies and those of rooms none.
    both = rank_attacks(to_frame(everything())).set_index("attack")
    assert both.loc["em", "raw_accuracy"] == pytest.approx(0.7)


def test_the_best_epoch_of_an_error_is_its_smallest() -> None:
    found = peak_and_last_scores(to_frame(rooms()))
    better = found["peak"] - found["last"]
    assert ((better > 0) == (found["metric"] == "miou")).all()


def test_every_metric_of_a_dense_task_stands_in_the_fields_order() -> None:
    found = scores_by_metric(to_frame(rooms()), "rooms")
    em = found[found["attack"] == "em"]
    assert list(zip(em["task"], em["metric"], strict=True)) == [
        ("segmentation", "miou"),
        ("segmentation", "pixel_accuracy"),
        ("depth", "absolute_error"),
        ("depth", "relative_error"),
        ("normals (derived)", "mean_angle"),
        ("normals (derived)", "median_angle"),
        ("normals (derived)", "within_11_25"),
        ("normals (derived)", "within_22_5"),
        ("normals (derived)", "within_30"),
    ]
    # Usual victims are multi-task networks with equal weights; seeds 0 and 1 are averaged.
    assert em["value"].tolist()[2:4] == pytest.approx([0.8 * 0.76, 0.3 * 0.76])
    assert not len(scores_by_metric(to_frame(everything()), "digits"))


def test_a_metric_that_one_victim_lacks_is_a_dash() -> None:
    records = [make_room({"depth": 0.5}, attack="clean"), make_room({}, attack="em")]
    page = render_board(records)
    assert "nan" not in page.lower()
    section = page.split("every metric of dense tasks")[1].split("##")[0]
    assert "| clean" in section
    assert "| em " not in section, "nothing is known of it"


def test_regimes_stand_side_by_side_under_the_settings_that_both_were_run_with() -> None:
    found = scores_by_regime(to_frame(rooms())).set_index(["metric", "attack", "regime"])
    # The other weighting, which would add a tenth, is not in it.
    assert found.loc[("miou", "clean", "mtl"), "raw"] == pytest.approx(0.02 + 0.6 * 0.98)
    assert found.loc[("miou", "clean", "stl"), "raw"] == pytest.approx(0.02 + 0.5 * 0.98)
    assert found.loc[("absolute_error", "em", "stl"), "raw"] == pytest.approx(0.8 * 0.71)
    # A victim of its own regime is the reference: (0.6 - 0.29) / 0.6.
    assert found.loc[("absolute_error", "em", "stl"), "protection"] == pytest.approx(0.31 / 0.6)
    assert ("miou", "mtl-ue-em", "stl") not in found.index
    assert " – |" in render_board(rooms()).split("## Raw score by regime")[1].split("\n## ")[0]
    assert "by regime" not in render_board([record for record in rooms() if record.cell["regime"] == "mtl"])


def test_the_mean_over_tasks_comes_before_that_over_cells() -> None:
    records = [
        make_record({"a": a, "b": b}, attack=attack, regime=regime)
        for regime, attack, a, b in [
            ("mtl", "clean", 1.0, 0.9),
            ("mtl", "em", 0.6, 0.7),
            ("stl", "clean", 0.9, 0.7),
            ("stl", "em", 0.9, 0.6),
        ]
    ]
    found = scores_by_regime(to_frame(records)).set_index(["attack", "regime"])
    assert found["raw"].to_dict() == pytest.approx(
        {("clean", "mtl"): 0.95, ("clean", "stl"): 0.8, ("em", "mtl"): 0.65, ("em", "stl"): 0.75}
    )
    # Of the two tasks 0.8 and 0.5, then 0 and 0.5.
    assert found.loc[("em", "mtl"), "protection"] == pytest.approx(0.65)
    assert found.loc[("em", "stl"), "protection"] == pytest.approx(0.25)


def test_a_derived_truth_is_never_paired_with_a_measured_one() -> None:
    measured = make_room({"normals": 0.5}, attack="clean")
    tasks = {name: {**info, "derived": False} for name, info in measured.tasks.items()}
    (first, *_) = to_frame([make_record({}, tasks=tasks, dataset="rooms")]).query("kind == 'normals'")["task"]
    assert first == "normals"
    assert set(scores_by_task(to_frame([measured]), "rooms")["raw"].columns) >= {"normals (derived)"}


def test_csv_and_json_have_the_kind_and_every_metric() -> None:
    frame = to_frame(everything())
    rows = list(csv.DictReader(io.StringIO(to_csv(frame))))
    assert {row["kind"] for row in rows} == {"classification", "segmentation", "depth", "normals"}
    (depth, *_) = (row for row in rows if row["kind"] == "depth")
    assert float(depth["metric_relative_error"]) > 0
    assert (depth["metric_miou"], depth["metric_accuracy"]) == ("", "")
    assert {row["metric_miou"] for row in json.loads(to_json(frame)) if row["kind"] == "depth"} == {None}


@pytest.mark.parametrize(
    ("metric", "value", "name", "text"),
    [
        ("accuracy", 0.9111, "accuracy %", "91.1"),
        ("auroc", 0.4813, "AUROC %", "48.1"),
        ("miou", 0.0666, "mIoU %", "6.7"),
        ("absolute_error", 0.60049, "absolute error m", "0.600"),
        ("relative_error", 12.0, "relative error", "12.000"),
        ("mean_angle", 24.04, "mean angle °", "24.0"),
        ("within_11_25", 0.5, "within 11.25° %", "50.0"),
        ("mean_angle", -0.01, "mean angle °", "0.0"),
        ("mean_angle", float("nan"), "mean angle °", "–"),
        ("some_error", 1234.5, "some error", "1234"),
    ],
)
def test_every_metric_in_its_unit(metric: str, value: float, name: str, text: str) -> None:
    assert (metric_label(metric), format_score(value, metric)) == (name, text)


def test_every_metric_of_every_kind_of_task_has_a_unit() -> None:
    from bench.tasks.classification import Classification
    from bench.tasks.depth import Depth
    from bench.tasks.normals import Normals
    from bench.tasks.segmentation import Segmentation

    maps = torch.randint(0, 2, (2, 4, 4), dtype=torch.int8)
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 4, 4), dim=1)
    tasks: dict[Task, Tensor] = {
        Classification("a", ("x", "y")): torch.tensor([0, 1]),
        Segmentation("b", ("x", "y")): maps,
        Depth("c"): torch.rand(2, 1, 4, 4),
        Normals("d", derived=True): normals,
    }
    for task, target in tasks.items():
        info, scorer = task.describe(target, target), task.scorer()
        labels = target if target.is_floating_point() else target.long()
        scorer.update(torch.randn(2, task.outputs, *target.shape[-2:] if target.ndim > 1 else ()), labels)
        assert set(scorer.compute()) - {"loss"} == set(info["perfect"]) == set(info["floor"])
        assert set(info["perfect"]) <= set(METRICS)
        assert bool(info.get("derived")) == (task.name == "d")


# The check against a reference


def run(learned: float, attack: str = "clean") -> list[Record]:
    return [make_room({"depth": learned, "normals": learned}, attack=attack)]


@pytest.mark.parametrize(
    ("attack", "then", "now", "changed"),
    [
        ("clean", 0.5, 0.41, True),  # the error of depth rises from 0.400 m to 0.472 m
        ("clean", 0.5, 0.59, True),
        ("clean", 0.5, 0.5, False),
        ("em", 0.1, 0.19, True),
        ("em", 0.1, 0.01, True),
        ("em", -0.4, -0.31, True),
        ("em", -4.0, -2.5, False),  # beyond twice the floor an error says nothing more
        ("em", -4.0, -0.9, True),
    ],
)
def test_the_mean_of_errors_is_part_of_the_way_to_the_floor(
    attack: str, then: float, now: float, changed: bool
) -> None:
    (change,) = [
        change
        for change in check_against_reference(summarize_records(run(then, attack)), run(now, attack))
        if change.quantity == "score"
    ]
    assert change.verdict == ("changed" if changed else "ok")


def test_a_truth_that_is_measured_from_now_on_is_another_task() -> None:
    now = run(0.5)[0]
    now.tasks["normals"] = {**now.tasks["normals"], "derived": False}
    changes = check_against_reference(summarize_records(run(0.5)), [now])
    missing = {change.quantity for change in changes if change.fails}
    assert missing == {change.quantity for change in changes if "normals (derived)" in change.quantity}
    assert "normals (derived) mean_angle" in missing
    assert "normals (derived)" in render_changes(changes)
