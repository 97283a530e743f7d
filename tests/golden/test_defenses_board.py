"""Attack against defense, byte for byte, with its numbers worked out by hand.

After a wanted change of the page: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/golden/test_defenses_board.py``, then
read the difference before committing it.
"""

import math
import random
from collections.abc import Mapping, Sequence

import pytest
from pandas import DataFrame

from bench.record import Record
from leaderboard.board import render_board
from leaderboard.comparison import compare_labels
from leaderboard.frame import to_frame
from leaderboard.heatmap_table import heatmap_table
from leaderboard.sections.defenses import most_robust_attack, render_defenses, scores_by_defense
from tests.golden.committed import expect
from tests.records import make_record, make_room, matrix, task_info

DEPTH = task_info("absolute_error", "absolute_error", floor=2.0, perfect=0.0, kind="depth")
"""A task whose error is best at 0."""

Scores = Mapping[str, Mapping[str, float]]
"""Attack → defense → score of task ``a``, whose floor is 0.5."""


def cells(scores: Scores, **labels: str | int) -> list[Record]:
    """Return the records of a victim with one task."""
    return [
        make_record({"a": score}, attack=attack, defense=defense, **labels)
        for attack, defenses in scores.items()
        for defense, score in defenses.items()
    ]


FIRST: Scores = {
    "clean": {"none": 0.9, "jpeg": 0.8, "blur": 0.7},
    "em": {"none": 0.6, "jpeg": 0.7, "blur": 0.5},
}
SECOND: Scores = {
    "clean": {"none": 0.9, "jpeg": 0.9, "blur": 0.7},
    "em": {"none": 0.5, "jpeg": 0.8, "blur": 0.62},
}


def faces() -> list[Record]:
    """Three attacks that keep to a budget and one that does not, three defenses, two seeds, two tasks."""
    learned: dict[str, dict[str, Sequence[float]]] = {
        "clean": dict.fromkeys(("none", "jpeg(quality=30)", "blur|3", "mixup"), (0.0, 0.0)),
        "em": {"none": (0.8, 0.9), "jpeg(quality=30)": (0.1, 0.2), "blur|3": (0.7, 0.9), "mixup": (0.8, 0.8)},
        "lsp*": {
            "none": (1.0, 1.0),
            "jpeg(quality=30)": (0.4, 0.5),
            "blur|3": (0.2, 0.3),
            "mixup": (1.0, 1.1),
        },
        "tap": {
            "none": (0.7, 0.7),
            "jpeg(quality=30)": (0.6, 0.6),
            "blur|3": (0.5, 0.6),
            "mixup": (0.7, 0.7),
        },
    }
    free = {"cuda": dict.fromkeys(learned["clean"], (0.9, 0.9))}
    partial = {"em(rate=0.5)": dict.fromkeys(learned["clean"], (0.2, 0.2))}
    return [
        *matrix(learned, seeds=2, dataset="faces"),
        *matrix(free, seeds=2, dataset="faces", bounded=False),
        *matrix(partial, seeds=2, dataset="faces", rate=0.5),
    ]


def rooms() -> list[Record]:
    """Tasks of three metrics, of which two are errors, under fewer defenses than attacks."""
    learned = {
        "clean": {"none": (0.6, 0.5, 0.4), "jpeg": (0.5, 0.4, 0.3), "blur": (0.5, 0.5, 0.5)},
        "em": {"none": (0.3, 0.1, -0.1), "jpeg": (0.4, 0.2, 0.3), "blur": (0.2, 0.1, 0.0)},
        "tap": {"none": (0.5, 0.4, 0.3), "jpeg": (0.5, 0.5, 0.3)},
        "sep": {"none": (0.5, 0.4, 0.3), "blur": (0.4, 0.4, 0.1)},
    }
    tasks = ("segmentation", "depth", "normals")
    return [
        make_room(dict(zip(tasks, parts, strict=True)), attack=attack, defense=defense)
        for attack, defenses in learned.items()
        for defense, parts in defenses.items()
    ]


