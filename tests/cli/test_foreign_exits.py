"""Code of a part that ends the program is an error: exit code 0 means that everything was done."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.api import CraftContext, Norm
from bench.values import Split
from tests.added_parts import parts_in_catalog
from tests.cli.test_cli import INLINE, bench
from tests.engine import tiny

WAYS: dict[str, Callable[[], Any]] = {
    "exit": lambda: sys.exit(0),
    "os-exit": lambda: os._exit(0),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "base": lambda: (_ for _ in ()).throw(BaseException("the end")),
}


@dataclass(frozen=True)
class Ends:
    """An attack that ends the program when it is crafted."""

    way: str = "exit"

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> object:
        return WAYS[self.way]()


@dataclass(frozen=True)
class EndsOnLoad:
    """A dataset that ends the program when it is loaded."""

    version: ClassVar[int] = 1
    recipe: ClassVar[dict[str, float]] = {}
    task_kinds: ClassVar[frozenset[str]] = frozenset()

    def missing(self, root: Path | None) -> str | None:
        return None

    def load(self, root: Path | None, cache: Path, progress: object = None) -> object:
        sys.exit(0)


@pytest.fixture(autouse=True)
def _parts() -> Iterator[None]:
    with parts_in_catalog(("attack", "ends", Ends), ("dataset", "ends-on-load", EndsOnLoad)):
        yield


@pytest.mark.parametrize("way", WAYS)
def test_an_attack_that_ends_the_program_fails_alone(tmp_path: Path, way: str) -> None:
    suite, out = tmp_path / "tiny.toml", tmp_path / "out"
    suite.write_text(tiny.TOML.replace('["clean", "random"]', f'["ends(way={way})", "random"]'))
    done = bench("run", "--suite", suite, "--out", out, *INLINE)
    assert done.code == 1, done.err
    statuses = {str(record.cell["attack"]): record.status for record in tiny.records(out).values()}
    assert statuses == {"clean": "done", f"ends(way={way})": "failed", "random": "done"}
    assert "1 cells failed; the same command tries them again" in done.err
    assert "Traceback" not in done.err


def test_a_dataset_that_ends_the_program_is_an_error(tmp_path: Path) -> None:
    done = bench("data", "check", "ends-on-load")
    assert done.code == 2, done.out
    assert done.err == "error: cannot load the dataset ends-on-load: SystemExit: 0\n"


def test_an_attack_that_ends_the_program_does_not_conform() -> None:
    done = bench("conform", "attack", "ends")
    assert done.code == 1
    assert "SystemExit: 0 (test_foreign_exits.py, line " in done.out


@pytest.mark.parametrize("arguments", [("list", "--help"), ("list",)])
def test_commands_end_the_program_themselves(arguments: tuple[str, ...]) -> None:
    assert bench(*arguments).code == 0


def test_a_reader_that_stops_early_is_no_error() -> None:
    """As with ``bench run --help | head``: rich turns the broken pipe into an exit of its own."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "run", "--help"],
            check=False,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 141
    assert not done.stderr
