"""Several defenses as one: how they are named, told apart and applied."""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bench.api import Defense
from bench.catalog.build import build_part, part_settings
from bench.catalog.choice import Choice
from bench.cli import app
from bench.defenses.composed import Composed
from bench.defenses.jpeg import JPEG
from bench.defenses.none import NoDefense
from bench.engine.planning.cell import Cell
from bench.engine.planning.suite_file import read_suite
from bench.errors import BenchError
from bench.values import Batch, Split
from tests.engine import tiny

CPU = torch.device("cpu")


# Names


@pytest.mark.parametrize(
    ("text", "name", "label"),
    [
        ("jpeg+cutmix", "jpeg+cutmix", "jpeg+cutmix"),
        (" jpeg + cutmix ", "jpeg+cutmix", "jpeg+cutmix"),
        ("jpeg( quality = 30 )+cutmix()", "jpeg+cutmix", "jpeg(quality=30)+cutmix"),
        ("a+b(y=[1, 2], x=1e+3)+c", "a+b+c", "a+b(x=1000.0, y=[1, 2])+c"),
        ('a(text="x)+y(z")+b', "a+b", 'a(text="x)+y(z")+b'),
        ('a(text="x)+y(z")', "a", 'a(text="x)+y(z")'),
        ("a(text=x+y)", "a", 'a(text="x+y")'),
    ],
)
def test_names_are_joined_by_a_plus(text: str, name: str, label: str) -> None:
    choice = Choice.parse(text)
    assert (choice.name, choice.label) == (name, label)
    assert Choice.parse(label) == choice
    assert [part.label for part in choice.parts] == (
        [Choice.parse(part.label).label for part in choice.parts] if "+" in name else []
    )


def test_every_part_of_a_choice_is_one() -> None:
    choice = Choice.parse("jpeg(quality=30)+cutmix")
    assert choice.params == ()
    assert choice.parts == (Choice("jpeg", (("quality", 30),)), Choice("cutmix"))
    assert Choice.parse("jpeg").parts == ()


@pytest.mark.parametrize("text", ["jpeg+", "+jpeg", "jpeg++cutmix", "jpeg+cutmix)", "jpeg(quality=3+cutmix"])
def test_what_is_no_composition_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match=r"cannot read .*write .*key=value.*a\+b"):
        Choice.parse(text)


@pytest.mark.parametrize(
    ("axis", "text", "wanted"),
    [
        ("defense", "jpg+cutmix", r"unknown defense 'jpg'; did you mean 'jpeg'\?"),
        ("defense", "jpeg+cutmx", r"unknown defense 'cutmx'; did you mean 'cutmix'\?"),
        ("defense", "jpeg(qality=3)+cutmix", r"unknown parameter of defense 'jpeg': 'qality'.*'quality'\?"),
        ("defense", "cutmix+jpeg(quality=0)", "defense 'jpeg': quality = 0 is refused"),
        ("defense", "jpeg(3)+cutmix", r"cannot read '3' in 'jpeg\(3\)'; write key=value"),
        ("defense", "mixup+jpeg+cutmix", "mix images once: remove mixup or cutmix"),
        ("attack", "em+tap", r"attack 'em\+tap' is refused: only a defense can be composed"),
        ("backbone", "small+smal", "unknown backbone 'smal'; did you mean 'small'"),
    ],
)
def test_what_is_wrong_with_a_part_is_said_of_the_part(axis: str, text: str, wanted: str) -> None:
    with pytest.raises(BenchError, match=wanted):
        build_part(axis, text)
    if axis == "defense":
        with pytest.raises(BenchError, match=wanted):
            tiny.plan(matrix={axis: ["none", text]})


def test_a_composition_is_shown_part_by_part() -> None:
    shown = CliRunner().invoke(app, ["show", "defense", "jpeg+cutmix"]).output
    one, other = (CliRunner().invoke(app, ["show", "defense", name]).output for name in ("jpeg", "cutmix"))
    assert shown == f"{one}\n{other}"
    assert CliRunner().invoke(app, ["show", "defense", "jpeg+"]).exit_code
    assert "defense FIRST+SECOND" in CliRunner().invoke(app, ["list", "defense"]).output


# What it does