def everything() -> list[Record]:
    """Both, a dataset with one defense, and a backbone that was run without any."""
    return [
        *faces(),
        *rooms(),
        *matrix({"clean": {"none": (0.0,), "jpeg": (0.0,)}, "em": {"none": (0.9,), "jpeg": (0.1,)}}, seeds=1),
        *matrix({"clean": {"none": (0.0,)}, "em": {"none": (0.1,)}}, dataset="faces", backbone="large"),
    ]


def value(found: DataFrame, column: str, attack: str, defense: str) -> float:
    (row,) = found[(found["attack"] == attack) & (found["defense"] == defense)].to_dict("records")
    return float(row[column])


def best(found: DataFrame) -> dict[str, str]:
    chosen = found[found["best"]]
    return dict(zip(chosen["attack"], chosen["defense"], strict=True))


def recovery(records: Sequence[Record], defense: str, dataset: str = "digits") -> float:
    return value(scores_by_defense(to_frame(records), dataset), "recovery", "em", defense)


def test_section_is_the_committed_one_and_stands_on_the_board() -> None:
    section = render_defenses(to_frame(everything()))
    expect("defenses.md", section + "\n")
    assert f"\n\n{section}\n\n## Last and best epoch" in render_board(everything())


def test_text_does_not_depend_on_the_order_of_the_records() -> None:
    shuffled = everything()
    random.Random(0).shuffle(shuffled)
    assert render_defenses(to_frame(shuffled)) == render_defenses(to_frame(everything()))


def test_recovery_by_hand() -> None:
    records = [*cells(FIRST, seed=0), *cells(SECOND, seed=1)]
    found = scores_by_defense(to_frame(records), "digits")
    # The clean victims are 0.4 above the floor without a defense, the best of them: shares of em are
    # 0.25 and 0 undefended, 0.5 and 0.75 under jpeg, 0 and 0.3 under blur.
    assert value(found, "share", "em", "none") == pytest.approx(0.125)
    assert value(found, "share", "em", "jpeg") == pytest.approx(0.625)
    assert value(found, "share", "clean", "jpeg") == pytest.approx((0.75 + 1) / 2)
    assert value(found, "protection", "em", "jpeg") == pytest.approx(0.375)
    assert value(found, "recovery", "em", "jpeg") == pytest.approx((0.625 - 0.125) / (1 - 0.125))
    assert value(found, "recovery", "em", "blur") == pytest.approx((0.15 - 0.125) / (1 - 0.125))
    assert value(found, "score", "em", "jpeg") == pytest.approx(0.75)
    assert value(found, "score", "clean", "jpeg") == pytest.approx(0.85)
    assert found.loc[(found["attack"] == "clean") | (found["defense"] == "none"), "recovery"].isna().all()
    assert best(found) == {"em": "jpeg"}
    assert list(found["attack"] + " " + found["defense"]) == [
        f"{attack} {defense}" for attack in ("clean", "em") for defense in ("none", "blur", "jpeg")
    ]


@pytest.mark.parametrize("axis", ["backbone", "weighting", "regime"])
def test_a_victim_is_never_measured_in_another_one(axis: str) -> None:
    undefended = {"none": 0.6}
    without = {attack: {k: v for k, v in row.items() if k not in undefended} for attack, row in FIRST.items()}
    other = {axis: "stl" if axis == "regime" else "other"}
    # The first victim has no undefended cell of its own: only the other one counts.
    assert recovery([*cells(without), *cells(SECOND, **other)], "jpeg") == pytest.approx(0.75)
    first = (0.5 - 0.25) / (1 - 0.25)
    assert recovery([*cells(FIRST), *cells(SECOND, **other)], "jpeg") == pytest.approx((first + 0.75) / 2)


