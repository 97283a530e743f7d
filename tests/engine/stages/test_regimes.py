"""Victims of every regime: they run, come out the same twice, and are left out where they cannot work."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from bench.catalog.build import build_part
from bench.catalog.parts import CATALOG
from bench.engine.planning.cell import Cell
from bench.engine.stages import victim
from bench.engine.stages.craft import craft_poison
from bench.engine.stages.evaluate import evaluate_cell
from bench.record import Record
from bench.training.net import MultiTaskNet
from bench.values import ignore_progress
from tests.engine import tiny

DENSE = {"dataset": ["scenes(train=12, test=8)"], "backbone": ["dense-small(width=2)"]}


def one_cell(regime: str, **matrix: Any) -> Cell:
    (cell,) = tiny.plan_listed(
        matrix={"attack": ["clean"], "regime": [regime], **matrix},
        recipe={"epochs": 1},
        surrogate={"backbone": ["small", "dense-small"]},
    ).cells
    return cell


def evaluate(cell: Cell, out: Path) -> Record:
    craft_poison(cell.poison, tiny.run_context(out), ignore_progress)
    return evaluate_cell(cell, tiny.run_context(out), ignore_progress)


@pytest.mark.parametrize("regime", [name for name in CATALOG["regime"] if name not in ("mtl", "stl")])
def test_a_cell_of_every_regime_is_the_same_twice(regime: str, tmp_path: Path) -> None:
    cell = one_cell(regime, weighting=["gradnorm"], **(DENSE if regime == "mtan" else {}))
    first, second = (evaluate(cell, tmp_path) for _ in range(2))
    assert first.status == "done"
    assert first.curve == second.curve
    assert ("pretrain" in first.cost) == (regime == "contrastive")


def test_contrastive_features_do_not_depend_on_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets: list[MultiTaskNet] = []
    build = victim.build_network

    def remember(*arguments: Any) -> MultiTaskNet:
        nets.append(build(*arguments))
        return nets[-1]

    monkeypatch.setattr(victim, "build_network", remember)
    build_data = victim.build_victim_data

    def relabel(*arguments: Any) -> victim.VictimData:
        data = build_data(*arguments)
        targets = {name: target.flip(0) for name, target in data.train.targets.items()}
        return replace(data, train=replace(data.train, targets=targets))

    cell = one_cell("contrastive")
    evaluate(cell, tmp_path)
    monkeypatch.setattr("bench.engine.stages.evaluate.build_victim_data", relabel)
    evaluate(cell, tmp_path)
    _, first, _, second = nets
    for one, other in zip(first.shared_parameters(), second.shared_parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert not torch.equal(first.heads.weight, second.heads.weight)  # type: ignore[arg-type]


def test_contrastive_learns_from_clean_originals_where_the_defense_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    kind = type(build_part("regime", "contrastive"))
    pretrain = kind.pretrain

    def count(self: Any, net: Any, images: torch.Tensor, *rest: Any) -> Any:
        counts.append(len(images))
        return pretrain(self, net, images, *rest)

    monkeypatch.setattr(kind, "pretrain", count)
    for defense in ("none", "linear-probe(share=0.25)"):
        evaluate(one_cell("contrastive", defense=[defense]), tmp_path)
    assert counts == [64, 16]


def left_out(**tables: Any) -> tuple[str, ...]:
    return tiny.plan(star=False, **tables).left_out


def test_weightings_that_compare_features_are_left_out_where_tasks_share_none() -> None:
    weightings = ["ew", "graddrop", "cagrad(gradients=features)", "cagrad"]
    chosen = {"regime": ["cross-stitch", "mmoe"], "weighting": weightings, "attack": ["clean"]}
    planned = tiny.plan(star=False, matrix=chosen)
    assert {(c.regime.label, c.weighting.label) for c in planned.cells} == {
        *(("mmoe", weighting) for weighting in weightings),
        ("cross-stitch", "ew"),
        ("cross-stitch", "cagrad"),
    }
    assert [line for line in planned.left_out if "graddrop" in line] == [
        "regime 'cross-stitch' has features of its own for every task, and the weighting compares gradients "
        "of shared ones: it is left out on 'digits' with backbone 'small' and weighting 'graddrop'"
    ]
    assert len(planned.left_out) == 2


def test_regimes_are_left_out_where_backbone_or_tasks_do_not_fit() -> None:
    sentences = left_out(
        matrix={
            "dataset": ["digits", *DENSE["dataset"]],
            "backbone": ["small", *DENSE["backbone"]],
            "regime": [*CATALOG["regime"]],
            "attack": ["clean"],
        },
        surrogate={"backbone": ["small", "dense-small"]},
    )
    about = {sentence.partition(": ")[0] for sentence in sentences if sentence.startswith("regime")}
    assert about == {
        "regime 'mtan' needs a backbone that returns a map of features",
        "regime 'mmoe' cannot work with dense tasks (depth, normals, segmentation)",
        "regime 'cross-stitch' cannot work with dense tasks (depth, normals, segmentation)",
    }


@dataclass(frozen=True)
class OnlyGroups:
    """A regime from a package, with the one method that is required."""

    version: ClassVar[int] = 1

    def groups(self, tasks: Any) -> Any:
        return (tasks[:1], tasks[1:])


def test_a_regime_with_groups_alone_works(tmp_path: Path) -> None:
    cell = one_cell("mtl")
    split = replace(cell, regime=replace(cell.regime, part=OnlyGroups()))
    assert evaluate(split, tmp_path).scores.keys() == evaluate(cell, tmp_path).scores.keys()