@dataclass(frozen=True)
class Adding(NoDefense):
    """Adds to images, and notes when."""

    much: int = 0
    held: float = 0.0
    clean: float = 0.0
    dense: ClassVar[bool] = True

    @property
    def validation(self) -> float:
        return self.held

    @property
    def trusted(self) -> float:
        return self.clean

    def purify(self, released: Split, *_: Any) -> torch.Tensor:
        return (released.images * 2 + self.much).to(torch.uint8)

    def augment(self, batch: Batch, *_: Any) -> Batch:
        return Batch(batch.images * 2 + self.much, batch.targets, batch.index)


def test_parts_work_one_after_the_other_from_left_to_right() -> None:
    composed = Composed((Adding(1), Adding(3), NoDefense()))
    assert isinstance(composed, Defense)
    labels = {"task": torch.tensor([0, 1])}
    images = torch.full((2, 3, 4, 4), 5, dtype=torch.uint8)
    assert composed.purify(Split(images, labels), (), CPU).unique().tolist() == [(5 * 2 + 1) * 2 + 3]
    seen = composed.augment(Batch(images.float(), labels, torch.arange(2)), nn.Identity(), ())
    assert seen.images.unique().tolist() == [(5 * 2 + 1) * 2 + 3]
    assert images.unique().tolist() == [5]


def test_a_composition_holds_out_what_its_most_demanding_part_does() -> None:
    composed = Composed((Adding(held=0.1), Adding(clean=0.3), Adding(held=0.2, clean=0.05)))
    assert (composed.validation, composed.trusted) == (0.2, 0.3)
    none = build_part("defense", "none+jpeg")
    assert (none.validation, none.trusted) == (0, 0)


def test_a_composition_works_with_dense_tasks_if_all_parts_do() -> None:
    assert build_part("defense", "jpeg+cutmix").dense
    assert not build_part("defense", "jpeg+randaugment").dense
    plan = tiny.plan(
        matrix={"dataset": ["digits", "scenes"], "backbone": ["small", "dense-small"]}
        | {"defense": ["none", "jpeg+cutmix", "jpeg+randaugment"]},
        surrogate={"backbone": ["small", "dense-small"]},
    )
    (said,) = (line for line in plan.left_out if "randaugment" in line)
    assert said.startswith("defense 'jpeg+randaugment' cannot work with dense tasks")
    assert {c.labels["defense"] for c in plan.cells if c.labels["dataset"] == "scenes"} == {
        "none",
        "jpeg+cutmix",
    }


def test_the_parts_do_what_they_do_alone() -> None:
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    released = Split(images.to(torch.uint8), {"task": torch.arange(6)})

    def purified(name: str, split: Split) -> torch.Tensor:
        cleaned: torch.Tensor = build_part("defense", name).purify(split, (), CPU)
        return cleaned

    both = purified("posterize(bits=3)+median", released)
    first = Split(purified("posterize(bits=3)", released), released.targets)
    assert torch.equal(both, purified("median", first))
    assert not torch.equal(both, purified("jpeg+posterize(bits=3)", released))
    batch = Batch(images / 255, released.targets, torch.arange(6))
    torch.manual_seed(3)
    seen = build_part("defense", "jpeg+cutout+mixup").augment(batch, nn.Identity(), ())
    torch.manual_seed(3)
    holed = build_part("defense", "cutout").augment(batch, nn.Identity(), ())
    wanted = build_part("defense", "mixup").augment(holed, nn.Identity(), ())
    assert torch.equal(seen.images, wanted.images)
    assert seen.mixed is not None
    assert torch.equal(seen.mixed["task"], wanted.mixed["task"])


# In suites


def cells(*only: str, defenses: list[str], **tables: Any) -> dict[str, Cell]:
    """Defense → its clean cell."""
    found = tiny.plan(*only, matrix={"defense": defenses}, **tables).cells
    return {cell.defense.label: cell for cell in found if cell.labels["attack"] == "clean"}