def test_a_defense_that_helps_clean_data_helps_the_reference() -> None:
    scores = {"clean": {"none": 0.8, "jpeg": 0.9, "blur": 0.6}, "em": {"none": 0.6, "jpeg": 0.7, "blur": 0.6}}
    found = scores_by_defense(to_frame(cells(scores)), "digits")
    # 0.1 and 0.2 above the floor of the 0.4 that jpeg leaves of clean data, though 0.3 is the unit.
    assert value(found, "share", "em", "jpeg") == pytest.approx(0.2 / 0.3)
    assert value(found, "protection", "em", "none") == pytest.approx(0.75)
    assert value(found, "protection", "em", "jpeg") == pytest.approx(0.5)
    assert value(found, "protection", "clean", "none") == pytest.approx(0.25)
    assert value(found, "protection", "clean", "jpeg") == 0.0
    assert value(found, "recovery", "em", "jpeg") == pytest.approx((0.2 - 0.1) / (0.4 - 0.1))


def test_a_cell_without_its_clean_counterpart_has_no_recovery() -> None:
    scores = {"clean": {"none": 0.9, "jpeg": 0.8}, "em": {"none": 0.6, "jpeg": 0.7, "blur": 0.7}}
    assert recovery(cells(scores), "jpeg") == pytest.approx((0.2 - 0.1) / (0.4 - 0.1))
    assert recovery(cells(scores), "blur") != recovery(cells(scores), "blur"), "NaN"


@pytest.mark.parametrize(("undefended", "is_defined"), [(0.87, True), (0.89, False), (0.95, False)])
def test_recovery_is_left_out_where_there_is_little_to_give_back(undefended: float, is_defined: bool) -> None:
    scores = {
        "clean": {"none": 0.9, "jpeg": 0.9, "blur": 0.9},
        "em": {"none": undefended, "jpeg": 0.9, "blur": 0.6},
    }
    # One seed: 0.05 of what the clean victim learned.
    expected = 1.0 if is_defined else float("nan")
    assert recovery(cells(scores), "jpeg") == pytest.approx(expected, nan_ok=True)
    assert "nan" not in render_board(cells(scores)).lower()
    # Two seeds that agree are clear; two that do not are not, though their mean is larger.
    both = [*cells(scores, seed=0), *cells(scores, seed=1)]
    assert (recovery(both, "jpeg") == pytest.approx(1.0)) == (undefended < 0.9)
    lower = {**scores, "em": {**scores["em"], "none": 0.6}}
    assert math.isnan(recovery([*cells(scores, seed=0), *cells(lower, seed=1)], "jpeg"))


def test_an_error_counts_the_other_way_round() -> None:
    errors = {
        "clean": {"none": 0.4, "jpeg": 0.5, "blur": 0.6},
        "em": {"none": 1.5, "jpeg": 0.8, "blur": 1.7},
    }
    records = [
        make_record({"a": error}, tasks={"a": DEPTH}, attack=attack, defense=defense)
        for attack, defenses in errors.items()
        for defense, error in defenses.items()
    ]
    found = scores_by_defense(to_frame(records), "digits")
    # (0.8 - 1.5) / (0.4 - 1.5), and (1.7 - 1.5) / (0.4 - 1.5), which errs more than undefended.
    assert value(found, "recovery", "em", "jpeg") == pytest.approx(0.7 / 1.1)
    assert value(found, "recovery", "em", "blur") == pytest.approx(-2 / 11)
    assert value(found, "share", "em", "jpeg") == pytest.approx(1.2 / 1.6)
    assert best(found) == {"em": "jpeg"}, "the smallest error"
    page = render_defenses(to_frame(records))
    assert "### digits: absolute error m" in page
    assert "| jpeg      |   0.500 | **0.800 (0.64)** |" in page


