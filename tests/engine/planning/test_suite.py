"""What a suite's file expands to."""

import dataclasses
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.catalog.build import build_part
from bench.catalog.choice import Choice
from bench.catalog.parts import CATALOG, catalog_axes, catalog_entries
from bench.engine.planning.cell import Cell
from bench.engine.planning.expand import expand_suite
from bench.engine.planning.suite_file import RecipeOverrides, override_recipe, read_suite
from bench.errors import BenchError
from bench.record import AXES
from bench.suites import suite_names
from bench.values import Budget, Recipe, default_budget
from tests.engine import tiny

VARIED: dict[str, list[Any]] = {
    "attack": ["em", "random"],
    "backbone": ["small", "resnet18"],
    "defense": ["none", "jpeg", "grayscale"],
    "seed": [0, 1],
}


def values(cells: tuple[Cell, ...], *catalog_axes: str) -> list[tuple[str | int, ...]]:
    return [tuple(cell.labels[axis] for axis in catalog_axes) for cell in cells]


def write(folder: Path, text: str = tiny.TOML) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_matrix_is_every_combination() -> None:
    cells = tiny.plan(star=False, matrix=VARIED).cells
    expected = product(
        ["clean", "em", "random"], ["small", "resnet18"], ["none", "jpeg", "grayscale"], [0, 1]
    )
    assert sorted(values(cells, "attack", "backbone", "defense", "seed")) == sorted(expected)


def test_a_star_varies_one_victim_axis_at_a_time() -> None:
    cells = tiny.plan(star=True, matrix=VARIED).cells
    victims = {("small", "none"), ("resnet18", "none"), ("small", "jpeg"), ("small", "grayscale")}
    expected = {(a, *v, s) for a, v, s in product(["clean", "em", "random"], victims, [0, 1])}
    found = values(cells, "attack", "backbone", "defense", "seed")
    assert set(found) == expected
    assert len(found) == len(expected)


def test_every_cell_has_its_clean_counterpart() -> None:
    cells = tiny.plan(
        star=False,
        matrix={"attack": ["em", "random"], "seed": [3, 4], "defense": ["none", "jpeg(quality=30)"]},
        include=[{"attack": "tap", "backbone": "small(width=4)"}],
        exclude=[{"attack": "clean"}],
    ).cells
    clean = {cell.victim for cell in cells if cell.labels["attack"] == "clean"}
    assert {cell.victim for cell in cells} == clean
    assert len(clean) == 5


def test_a_defended_victim_is_measured_in_what_the_clean_one_learns_without_a_defense() -> None:
    cells = tiny.plan(star=False, matrix={"attack": ["random"], "seed": [3, 4], "defense": ["jpeg"]}).cells
    labels = [(cell.labels["attack"], cell.labels["defense"], cell.seed) for cell in cells]
    assert sorted(labels) == sorted(
        (attack, defense, seed)
        for attack, defense in (("clean", "none"), ("clean", "jpeg"), ("random", "jpeg"))
        for seed in (3, 4)
    )


def test_cells_are_not_repeated() -> None:
    once = tiny.plan(matrix={"attack": ["clean", "random"], "seed": [0]})
    repeated = tiny.plan(
        matrix={"attack": ["random", "clean", "random"], "seed": [0, 0]}, include=[{"attack": "random"}]
    )
    assert {cell.key for cell in repeated.cells} == {cell.key for cell in once.cells}
    assert len(repeated.cells) == len(once.cells) == 2


def test_a_variant_with_the_default_value_is_no_other_cell() -> None:
    plan = tiny.plan(matrix={"backbone": ["small", "small(width=2)"]})  # 2 is what [params] says
    assert len(plan.cells) == 2


def test_clean_comes_before_the_cells_compared_with_it() -> None:
    attacks = [cell.labels["attack"] for cell in tiny.plan(matrix=VARIED).cells]
    assert "clean" not in attacks[attacks.count("clean") :]