def test_a_cell_is_labeled_and_keyed_by_every_part() -> None:
    names = ["none", "jpeg", "cutmix", "jpeg+cutmix", "cutmix+jpeg", "jpeg(quality=30)+cutmix", "none+jpeg"]
    found = cells(defenses=names)
    assert list(found) == names
    assert all(one.key != other.key for one, other in combinations(found.values(), 2))
    written = found["jpeg(quality=30)+cutmix"].settings()["defense"]
    assert (
        written
        == json.loads(json.dumps(written))
        == {
            "name": "jpeg+cutmix",
            "version": 1,
            "params": {
                "parts": [
                    {"name": "jpeg", "version": 1, "params": {"quality": 30}},
                    {"name": "cutmix", "version": 1, "params": {"alpha": 1.0}},
                ]
            },
        }
    )
    choice = Choice.parse("jpeg(quality=30)+cutmix")
    assert written == part_settings(choice, build_part("defense", choice))


def test_a_new_version_of_a_part_makes_other_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cells(defenses=["jpeg+cutmix", "cutmix"])
    monkeypatch.setattr(JPEG, "version", 2)
    after = cells(defenses=["jpeg+cutmix", "cutmix"])
    assert before["jpeg+cutmix"].key != after["jpeg+cutmix"].key
    assert before["cutmix"].key == after["cutmix"].key


def test_params_of_a_suite_are_those_of_every_part(tmp_path: Path) -> None:
    tables = {"params": {"defense": {"jpeg": {"quality": 77}, "cutmix": {"alpha": 0.5}}}}
    found = cells(defenses=["jpeg+cutmix", "jpeg(quality=30)+cutmix"], **tables)
    assert list(found) == ["none", "jpeg+cutmix", "jpeg(quality=30)+cutmix"]
    assert [cell.defense.part.parts[0].quality for cell in list(found.values())[1:]] == [77, 30]
    assert found["jpeg+cutmix"].defense.part.parts[1].alpha == 0.5
    direct = cells(defenses=["jpeg(quality=77)+cutmix(alpha=0.5)"])
    assert found["jpeg+cutmix"].key == direct["jpeg(quality=77)+cutmix(alpha=0.5)"].key
    file = tmp_path / "mine.toml"
    file.write_text(tiny.TOML + '[params.defense."jpeg+cutmix"]\nquality = 3\n')
    with pytest.raises(BenchError, match=r"unknown defense 'jpeg\+cutmix'"):
        read_suite(str(file))


@pytest.mark.parametrize(
    ("only", "left"),
    [
        ("jpeg", {"jpeg", "jpeg(quality=9)"}),
        ("jpeg+cutmix", {"jpeg+cutmix", "jpeg(quality=30)+cutmix"}),
        ("jpeg( quality=30 ) + cutmix", {"jpeg(quality=30)+cutmix"}),
        ("cutmix,jpeg(quality=30)+cutmix", {"cutmix", "jpeg(quality=30)+cutmix"}),
    ],
)
def test_only_and_exclude_know_a_composition_by_name_and_by_label(only: str, left: set[str]) -> None:
    names = ["none", "jpeg", "jpeg(quality=9)", "cutmix", "jpeg+cutmix", "jpeg(quality=30)+cutmix"]
    # Scores are measured in what the clean victim learns without a defense.
    assert set(cells(f"defense={only}", defenses=names)) == {"none", *left}
    if "," not in only:
        rule = [{"defense": only}]
        # The clean counterpart of an excluded cell is not there either.
        assert set(cells(defenses=names, exclude=rule)) == set(names) - left


def test_a_misspelled_composition_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        BenchError, match=r"unknown defense in --only .*'jpg\+cutmix'; did you mean 'jpeg\+cutmix'"
    ):
        tiny.plan("defense=jpg+cutmix", matrix={"defense": ["none", "jpeg+cutmix"]})
    with pytest.raises(BenchError, match=r"unknown defense 'cutmx'; did you mean 'cutmix'"):
        tiny.plan(exclude=[{"defense": "jpeg+cutmx"}])


def test_a_composition_runs_and_is_recorded(tmp_path: Path) -> None:
    plan = tiny.plan(matrix={"attack": ["random"], "defense": ["jpeg(quality=30)+cutmix+gaussian-noise"]})
    ran = tiny.run(plan, tmp_path)
    assert ran.counts == (3, 0, 0)
    composed = [r for r in tiny.records(tmp_path).values() if r.cell["defense"] != "none"]
    assert [record.cell["attack"] for record in composed].count("random") == 1
    for record in composed:
        assert record.cell["defense"] == "jpeg(quality=30)+cutmix+gaussian-noise"
        assert len(record.settings["defense"]["params"]["parts"]) == 3
