"""The board of a small set of made-up records, byte for byte, with its numbers worked out by hand.

After a wanted change of the page: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/golden/test_leaderboard.py``, then
read the difference before committing it.
"""

import csv
import io
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from rich.console import Console

from bench.errors import BenchError
from bench.record import Record, TaskInfo
from leaderboard.board import render_board
from leaderboard.comparison import compare_labels, render_comparison
from leaderboard.formatting import NO_VALUE, markdown_table
from leaderboard.frame import select_records, to_csv, to_frame, to_json
from leaderboard.heatmap_table import heatmap_table
from leaderboard.ranking import rank_attacks
from leaderboard.rows import default_victim_rows
from leaderboard.sections.costs import cost_table
from leaderboard.sections.noise import noise_table
from leaderboard.sections.partial import partial_images, partial_tasks
from leaderboard.sections.peaks import peak_and_last_scores
from leaderboard.sections.tasks import scores_by_task
from leaderboard.terminal_comparison import print_comparison
from tests.golden.committed import expect
from tests.records import cost, fail, make_record, matrix, task_info

RANKINGS = ("Ranking\n", "Ranking, unbounded track\n")

DEPTH = task_info("absolute_error", "absolute_error", floor=2.0, perfect=0.0, kind="depth")
LABEL = TaskInfo(
    kind="classification",
    classes=4,
    headline="accuracy",
    scored="balanced_accuracy",
    floor={"accuracy": 0.9, "balanced_accuracy": 0.25},
    perfect={"accuracy": 1.0, "balanced_accuracy": 1.0},
    test=100,
)


def digits() -> list[Record]:
    """Two tasks, two defenses, three seeds."""
    zeros = {"none": (0.0, 0.0), "jpeg(quality=30)": (0.0, 0.0)}
    learned = {
        "clean": zeros,
        "em": {"none": (0.9, 1.0), "jpeg(quality=30)": (0.32, 0.5)},
        "mtl-ue-em": {"none": (0.8, 0.8), "jpeg(quality=30)": (0.62, 0.7)},
    }
    return matrix(learned)


def rooms() -> list[Record]:
    """A task whose error is best at 0, one scored by another metric than it shows, one that nobody learns."""

    def room(attack: str, depth: float, label: float, raw: float) -> Record:
        return make_record(
            {"depth": depth, "label": label, "noise": 0.26},
            tasks={"depth": DEPTH, "label": LABEL, "noise": LABEL},
            raw={"label": raw, "noise": 0.9},
            dataset="rooms",
            backbone="dense|18",
            attack=attack,
        )

    return [room("clean", 0.4, 0.85, 0.97), room("em", 1.5, 0.25, 0.9), room("mtl-ue-em", 2.4, 0.4, 0.92)]


def unbounded() -> list[Record]:
    """An attack without a budget, which protects better than all that keep to one."""
    return matrix({"cuda": {"none": (1.0, 1.1), "jpeg(quality=30)": (0.9, 1.0)}}, bounded=False)


def partial() -> list[Record]:
    """Attacks on half of the images, with the reference to that, and on one of the tasks."""
    return [
        *matrix({"em(rate=0.5)": {"none": (0.3, 0.2)}}, rate=0.5),
        *matrix({"clean(rate=0.5)": {"none": (0.1, 0.1)}}, rate=0.5),
        *matrix({'em(tasks=["b"])': {"none": (0.05, 0.9)}}, protected=["b"]),
    ]


def everything() -> list[Record]:
    """The two datasets with whatever else a folder can hold."""
    older = {"key": "older", "finished": "2025-01-01T00:00:00+00:00"}
    gone = {"key": "gone", "status": "failed", "finished": "2025-01-01T00:00:00+00:00"}
    return [
        *digits(),
        *rooms(),
        *unbounded(),
        *partial(),
        make_record({"a": 0.7, "b": 0.7}, attack="em", backbone="large"),
        make_record({"a": 0.5, "b": 0.5}, attack="em", changes=older),
        make_record({"a": 0.5, "b": 0.5}, attack="em", changes=gone),
        fail("out of memory:\nasked for <8> GiB | got none", attack="mtl-ue-em", backbone="large"),
    ]