def test_included_cells_take_the_first_values_of_the_matrix() -> None:
    cells = tiny.plan(matrix={**VARIED, "attack": ["random"]}, include=[{"attack": "tap", "seed": 7}]).cells
    tap = [cell.labels for cell in cells if cell.labels["attack"] == "tap"]
    assert [list(labels.values()) for labels in tap] == [
        ["digits", "tap", "small", "ew", "none", "mtl", 7],
    ]


def test_excluded_cells_match_all_of_a_rule() -> None:
    cells = tiny.plan(
        star=False, matrix=VARIED, exclude=[{"attack": "em", "defense": "jpeg"}, {"attack": "em", "seed": 1}]
    ).cells
    em = {(d, s) for a, d, s in values(cells, "attack", "defense", "seed") if a == "em"}
    random = {(d, s) for a, d, s in values(cells, "attack", "defense", "seed") if a == "random"}
    assert em == {("none", 0), ("grayscale", 0)}
    assert random == set(product(VARIED["defense"], VARIED["seed"]))


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("jpeg", {"none"}),  # by name: every variant
        ("jpeg(quality=30)", {"none", "jpeg"}),
        ("jpeg( quality = 30 )", {"none", "jpeg"}),  # however it is spelled
    ],
)
def test_excluding_by_name_and_by_label(rule: str, left: set[str]) -> None:
    matrix = {"attack": ["random"], "defense": ["none", "jpeg", "jpeg(quality=30)"]}
    cells = tiny.plan(matrix=matrix, exclude=[{"defense": rule}]).cells
    assert {cell.labels["defense"] for cell in cells} == left


def test_all_is_every_part_of_an_axis() -> None:
    """What does not fit the default victim is left out with a sentence."""
    planned = tiny.plan(
        star=True,
        skip_missing_data=True,
        matrix={axis: "all" for axis in catalog_axes() if axis != "dataset"},
    )
    for axis in set(catalog_axes()) - {"dataset"}:
        used = {str(cell.labels[axis]) for cell in planned.cells}
        for name in set(catalog_entries(axis)) - used:
            assert axis == "regime"
            assert any(sentence.startswith(f"{axis} {name!r} ") for sentence in planned.left_out)
        assert used <= set(catalog_entries(axis))


def test_datasets_that_are_not_there_are_left_out_where_the_suite_says_so() -> None:
    matrix = {"dataset": ["digits", "utkface"]}
    plan = tiny.plan(skip_missing_data=True, matrix=matrix)
    assert {cell.labels["dataset"] for cell in plan.cells} == {"digits"}
    (sentence,) = plan.left_out
    assert "utkface" in sentence
    assert "--data-root" in sentence
    with pytest.raises(BenchError, match=r"utkface.*--data-root"):
        tiny.plan(matrix=matrix)


def test_a_dataset_restricted_away_is_not_missed() -> None:
    plan = tiny.plan("dataset=digits", matrix={"dataset": ["digits", "utkface"]})
    assert plan.left_out == ()


@pytest.mark.parametrize(
    ("only", "attacks", "defenses"),
    [
        (
            ["attack=em"],
            {"clean", "em", "em(rounds=2, steps=3)"},
            {"none", "jpeg"},
        ),  # a name: its variants too
        (["attack=em(rounds=2, steps=3)"], {"clean", "em(rounds=2, steps=3)"}, {"none", "jpeg"}),
        (
            ["attack=em( steps = 3,rounds=2 ) , tap"],
            {"clean", "em(rounds=2, steps=3)", "tap"},
            {"none", "jpeg"},
        ),
        (["attack=random, tap", "defense=jpeg"], {"clean", "random", "tap"}, {"none", "jpeg"}),
        (["attack=clean"], {"clean"}, {"none", "jpeg"}),
    ],
)
def test_only(only: list[str], attacks: set[str], defenses: set[str]) -> None:
    matrix = {"attack": ["clean", "random", "em", "em(rounds=2, steps=3)"], "defense": ["none", "jpeg"]}
    cells = tiny.plan(*only, matrix=matrix, include=[{"attack": "tap", "defense": "jpeg"}]).cells
    assert {cell.labels["attack"] for cell in cells} == attacks
    assert {cell.labels["defense"] for cell in cells} <= defenses
    clean = {cell.victim for cell in cells if cell.labels["attack"] == "clean"}
    assert clean == {cell.victim for cell in cells}
    assert {cell.labels["defense"] for cell in cells if cell.labels["attack"] != "clean"} <= (
        {"jpeg"} if len(only) == 2 else {"none", "jpeg"}
    )