def test_metrics_are_averaged_as_shares_of_what_the_clean_victim_learned() -> None:
    found = scores_by_defense(to_frame(rooms()), "rooms")
    assert found["score"].isna().all()
    undefended = (0.3 / 0.6 + 0.1 / 0.5 - 0.1 / 0.4) / 3
    assert value(found, "share", "em", "none") == pytest.approx(undefended)
    assert value(found, "share", "em", "jpeg") == pytest.approx((0.4 / 0.6 + 0.2 / 0.5 + 0.3 / 0.4) / 3)
    # Blur helps the clean victim's normals: (0.5 / 0.6 + 1 + 0.5 / 0.4) / 3 of it.
    most = (0.5 / 0.6 + 0.5 / 0.5 + 0.5 / 0.4) / 3
    assert value(found, "share", "clean", "blur") == pytest.approx(most)
    jpeg = (0.4 / 0.6 + 0.2 / 0.5 + 0.3 / 0.4) / 3
    assert value(found, "recovery", "em", "jpeg") == pytest.approx((jpeg - undefended) / (most - undefended))


def test_a_missing_score_is_left_out_of_the_mean_over_tasks() -> None:
    scores: dict[tuple[str, str], tuple[float | None, float | None]] = {
        ("clean", "none"): (0.9, 0.9),
        ("clean", "jpeg"): (0.8, 1.0),
        ("em", "none"): (0.6, 0.5),
        ("em", "jpeg"): (0.7, None),
        ("em", "blur"): (None, None),
    }
    records = [
        make_record({"a": a, "b": b}, attack=attack, defense=defense)
        for (attack, defense), (a, b) in scores.items()
    ]
    assert recovery(records, "jpeg") == pytest.approx((0.5 - 0.125) / (1 - 0.125))
    assert best(scores_by_defense(to_frame(records), "digits")) == {"em": "jpeg"}
    assert "nan" not in render_board(records).lower()


def test_of_equal_defenses_the_first_by_the_alphabet_is_best() -> None:
    scores = {
        "clean": dict.fromkeys(("none", "mixup", "blur", "jpeg"), 0.9),
        "em": {"none": 0.8, "mixup": 0.7, "jpeg": 0.7, "blur": 0.6},
    }
    found = scores_by_defense(to_frame(cells(scores)), "digits")
    # The victim scores most without a defense, but that is not a choice among defenses.
    assert best(found) == {"em": "jpeg"}


def test_settings_with_one_defense_do_not_count() -> None:
    records = [*cells(FIRST), *cells({"clean": {"none": 0.7}, "em": {"none": 0.7}}, backbone="large")]
    found = scores_by_defense(to_frame(records), "digits")
    assert value(found, "score", "em", "none") == pytest.approx(0.6)


def test_there_is_no_section_without_a_choice_of_defenses() -> None:
    one = {attack: {k: v for k, v in row.items() if k != "blur"} for attack, row in FIRST.items()}
    assert not render_defenses(to_frame(cells(one)))
    assert not render_defenses(to_frame(cells({"clean": FIRST["clean"]}))), "no attack"
    half = [
        make_record({"a": score}, attack="em(rate=0.5)", rate=0.5, defense=defense)
        for defense, score in FIRST["em"].items()
    ]
    assert not render_defenses(to_frame([*cells({"clean": FIRST["clean"]}), *half])), "partial attacks only"
    assert render_defenses(to_frame(cells(FIRST)))


def test_recovery_and_protection_tell_the_same() -> None:
    """With a clean victim that loses nothing, protection is what recovery leaves of it."""
    frame = to_frame(faces())
    found = scores_by_defense(frame, "faces")
    protections = heatmap_table(frame, "defense")
    for attack in ("em", "tap", "cuda"):
        for defense in ("jpeg(quality=30)", "blur|3", "mixup"):
            kept = 1 - value(found, "share", attack, defense)
            assert kept == pytest.approx(protections.loc[attack, defense])
            taken = protections.loc[attack, "none"]
            assert value(found, "recovery", attack, defense) == pytest.approx(1 - kept / taken)
            # Over pairs of cells, as `bench compare` has it.
            apart = compare_labels(frame, "none", defense, axis="defense").tasks["protection"].mean()
            differences = protections["none"] - protections[defense]
            assert apart == pytest.approx(differences.mean())