def value(frame: DataFrame, column: str, **labels: str | int) -> float:
    for name, label in labels.items():
        frame = frame[frame[name] == label]
    assert len(frame) == 1
    return float(frame[column].iloc[0])


def test_board_is_the_committed_one() -> None:
    expect("leaderboard.md", render_board(everything(), ["records/3f.json is damaged | and left out"]))


def test_a_column_without_any_value_is_left_out_of_a_table() -> None:
    table = markdown_table(
        [{"attack": "em", "a": NO_VALUE, "b": "1"}, {"attack": "tap", "a": NO_VALUE, "b": NO_VALUE}]
    )
    assert table.splitlines()[0].split() == ["|", "attack", "|", "b", "|"]


def test_comparison_is_the_committed_one() -> None:
    expect("comparison.md", render_comparison(compare_labels(to_frame(everything()), "em", "mtl-ue-em")))


@pytest.mark.parametrize("seed", range(3))
def test_no_text_depends_on_the_order_of_the_records(seed: int) -> None:
    shuffled = everything()
    random.Random(seed).shuffle(shuffled)
    assert render_board(shuffled) == render_board(everything())
    assert to_csv(to_frame(shuffled)) == to_csv(to_frame(everything()))


def test_protection_by_hand() -> None:
    frame = to_frame(rooms())
    # An error: clean 0.4, floor 2. (0.4 - 1.5) / (0.4 - 2) and (0.4 - 2.4) / (0.4 - 2), which is misled.
    assert value(frame, "protection", task="depth", attack="em") == pytest.approx(0.6875)
    assert value(frame, "protection", task="depth", attack="mtl-ue-em") == pytest.approx(1.25)
    # Balanced accuracy, not the accuracy that is shown: (0.85 - 0.4) / (0.85 - 0.25).
    assert value(frame, "protection", task="label", attack="em") == pytest.approx(1.0)
    assert value(frame, "protection", task="label", attack="mtl-ue-em") == pytest.approx(0.75)
    assert value(frame, "raw", task="label", attack="mtl-ue-em") == 0.92
    assert list(frame.loc[frame["attack"] == "clean", "protection"].dropna()) == [0.0, 0.0]


def test_a_task_that_clean_does_not_learn_is_undefined() -> None:
    # (0.26 - 0.25) / (1 - 0.25) is below 0.05.
    noise_table = to_frame(rooms()).query("task == 'noise' and attack != 'clean'")
    assert not noise_table["defined"].any()
    assert noise_table["paired"].all()
    assert noise_table["protection"].isna().all()
    assert list(rank_attacks(to_frame(rooms()))["undefined"]) == [1, 1, 1]


def test_a_missing_score_is_undefined_and_left_out_of_the_mean() -> None:
    records = [
        make_record({"a": 0.9, "b": 0.9}, attack="clean"),
        make_record({"a": 0.7, "b": None}),
    ]
    ranked = rank_attacks(to_frame(records))
    assert value(ranked, "protection", attack="em") == pytest.approx(0.5)
    assert value(ranked, "undefined", attack="em") == 1
    assert "nan" not in render_board(records).lower()


def test_ranking_by_hand() -> None:
    ranked = rank_attacks(to_frame(digits()))
    assert list(ranked["attack"]) == ["mtl-ue-em", "em", "clean"]
    assert list(ranked["rank"])[:2] == [1, 2]
    # Seed means are 0.66, 0.68, 0.70 under jpeg, which leaves most; under none 0.8, 0.82, 0.84.
    assert value(ranked, "protection", attack="mtl-ue-em") == pytest.approx(0.68)
    assert value(ranked, "undefended", attack="mtl-ue-em") == pytest.approx(0.82)
    assert value(ranked, "low", attack="mtl-ue-em") < 0.68 < value(ranked, "high", attack="mtl-ue-em")
    assert value(ranked, "protection", attack="em") == pytest.approx(0.43)
    assert set(ranked["defense"][:2]) == {"jpeg(quality=30)"}
    assert list(ranked["protection"])[2:] == [0.0]
    # Accuracy without a defense is 1 - 0.5 · 0.82.
    assert value(ranked, "raw_accuracy", attack="mtl-ue-em") == pytest.approx(0.59)


