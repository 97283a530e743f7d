"""Every command in a document exists, and so does what it names: suites, parts, settings, files."""

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import noxfile
from bench.catalog.build import build_part
from bench.catalog.choice import Choice
from bench.catalog.parts import COMPOSED, catalog_axes, catalog_entries
from bench.cli import app
from bench.cli.conform import find_axis
from bench.engine.planning.suite_file import read_suite
from bench.errors import BenchError
from bench.record import AXES
from bench.suites import suite_names
from leaderboard.figures import KINDS
from tests.docs.test_docs import PAGES, ROOT, blocks

PROGRAMS = ("bench", "nox", "pytest", "python")

PLACEHOLDER = re.compile(r"[A-Z]+|[A-Z]+=.*")
"""A word such as DATA or AXIS, which the reader replaces."""


@dataclass(frozen=True)
class Command:
    """A command on a page; one in the running text may leave out what is required."""

    page: Path
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page.name}: {shlex.join(self.words)}"


def find_commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page that this project has a say in."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\||;", line):
                if words := program_and_arguments(shlex.split(part, comments=True)):
                    yield Command(page, words, whole=True)
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        if code.partition(" ")[0] in PROGRAMS and (words := program_and_arguments(shlex.split(code))):
            yield Command(page, words, whole=False)