def lasting(protections: Mapping[str, Mapping[str, float]]) -> tuple[str, float, int] | None:
    clean = {defense: (0.0,) for row in protections.values() for defense in row}
    learned = {attack: {name: (kept,) for name, kept in row.items()} for attack, row in protections.items()}
    return most_robust_attack(to_frame(matrix({"clean": clean, **learned}, seeds=1)), "digits")


def test_what_lasts_is_the_worst_case_over_the_defenses_that_all_met() -> None:
    em = {"none": 0.9, "jpeg": 0.5, "blur": 0.8}
    tap = {"none": 0.7, "jpeg": 0.6, "blur": 0.7}
    assert lasting({"em": em, "tap": tap}) == ("tap", pytest.approx(0.6), 2)
    # One that em did not meet says nothing of which is ahead.
    assert lasting({"em": em, "tap": tap | {"mixup": 0.1}}) == ("tap", pytest.approx(0.6), 2)
    assert lasting({"em": em | {"mixup": 0.9}, "tap": tap | {"mixup": 0.1}}) == ("em", pytest.approx(0.5), 3)
    # Nor does the clean victim without a defense, if em was not run without one.
    assert lasting({"em": {"jpeg": 0.5, "blur": 0.8}, "tap": tap}) == ("tap", pytest.approx(0.6), 2)


def test_nothing_is_said_to_last_where_the_numbers_do_not_show_it() -> None:
    em = {"none": 0.9, "jpeg": 0.5, "blur": 0.8}
    assert lasting({"em": em}) is None, "there is no other"
    assert lasting({"em": em, "tap": em | {"none": 0.8}}) is None, "a tie"
    assert lasting({"em": em, "tap": {"none": 0.7, "jpeg": 0.6, "mixup": 0.9}}) is None, (
        "one defense in common"
    )


def test_the_track_without_a_budget_lasts_apart() -> None:
    frame = to_frame(faces())
    # cuda keeps 0.9 under every defense; nor does it matter which ones it met.
    assert most_robust_attack(frame, "faces") == ("tap", pytest.approx(0.56), 3)
    fewer = frame[(frame["attack"] != "cuda") | (frame["defense"] == "mixup")]
    assert most_robust_attack(fewer, "faces") == ("tap", pytest.approx(0.56), 3)


def conclusion(scores: Scores) -> str:
    return render_defenses(to_frame(cells(scores))).rsplit("\n\n", 1)[1]


def test_the_sentence_names_what_is_given_back_and_only_that() -> None:
    defenses = ("none", "jpeg", "blur")

    def row(*values: float) -> dict[str, float]:
        return dict(zip(defenses, values, strict=True))

    clean = row(0.9, 0.9, 0.9)
    # em took 0.3 of 0.4, of which jpeg gives back 0.2; tap took 0.18, which is less than half.
    em, tap = row(0.6, 0.8, 0.6), row(0.72, 0.89, 0.6)
    said = conclusion({"clean": clean, "em": em, "tap": tap})
    given = "With jpeg as the best defense the exploiter undoes 67% of the damage of em."
    assert said == (
        f"{given} Of the attacks within the budget em keeps the most protection: 0.25 under the best of "
        "the 2 defenses that all of them were run with, or none."
    )
    # 0.14 of 0.3 is not much; without a second attack there is nothing to say at all.
    assert conclusion({"clean": clean, "em": em}) == given
    assert conclusion({"clean": clean, "em": row(0.6, 0.74, 0.6)}).startswith("| attack")
    both = conclusion({"clean": clean, "em": em, "tap": row(0.5, 0.6, 0.9), "sep": row(0.5, 0.9, 0.6)})
    assert both.startswith(
        "With blur as the best defense the exploiter undoes 100% of the damage of tap. With jpeg as the best "
        "defense the exploiter undoes 67% of the damage of em and 100% of the damage of sep. Of the attacks"
    )