def test_worst_case_is_taken_where_the_other_axes_agree() -> None:
    # A star around (small, none): jpeg was run on small alone, so large counts with its one defense.
    records = [
        make_record(
            {"a": 1.0 if attack == "clean" else score}, attack=attack, backbone=backbone, defense=defense
        )
        for backbone, defense, score in (
            ("small", "none", 0.5),
            ("small", "jpeg", 0.8),
            ("large", "none", 0.6),
        )
        for attack in ("clean", "em")
    ]
    em = rank_attacks(to_frame(records)).query("attack == 'em'").iloc[0]
    # Protections are 1 and 0.4 on small and 0.8 on large.
    assert em["protection"] == pytest.approx((0.4 + 0.8) / 2)
    assert (em["choices_min"], em["choices_max"]) == (1, 2)
    # Backbones are compared without a defense, where both were run, and defenses on small.
    frame = to_frame(records)
    assert heatmap_table(frame, "backbone").loc["em"].to_dict() == pytest.approx({"large": 0.8, "small": 1.0})
    assert heatmap_table(frame, "defense").loc["em"].to_dict() == pytest.approx({"jpeg": 0.4, "none": 1.0})
    assert set(default_victim_rows(frame, "digits")["defense"]) == {"none"}


def test_an_interval_needs_every_cell_under_the_same_seeds() -> None:
    lone = [
        make_record({"a": score}, attack=attack, dataset="rooms")
        for attack, score in (("clean", 1.0), ("em", 0.9))
    ]
    ranked = rank_attacks(to_frame([*digits(), *lone]))
    # A mean over settings, of means over the seeds of each.
    assert value(ranked, "protection", attack="em") == pytest.approx((0.43 + 0.2) / 2)
    assert ranked.set_index("attack")["low"].isna().to_dict() == {
        "mtl-ue-em": False,
        "em": True,
        "clean": True,
    }
    holes = [record for record in digits() if record.cell["seed"] != 2 or record.cell["defense"] == "none"]
    assert rank_attacks(to_frame(holes))["low"].isna().all()


