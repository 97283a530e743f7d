"""The JSON Schema of suite files says what `read_suite` accepts."""

import tomllib
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.engine.planning.suite_file import Suite, suite_schema
from bench.record import AXES
from bench.suites import suite_names, suite_text
from bench.values import Recipe
from tests.engine import tiny

VALIDATOR = Draft202012Validator(suite_schema())


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(suite_schema())


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_the_package_fit(name: str) -> None:
    VALIDATOR.validate(tomllib.loads(suite_text(name)))


def test_every_key_is_named_and_described() -> None:
    schema = suite_schema()
    assert set(schema["properties"]) == set(Suite.model_fields)
    recipe = schema["$defs"]["RecipeOverrides"]["properties"]
    assert set(recipe) == set(Recipe.__dataclass_fields__)
    assert set(schema["properties"]["matrix"]["properties"]) == set(AXES)
    tables = [schema["properties"], *(table["properties"] for table in schema["$defs"].values())]
    assert [key for table in tables for key, value in table.items() if not value.get("description")] == []
    assert recipe["batch"]["description"] == "images per step."


@pytest.mark.parametrize(
    "tables",
    [
        {"epochs": 3},
        {"recipe": {"epoch": 3}},
        {"recipe": {"epochs": 0}},
        {"surrogate": {"backbone": []}},
        {"budget": {"epsilon": 128}},
        {"matrix": {"atack": ["em"]}},
        {"matrix": {"attack": "em"}},
        {"include": [{"defence": "jpeg"}]},
        {"exclude": [{"attack": ["em"]}]},
        {"params": {"atack": {"em": {"rounds": 1}}}},
        {"params": {"attack": {"em": 3}}},
    ],
)
def test_what_read_suite_refuses_does_not_fit(tables: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(tiny.document())
    assert not VALIDATOR.is_valid(tiny.document(**tables))


@pytest.mark.parametrize("table", ["matrix", "surrogate"])
def test_a_table_may_not_be_missing(table: str) -> None:
    document = tiny.document()
    del document[table]
    assert not VALIDATOR.is_valid(document)


def test_the_name_may_be_missing() -> None:
    document = tiny.document()
    del document["name"]
    assert VALIDATOR.is_valid(document)
