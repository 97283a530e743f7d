"""Images that a defense sets aside: to pick an epoch, or as clean originals below a linear probe."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.catalog.build import build_part
from bench.catalog.parts import CATALOG
from bench.engine.stages import craft, evaluate, surrogate, victim
from bench.engine.stages.context import seeded
from bench.record import Record, Scores
from bench.training.loop import TrainedEpoch, score_network, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Split
from tests.engine import tiny

CPU = torch.device("cpu")
LABELS = ("left", "right", "larger", "sum-odd")


def run_one(out: Path, *defenses: str, **tables: Any) -> list[Record]:
    """Run the attack ``random`` under some defenses, and return the records in that order."""
    matrix = {"attack": ["random"], "defense": list(defenses)} | tables.pop("matrix", {})
    plan = tiny.plan_listed(matrix=matrix, **tables)
    ran = tiny.run(plan, out)
    assert not ran.counts[2], [item.error for item in ran.of("cells")]
    records = [r for r in tiny.records(out).values() if r.cell["attack"] != "clean"]
    return sorted(records, key=lambda record: defenses.index(str(record.cell["defense"])))


class Trainings:
    """What every call of `train_epochs` was given, and the network before and after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.splits: list[Split] = []
        self.before: list[dict[str, Tensor]] = []
        self.nets: list[MultiTaskNet] = []
        for module in (surrogate, victim):
            monkeypatch.setattr(module, "train_epochs", self._fit)

    def _fit(self, net: MultiTaskNet, train: Split, *rest: Any) -> Iterator[TrainedEpoch]:
        self.splits.append(train)
        self.before.append({name: value.clone() for name, value in net.state_dict().items()})
        self.nets.append(net)
        return train_epochs(net, train, *rest)


def rows(split: Split) -> set[bytes]:
    """The images as a set; those of the digits are all different."""
    return {image.numpy().tobytes() for image in split.images}


def clean_images(train: int = 64) -> Tensor:
    images: Tensor = build_part("dataset", f"digits(train={train}, test=32)").load(None, Path()).train.images
    return images


# The epoch that is picked


def script(monkeypatch: pytest.MonkeyPatch, validation: list[Any], test: list[Any]) -> None:
    """Have every epoch score what is written down: a number for all tasks, or one per task."""
    turns = {"validation": iter(validation), "test": iter(test)}

    def scores(net: nn.Module, split: Split, tasks: Any, *_: Any) -> Scores:
        turn = next(turns["test" if len(split) == 32 else "validation"])
        values = turn if isinstance(turn, dict) else dict.fromkeys(LABELS, turn)
        return {
            task.name: dict.fromkeys(("accuracy", "balanced_accuracy"), values[task.name]) for task in tasks
        }

    monkeypatch.setattr(victim, "score_network", scores)


