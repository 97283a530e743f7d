"""Suite files: TOML with the semantics of a build matrix, and the command line's overrides."""

import difflib
import inspect
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, create_model

from bench.catalog.choice import parse_value
from bench.catalog.description import attribute_meanings
from bench.catalog.table import catalog_axes, locate_part
from bench.errors import BenchError, unknown_name_error
from bench.record import AXES
from bench.suites import suite_names, suite_text
from bench.values import EPSILON, Recipe

ALL = "all"
"""In a suite, every part of an axis; of the datasets, those that are there."""


def _describe_keys(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put what a model's docstring says about its attributes where JSON Schema expects it."""
    docstring = inspect.getdoc(model) or ""
    schema["description"] = docstring.partition("\n")[0]
    for name, meaning in attribute_meanings(docstring).items():
        key = schema["properties"][name]
        key["description"] = meaning
        if key.get("default", "") is None:  # TOML has no null: the key is left out instead
            del key["default"]


class StrictModel(BaseModel):
    """A table of a suite file: no unknown keys, no infinite numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_describe_keys
    )


if TYPE_CHECKING:  # what pydantic makes below, as far as it is used

    class RecipeOverrides(StrictModel):
        """Any of a recipe's entries."""

else:
    RecipeOverrides = create_model(
        "RecipeOverrides",
        __base__=StrictModel,
        __doc__=Recipe.__doc__,
        **{name: (hint, None) for name, hint in get_type_hints(Recipe, include_extras=True).items()},
    )


def override_recipe(recipe: Recipe, overrides: RecipeOverrides) -> Recipe:
    """Return a recipe with some entries replaced.

    A number of epochs is one for all networks, unless ``stl_epochs`` is given beside it.
    """
    given = overrides.model_dump(exclude_unset=True)
    if "epochs" in given:
        given = {"stl_epochs": None, **given}
    return replace(recipe, **given)


class SurrogateSettings(StrictModel):
    """The network attackers train.

    Attributes:
        backbone: its architecture; of several, the first that fits the dataset's tasks.
        recipe: what is different from the victim's.
    """

    backbone: StrictStr | Annotated[list[StrictStr], Field(min_length=1)]
    recipe: RecipeOverrides = Field(default_factory=RecipeOverrides)


class Budget(StrictModel):
    """The perturbation budget.

    Attributes:
        epsilon: the largest change of a pixel, in steps of 1/255.
    """

    epsilon: int = Field(EPSILON, ge=1, le=127)


class Suite(StrictModel):
    """What a suite file says.

    Attributes:
        name: the suite's name.
        description: one or two sentences for people.
        star: vary one victim axis at a time around the first value of each, instead of all combinations.
        matrix: axis → values; parts as ``name`` or ``name(key=value)``, seeds as integers, or "all".
        include: further cells; axes left out take the matrix's first value, lists stand for all of theirs.
        exclude: cells that match all the given values are left out.
        params: axis → name → parameter → value, overriding a part's defaults.
        recipe: how victims are trained, where it is not as the dataset's own recipe says.
        surrogate: the attackers' network.
        budget: the perturbation budget.
        poison_seed: one seed for all poisons; without it a cell's poison has the cell's seed.
        skip_missing_data: leave datasets out that are not under the data root, instead of stopping.
    """

    name: str
    description: str = ""
    star: bool = False
    matrix: dict[str, list[StrictStr | StrictInt] | Literal["all"]]
    include: list[dict[str, StrictStr | StrictInt | list[StrictStr | StrictInt]]] = []
    exclude: list[dict[str, StrictStr | StrictInt]] = []
    params: dict[str, dict[str, dict[str, Any]]] = {}
    recipe: RecipeOverrides = Field(default_factory=RecipeOverrides)
    surrogate: SurrogateSettings
    budget: Budget = Budget(epsilon=EPSILON)
    poison_seed: int | None = None
    skip_missing_data: bool = False


def suite_schema() -> dict[str, Any]:
    """Return the JSON Schema of a suite file, for editors that check and complete TOML."""
    schema = Suite.model_json_schema()
    schema["required"].remove("name")  # without it, a suite has the name of its file
    tables = schema["properties"]
    _name_keys(tables["matrix"], AXES)
    tables["matrix"]["required"] = list(AXES)
    _name_keys(tables["include"]["items"], AXES)
    _name_keys(tables["exclude"]["items"], AXES)
    _name_keys(tables["params"], catalog_axes())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _name_keys(table: dict[str, Any], keys: Sequence[str]) -> None:
    """Replace the schema of any key by one that has these keys and no others."""
    table["properties"] = dict.fromkeys(keys, table["additionalProperties"])
    table["additionalProperties"] = False


def read_suite(name_or_file: str, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite by its name or its file, with ``KEY=VALUE`` overrides (``recipe.epochs=5``).

    Raises:
        BenchError: for an unknown suite, a file that is no suite, or an override that does not fit.
    """
    document = _document(name_or_file)
    document.setdefault("name", Path(name_or_file).stem)
    for override in overrides:
        _override(document, override)
    _refuse_unknown_axes(document)
    try:
        suite = Suite.model_validate(document)
    except ValidationError as error:
        raise BenchError(f"suite {document['name']!r}: {_describe_first_error(error)}") from error
    if Path(suite.name).name != suite.name or not suite.name.strip(".") or not suite.name.isprintable():
        raise BenchError(f"suite {suite.name!r}: its name becomes that of the run's folder; it cannot be one")
    return suite


def _document(name_or_file: str) -> dict[str, Any]:
    is_file = name_or_file.endswith(".toml") or "/" in name_or_file
    if not is_file and name_or_file not in suite_names():
        raise unknown_name_error("suite", name_or_file, suite_names())
    try:
        text = Path(name_or_file).read_text(encoding="utf-8") if is_file else suite_text(name_or_file)
        return tomllib.loads(text)
    except OSError as error:
        raise BenchError(f"cannot read the suite {name_or_file}: {error.strerror or error}") from error
    except ValueError as error:
        raise BenchError(f"the suite {name_or_file} is no valid TOML: {error}") from error


def _override(document: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise BenchError(f"cannot read --set {override!r}; write KEY=VALUE, such as recipe.epochs=5")
    *tables, last = path.strip().split(".")
    table: Any = document
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise BenchError(f"--set {override!r}: {name!r} is a value, not a table")
    table[last] = parse_value(value)


def _refuse_unknown_axes(document: Mapping[str, Any]) -> None:
    """Name a misspelled axis before the schema would only say that something is not allowed.

    What is no table or list where one belongs is left to the schema.
    """
    params = _table(document.get("params"))
    for table, found, known in (
        ("matrix", _table(document.get("matrix")), AXES),
        ("params", params, catalog_axes()),
    ):
        for axis in found:
            if axis not in known:
                raise unknown_name_error(f"axis in [{table}]", axis, known)
    for table in ("include", "exclude"):
        rules = document.get(table)
        for rule in rules if isinstance(rules, list) else ():
            for axis in _table(rule):
                if axis not in AXES:
                    raise unknown_name_error(f"axis in [[{table}]]", axis, AXES)
    for axis, parts in params.items():
        for name in _table(parts):
            try:
                locate_part(axis, name)
            except BenchError as error:
                raise BenchError(f"in [params.{axis}]: {error}") from error


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _describe_first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = _where(first["loc"])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = difflib.get_close_matches(where, _known_keys(), n=1)
        return f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if first["type"] == "missing":
        return f"{where!r} is missing"
    # Of a value that may be of several types, there is one error for each.
    why = dict.fromkeys(
        e["msg"].removeprefix("Input should be ") for e in error.errors() if _where(e["loc"]) == where
    )
    return f"{where} = {first['input']!r} is refused: it should be {' or '.join(why)}"


def _known_keys() -> list[str]:
    recipe = [f"recipe.{name}" for name in Recipe.__dataclass_fields__]
    surrogate = [f"surrogate.{name}" for name in (*SurrogateSettings.model_fields, *recipe)]
    return [*Suite.model_fields, *recipe, *surrogate, *(f"budget.{name}" for name in Budget.model_fields)]


def _where(location: Sequence[str | int]) -> str:
    """Return where a value is in the file, without pydantic's names of the types it was tried as."""
    tried = r"(list|literal|dict)\[.*\]|str|int"
    return ".".join(str(piece) for piece in location if not re.fullmatch(tried, str(piece)))
