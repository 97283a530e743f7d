"""A suite in which every seed draws other images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.api import Kind, MultiTaskData, Recipe
from bench.errors import BenchError
from leaderboard.frame import select_records, to_frame
from tests.added_parts import parts_in_catalog
from tests.engine import tiny

ASKED: dict[str, Any] = {"data_seed": "seed"}


def data_seeds(*only: str, **tables: Any) -> list[tuple[int, int, str]]:
    """Return the seed of every cell, that of its dataset, and its dataset's label."""
    cells = tiny.plan(*only, **tables).cells
    return [(cell.seed, cell.poison.dataset.part.data_seed, cell.poison.dataset.label) for cell in cells]


def test_images_follow_the_seed_only_if_the_suite_asks() -> None:
    seeds = {"matrix": {"attack": ["clean"], "seed": [0, 3]}}
    assert data_seeds(**seeds) == [(0, 0, "digits"), (3, 0, "digits")]
    assert data_seeds(**seeds, **ASKED) == [(0, 0, "digits"), (3, 3, "digits")]


def test_everything_that_is_made_of_the_images_follows_them() -> None:
    seeds = {"matrix": {"attack": ["tap"], "seed": [0, 1]}, "poison_seed": 7}
    same, drawn = tiny.plan(**seeds), tiny.plan(**seeds, **ASKED)
    assert (len(same.surrogates), len(same.poisons)) == (1, 2)
    assert (len(drawn.surrogates), len(drawn.poisons)) == (2, 4)
    assert len({cell.victim for cell in drawn.cells}) == 2
    # Same settings, same key: of the images of seed 0 everything stays as it was.
    assert {cell.key for cell in same.cells} & {cell.key for cell in drawn.cells} == {
        cell.key for cell in drawn.cells if cell.seed == 0
    }
    assert [poison.label for poison in drawn.poisons][:2] == [
        "clean · digits · seed 7, images of seed 0",
        "clean · digits · seed 7, images of seed 1",
    ]
    assert drawn.surrogates[1].label == "small(width=3) · digits · seed 7, images of seed 1"
    assert tiny.plan(**ASKED).poisons[0].label == "clean · digits · seed 0"


def test_plan_names_the_datasets_that_are_drawn() -> None:
    assert tiny.plan().drawn_by_seed == ()
    assert tiny.plan(matrix={"seed": [0, 1]}, **ASKED).drawn_by_seed == ("digits",)


def test_a_board_has_every_seed_with_its_own_images(tmp_path: Path) -> None:
    plan = tiny.plan(matrix={"seed": [0, 1]}, **ASKED)
    tiny.run(plan, tmp_path)
    records = list(tiny.records(tmp_path).values())
    assert len({record.data for record in records}) == 2
    selected = select_records(records)
    assert (len(selected.done), selected.other_data) == (4, 0)
    assert to_frame(records).groupby("seed")["paired"].all().to_dict() == {0: True, 1: True}
    assert tiny.run(plan, tmp_path).counts == (0, 4, 0)


@dataclass(frozen=True)
class Unseeded:
    """A dataset that draws nothing."""

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe()
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    def missing(self, root: Path | None) -> None:
        """Return None: nothing is needed."""

    def load(self, *args: object) -> MultiTaskData:
        """Load nothing."""
        raise NotImplementedError


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"matrix": {"dataset": ["digits(data_seed=1)"]}}, "'digits(data_seed=1)' is given data_seed=1"),
        ({"params": {"dataset": {"digits": {"data_seed": 2}}}}, "'digits' is given data_seed=2"),
        ({"matrix": {"dataset": ["unseeded"]}}, "'unseeded' has no parameter data_seed"),
        ({"matrix": {"seed": [-1]}}, "'digits': data_seed = -1 is refused"),
    ],
)
def test_what_cannot_be_drawn_is_explained(tables: dict[str, Any], sentence: str) -> None:
    with parts_in_catalog(("dataset", "unseeded", Unseeded)), pytest.raises(BenchError) as error:
        tiny.plan(**tables, **ASKED)
    assert sentence in str(error.value)


def test_old_name_leads_to_the_new_one() -> None:
    with pytest.raises(BenchError, match=r"unknown parameter .*'split_seed'; did you mean 'data_seed'"):
        tiny.plan(matrix={"dataset": ["utkface(split_seed=1)"]})
