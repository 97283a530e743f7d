"""What README and docs say is so."""

import re
import tomllib
from pathlib import Path

import pytest

from bench.engine.planning.suite_file import Suite, override_recipe
from bench.values import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_set_up_is_two_lines() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Set up\n")[2]
    first = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert first is not None
    lines = first.group(1).strip().splitlines()
    assert len(lines) == 2
    assert all("pip install -c constraints.txt" in line for line in lines)
    assert lines[0].endswith("bench run --suite quick")
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


def test_suite_example_is_a_suite() -> None:
    (text,) = blocks(ROOT / "docs" / "suites.md", "toml")
    suite = Suite.model_validate(tomllib.loads(text))
    assert override_recipe(Recipe(), suite.recipe) == Recipe()  # the page says that these are the defaults


def test_every_bundled_suite_is_described() -> None:
    from bench.suites import suite_names

    text = (ROOT / "docs" / "suites.md").read_text()
    for name in suite_names():
        assert f"| `{name}` |" in text


def test_no_number_of_parts_is_kept_by_hand() -> None:
    """`bench list` counts them; a new part needs no edit of a page."""
    counted = (
        r"\b(\d+|nine|ten|twelve|nineteen|twenty)( loss)? (attacks|weightings|defenses|backbones|datasets)\b"
    )
    for page in ("README.md", "CHANGELOG.md"):
        assert re.findall(counted, (ROOT / page).read_text()) == [], page
