"""What is counted, and what is said about undefined scores."""

from dataclasses import replace

import pytest
import torch

from bench.dataset_report.statistics import compute_statistics, count_leaks
from bench.dataset_report.text import render_text
from bench.tasks.classification import Classification
from tests.dataset_report.examples import classified, dense


@pytest.mark.parametrize(
    ("labels", "remark"),
    [
        ([0, 1, 1, 0, 1, 0], "not in the test split: 'c'; balanced accuracy and AUROC are means over"),
        ([1] * 6, "not in the test split: 'a', 'c'; AUROC is undefined"),
        ([-1] * 6, "the test split has no label, so every score is undefined"),
    ],
)
def test_undefined_scores_are_said(labels: list[int], remark: str) -> None:
    statistics = compute_statistics("some", classified(*labels))
    (sentence,) = statistics.tasks[0].remarks
    assert sentence.startswith(remark)
    assert f"note: kind: {remark}" in render_text(statistics)


def test_floors_are_none_where_undefined() -> None:
    data = classified(1, 1, 1, 1, 1, 1, classes=2)
    assert compute_statistics("some", data).tasks[0].floor == {"accuracy": 0.0, "balanced_accuracy": 1.0}
    xray = replace(data, tasks=(Classification("kind", ("a", "b"), headline="auroc"),))
    assert compute_statistics("some", xray).tasks[0].floor == {"auroc": None}
    assert "AUROC undefined" in render_text(compute_statistics("some", xray))
    empty = classified(*[-1] * 6)
    assert set(compute_statistics("some", empty).tasks[0].floor.values()) == {None}


def test_dense_tasks_are_counted_by_pixels() -> None:
    what, far, lean = compute_statistics("some", dense(derived=True)).tasks
    assert (what.train.per_class, what.train.missing) == ((0, 59, 1), 60)
    assert what.train.missing_share == 0.5
    assert what.unit == "pixels"
    assert any("not in the training split: 'wall'" in remark for remark in what.remarks)
    assert far.train.per_class == (0, 59, 0, 0, 0, 0, 0, 1)
    assert far.quantiles["train"] == pytest.approx((2, 2, 2, 2, 9), abs=0.011)
    assert lean.train.per_class == (*[0] * 8, 60)
    assert "derived from depth, not measured" in lean.details
    assert "derived" not in " ".join(compute_statistics("some", dense()).tasks[2].details)


def test_leaks_are_counted_by_pixels() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    test = images[[0, 0, 1]].clone()
    test[2, 0, 0, 0] ^= 1
    assert count_leaks(images, test) == 2
    assert count_leaks(images, 255 - images) == 0