EPOCHS = {"epochs": 4, "batch": 8, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("validation", "picked"),
    [
        ([0.5, 0.9, 0.6, 0.7], 2),
        ([0.9, 0.5, 0.6, 0.7], 1),
        ([0.5, 0.6, 0.7, 0.8], 4),
        ([0.5, 0.8, 0.8, 0.8], 2),
        ([None, None, None, None], 1),
        ([None, 0.7, None, 0.6], 2),
    ],
)
def test_the_epoch_is_the_best_on_held_out_images_whatever_the_test_says(
    validation: list[float | None], picked: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    test = [0.3, 0.2, 0.8, 0.1]
    script(monkeypatch, 2 * validation, 2 * test)  # first for the clean counterpart
    (record,) = run_one(tmp_path, "early-stopping", recipe=EPOCHS)
    assert len(record.curve) == 4
    assert [epoch["scores"]["left"]["accuracy"] for epoch in record.curve] == test
    assert record.scores == record.curve[picked - 1]["scores"]
    assert record.peak["left"]["accuracy"] == 0.8


def test_tasks_count_by_how_far_they_are_from_the_floor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # 0.6 is near the floor of a binary task, and far from that of ten classes.
    first = {"left": 0.6, "right": 0.6, "larger": 0.5, "sum-odd": 0.5}
    second = {"left": 0.1, "right": 0.1, "larger": 0.9, "sum-odd": 0.9}
    script(monkeypatch, [first, second] * 2, [0.1, 0.2] * 2)
    (record,) = run_one(tmp_path, "early-stopping(share=0.25)")
    assert record.curve[1]["validation"]["larger"] == pytest.approx(0.8)
    assert record.curve[0]["validation"]["larger"] == 0
    assert 0.5 < record.curve[0]["validation"]["left"] < 0.6
    # Were the plain means compared, 0.55 and 0.5, it would be the first.
    assert record.scores == record.curve[1]["scores"]


def test_every_network_of_single_tasks_picks_its_own_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    best = {"left": 2, "right": 1, "larger": 3, "sum-odd": 4}
    validation = [
        dict.fromkeys(LABELS, float(epoch == best[task])) for task in LABELS for epoch in range(1, 5)
    ]
    test = [epoch / 10 for _ in LABELS for epoch in range(1, 5)]
    script(monkeypatch, 2 * validation, 2 * test)
    (record,) = run_one(tmp_path, "early-stopping", recipe=EPOCHS, matrix={"regime": ["stl"]})
    assert {task: scores["accuracy"] for task, scores in record.scores.items()} == {
        task: epoch / 10 for task, epoch in best.items()
    }
    assert set(record.curve[0]["validation"]) == set(LABELS)


def test_the_choice_can_be_made_again_from_the_record(tmp_path: Path) -> None:
    (record,) = run_one(tmp_path, "early-stopping", recipe=EPOCHS)
    means = [fmean(epoch["validation"].values()) for epoch in record.curve]
    assert record.scores == record.curve[means.index(max(means))]["scores"]
    assert {"train", "score", "validate"} <= set(record.cost)


# Which images are set aside


def test_held_out_images_are_not_trained_on_and_are_the_same_for_every_attack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainings, held_out = Trainings(monkeypatch), []

    def spy(net: nn.Module, split: Split, *rest: Any) -> Scores:
        if len(split) != 32:
            held_out.append(split)
        return score_network(net, split, *rest)

    monkeypatch.setattr(victim, "score_network", spy)
    run_one(tmp_path, "early-stopping(share=0.25)", matrix={"attack": ["random", "em"]})
    assert len(trainings.splits) == 3
    assert {len(split) for split in held_out} == {16}
    clean = rows(Split(clean_images(), {}))
    for train, validation in zip(trainings.splits, held_out[::2], strict=True):
        assert len(train) == 48
        assert not rows(train) & rows(validation)
        assert torch.equal(validation.targets["left"], held_out[0].targets["left"])
        assert torch.equal(train.targets["left"], trainings.splits[0].targets["left"])
    assert rows(trainings.splits[0]) | rows(held_out[0]) == clean
    assert not rows(held_out[-1]) & clean  # they are the released ones


def test_another_seed_sets_other_images_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainings = Trainings(monkeypatch)
    run_one(tmp_path, "early-stopping", matrix={"attack": ["clean"], "seed": [0, 1]})
    first, second = trainings.splits
    assert len(first) == len(second) == 58
    assert rows(first) != rows(second)


@pytest.mark.parametrize("defense", ["early-stopping", "linear-probe"])
@pytest.mark.parametrize("share", [0.01, 0.99])
def test_too_few_images_on_either_side_are_refused(defense: str, share: float, tmp_path: Path) -> None:
    spelled = f"{defense}(share={share})"
    tiny.run(tiny.plan_listed(matrix={"attack": ["clean"], "defense": [spelled]}), tmp_path)
    (record,) = tiny.records(tmp_path).values()
    assert record.error is not None
    assert record.error["type"] == "BenchError"
    count = round(64 * share)
    assert f"defense '{spelled}' would set {count} of 64 images aside" in record.error["message"]


def test_without_a_defense_all_that_was_released_is_trained_on_and_the_last_epoch_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainings = Trainings(monkeypatch)
    (record,) = run_one(tmp_path, "none")
    released = trainings.splits[-1]
    assert len(released) == 64
    data, cell = build_part("dataset", "digits(train=64, test=32)").load(None, tmp_path), tiny.plan().cells[0]
    with seeded("victim 0", 0):  # nothing else is drawn before or meanwhile
        net = MultiTaskNet(build_part("backbone", "small(width=2)"), data.tasks, (3, 32, 32))
        balancer, none = build_part("weighting", "ew").start(data.tasks, CPU), build_part("defense", "none")
        scores = [
            score_network(net, data.test, data.tasks, data.augmentation, CPU)
            for _ in train_epochs(
                net, released, data.tasks, cell.recipe, data.augmentation, balancer, none, CPU
            )
        ]
    assert [epoch["scores"] for epoch in record.curve] == scores
    assert record.scores == scores[-1]
    assert all("validation" not in epoch for epoch in record.curve)
    assert not {"validate", "pretrain"} & set(record.cost)


# The linear probe


@pytest.mark.parametrize("weighting", CATALOG["weighting"])
def test_below_a_linear_probe_is_what_clean_images_taught(
    weighting: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainings = Trainings(monkeypatch)
    (record,) = run_one(tmp_path, "linear-probe(share=0.25)", matrix={"weighting": [weighting]})
    assert len(trainings.splits) == 4  # the clean counterpart comes first
    trusted, released = trainings.splits[-2:]
    assert (len(trusted), len(released)) == (16, 48)
    clean = rows(Split(clean_images(), {}))
    assert rows(trusted) < clean
    assert not rows(released) & clean
    assert rows(trainings.splits[0]) == rows(trusted)
    assert rows(trainings.splits[1]) | rows(trusted) == clean

    pretrained, net = trainings.nets[-2:]
    start, end, taught = trainings.before[-1], net.state_dict(), pretrained.state_dict()
    shared = [name for name in end if not name.startswith("heads.")]
    assert any("running_mean" in name for name in shared)
    for name in shared:
        assert torch.equal(end[name], taught[name]), name
        if not name.endswith("num_batches_tracked"):
            assert not torch.equal(taught[name], trainings.before[-2][name]), name
    for name in set(end) - set(shared):
        assert not torch.equal(start[name], taught[name])
        assert not torch.equal(start[name], trainings.before[-2][name])
        assert not torch.equal(end[name], start[name])
    assert [p.requires_grad for p in net.shared_parameters()] == [False] * len(net.shared_parameters())
    assert {"pretrain", "train"} <= set(record.cost)
    assert [epoch["epoch"] for epoch in record.curve] == [1, 2]


def test_owned_images_are_the_same_whatever_share_of_the_rest_is_poisoned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainings = Trainings(monkeypatch)
    run_one(tmp_path, "linear-probe", matrix={"attack": ["random(rate=0.5)"]})
    trusted, released = trainings.splits[::2], trainings.splits[1::2]
    assert len({frozenset(rows(split)) for split in trusted}) == 1
    sizes = sorted(len(split) for split in released)
    # clean, the half that is left alone, and that half among poisoned images
    assert sizes[0] < 40
    assert sizes[1:] == [51, 51]
    half = next(split for split in released if len(split) == sizes[0])
    for split in released:
        assert rows(half) <= rows(split)
        assert not rows(split) & rows(trusted[0])


def test_a_probe_has_new_decoders_of_dense_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainings = Trainings(monkeypatch)
    run_one(
        tmp_path,
        "linear-probe(share=0.5)",
        matrix={"dataset": ["scenes"], "backbone": ["dense-small"]},
        params={"dataset": {"scenes": {"train": 16, "test": 8}}, "backbone": {"dense-small": {"width": 2}}},
        surrogate={"backbone": "dense-small"},
    )
    pretrained, net = trainings.nets[-2:]
    for name, value in net.state_dict().items():
        if name.startswith("encoder.") or not name.endswith("num_batches_tracked"):
            same = torch.equal(value, pretrained.state_dict()[name])
            assert same == name.startswith("encoder."), name


def test_progress_is_told_of_both_trainings(tmp_path: Path) -> None:
    plan = tiny.plan_listed(matrix={"attack": ["clean"], "defense": ["linear-probe"]})
    told: list[tuple[str, int, int]] = []
    craft.craft_poison(plan.cells[0].poison, tiny.run_context(tmp_path), lambda *_: None)
    evaluate.evaluate_cell(plan.cells[0], tiny.run_context(tmp_path), lambda *step: told.append(step))
    assert [step for step in told if step[0] == "pretraining epoch"] == [
        ("pretraining epoch", done, 2) for done in range(3)
    ]
    assert told[-3:] == [("epoch", done, 2) for done in range(3)]