def test_default_victim_rows_are_all_of_a_matrix_and_the_default_of_a_star() -> None:
    def victims(settings: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        records = [
            make_record({"a": 1.0}, attack="clean", backbone=backbone, weighting=weighting)
            for backbone, weighting in settings
        ]
        rows = default_victim_rows(to_frame(records), "digits")
        return set(zip(rows["backbone"], rows["weighting"], strict=True))

    full = {("s", "ew"), ("s", "uw"), ("l", "ew"), ("l", "uw")}
    assert victims(sorted(full)) == full
    assert victims([("s", "ew"), ("s", "uw"), ("s", "dwa"), ("l", "ew"), ("xl", "ew")]) == {("s", "ew")}


def test_by_task_shows_floor_clean_and_attacks_in_the_order_of_rank() -> None:
    wide = scores_by_task(to_frame(everything()), "rooms")
    assert list(wide.index) == ["floor", "clean", "mtl-ue-em", "em"]
    assert list(wide["raw"].columns) == ["depth", "label", "noise"]
    assert list(wide["raw"].loc["floor"]) == [2.0, 0.9, 0.9]
    # An error and an accuracy have no common mean, their protections have.
    assert wide["mean", "raw"].isna().all()
    assert wide["mean", "protection"]["em"] == pytest.approx((0.6875 + 1.0) / 2)


def test_what_has_no_budget_is_never_ranked_with_what_has_one() -> None:
    frame = to_frame(everything())
    assert list(rank_attacks(frame)["attack"]) == ["mtl-ue-em", "em", "clean"]
    free = rank_attacks(frame, "unbounded")
    assert list(free["attack"]) == ["cuda", "clean"]
    assert value(free, "rank", attack="cuda") == 1
    # Seed means are 0.95, 0.97, 0.99 under jpeg: it would have come first.
    assert value(free, "protection", attack="cuda") == pytest.approx(0.97)
    assert value(free, "protection", attack="cuda") > rank_attacks(frame)["protection"].max()
    board = render_board(everything())
    first, second = (board.split(f"## {title}")[1].split("\n## ")[0] for title in RANKINGS)
    assert "cuda" not in first
    assert "em" not in [line.split("|")[2].strip() for line in second.splitlines() if line.startswith("|")]
    assert "unbounded" not in render_board([*digits(), *partial()])


def test_attacks_without_a_budget_come_last_and_marked_where_all_are_shown() -> None:
    frame = to_frame(everything())
    assert list(scores_by_task(frame, "digits").index)[-1] == "cuda"
    assert list(heatmap_table(frame, "defense").index)[-1] == "cuda"
    shown = [line for line in render_board(everything()).split("## digits")[1].splitlines() if "cuda" in line]
    marked = [line for line in shown if "cuda †" in line]
    # Every table that is shared, those of costs apart: the attack's own noise, twice, and five tables.
    assert len(marked) == len(shown) - 1 == 7


def test_a_comparison_of_different_budgets_says_that_it_ranks_nothing() -> None:
    frame = to_frame(everything())
    for (a, b), budgets in (
        (("em", "cuda"), ("8/255", "no budget")),
        (("cuda", "em"), ("no budget", "8/255")),
    ):
        compared = compare_labels(frame, a, b)
        assert compared.budgets == budgets
        caveat = (
            f"Their budgets differ ({a}: {budgets[0]}, {b}: {budgets[1]}): this comparison is not a ranking."
        )
        assert caveat in render_comparison(compared)
    frame.loc[frame["attack"] == "em", ["track", "epsilon"]] = "l2", 0.5
    assert compare_labels(frame, "em", "mtl-ue-em").budgets == ("l2 norm 0.5", "8/255")
    for sides in (("none", "jpeg(quality=30)", "defense"), ("clean", "em", "attack")):
        assert compare_labels(frame, *sides).budgets is None
    assert compare_labels(to_frame(everything()), "em", "mtl-ue-em").budgets is None


def test_part_of_the_images_against_the_clean_part_alone_by_hand() -> None:
    table = partial_images(to_frame(everything()))
    (row,) = table.to_dict("records")
    assert (row["dataset"], row["metric"], row["attack"], row["rate"]) == (
        "digits",
        "accuracy",
        "em(rate=0.5)",
        0.5,
    )
    # Over seeds 0, 0.02, 0.04 is added to the protection of both.
    assert row["protection"] == pytest.approx((0.3 + 0.2) / 2 + 0.02)
    assert row["protection_alone"] == pytest.approx(0.1 + 0.02)
    assert row["raw"] == pytest.approx(1 - 0.5 * 0.27)
    assert row["raw_alone"] == pytest.approx(1 - 0.5 * 0.12)
    assert row["difference"] == pytest.approx(0.15)
    assert row["spread"] == pytest.approx(0.0, abs=1e-9)


def test_the_clean_part_is_that_of_the_same_victim_and_rate() -> None:
    def cell(score: float, attack: str, rate: float = 1.0, **labels: str | int) -> Record:
        return make_record({"a": score}, attack=attack, rate=rate, **labels)

    records = [
        *(cell(1.0, "clean", seed=seed) for seed in (0, 1)),
        cell(0.8, "clean(rate=0.5)", 0.5, seed=0),
        cell(0.7, "clean(rate=0.2)", 0.2, seed=0),
        cell(0.9, "em(rate=0.5)", 0.5, seed=0),
        cell(0.6, "em(rate=0.5)", 0.5, seed=1),  # its reference failed: it is in no mean
        cell(0.6, "tap(rate=0.3)", 0.3, seed=0),  # nor has this one any
    ]
    table = partial_images(to_frame(records))
    assert value(table, "protection_alone", attack="em(rate=0.5)") == pytest.approx(0.4)
    assert value(table, "protection", attack="em(rate=0.5)") == pytest.approx(0.2)
    assert value(table, "difference", attack="em(rate=0.5)") == pytest.approx(-0.2)
    assert value(table, "protection", attack="tap(rate=0.3)") == pytest.approx(0.8)
    assert table["difference"].isna().tolist() == [True, False]
    assert "nan" not in render_board(records).lower()


def test_part_of_the_tasks_by_hand() -> None:
    (row,) = partial_tasks(to_frame(everything())).to_dict("records")
    assert (row["attack"], row["tasks"], row["protected_tasks"]) == ('em(tasks=["b"])', 2, 1)
    assert row["protected"] == pytest.approx(0.92)
    assert row["others"] == pytest.approx(0.07)


def test_an_attack_that_protects_every_task_by_name_is_not_partial() -> None:
    names = [make_record({"a": 0.9, "b": 0.9}, attack='em(tasks=["b", "a"])', protected=["b", "a"])]
    frame = to_frame([*digits(), *names])
    assert not frame["partial"].any()
    assert 'em(tasks=["b", "a"])' in set(rank_attacks(frame)["attack"])


def test_partial_attacks_change_no_other_table() -> None:
    some, all_ = to_frame([*digits(), *rooms()]), to_frame([*digits(), *rooms(), *partial()])
    for table in (rank_attacks, peak_and_last_scores):
        assert_frame_equal(table(some), table(all_))
    assert_frame_equal(scores_by_task(some, "digits"), scores_by_task(all_, "digits"))
    assert_frame_equal(heatmap_table(some, "defense"), heatmap_table(all_, "defense"))
    assert compare_labels(some, "none", "jpeg(quality=30)", axis="defense").overall == (
        compare_labels(all_, "none", "jpeg(quality=30)", axis="defense").overall
    )


def test_the_clean_part_is_shown_only_with_the_attack() -> None:
    board = render_board(everything())
    assert "clean(rate" not in board
    assert "clean(rate=0.5)" not in set(cost_table(to_frame(everything()))["part"])
    assert compare_labels(to_frame(everything()), "em(rate=0.5)", "clean(rate=0.5)").overall.mean == (
        pytest.approx(0.15)
    )


def test_a_board_of_partial_attacks_alone_has_no_empty_table() -> None:
    page = render_board([make_record({"a": 0.9, "b": 0.9}, attack="em(rate=0.5)", rate=0.5)])
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles == ["## Partial protection", "## Noise", "## Costs", "## Notes"]


def test_the_noise_of_a_poison_counts_once_and_under_the_attack_on_all_images() -> None:
    table = noise_table(to_frame([*digits(), *partial()]))
    assert list(table["attack"].drop_duplicates()) == ["mtl-ue-em", "em", 'em(tasks=["b"])']
    assert value(table, "intra_spread", attack="em", task="a") == pytest.approx(1.1)
    assert value(table, "inter_distance", attack="mtl-ue-em", task="b") == pytest.approx(0.9)
    lone = noise_table(to_frame([make_record({"a": 0.9}, attack="em(rate=0.5)", rate=0.5)]))
    assert list(lone["attack"]) == ["em(rate=0.5)"]


def test_noise_is_a_mean_over_poisons_and_its_largest_change_the_largest() -> None:
    def cell(seed: int, linf: float, spread: float | None, **labels: str) -> Record:
        task: dict[str, Any] = {"intra_spread": spread, "linear_accuracy": None}
        report = {"linf": linf, "psnr": 30.0 + seed, "tasks": {"a": task}}
        return make_record({"a": 0.9}, changes={"noise": report}, seed=seed, **labels)

    records = [
        cell(0, 7.0, 1.0),
        cell(0, 7.0, 1.0, defense="jpeg"),  # on the same poison
        cell(1, 8.0, 2.0),
        cell(2, 6.0, None),
    ]
    (row,) = noise_table(to_frame(records)).to_dict("records")
    assert (row["linf"], row["psnr"], row["intra_spread"]) == (8.0, 31.0, 1.5)
    page = render_board(records).split("\n## Noise")[1]
    assert "linear %" not in page.split("### ")[0].splitlines()[2], "a column without a value is left out"
    assert "1.50 / – |" in page


def test_a_record_that_only_knows_its_largest_change_has_a_line_of_noise() -> None:
    page = render_board([make_record({"a": 0.9}, changes={"noise": {"linf": 8.0}})])
    section = page.split("\n## Noise")[1].split("## Costs")[0]
    assert "| dataset   | attack   |   l∞ /255 |" in section
    assert "every task" not in section


def test_noise_of_many_tasks_is_a_row_per_task() -> None:
    names = [f"task{i}" for i in range(9)]
    page = render_board(
        [make_record(dict.fromkeys(names, 0.9), attack=attack) for attack in ("em", "mtl-ue-em")]
    )
    assert "| task2  |  0.90 / 0.30 (80.0) |  0.20 / 0.90 (80.0) |" in page


def test_peak_is_at_least_the_last_epoch_of_an_accuracy() -> None:
    em = peak_and_last_scores(to_frame(digits())).query("attack == 'em'").iloc[0]
    # 1 - 0.5 · 0.97 over tasks and seeds, and 0.05 more, as the records have it.
    assert (em["last"], em["peak"]) == (pytest.approx(0.515), pytest.approx(0.565))


def test_many_tasks_are_rows() -> None:
    names = [f"task{i}" for i in range(10)]
    records = [make_record(dict.fromkeys(names, 0.9 - 0.4 * (a == "em")), attack=a) for a in ("clean", "em")]
    page = render_board(records)
    assert "| task9  |    50.0 | 90.0 (0.00) | 50.0 (1.00) |" in page


def test_craft_costs_count_once_per_poison() -> None:
    slow = {"craft": cost(50.0, 10.0), "train": cost(1.0)}
    records = [
        make_record({"a": 0.9}, seed=0),
        make_record({"a": 0.9}, seed=0, defense="jpeg"),
        make_record({"a": 0.9}, seed=1, costs=slow),
    ]
    table = cost_table(to_frame(records))
    assert value(table, "s", phase="craft") == (10.0 + 50.0) / 2
    assert value(table, "measured", phase="craft") == 2
    assert value(table, "s", phase="train", axis="backbone") == pytest.approx((30.0 + 30.0 + 1.0) / 3)


def test_a_cell_without_clean_counterpart_is_unpaired() -> None:
    records = [*digits(), make_record({"a": 0.7, "b": 0.7}, attack="em", backbone="large")]
    frame = to_frame(records)
    assert frame.query("backbone == 'large'")["protection"].isna().all()
    em = rank_attacks(frame).query("attack == 'em'").iloc[0]
    assert (em["unpaired"], em["undefined"], em["cells"]) == (1, 0, 7)
    assert em["protection"] == pytest.approx(0.43)


def test_the_last_finished_of_equal_cells_counts() -> None:
    def at(key: str, day: int, score: float) -> Record:
        return make_record({"a": score}, changes={"key": key, "finished": f"2026-03-0{day}T00:00:00+00:00"})

    old, new = at("z", 1, 0.9), at("a", 2, 0.6)
    for records in ([old, new], [new, old], [new, old, old]):
        chosen = select_records(records)
        assert chosen.done == (new,)
        assert chosen.superseded == 1


def test_records_of_other_data_than_the_newest_share_no_board_with_it() -> None:
    def of(data: str, day: int, score: float, **labels: Any) -> Record:
        finished = f"2026-03-0{day}T00:00:00+00:00"
        changes = {"environment": {"data": data}, "finished": finished}
        settings = {"dataset": {"name": "folder"}}
        return make_record({"a": score}, changes=changes, settings=settings, dataset="folder", **labels)

    old, new = "a" * 32, "a" * 16 + "b" * 16  # the same training set, another test set
    stale = of(old, 1, 0.1, attack="em")
    fresh = [of(new, 2, 0.9, attack="clean"), of(new, 3, 0.7, attack="random")]
    elsewhere = make_record({"a": 0.9}, changes={"environment": {"data": old}}, dataset="digits")
    for records in ([stale, elsewhere, *fresh], [*fresh, stale, elsewhere]):
        chosen = select_records(records)
        assert {record.key for record in chosen.done} == {record.key for record in [*fresh, elsewhere]}
        assert (chosen.other_data, chosen.superseded) == (1, 0)
        assert set(to_frame(records)["attack"]) == {"clean", "random", "em"}  # em of the other dataset
        assert "- 1 record left out: the newest record of the same dataset is of" in render_board(records)
    # A version that noted only the training set.
    earlier = of(old[:16], 1, 0.1, attack="em")
    assert select_records([earlier, *fresh]).other_data == 0


def test_a_failure_stands_until_the_cell_is_finished() -> None:
    failed = fail()
    again = make_record({"a": 0.9}, changes={"key": "again", "finished": "2026-04-01T00:00:00+00:00"})
    assert select_records([failed]).failed == (failed,)
    assert select_records([failed, again]).failed == ()


def test_two_protocols_never_share_a_table() -> None:
    records = [make_record({"a": 0.9}, seed=seed) for seed in (0, 1)]
    changes = {"protocol": 7, "key": "later", "finished": "2020-01-01T00:00:00+00:00"}
    later = make_record({"a": 0.4}, changes=changes, seed=0)
    selected = select_records([*records, later])
    assert (selected.done, selected.other_protocol) == ((later,), 2)
    assert "2 records left out: protocols cannot be mixed" in render_board([*records, later])


def test_a_board_without_a_finished_cell_says_so() -> None:
    assert "No cell is finished yet." in render_board([])
    page = render_board([fail("boom")])
    assert "RuntimeError: boom" in page


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_comparison_fits_the_terminal(width: int) -> None:
    comparison = compare_labels(to_frame([*digits(), *rooms()]), "em", "mtl-ue-em")
    file = io.StringIO()
    print_comparison(comparison, Console(file=file, width=width))
    assert max(map(len, file.getvalue().splitlines())) <= width
    if width == 80:
        expect("comparison-80.txt", file.getvalue())


def test_csv_and_json_hold_every_row() -> None:
    frame = to_frame(everything())
    rows = list(csv.DictReader(io.StringIO(to_csv(frame))))
    objects = json.loads(to_json(frame))
    assert len(rows) == len(objects) == len(frame)
    lost = [row for row in objects if row["backbone"] == "large"]
    assert {row["protection"] for row in lost} == {None}
    assert [float(row["score"]) for row in rows] == [row["score"] for row in objects]


def test_comparison_pairs_cells_that_differ_in_the_attack_alone() -> None:
    comparison = compare_labels(to_frame(everything()), "em", "mtl-ue-em")
    assert (comparison.cells, comparison.only_a, comparison.only_b) == (7, 1, 0)
    overall = comparison.overall
    # none +0.15 wins, jpeg -0.25 loses, in each of three seeds; rooms is 0.84375 - 1.0 in seed 0.
    assert (overall.wins, overall.ties, overall.losses) == (3, 0, 4)
    # The exploiter picks jpeg against em (0.43, not 0.97) and mtl-ue-em (0.68, not 0.82), in all seeds; rooms
    # has no other choice. So digits is 0.43 - 0.68 and rooms, in seed 0, 0.84375 - 1.0.
    assert overall.mean == pytest.approx((0.43 - 0.68 - 0.15625) / 2)
    assert overall.interval is None
    assert comparison.verdict == (
        "Protection under em minus that under mtl-ue-em is -0.20 over 7 paired cells, without an interval "
        "(not all cells have the same seeds): whether they differ cannot be resolved."
    )
    assert list(comparison.parts["axis"].unique()) == ["dataset", "backbone", "defense"]
    jpeg = comparison.parts.set_index("value").loc["jpeg(quality=30)", "paired"]
    assert (jpeg.wins, jpeg.losses, jpeg.mean) == (0, 3, pytest.approx(-0.25))


def paired_records(em: Sequence[float], other: Sequence[float]) -> list[Record]:
    records = [make_record({"a": 1.0}, attack="clean", seed=seed) for seed in range(len(em))]
    for attack, scores in {"em": em, "mtl-ue-em": other}.items():
        records += [make_record({"a": score}, attack=attack, seed=seed) for seed, score in enumerate(scores)]
    return records


def test_an_interval_with_zero_settles_nothing() -> None:
    # Protection 0.8, 0.8, 0.8 against 1.0, 0.7, 0.8: -0.2, 0.1, 0; their standard deviation is 0.15275, their
    # standard error 0.0882, t(0.975; 2) = 4.303.
    frame = to_frame(paired_records((0.6, 0.6, 0.6), (0.5, 0.65, 0.6)))
    assert compare_labels(frame, "em", "mtl-ue-em").verdict == (
        "No clear difference between em and mtl-ue-em: protection differs by -0.03 [-0.41, 0.35] "
        "over 3 paired cells, 3 seeds, and the interval includes 0."
    )


def test_few_seeds_settle_nothing_without_an_assumption() -> None:
    # -0.2, -0.21, -0.19: the standard error is 0.00577.
    frame = to_frame(paired_records((0.6, 0.6, 0.6), (0.5, 0.495, 0.505)))
    assert compare_labels(frame, "em", "mtl-ue-em").verdict == (
        "mtl-ue-em protects more than em by 0.20 [0.18, 0.22] over 3 paired cells, 3 seeds; the interval "
        "takes the noise for normal, and without that the order cannot be resolved with 3 seeds (no "
        "sign-flip test can have p below 0.25)."
    )
    # Six seeds of one sign: p = 2 / 64.
    frame = to_frame(paired_records([0.6] * 6, [0.5, 0.49, 0.51] * 2))
    assert compare_labels(frame, "em", "mtl-ue-em").verdict.endswith("over 6 paired cells, 6 seeds.")


def test_costs_are_compared_as_ratios() -> None:
    costs = compare_labels(to_frame(everything()), "em", "mtl-ue-em").costs.set_index("cost")
    # Four pairs of dataset and seed.
    assert costs.loc["craft_s", "pairs"] == 4
    assert costs.loc["craft_s", "ratio"] == pytest.approx(0.5)


def test_comparison_along_another_axis() -> None:
    comparison = compare_labels(to_frame(digits()), "none", "jpeg(quality=30)", axis="defense")
    # The six attacked cells differ by 0.97 - 0.43 and 0.82 - 0.68; clean, 0 under both, would dilute that.
    assert comparison.cells == 6
    assert comparison.overall.mean == pytest.approx((0.54 + 0.14) / 2)
    assert comparison.verdict.startswith(
        "Protection is higher under none than under jpeg(quality=30) by 0.34 ["
    )


def test_one_seed_gives_no_interval() -> None:
    comparison = compare_labels(to_frame(rooms()), "em", "mtl-ue-em")
    assert comparison.overall.interval is None
    # (0.6875 + 1) / 2 against (1.25 + 0.75) / 2.
    assert comparison.verdict == (
        "Protection under em minus that under mtl-ue-em is -0.16 over 1 paired cell, without an interval "
        "(1 seed: too few): whether they differ cannot be resolved."
    )


@pytest.mark.parametrize(
    ("a", "b", "axis", "message"),
    [
        ("emm", "mtl-ue-em", "attack", "did you mean 'em'"),
        ("em", "mtl-ue", "attack", "did you mean 'mtl-ue-em'"),
        ("em", "mtl-ue-em", "atack", "did you mean 'attack'"),
        ("em", "em", "attack", "both sides"),
        ("0", "1", "seed", "seeds"),
        ("small", "dense|18", "backbone", "no attacked cell with backbone 'small' has a counterpart"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(a: str, b: str, axis: str, message: str) -> None:
    with pytest.raises(BenchError, match=message.replace("|", r"\|")):
        compare_labels(to_frame(everything()), a, b, axis)


def test_the_board_needs_no_torch_and_short_views_no_pandas() -> None:
    board = "leaderboard.board, leaderboard.comparison, leaderboard.regression, leaderboard.regression_report"
    for modules, unwanted in (
        (board, {"torch", "torchvision", "matplotlib"}),
        ("leaderboard.live_ranking, leaderboard.board_cache", {"torch", "pandas", "scipy"}),
        ("leaderboard.terminal_board, leaderboard.ranking_export", {"torch", "pandas", "scipy", "numpy"}),
    ):
        program = f"import sys, {modules}; print(sorted({unwanted} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
