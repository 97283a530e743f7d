"""What README and docs say is so."""

import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.main import get_command

from bench.catalog import CATALOG
from bench.cli import app
from bench.engine.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Return (page, command) of every `bench` call in the shell blocks."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|", line.partition("#")[0]):
                    words = shlex.split(part)
                    if words and Path(words[0]).name == "bench":
                        found.append((page.name, shlex.join(words[1:])))
    return found


def test_set_up_is_two_lines() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Set up\n")[2]
    first = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert first is not None
    lines = first.group(1).strip().splitlines()
    assert len(lines) == 2
    assert all("pip install -c constraints.txt" in line for line in lines)
    assert lines[0].endswith("bench run --suite smoke")
    assert lines[1].endswith("pytest")


def test_ci_runs_the_second_line() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in text
    assert "lines == 2" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_parse(page: str, command: str) -> None:
    name, *arguments = shlex.split(command)
    known = get_command(app).commands  # type: ignore[attr-defined]
    assert name in known, f"{page}: bench {command}"
    known[name].make_context(name, list(arguments), resilient_parsing=False)


def test_suite_example_is_a_suite() -> None:
    (text,) = blocks(ROOT / "docs" / "suites.md", "toml")
    suite = Suite.model_validate(tomllib.loads(text))
    assert suite.recipe == Suite.model_validate({**tomllib.loads(text), "recipe": {}}).recipe


def test_every_bundled_suite_is_described() -> None:
    from bench.suites import suite_names

    text = (ROOT / "docs" / "suites.md").read_text()
    for name in suite_names():
        assert f"| `{name}` |" in text


def test_changelog_names_every_part() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    for axis, parts in CATALOG.items():
        for name in parts:
            assert f"`{name}`" in text, f"{axis} {name}"


def test_example_attack_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.api import Augmentation, CraftContext
    from bench.catalog import entries, make
    from bench.datasets.digits import Digits
    from bench.engine.poisoning import quantise

    code = blocks(ROOT / "docs" / "adding-a-part.md", "python")[0]
    module = ModuleType("stripes_example")
    monkeypatch.setitem(sys.modules, "stripes_example", module)
    exec(compile(code, "adding-a-part.md", "exec"), module.__dict__)
    monkeypatch.setitem(CATALOG["attack"], "stripes", "stripes_example:Stripes")
    entries.cache_clear()
    attack = make("attack", "stripes(period=8)")
    entries.cache_clear()
    data = Digits(train=40, test=10).load(None, ROOT)
    device = torch.device("cpu")
    context = CraftContext(
        data.tasks, Augmentation(), 8 / 255, torch.nn.Identity, (), device, lambda *_: None
    )
    change, statistics = quantise(attack.craft(data.train, context), data.train, 8, device, "stripes")
    assert statistics["linf"] == 8
    assert change.shape == data.train.images.shape
