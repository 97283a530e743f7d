"""Suite files: TOML with the semantics of a build matrix, and the command line's overrides."""

import inspect
import itertools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    create_model,
)

from bench.catalog.choice import find_unusable_value, parse_value
from bench.catalog.description import attribute_meanings
from bench.catalog.parts import catalog_axes, locate_part
from bench.errors import MAX_SHOWN, BenchError, find_similar_name, format_input, unknown_name_error
from bench.files import require_file
from bench.record import AXES
from bench.suites import suite_names, suite_text
from bench.values import DEFAULT_EPSILON, EPSILON, Recipe

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


if TYPE_CHECKING:  # stands for the model below, which mypy cannot read

    class RecipeOverrides(StrictModel):
        """Some entries of a recipe."""

else:
    RecipeOverrides = create_model(
        "RecipeOverrides",
        __base__=StrictModel,
        __doc__=Recipe.__doc__,
        **{name: (hint, None) for name, hint in get_type_hints(Recipe, include_extras=True).items()},
    )


def override_recipe(recipe: Recipe, overrides: RecipeOverrides) -> Recipe:
    """Return a recipe with some entries replaced.

    ``epochs`` is for single-task networks too, unless ``stl_epochs`` is given as well.
    """
    entries = overrides.model_dump(exclude_unset=True)
    if "epochs" in entries:
        entries = {"stl_epochs": None, **entries}
    return replace(recipe, **entries)


class SurrogateSettings(StrictModel):
    """The network that attacks use in place of the victim.

    Attributes:
        backbone: its architecture; if a list, the first that fits the dataset's tasks.
        recipe: entries that differ from the victim's recipe.
    """

    backbone: StrictStr | Annotated[list[StrictStr], Field(min_length=1)]
    recipe: RecipeOverrides = Field(default_factory=RecipeOverrides)


class BudgetSettings(StrictModel):
    """The perturbation budget of attacks with each norm; one attack can have another: ``em(epsilon=4)``.

    Attributes:
        epsilon: the largest change of a pixel, in steps of 1/255.
        l2: the largest norm of an image's change per 3·32·32 values, in [0, 1] pixel units: an image of d
            values has √(d / 3072) times as much.
    """

    epsilon: StrictInt = Field(EPSILON, ge=1, le=127)
    l2: StrictFloat = Field(DEFAULT_EPSILON["l2"], gt=0, le=55)


class Suite(StrictModel):
    """What a suite file says.

    Attributes:
        name: the suite's name.
        description: one or two sentences for people.
        star: vary one victim axis at a time around the first values, instead of running all combinations.
        matrix: axis → values: parts as ``name`` or ``name(key=value)``, seeds as integers, or "all".
        include: more cells; a missing axis takes the matrix's first value; a list means each of its values.
        exclude: cells that match every value of an entry are left out.
        params: axis → name → parameter → value, overriding a part's defaults.
        recipe: how victims are trained; what is missing is as in the dataset's own recipe.
        surrogate: the network that attacks use in place of the victim.
        budget: the perturbation budget.
        poison_seed: one seed for all poisons; without it, a poison has the seed of its cell.
        data_seed: "seed": the images of every dataset are drawn with the seed of the cell; without it, with
            the dataset's own parameter ``data_seed``.
        skip_missing_data: leave out datasets that are not under the data root, instead of stopping.
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
    budget: BudgetSettings = BudgetSettings(epsilon=EPSILON, l2=DEFAULT_EPSILON["l2"])
    poison_seed: int | None = None
    data_seed: Literal["seed"] | None = None
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
        BenchError: for an unknown suite, a file that is not a suite, or an override that does not fit.
    """
    document = _read_document(name_or_file)
    document.setdefault("name", Path(name_or_file).stem)
    for override in overrides:
        _apply_override(document, override)
    if problem := find_unusable_value(document):
        raise BenchError(f"the suite {name_or_file} is refused: {problem}")
    try:
        suite = Suite.model_validate(document)
    except ValidationError as error:
        raise BenchError(f"suite {format_input(document['name'])}: {_explain_error(error)}") from error
    _check_names(suite)
    return suite


def _read_document(name_or_file: str) -> dict[str, Any]:
    is_file = name_or_file.endswith(".toml") or "/" in name_or_file
    if not is_file and name_or_file not in suite_names():
        raise unknown_name_error("suite", name_or_file, suite_names())
    try:
        text = (
            require_file(Path(name_or_file)).read_text(encoding="utf-8")
            if is_file
            else suite_text(name_or_file)
        )
        return tomllib.loads(text)
    except OSError as error:
        raise BenchError(f"cannot read the suite {name_or_file}: {error.strerror or error}") from error
    except ValueError as error:
        raise BenchError(f"the suite {name_or_file} is not valid TOML: {error}") from error
    except RecursionError:
        raise BenchError(f"the suite {name_or_file} is refused: it is nested too deeply") from None


def _apply_override(document: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise BenchError(
            f"cannot read --set {format_input(override)}; write KEY=VALUE, such as recipe.epochs=5"
        )
    *tables, last = path.strip().split(".")
    table: Any = document
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise BenchError(f"--set {format_input(override)}: {format_input(name)} is a value, not a table")
    table[last] = parse_value(value)


def _check_names(suite: Suite) -> None:
    """Refuse unknown axes, unknown parts under [params], and a name that no folder can have."""
    for table, axes, known in (
        ("[matrix]", suite.matrix.keys(), AXES),
        ("[params]", suite.params.keys(), catalog_axes()),
        ("[[include]]", itertools.chain(*suite.include), AXES),
        ("[[exclude]]", itertools.chain(*suite.exclude), AXES),
    ):
        for axis in axes:
            if axis not in known:
                raise unknown_name_error(f"axis in {table}", axis, known)
    for axis, parts in suite.params.items():
        for name in parts:
            try:
                locate_part(axis, name)
            except BenchError as error:
                raise BenchError(f"in [params.{axis}]: {error}") from error
    if Path(suite.name).name != suite.name or not suite.name.strip(".") or not suite.name.isprintable():
        raise BenchError(
            f"suite {format_input(suite.name)}: the run's folder gets this name, which no folder can have"
        )


def _explain_error(error: ValidationError) -> str:
    """Return one sentence about the first thing that does not fit."""
    first = error.errors()[0]
    key = _key_path(first["loc"])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = find_similar_name(key, _list_keys())
        return f"unknown key {format_input(key)}" + (f"; did you mean {near!r}?" if near else "")
    if first["type"] == "missing":
        return f"{key!r} is missing"
    # For a value that may have one of several types, there is one error per type.
    expected = dict.fromkeys(
        each["msg"].removeprefix("Input should be ")
        for each in error.errors()
        if _key_path(each["loc"]) == key
    )
    return f"{key} = {format_input(first['input'])} is refused: it should be {' or '.join(expected)}"


def _list_keys() -> list[str]:
    recipe = [f"recipe.{name}" for name in Recipe.__dataclass_fields__]
    surrogate = [f"surrogate.{name}" for name in (*SurrogateSettings.model_fields, *recipe)]
    budget = [f"budget.{name}" for name in BudgetSettings.model_fields]
    return [*Suite.model_fields, *recipe, *surrogate, *budget]


def _key_path(location: Sequence[str | int]) -> str:
    """Return a key such as ``recipe.epochs``, without the names of types that pydantic adds."""
    added = r"(list|literal|dict)\[.*\]|str|int"
    pieces = (str(piece)[:MAX_SHOWN] for piece in location)
    return ".".join(piece for piece in pieces if not re.fullmatch(added, piece))
