"""The check of a run against a committed reference: what counts as a regression, and what is tolerated."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.record import PROTOCOL, Record
from leaderboard.reference import (
    FAILING_VERDICTS,
    Change,
    check_against_reference,
    read_reference,
    render_changes,
    summarize_records,
    write_reference,
)
from tests.records import cost, fail, make_record, task_info


def run(clean: float = 0.9, em: float = 0.6, seconds: float = 10.0, host: float = 400.0) -> list[Record]:
    """One seed of two attacks whose tasks go from a floor of 0.5 to 1."""
    costs = {"craft": cost(seconds, host=host), "train": cost(30.0)}
    return [
        make_record({"a": clean, "b": clean}, attack="clean"),
        make_record({"a": em, "b": em}, costs=costs),
    ]


def moved(moves: Sequence[Change]) -> list[tuple[str, str, str]]:
    return [
        (move.cell.split(" · ")[1], move.quantity, move.verdict) for move in moves if move.verdict != "ok"
    ]


def test_summary_by_hand() -> None:
    records = [
        make_record({"a": 0.75, "b": 0.5}, seed=0),
        make_record({"a": 0.85, "b": 0.5}, seed=1),
    ]
    summary = summarize_records(records)
    (cell,) = summary["cells"]
    # From a floor of 0.5 to 1: (0.5 + 0) / 2 in seed 0, (0.7 + 0) / 2 in seed 1.
    assert cell["score"] == pytest.approx(0.3)
    assert cell["spread"] == pytest.approx(0.1 / 2**0.5, abs=1e-6)
    assert cell["tasks"]["a"]["mean"] == pytest.approx(0.8)
    assert cell["seeds"] == [0, 1]
    assert cell["cost"] == {"craft_s": 10.0, "train_s": 30.0, "peak_host_mb": 600.0}
    assert (summary["suite"], summary["protocol"]) == ("synthetic", PROTOCOL)
    assert summary["environment"] == {"device": "cpu", "threads": 1}


def test_the_same_records_have_not_moved() -> None:
    moves = check_against_reference(summarize_records(run()), run())
    assert moves
    assert {move.verdict for move in moves} == {"ok"}
    assert render_changes(moves).startswith("No changes")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"clean": 0.87}, []),
        ({"clean": 0.85}, [("clean", "score", "regressed")]),
        ({"clean": 0.95}, [("clean", "score", "improved")]),
        ({"em": 0.63}, []),
        ({"em": 0.65}, [("em", "score", "regressed")]),
        ({"em": 0.55}, [("em", "score", "improved")]),
    ],
)
def test_scores_move_beyond_eight_hundredths_of_their_range(
    now: dict[str, float], expected: list[tuple[str, str, str]]
) -> None:
    # The range from floor to perfect is 0.5, so 0.04 in the score.
    assert moved(check_against_reference(summarize_records(run()), run(**now))) == expected


def test_a_part_of_the_clean_images_regresses_where_it_falls_like_clean() -> None:
    def runs(score: float) -> list[Record]:
        return [make_record({"a": score}, attack="clean(rate=0.5)", rate=0.5)]

    cell = "clean(rate=0.5)"
    assert moved(check_against_reference(summarize_records(runs(0.9)), runs(0.8))) == [
        (cell, "score", "regressed")
    ]
    assert moved(check_against_reference(summarize_records(runs(0.8)), runs(0.9))) == [
        (cell, "score", "improved")
    ]


def test_direction_follows_the_metric() -> None:
    error = {"a": task_info("error", "error", floor=2.0, perfect=0.0)}

    def runs(clean: float) -> list[Record]:
        return [make_record({"a": clean}, tasks=error, attack="clean")]

    assert moved(check_against_reference(summarize_records(runs(0.5)), runs(0.8))) == [
        ("clean", "score", "regressed")
    ]
    assert moved(check_against_reference(summarize_records(runs(0.5)), runs(0.2))) == [
        ("clean", "score", "improved")
    ]


def test_a_wide_spread_over_seeds_widens_the_tolerance() -> None:
    noisy = [make_record({"a": score}, seed=seed) for seed, score in enumerate((0.55, 0.6, 0.65))]
    shifted = [make_record({"a": score + 0.1}, seed=seed) for seed, score in enumerate((0.55, 0.6, 0.65))]
    (move,) = [
        move
        for move in check_against_reference(summarize_records(noisy), shifted)
        if move.quantity == "score"
    ]
    # Scores over the range are 0.1, 0.2, 0.3, so their spread is 0.1.
    assert move.tolerance == pytest.approx(0.3)
    assert move.verdict == "ok"


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"seconds": 39.0}, []),
        ({"seconds": 41.0}, [("em", "craft_s", "regressed")]),
        ({"seconds": 0.1}, []),
        ({"host": 1190.0}, []),
        ({"host": 1210.0}, [("em", "peak_host_mb", "regressed")]),
    ],
)
def test_only_gross_costs_regress(now: dict[str, float], expected: list[tuple[str, str, str]]) -> None:
    assert (
        moved(check_against_reference(summarize_records(run(host=600.0)), run(**({"host": 600.0} | now))))
        == expected
    )


@pytest.mark.parametrize(("then", "now", "verdict"), [(1.0, 5.9, "ok"), (1.0, 6.1, "regressed")])
def test_short_phases_get_five_seconds(then: float, now: float, verdict: str) -> None:
    (move,) = [
        m
        for m in check_against_reference(summarize_records(run(seconds=then)), run(seconds=now))
        if m.quantity == "craft_s"
    ]
    assert move.verdict == verdict


def test_costs_of_another_kind_of_device_are_not_compared() -> None:
    gpu = [make_record({"a": 0.9}, changes={"environment": {"device": "cuda"}}, costs={"train": cost(1.0)})]
    cpu = [make_record({"a": 0.9}, costs={"train": cost(900.0)})]
    assert moved(check_against_reference(summarize_records(gpu), cpu)) == []


def test_missing_failed_and_new_cells() -> None:
    clean, em = run()
    reference = summarize_records([clean, em])
    assert moved(check_against_reference(reference, [clean])) == [("em", "cell", "missing")]
    assert moved(check_against_reference(reference, [clean, fail()])) == [("em", "cell", "failed")]
    new = make_record({"a": 0.7}, attack="tap")
    moves = check_against_reference(reference, [clean, em, new])
    assert moved(moves) == [("tap", "cell", "new")]
    assert not any(move.fails for move in moves)
    assert {"missing", "failed", "regressed"} == FAILING_VERDICTS


def test_one_failed_seed_fails_its_cell() -> None:
    both = [make_record({"a": 0.6}, seed=0), make_record({"a": 0.6}, seed=1)]
    assert moved(check_against_reference(summarize_records(both), [both[0], fail(seed=1)])) == [
        ("em", "cell", "failed")
    ]


def test_a_task_that_lost_its_score_is_missing_and_the_rest_is_compared() -> None:
    then = [make_record({"a": 0.9, "b": 0.5})]
    now = [make_record({"a": 0.9, "b": None})]
    assert moved(check_against_reference(summarize_records(then), now)) == [("em", "task b", "missing")]


def test_moves_are_a_table() -> None:
    text = render_changes(check_against_reference(summarize_records(run()), run(clean=0.8, seconds=100.0)))
    lines = text.splitlines()
    cells = [
        [piece.strip() for piece in line.strip("|").split("|")] for line in lines if line.startswith("|")
    ]
    clean, em = (f"digits · {attack} · small · ew · none · mtl" for attack in ("clean", "em"))
    assert [cells[0], *cells[2:]] == [
        ["cell", "what", "reference", "now", "tolerance", "verdict"],
        [clean, "score", "0.80", "0.60", "±0.08", "regressed"],
        [em, "craft_s", "10.0", "100", "+30.0", "regressed"],
    ]
    assert lines[-1].startswith("2 changed, ")


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "smoke.json"
    reference = summarize_records(run())
    write_reference(path, reference)
    assert read_reference(path) == reference
    assert [file.name for file in path.parent.iterdir()] == ["smoke.json"]


def _damage(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_reference_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "smoke.json"
    with pytest.raises(BenchError, match=r"cannot read the reference .*smoke\.json: No such file"):
        read_reference(path)
    write_reference(path, summarize_records(run()))
    content = path.read_text()
    path.write_text(content[:100])
    with pytest.raises(BenchError, match="is damaged"):
        read_reference(path)
    path.write_text(content.replace("0.8", "0.7"))
    with pytest.raises(BenchError, match="is damaged"):
        read_reference(path)
    for damaged in ("[" * 5000, content.replace("0.8", "NaN")):
        path.write_text(damaged)
        with pytest.raises(BenchError, match="is damaged"):
            read_reference(path)
    path.write_text("[]")
    with pytest.raises(BenchError, match="is not a reference"):
        read_reference(path)
    path.write_text(content)
    _damage(path, schema=99)
    with pytest.raises(BenchError, match="has schema 99, this version reads schema 1"):
        read_reference(path)


def test_a_reference_is_only_made_of_a_complete_run() -> None:
    with pytest.raises(BenchError, match="this one failed: digits · em"):
        summarize_records([*run(), fail(seed=1)])
    with pytest.raises(BenchError, match="there is none"):
        summarize_records([])


def test_another_protocol_is_refused() -> None:
    earlier = [make_record({"a": 0.9}, changes={"protocol": 1})]
    with pytest.raises(BenchError, match="protocol 1 and the records protocol 2"):
        check_against_reference(summarize_records(earlier), run())