def program_and_arguments(words: list[str]) -> tuple[str, ...]:
    """Return the words of a command from the program on, without its folder; nothing if it is not ours."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words or Path(words[0]).name not in PROGRAMS:
        return ()
    return (Path(words[0]).name, *words[1:])


COMMANDS = [command for page in PAGES for command in find_commands(page)]


def test_documents_have_commands_of_every_program() -> None:
    assert {command.words[0] for command in COMMANDS} == set(PROGRAMS)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command(command: Command) -> None:
    program, *arguments = command.words
    {"bench": check_bench, "nox": check_nox, "pytest": check_pytest, "python": check_python}[program](
        arguments, command
    )


@pytest.mark.parametrize(
    "text",
    [
        "bench rum",
        "bench --versions",
        "bench report --color",
        "bench run --suite fastest",
        "bench run --suite missing.toml",
        "bench run --suite smoke --set recipe.epoch=3",
        "bench run --suite smoke --only atack=em",
        "bench run --suite smoke --only attack=emm",
        "bench run --suite smoke --only dataset=utkface",
        "bench plan --suite fastest",
        "bench compare em mtl-ue",
        "bench compare em rem --axis weighting",
        "bench plot scatter -o figure.pdf",
        "bench plot --only attack=emm -o figure.pdf",
        "bench explain mtl-ue-em jpg",
        "bench list attacks",
        "bench show attack mtl-ue",
        "bench show attack",
        "bench data check utkfaces",
        "bench data check 'celeba(pixels=36)'",
        "bench conform 'em(epochs=2)'",
        "bench conform attack em-samplewise",
        "bench conform defense em",
        "bench check --against tests/golden/weekly.json",
        "nox -s test",
        "nox -s chaos -- -k no_such_test",
        "pytest tests/engine/test_missing.py",
        "pytest tests/cli/test_cli.py -k no_such_test",
        "python -m tests.benchmarks.missing",
    ],
)
def test_a_wrong_command_is_found(text: str) -> None:
    program, *arguments = shlex.split(text)
    command = Command(ROOT / "README.md", (program, *arguments), whole=True)
    with pytest.raises((AssertionError, BenchError)):
        test_command(command)


# -- bench ------------------------------------------------------------------------------------------------

NOT_NAMES = {
    *("out", "data_root", "cache", "executor", "jobs", "address", "gpus", "slurm", "threads", "device"),
    *("precision", "compile_", "doublings", "rounds", "plot"),
    *("deterministic", "rerun", "time_limit", "tracking_uri", "no_track", "list_cells", "format_", "output"),
    *("update", "json_", "rows", "track", "verbose", "no_images", "no_calibrate", "width"),
}
"""Parameters of commands whose values name nothing of the project; typer checks the choices among them."""


def check_bench(arguments: list[str], command: Command) -> None:
    group: Any = get_command(app)
    while arguments and hasattr(group, "commands") and not arguments[0].startswith("-"):
        assert arguments[0] in group.commands, f"there is no command {arguments[0]}"
        group, arguments = group.commands[arguments[0]], arguments[1:]
    known = {"-h", "--help"} | {name for param in group.params for name in param.opts}
    for word in arguments:
        assert not word.startswith("-") or word.partition("=")[0] in known, f"there is no option {word}"
    if hasattr(group, "commands"):
        assert command.words == ("bench",) or not command.whole or arguments, "the command is missing"
        return
    values = group.make_context("bench", arguments, resilient_parsing=not command.whole).params
    for name, value in values.items():
        if value and name not in NOT_NAMES:
            check_value(name, value, values, command)
    if command.whole and "name" in values and values.get("axis") in catalog_axes():
        assert values["name"], "the name of the part is missing"


def check_value(name: str, value: Any, values: dict[str, Any], command: Command) -> None:
    """Check what a parameter of a command names."""
    axis = values.get("axis") or ("attack" if name in ("a", "b", "attack") else "dataset")
    match name:
        case "suite":
            check_suite(value, values, command)
        case "only" if "suite" not in values:
            for restriction in value:
                axis, _, chosen = restriction.partition("=")
                for label in chosen.split(","):
                    check_part(axis, label, command)
        case "only" | "set_":
            assert values["suite"], "it is checked with the suite"
        case "kind":
            assert value in KINDS or PLACEHOLDER.fullmatch(value), value
        case "axis" if command.words[1] == "conform" and not values["name"]:
            check_part(find_axis(value), value, command)
        case "axis":
            assert value in (*AXES, "suite", "suite-schema") or PLACEHOLDER.fullmatch(value), value
        case "a" | "b" | "attack" | "name":
            check_part(axis, value, command)
        case "cell":
            for word in value:
                assert re.fullmatch(r"seed \d+|[0-9a-f]{4,}", word) or is_part(word), word
        case "against":
            assert (ROOT / value).exists(), value
        case _:
            raise AssertionError(f"say in this test what the parameter {name} names")


def check_suite(name: str, values: dict[str, Any], command: Command) -> None:
    """Check a suite that comes with the package, or one that the page shows, with its overrides."""
    if PLACEHOLDER.fullmatch(name):
        return
    settings, only = values.get("set_") or (), values.get("only") or ()
    if name in suite_names():
        matrix = read_suite(name, settings).matrix
    else:
        shown = [text for text in map(tomllib.loads, blocks(command.page, "toml")) if "matrix" in text]
        assert f"`{name}`" in command.page.read_text(), f"there is no suite {name}"
        (matrix,) = (text["matrix"] for text in shown if text["name"] == Path(name).stem)
        assert not settings
    for restriction in only:
        axis, equals, chosen = restriction.partition("=")
        assert equals
        assert axis in AXES, axis
        listed = catalog_entries(axis) if matrix[axis] == "all" else matrix[axis]
        known = {text for value in listed for text in (str(value), Choice.parse(str(value)).name)}
        for value in re.split(r",(?![^(]*\))", chosen):
            assert value in known, f"suite {name} has no {axis} {value}"


def check_part(axis: str, text: str, command: Command) -> None:
    """Check the name and the parameters of a part; of one that the page itself adds, the name."""
    if PLACEHOLDER.fullmatch(text) or Choice.parse(text).name in parts_of_page(command.page).get(axis, ()):
        return
    build_part(axis, text)


def parts_of_page(page: Path) -> dict[str, set[str]]:
    """Return axis → names of the parts that the packages on a page add."""
    parts: dict[str, set[str]] = {}
    for block in blocks(page, "toml"):
        for group, named in tomllib.loads(block).get("project", {}).get("entry-points", {}).items():
            parts.setdefault(group.removeprefix("mtlue_bench."), set()).update(named)
    return parts


def is_part(word: str) -> bool:
    return any(
        set(word.split("+") if axis in COMPOSED else [word]) <= set(catalog_entries(axis))
        for axis in catalog_axes()
    )


# -- nox, pytest, python ----------------------------------------------------------------------------------


def check_nox(arguments: list[str], command: Command) -> None:
    own, _, passed_on = " ".join(arguments).partition(" -- ")
    for session in re.findall(r"-s (\S+)", own):
        name = re.sub(r"-[\d.]+$", "", session)
        assert inspect.isfunction(getattr(getattr(noxfile, name, None), "func", None)), session
    check_pytest(shlex.split(passed_on), command)


def check_pytest(arguments: list[str], command: Command) -> None:
    paths = [word for word in arguments if word.startswith("tests/")] or ["tests"]
    names = {name for path in paths for name in names_of_tests(path)}
    if "-k" in arguments:
        for word in re.findall(r"\w+", arguments[arguments.index("-k") + 1]):
            assert word in ("and", "or", "not") or any(word in name for name in names), word


@cache
def names_of_tests(path: str) -> tuple[str, ...]:
    """Return the names of tests and modules at a path, of one test if the path names it."""
    file, _, test = path.partition("::")
    assert (ROOT / file).exists(), file
    modules = (ROOT / file).rglob("*.py") if (ROOT / file).is_dir() else [ROOT / file]
    found = [
        name
        for module in modules
        for name in (
            str(module.relative_to(ROOT)),
            *(node.name for node in ast.walk(ast.parse(module.read_text())) if hasattr(node, "name")),
        )
        if isinstance(name, str)
    ]
    assert not test or test in found, path
    return tuple(found)


def check_python(arguments: list[str], command: Command) -> None:
    if arguments[:1] == ["-m"]:
        path = ROOT / arguments[1].replace(".", "/")
        assert arguments[1] in ("venv", "pip") or path.with_suffix(".py").is_file() or path.is_dir(), path
    else:
        assert all((ROOT / word).exists() for word in arguments if word.endswith(".py")), arguments