def test_only_some_seeds() -> None:
    cells = tiny.plan("seed=1,2", matrix={"seed": [0, 1, 2]}).cells
    assert {cell.seed for cell in cells} == {1, 2}


def test_overrides_are_read_as_toml_or_bare_words(tmp_path: Path) -> None:
    overrides = [
        "recipe.epochs=7",
        "recipe.milestones=[0.5]",
        "matrix.seed=[4, 5]",
        "matrix.attack = ['tap']",
        "surrogate.backbone=resnet18",
        "surrogate.recipe.epochs=3",
        "params.attack.tap.step_size=0.5",
        "budget.epsilon=4",
        "skip_missing_data=true",
    ]
    suite = read_suite(write(tmp_path), overrides)
    assert (suite.recipe.epochs, suite.recipe.milestones, suite.recipe.batch) == (7, (0.5,), 8)
    assert suite.matrix["seed"] == [4, 5]
    assert suite.surrogate.backbone == "resnet18"
    assert suite.surrogate.recipe.model_dump(exclude_unset=True) == {"epochs": 3}
    assert suite.skip_missing_data
    tap = next(cell for cell in expand_suite(suite).cells if cell.labels["attack"] == "tap(epsilon=4)")
    assert tap.poison.attack.part.step_size == 0.5  # type: ignore[attr-defined]
    assert tap.poison.attack.part.steps == 1  # type: ignore[attr-defined]
    assert tap.poison.budget == Budget("linf", 4)
    assert tap.recipe == replace(Recipe(), epochs=7, milestones=(0.5,), batch=8, learning_rate=0.01)
    assert tap.poison.surrogate.recipe == replace(tap.recipe, epochs=3)


def test_the_budget_is_the_suites_for_the_norm_of_the_attack_or_the_attacks_own() -> None:
    attacks = ["random", "ar-l2", "ops", "random(epsilon=4)", "ar-l2(epsilon=0.25)", "ar-l2(epsilon=1)"]
    cells = tiny.plan(matrix={"attack": attacks}, budget={"epsilon": 6, "l2": 0.5}).cells
    poisons = {cell.labels["attack"]: cell.poison for cell in cells}
    assert {label: poison.budget for label, poison in poisons.items()} == {
        "clean": Budget("linf", 6),
        "random(epsilon=6)": Budget("linf", 6),
        "random(epsilon=4)": Budget("linf", 4),
        "ar-l2(epsilon=0.5)": Budget("l2", 0.5),
        "ar-l2(epsilon=0.25)": Budget("l2", 0.25),
        "ar-l2": Budget("l2", 1.0),
        "ops": None,
    }
    assert len({poison.key for poison in poisons.values()}) == len(poisons)
    settings = {label: poison.settings() for label, poison in poisons.items()}
    assert (settings["ar-l2"]["norm"], settings["ar-l2"]["epsilon"]) == ("l2", 1.0)
    assert (settings["clean"]["norm"], settings["clean"]["epsilon"]) == ("linf", 6)
    assert (settings["ops"]["norm"], settings["ops"]["epsilon"]) == (None, None)
    assert settings["random(epsilon=4)"]["attack"] == settings["random(epsilon=6)"]["attack"]


def test_a_suite_without_a_name_has_its_files(tmp_path: Path) -> None:
    text = tiny.TOML.replace('name = "tiny"', "")
    assert read_suite(write(tmp_path, text)).name == "mine"


