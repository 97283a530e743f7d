"""The command line: what each command prints, writes and exits with."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from xml.etree import ElementTree

import pytest
from typer.main import get_command

from bench import cli
from bench.api import CraftContext, Norm
from bench.catalog.parts import catalog_axes, catalog_entries
from bench.cli import run_outputs
from bench.suites import suite_names, suite_text
from bench.values import Split
from tests.added_parts import parts_in_catalog
from tests.engine import tiny

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = '["random", "em"]'
INLINE = ("--executor", "inline", "--device", "cpu", "--no-track")


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A standard output that looks like a terminal."""

    def isatty(self) -> bool:
        return True


def bench(*arguments: str | Path, terminal: bool = False) -> Done:
    """Run the command line in this process, as its entry point does."""
    out, err = Terminal() if terminal else io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        patch.setenv("TERM", "dumb")
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    return Done(code if isinstance(code, int) else 0 if code is None else 1, out.getvalue(), err.getvalue())


def ok(*arguments: str | Path) -> str:
    """Run a command that has to succeed, and return what it printed on standard output."""
    done = bench(*arguments)
    assert done.code == 0, done.err
    return done.out


def python(code: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    path.write_text(tiny.TOML.replace('["clean", "random"]', ATTACKS))
    return path


@pytest.fixture(scope="module")
def ran(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A run's folder, for reading only, and how the command ended."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, bench("run", "--suite", suite, "--out", out, *INLINE)


@pytest.fixture
def out(ran: tuple[Path, Done]) -> Path:
    return ran[0]


@pytest.fixture
def copy(out: Path, tmp_path: Path) -> Path:
    return shutil.copytree(out, tmp_path / "copy")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test in an empty folder, so that what is written by default is seen."""
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture(autouse=True)
def _board_only(ran: tuple[Path, Done], monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which take a second, in any run after the first one."""
    monkeypatch.setattr(run_outputs, "OUTPUTS", {run_outputs.BOARD: run_outputs.OUTPUTS[run_outputs.BOARD]})


@dataclass(frozen=True)
class Breaks:
    """An attack that cannot be crafted."""

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> object:
        raise RuntimeError("it broke")


@pytest.fixture
def breaks() -> Iterator[str]:
    with parts_in_catalog(("attack", "breaks", Breaks)):
        yield "breaks"


# -- run --------------------------------------------------------------------------------------------------


def test_run_prints_its_leaderboard(ran: tuple[Path, Done]) -> None:
    out, done = ran
    assert done.code == 0
    assert done.out.rstrip("\n") == (out / "leaderboard.md").read_text().rstrip("\n")
    assert done.out.startswith("# Leaderboard\n")
    assert re.search(r"^\| (em|random) +\|", done.out, re.MULTILINE)
    lines = done.err.splitlines()
    assert lines[0] == f"suite tiny, results in {out}"
    assert any(line.startswith("cells: 3 done, 0 cached, 0 failed in ") for line in lines)
    assert lines[-1] == f"records and leaderboard.md are in {out}"
    assert len(tiny.records(out)) == 3


def test_run_writes_nothing_but_its_folder(ran: tuple[Path, Done]) -> None:
    out, _ = ran
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    expected = {"records", "poisons", "surrogates", "locks", "logs", "status", "run.json"}
    expected |= {"leaderboard.md", "leaderboard.json", "leaderboard.seal", "figures", "page", ".mtlue-run"}
    assert {path.name for path in out.iterdir()} == expected
    assert (out / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert b"<title>Leaderboard: tiny</title>" in (out / "page" / "index.html").read_bytes()
    assert list(Path.cwd().iterdir()) == []


def test_a_figure_that_cannot_be_drawn_is_told_and_costs_nothing_else(
    suite: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(results: run_outputs.RunResults) -> run_outputs.Files:
        raise RuntimeError("no\x1bfont")

    monkeypatch.setattr(run_outputs, "OUTPUTS", {**run_outputs.OUTPUTS, "figures": fail})
    command = ("run", "--suite", suite, "--out", copy, *INLINE)
    for done in (bench(*command), bench(*command)):  # the next run tries again
        assert (done.code, done.out) == (0, (copy / "leaderboard.md").read_text())
        told = "note: figures cannot be drawn (RuntimeError: no font); the results are complete"
        assert done.err.splitlines()[-2] == told
    monkeypatch.setattr(run_outputs, "OUTPUTS", {**run_outputs.OUTPUTS, "figures": lambda *_: {"new": b"x"}})
    assert bench(*command).code == 0
    assert (copy / "new").read_bytes() == b"x"


def test_run_again_has_nothing_to_do(suite: Path, copy: Path) -> None:
    board = (copy / "leaderboard.md").read_bytes()
    done = bench("run", "--suite", suite, "--out", copy, *INLINE)
    assert done.code == 0
    assert "cells: 0 done, 3 cached, 0 failed" in done.err
    assert (copy / "leaderboard.md").read_bytes() == board


def test_run_everything_again(suite: Path, copy: Path) -> None:
    done = bench("run", "--suite", suite, "--out", copy, "--rerun", "all", *INLINE)
    assert "cells: 3 done, 0 cached, 0 failed" in done.err


def test_run_some_of_it_with_other_settings(suite: Path, tmp_path: Path) -> None:
    settings = ("--set", "recipe.epochs=1", "--set", "matrix.seed=[5]", "--only", "attack=random")
    done = bench("run", "--suite", suite, "--out", tmp_path / "out", *settings, *INLINE)
    assert done.code == 0
    records = tiny.records(tmp_path / "out").values()
    assert sorted(str(record.cell["attack"]) for record in records) == ["clean", "random"]
    assert {record.cell["seed"] for record in records} == {5}
    assert {len(record.curve) for record in records} == {1}


def test_run_in_the_default_folder_is_what_report_finds(suite: Path) -> None:
    done = bench("run", "--suite", suite, "--only", "attack=random", *INLINE)
    assert done.code == 0
    assert [str(path) for path in Path().glob("*/*")] == ["runs/tiny"]
    assert ok("report") == done.out


def test_the_latest_run_is_found(out: Path) -> None:
    for name, time in (("older", 1_000_000_000), ("latest", 3_000_000_000), ("old", 2_000_000_000)):
        folder = shutil.copytree(out, Path("runs") / name)
        os.utime(folder / "records", (time, time))
    for path in (Path("runs") / "latest" / "records").glob("*.json"):
        if '"attack": "random"' in path.read_text():
            path.unlink()
    os.utime(Path("runs") / "latest" / "records", (3_000_000_000, 3_000_000_000))
    assert "random" not in ok("report", "--format", "csv")


def test_failed_cells_are_told_and_exit_with_1(suite: Path, tmp_path: Path, breaks: str) -> None:
    out = tmp_path / "out"
    command = (
        "run",
        "--suite",
        suite,
        "--out",
        out,
        "--set",
        f"matrix.attack=['random', '{breaks}']",
        *INLINE,
    )
    done = bench(*command)
    assert done.code == 1
    assert "cells: 2 done, 0 cached, 1 failed" in done.err
    assert done.err.splitlines()[-1].startswith("1 cells failed")
    assert "it broke" in done.out  # the board says which and why
    assert "Traceback" not in done.out + done.err
    assert bench(*command).code == 1  # tried again, in vain
    again = bench(*command, "--rerun", "none")
    assert "cells: 0 done, 3 cached, 0 failed" in again.err


def test_a_run_of_nothing_but_failures_has_a_board(suite: Path, tmp_path: Path, breaks: str) -> None:
    only = ("--set", f"matrix.attack=['{breaks}']")
    with parts_in_catalog(("attack", "clean", Breaks)):
        done = bench("run", "--suite", suite, "--out", tmp_path / "out", *only, *INLINE)
    assert done.code == 1
    assert "cells: 0 done, 0 cached, 2 failed" in done.err
    assert done.out.count("it broke") == 2


def test_a_run_of_datasets_that_are_all_missing_is_an_error(suite: Path) -> None:
    settings = ("--set", "matrix.dataset=['utkface']", "--set", "skip_missing_data=true")
    done = bench("run", "--suite", suite, *settings, *INLINE)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: dataset 'utkface' needs files on disk; pass --data-root")
    assert list(Path.cwd().iterdir()) == []


def test_what_is_left_out_is_on_the_board(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ("--set", 'matrix.dataset=["digits", "utkface"]', "--set", "skip_missing_data=true")
    done = bench("run", "--suite", suite, "--out", out, *settings, "--only", "attack=random", *INLINE)
    assert done.code == 0
    for text in (done.err, done.out, ok("report", "--out", out)):
        assert "dataset 'utkface' needs files on disk; pass --data-root" in text.replace("\\", "")


def test_what_is_damaged_is_made_again(suite: Path, copy: Path) -> None:
    path = next((copy / "records").iterdir())
    path.write_text("{")
    report = bench("report", "--out", copy)
    assert report.code == 0
    (line,) = report.err.splitlines()
    assert line.startswith(f"note: {path} is damaged")
    done = bench("run", "--suite", suite, "--out", copy, *INLINE)
    assert done.code == 0
    assert f"note: {path} is damaged" in done.err
    assert "cells: 1 done, 2 cached, 0 failed" in done.err
    assert bench("report", "--out", copy).err == ""


# -- plan -------------------------------------------------------------------------------------------------


def rows(markdown: str) -> list[list[str]]:
    """Return the cells of a table's lines, without the rule below its head."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_plan_of_what_is_all_to_do(suite: Path, tmp_path: Path) -> None:
    text = ok(
        *("plan", "--suite", suite, "--out", tmp_path / "out", "--set", "matrix.attack=['tap']"),
        *("--jobs", "3", "--no-calibrate"),
    )
    head, *kinds = rows(text)
    assert head[-2:] == ["time with 3 workers", "disk space"]
    assert [kind[:4] for kind in kinds] == [
        ["surrogates", "1", "0", "1"],
        ["poisons", "2", "0", "2"],
        ["cells", "2", "0", "2"],
    ]
    assert all("unknown" in kind[4] for kind in kinds)
    assert list(tmp_path.iterdir()) == [Path.cwd()]  # looking makes nothing
    assert list(Path.cwd().iterdir()) == []


def test_plan_of_what_is_half_done(suite: Path, out: Path) -> None:
    before = sorted(out.rglob("*"))
    more = ("--set", "matrix.seed=[0, 1]", "--jobs", "1", "--no-calibrate")
    _, _, poisons, cells = rows(ok("plan", "--suite", suite, "--out", out, *more))
    assert poisons[:4] == ["poisons", "6", "3", "3"]
    assert cells[:4] == ["cells", "6", "3", "3"]
    assert cells[4].startswith("~")
    assert sorted(out.rglob("*")) == before


def test_plan_lists_cells(suite: Path, out: Path) -> None:
    text = ok(
        "plan", "--suite", suite, "--out", out, "--cells", "--set", "matrix.seed=[0, 1]", "--no-calibrate"
    )
    listed = [row for row in rows(text) if len(row) == 3][1:]
    plan = tiny.plan(matrix={"attack": ["random", "em"], "seed": [0, 1]})
    assert [(key, label) for key, _, label in listed] == [(cell.key, cell.label) for cell in plan.cells]
    assert all((state == "done") == label.endswith("seed 0") for _, state, label in listed)


def test_plan_says_what_is_left_out_and_damaged(suite: Path, copy: Path) -> None:
    path = next((copy / "records").iterdir())
    path.write_text("{")
    settings = ("--set", 'matrix.dataset=["digits", "utkface"]', "--set", "skip_missing_data=true")
    settings += ("--no-calibrate",)
    notes = [
        line
        for line in ok("plan", "--suite", suite, "--out", copy, *settings).splitlines()
        if "note:" in line
    ]
    assert len(notes) == 2
    assert notes[0].startswith("note: dataset 'utkface'")
    assert notes[1].startswith(f"note: {path} is damaged")
    assert path.read_text() == "{"


# -- report, compare, check -------------------------------------------------------------------------------


def test_report_is_the_runs_board(ran: tuple[Path, Done]) -> None:
    out, done = ran
    assert ok("report", "--out", out) == ok("report", "--out", out, "--format", "markdown") == done.out


def test_report_has_one_row_per_cell_and_task_if_wanted(out: Path) -> None:
    by_csv = list(csv.DictReader(io.StringIO(ok("report", "--out", out, "--format", "csv", "--rows"))))
    by_json = json.loads(ok("report", "--out", out, "--format", "json", "--rows"))
    records = {record.key: record for record in tiny.records(out).values()}
    expected = {(key, task) for key, record in records.items() for task in record.tasks}
    for found in (by_csv, by_json):
        assert {(row["key"], row["task"]) for row in found} == expected
        assert len(found) == len(expected) == 12
        for row in found:
            scores = records[row["key"]].scores[row["task"]]
            assert float(row["raw"]) == pytest.approx(scores["accuracy"], abs=1e-12)
            assert float(row["score"]) == pytest.approx(scores["balanced_accuracy"], abs=1e-12)


def test_report_is_the_ranking_in_csv_json_and_latex(out: Path) -> None:
    by_csv = list(csv.DictReader(io.StringIO(ok("report", "--out", out, "--format", "csv"))))
    document = json.loads(ok("report", "--out", out, "--json"))
    latex = ok("report", "--out", out, "--format", "latex")
    assert document == json.loads((out / "leaderboard.json").read_text())
    assert (document["suites"], document["done"], document["seeds"]) == (["tiny"], 3, [0])
    attacks = [row["attack"] for row in document["ranking"]]
    assert sorted(attacks) == ["clean", "em", "random"]
    assert [row["attack"] for row in by_csv] == attacks
    assert latex.count(r"\\") == 4
    for row, printed in zip(document["ranking"], by_csv, strict=True):
        assert row["craft_s"] == pytest.approx(float(printed["craft_s"]))
        assert f"{row['attack']} & " in latex


@pytest.mark.parametrize("command", ["run", "report"])
def test_on_a_terminal_the_ranking_is_a_table_and_comes_last(
    suite: Path, out: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    options = ("--suite", suite, *INLINE) if command == "run" else ()
    printed = bench(command, "--out", out, *options, terminal=True).out
    lines = printed.splitlines()
    paths = [out / "leaderboard.md", out / "page" / "index.html"]
    assert lines[-2:] == [f"full board: {paths[0]}", f"page:       {paths[1]}"]
    assert lines[0] == "3 cells of suite tiny, 1 seed, protocol 2"
    assert max(map(len, lines[:-2])) <= 70
    assert "|" not in printed
    assert ok("report", "--out", out, "--format", "markdown").startswith("# Leaderboard")


def test_a_run_tells_programs_what_it_did(suite: Path, out: Path) -> None:
    document = json.loads(ok("run", "--suite", suite, "--out", out, "--json", *INLINE))
    assert document["folder"] == str(out)
    assert document["cells"] == {"done": 0, "cached": 3, "failed": 0}
    assert document["board"] == json.loads(ok("report", "--out", out, "--json"))


def test_compare_tells_programs_and_terminals(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(ok("compare", "random", "em", "--out", out, "--json"))
    assert (document["a"], document["b"], document["cells"]) == ("random", "em", 1)
    assert [row["task"] for row in document["tasks"]] == ["left", "right", "larger", "sum-odd"]
    monkeypatch.setenv("COLUMNS", "60")
    lines = bench("compare", "random", "em", "--out", out, terminal=True).out.splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).endswith(document["verdict"])


@pytest.mark.parametrize("format_", ["table", "markdown", "csv", "json", "latex"])
def test_report_to_a_file(out: Path, tmp_path: Path, format_: str) -> None:
    path = tmp_path / "reports" / "file"
    assert ok("report", "--out", out, "--format", format_, "-o", path) == ""
    assert path.read_text().rstrip("\n") == ok("report", "--out", out, "--format", format_).rstrip("\n")
    assert [child.name for child in path.parent.iterdir()] == ["file"]


def test_compare(out: Path) -> None:
    text = ok("compare", "random", "em", "--out", out)
    assert text.startswith("# random against em\n")
    assert ok("compare", "em", "random", "--axis", "attack", "--out", out).startswith("# em against random\n")


def test_check_of_itself_is_no_regression(out: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference.json"
    assert (
        ok("check", "--against", reference, "--out", out, "--update") == f"wrote {reference} from 3 records\n"
    )
    assert ok("check", "--against", reference, "--out", out)


def test_check_exits_with_1_on_a_regression(copy: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference.json"
    ok("check", "--against", reference, "--out", copy, "--update")
    gone = next(path for path in (copy / "records").iterdir() if '"attack": "em"' in path.read_text())
    gone.unlink()
    junit = tmp_path / "deep" / "check.xml"
    done = bench("check", "--against", reference, "--out", copy, "--junit", junit)
    assert done.code == 1
    assert "missing" in done.out
    assert done.err == ""
    failures = ElementTree.parse(junit).getroot().iter("failure")
    assert [failure.text for failure in failures] == ["item: missing"] * 2, "the poison and the cell"


# -- list, show -------------------------------------------------------------------------------------------


def test_list_has_every_part_and_suite() -> None:
    text = ok("list")
    for axis in catalog_axes():
        for name in catalog_entries(axis):
            assert re.search(rf"^\| {re.escape(name)} +\|", text, re.MULTILINE), name
    for name in suite_names():
        assert re.search(rf"^\| {re.escape(name)} +\|", text, re.MULTILINE), name


def test_list_one_axis() -> None:
    text = ok("list", "attack")
    assert "mtl-ue-em" in text
    assert "Huang et al., ICLR 2021" in text
    assert "digits" not in text.split()
    assert "smoke" in ok("list", "suite")
    assert "| mtl-ue-em " not in ok("list", "suite")


@pytest.mark.parametrize(
    ("axis", "name"), [(axis, name) for axis in catalog_axes() for name in catalog_entries(axis)]
)
def test_show(axis: str, name: str) -> None:
    import dataclasses

    from bench.catalog.build import load_part_class

    text = ok("show", axis, name)
    part = load_part_class(axis, name)
    assert text.startswith(f"{axis} {name}  (")
    assert part.__doc__.partition("\n")[0] in text
    for field in dataclasses.fields(part):
        assert re.search(rf"^{field.name} +\S", text, re.MULTILINE)


def test_show_the_schema_of_suite_files() -> None:
    schema = json.loads(ok("show", "suite-schema"))
    assert "matrix" in schema["properties"]
    for name in suite_names():
        assert set(tomllib.loads(suite_text(name))) <= set(schema["properties"])


# -- the program ------------------------------------------------------------------------------------------


def test_version() -> None:
    assert ok("--version") == f"mtlue-bench {version('mtlue-bench')}\n"


def commands(group: Any, *above: str) -> Iterator[list[str]]:
    """Yield the words of every command, hidden ones too."""
    for name, command in group.commands.items():
        yield [*above, name]
        if hasattr(command, "commands"):
            yield from commands(command, *above, name)


@pytest.mark.parametrize("words", [[], *commands(get_command(cli.app))], ids=" ".join)
def test_every_command_has_a_short_help_option(words: list[str]) -> None:
    assert ok(*words, "-h") == ok(*words, "--help")


def test_why_is_explain(out: Path) -> None:
    cell = ("random", "--out", out)
    assert ok("why", *cell) == ok("explain", *cell)
    assert "why" not in ok("--help").split()


def test_the_package_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--version"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ok("--version")


# -- track ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_track_mirrors_each_record_once(copy: Path) -> None:
    assert ok("track", "--out", copy).endswith(": 3 runs added, 0 replaced, 0 kept\n")
    assert (copy / "mlflow.db").is_file()
    assert ok("track", "--out", copy).endswith(": 0 runs added, 0 replaced, 3 kept\n")
    assert list(Path.cwd().iterdir()) == []


# -- what is imported -------------------------------------------------------------------------------------

MODULES = """
import sys
from bench.cli import main
try:
    main()
finally:
    heavy = {"torch", "torchvision", "kornia", "pandas", "mlflow", "scipy", "scipy.stats", "sklearn", "numpy"}
    heavy &= set(sys.modules)
    print("imported:", *sorted(heavy), file=sys.stderr)
"""


def imported(*arguments: str | Path) -> set[str]:
    done = python(MODULES, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return set(done.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["run", "--help"], ["data", "-h"], ["list"], ["show", "attack", "mtl-ue-em"]],
)
def test_help_and_catalog_import_nothing_heavy(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


def test_the_board_of_a_finished_run_is_read_and_not_drawn_again(out: Path, copy: Path) -> None:
    assert imported("report", "--out", out) == set()
    assert "pandas" in imported("report", "--out", copy)  # its records are other files
    assert ok("report", "--out", out) == ok("report", "--out", copy)


def test_planning_imports_no_library_that_only_computes(tmp_path: Path) -> None:
    found = imported("plan", "--suite", "smoke", "--out", tmp_path / "new", "--no-calibrate")
    assert not found & {"torchvision", "kornia", "pandas", "mlflow", "sklearn"}


def test_reading_results_imports_no_torch(out: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference.json"
    commands: list[list[str | Path]] = [
        ["report"],
        ["report", "--format", "csv"],
        ["compare", "random", "em"],
        ["check", "--against", reference, "--update"],
        ["check", "--against", reference],
    ]
    for command in commands:
        assert not imported(*command, "--out", out) & {
            "torch",
            "torchvision",
            "mlflow",
            "sklearn",
            "scipy.stats",
        }


# -- errors -----------------------------------------------------------------------------------------------

RUN = ("run", "--suite", "SUITE", "--out", "new")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--suite", "smok"], ["suite", "'smok'", "did you mean 'smoke'?"]),
        (["run", "--suite", "nowhere.toml"], ["nowhere.toml", os.strerror(2)]),
        ([*RUN, "--set", "recipe.epoch=3"], ["recipe.epoch", "did you mean 'recipe.epochs'?"]),
        ([*RUN, "--set", "recipe.epochs=0"], ["recipe.epochs = 0", "greater than or equal to 1"]),
        ([*RUN, "--set", "params.attack.em.rounds=x"], ["attack 'em'", "rounds = 'x'"]),
        ([*RUN, "--set", "recipe"], ["--set 'recipe'", "KEY=VALUE"]),
        ([*RUN, "--only", "attack=emm"], ["'emm'", "did you mean 'em'?"]),
        ([*RUN, "--only", "atack=em"], ["'atack'", "did you mean 'attack'?"]),
        ([*RUN, "--data-root", "nowhere"], ["data root nowhere"]),
        ([*RUN, "--set", "matrix.dataset=['utkface']"], ["utkface", "--data-root"]),
        ([*RUN, "--set", "matrix.dataset=['utkface']", "--data-root", "."], ["utkface", "--data-root"]),
        (["run", "--suite", "SUITE", "--out", "FILE/new", *INLINE], ["cannot write", "FILE/new"]),
        (["run", "--suite", "SUITE", "--out", "FILE", *INLINE], ["cannot write", "FILE"]),
        (["plan", "--suite", "smok"], ["'smok'"]),
        (["report"], ["no run in", "bench run --suite quick"]),
        (["report", "--out", "nowhere"], ["nowhere", "not the folder of a run"]),
        (["report", "--out", "EMPTY"], ["EMPTY", "no record"]),
        (["report", "--out", "OUT", "--rows"], ["--rows", "--format csv"]),
        (["report", "--out", "OUT", "-o", "FILE/report.md"], ["cannot write", "FILE/report.md"]),
        (["compare", "random", "emm", "--out", "OUT"], ["'emm'", "did you mean 'em'?"]),
        (
            ["compare", "random", "em", "--axis", "atack", "--out", "OUT"],
            ["'atack'", "did you mean 'attack'?"],
        ),
        (["compare", "random", "em"], ["no run in"]),
        (["check", "--against", "nowhere.json", "--out", "OUT"], ["nowhere.json"]),
        (["check", "--against", "FILE", "--out", "OUT"], ["FILE"]),
        (["check", "--against", "FILE/new", "--out", "OUT", "--update"], ["cannot write", "FILE/new"]),
        (["list", "atack"], ["'atack'", "did you mean 'attack'?"]),
        (["show", "atack", "em"], ["'atack'", "did you mean 'attack'?"]),
        (["show", "attack"], ["name of a part", "bench list attack"]),
        (["show", "attack", "emm"], ["'emm'", "did you mean 'em'?"]),
        (["track"], ["no run in"]),
        (
            ["plan", "--suite", "SUITE", "--out", "EMPTY"],
            ["EMPTY", "files of something else than a run", "--out"],
        ),
        (
            ["run", "--suite", "SUITE", "--out", "EMPTY"],
            ["EMPTY", "files of something else than a run", "--out"],
        ),
        (["track", "--out", "OUT", "--tracking-uri", "nothing://here"], ["nothing"]),
    ],
)
def test_an_error_is_one_line_and_exits_with_2(
    suite: Path, out: Path, tmp_path: Path, arguments: Sequence[str], words: list[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty" / "records").mkdir(parents=True)
    names = {"SUITE": suite, "OUT": out, "FILE": tmp_path / "file", "EMPTY": tmp_path / "empty"}

    def fill(text: str) -> str:
        for name, path in names.items():
            text = re.sub(rf"\b{name}\b", str(path), text)
        return text

    before = {path: path.stat().st_mtime_ns for folder in (tmp_path, out) for path in folder.rglob("*")}
    done = bench(*map(fill, arguments))
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert fill(word) in line
    after = {path: path.stat().st_mtime_ns for folder in (tmp_path, out) for path in folder.rglob("*")}
    assert after == before


def test_a_gpu_that_is_not_there(suite: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = bench("run", "--suite", suite, "--device", "cuda")
    assert done.code == 2
    assert done.err.splitlines() == ["error: this torch finds no CUDA device; give --device cpu"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["rum"], "rum"),
        (["run"], "--suite"),
        (["run", "--suite", "smoke", "--jobs", "0"], "--jobs"),
        (["run", "--suite", "smoke", "--threads", "0"], "--threads"),
        (["run", "--suite", "smoke", "--rerun", "some"], "--rerun"),
        (["run", "--suite", "smoke", "--device", "tpu"], "--device"),
        (["report", "--format", "pdf"], "--format"),
        (["report", "--color"], "--color"),
        (["compare", "em"], "Missing argument"),
    ],
)
def test_a_command_that_is_misspelt_exits_with_2(arguments: list[str], word: str) -> None:
    done = bench(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert word in done.err
    assert "Traceback" not in done.err


def test_errors_of_the_installed_command() -> None:
    done = python("from bench.cli import main; main()", "show", "attack", "emm")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown attack 'emm'; did you mean 'em'?\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_cannot_be_printed_is_replaced(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding))
    monkeypatch.setattr(sys, "argv", ["bench", "show", "attack", "em"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sys.stdout.flush()
    assert ended.value.code in (0, None)
    text = file.getvalue().decode(encoding)
    assert ("δ" in text, "?" in text) == ((True, False) if encoding == "utf-8" else (False, True))


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import subprocess, sys; from bench.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "list"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
        assert listing.wait() != 0


def test_an_output_folder_whose_path_is_no_text_is_refused(suite: Path, tmp_path: Path) -> None:
    done = bench("run", "--suite", suite, "--out", tmp_path / "a\udcff", *INLINE)
    assert (done.code, done.out) == (2, "")
    assert "the path of the output folder" in done.err
    assert "a\\udcff" in done.err
    assert "is not UTF-8; give another --out" in done.err