def test_parameters_reach_the_parts() -> None:
    cells = tiny.plan(matrix={"attack": ["em", "em(rounds=5)"], "defense": ["jpeg(quality=30)"]}).cells
    by_label = {cell.labels["attack"]: cell for cell in cells}
    em = dataclasses.asdict(by_label["em"].poison.attack.part)  # type: ignore[call-overload]
    variant = dataclasses.asdict(by_label["em(rounds=5)"].poison.attack.part)  # type: ignore[call-overload]
    assert em["rounds"] == em["steps"] == 1  # from [params]
    assert variant == {**em, "rounds": 5}  # the label's own come on top
    qualities = {cell.defense.part.quality for cell in cells if cell.defense.label != "none"}  # type: ignore[attr-defined]
    assert qualities == {30}
    assert all(cell.backbone.part.width == 2 for cell in cells)  # type: ignore[attr-defined]
    assert all(cell.poison.surrogate.backbone.part.width == 3 for cell in cells)  # type: ignore[attr-defined]
    assert all(cell.poison.dataset.part.train == 64 for cell in cells)  # type: ignore[attr-defined]


def test_a_suites_text_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    parse = Choice.parse.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Choice, "parse", classmethod(lambda cls, text: parsed.append(text) or parse(cls, text))
    )
    attacks, defenses = ["random", "em( rounds=2 )", "em(rate=0.5)"], ["none", "jpeg(quality=30)"]
    plan = tiny.plan(
        "attack=em",
        star=False,
        matrix={"attack": attacks, "defense": defenses, "seed": [0, 1, 2]},
        include=[{"attack": "em(steps=3)"}],
        exclude=[{"defense": "grayscale"}],
    )
    assert len(plan.cells) == 4 * 2 * 3 + 1
    others = ["digits", "small", "ew", "mtl", "small(width=3)"]
    assert sorted(parsed) == sorted([*attacks, *defenses, *others, "em", "em(steps=3)", "grayscale"])


def test_labels_have_one_spelling() -> None:
    cells = tiny.plan(matrix={"attack": ["em(steps=2,  rounds = 3)"]}).cells
    assert {cell.labels["attack"] for cell in cells} == {"clean", "em(rounds=3, steps=2)"}


def test_a_cells_poison_has_its_seed() -> None:
    cells = tiny.plan(matrix={"attack": ["tap"], "seed": [3, 4]}).cells
    assert [(cell.seed, cell.poison.seed, cell.poison.surrogate.seed) for cell in cells] == [
        (seed, seed, seed) for seed in (3, 4, 3, 4)
    ]


def test_one_seed_for_all_poisons() -> None:
    plan = tiny.plan(matrix={"attack": ["tap"], "seed": [3, 4]}, poison_seed=9)
    assert {(cell.seed, cell.poison.seed) for cell in plan.cells} == {(3, 9), (4, 9)}
    assert [poison.label for poison in plan.poisons] == ["clean · digits · seed 9", "tap · digits · seed 9"]
    assert [surrogate.seed for surrogate in plan.surrogates] == [9]


def test_each_distinct_thing_is_counted_once() -> None:
    plan = tiny.plan(matrix={"attack": ["tap", "em", "random"], "defense": ["none", "jpeg"], "seed": [0, 1]})
    assert len(plan.cells) == 4 * 2 * 2
    assert len(plan.poisons) == 4 * 2
    assert [surrogate.label for surrogate in plan.surrogates] == [
        "small(width=3) · digits · seed 0",
        "small(width=3) · digits · seed 1",
    ]
    assert tiny.plan(matrix={"attack": ["em", "random"]}).surrogates == ()


EMBEDDED = tuple(name for name in CATALOG["dataset"] if build_part("dataset", name).missing(None) is None)
"""Datasets that need no data root."""


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_the_package(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name
    assert suite.description
    datasets = suite.matrix["dataset"]
    on_disk = [name for name in datasets if name not in EMBEDDED] if datasets != "all" else []
    if on_disk:
        with pytest.raises(BenchError, match=rf"{on_disk[0]}.*--data-root"):
            expand_suite(suite)
        return
    plan = expand_suite(suite)
    assert not plan.warnings
    assert {tuple(cell.labels) for cell in plan.cells} == {AXES}
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
    assert {cell.victim for cell in plan.cells} == {
        cell.victim for cell in plan.cells if cell.labels["attack"] == "clean"
    }
    for cell in plan.cells:
        is_default = cell.poison.budget == default_budget(cell.poison.attack.part.norm)
        assert is_default == ("epsilon=" not in str(cell.labels["attack"]))
    if datasets == "all":
        assert {cell.labels["dataset"] for cell in plan.cells} == set(EMBEDDED)
        for dataset in set(CATALOG["dataset"]) - {*EMBEDDED, "nyuv2"}:
            assert any(dataset in sentence and "--data-root" in sentence for sentence in plan.left_out)


def parts_of_suite(name: str, axis: str) -> set[str]:
    labels = {str(cell.labels[axis]).partition("(")[0] for cell in expand_suite(read_suite(name)).cells}
    return {part for label in labels for part in label.split("+")}


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis != "seed"])
def test_the_suite_that_watches_over_results_uses_every_part_of_the_smoke_suite(axis: str) -> None:
    """What the smoke suite uses is in tests/golden/keys.json; parts added since may join later."""
    assert parts_of_suite("nightly", axis) >= parts_of_suite("smoke", axis)
    if axis == "backbone":  # the others take minutes on a CPU; tests/contract trains them
        assert parts_of_suite("nightly", axis) == {
            "small",
            "small-attention",
            "small-residual",
            "resnet18",
            "dense-small",
        }


@pytest.mark.parametrize("name", ["attacks", "attacks-faces", "full", "nightly"])
def test_the_suites_of_attacks_have_every_attack(name: str) -> None:
    assert read_suite(name).matrix["attack"] == "all"


DENSE = {"dataset": ["digits", "scenes"], "attack": ["em", "lsp"], "backbone": ["small", "dense-small"]}


@pytest.mark.parametrize("star", [True, False])
def test_what_cannot_work_with_dense_tasks_is_left_out_and_said_so(star: bool) -> None:
    plan = tiny.plan(star=star, matrix=DENSE, surrogate={"backbone": ["small", "dense-small"]})
    made = {(c.labels["dataset"], c.poison.attack.name, c.backbone.name) for c in plan.cells}
    on_scenes = {("scenes", attack, "dense-small") for attack in ("clean", "em")}
    on_digits = {("digits", a, b) for a in ("clean", "em", "lsp") for b in ("small", "dense-small")}
    assert made == on_scenes | on_digits
    assert any("'lsp' cannot work with dense tasks (depth, normals, seg" in s for s in plan.left_out)
    assert any("backbone 'small' cannot work with dense tasks" in s for s in plan.left_out)
    surrogates = {c.poison.dataset.name: c.poison.surrogate.backbone.name for c in plan.cells}
    assert surrogates == {"digits": "small", "scenes": "dense-small"}


def test_a_surrogate_that_fits_no_task_is_refused_with_a_way_out() -> None:
    with pytest.raises(BenchError, match=r"'small\(width=3\)' cannot work.*name one more under surrogate"):
        tiny.plan(matrix=DENSE)


def test_included_lists_stand_for_all_their_values() -> None:
    included = [{"attack": ["em", "tap"], "defense": ["jpeg"], "seed": [1, 2]}]
    plan = tiny.plan(matrix={"attack": ["random"]}, include=included)
    extra = {(c.labels["attack"], c.labels["seed"]) for c in plan.cells if c.labels["defense"] == "jpeg"}
    assert extra == {(attack, seed) for attack in ("clean", "em", "tap") for seed in (1, 2)}


def test_a_number_of_epochs_is_for_every_network_unless_single_task_ones_have_their_own() -> None:
    recipe = Recipe(epochs=60, stl_epochs=10)
    assert override_recipe(recipe, RecipeOverrides(epochs=5)) == replace(recipe, epochs=5, stl_epochs=None)
    both = RecipeOverrides.model_validate({"epochs": 5, "stl_epochs": 2})
    assert override_recipe(recipe, both) == replace(recipe, epochs=5, stl_epochs=2)
    assert override_recipe(recipe, RecipeOverrides(batch=4)) == replace(recipe, batch=4)


# Warnings


def test_attacks_whose_steps_cannot_cross_the_budget_are_named_once() -> None:
    chosen = tiny.plan(matrix={"attack": ["tap(step_size=2.0)", "em", "random"], "seed": [0, 1]})
    (warning,) = chosen.warnings
    assert warning.startswith("attack 'tap(step_size=2.0)': its steps (1 of size 2) change")
