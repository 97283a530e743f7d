"""A record names the commit of the code it was made with, if there is one."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.engine.stages import source_version
from bench.engine.stages.context import describe_environment
from bench.engine.stages.source_version import describe_source_version, read_source_version
from tests.engine import tiny


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "bench").mkdir(parents=True)
    (folder / "bench" / "a.py").write_text("a = 1\n")
    (folder / "README.md").write_text("Read me\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


@pytest.fixture(autouse=True)
def _not_cached() -> Iterator[None]:
    describe_source_version.cache_clear()
    yield
    describe_source_version.cache_clear()


def test_as_committed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert read_source_version(checkout) == {"source": {"commit": commit, "clean": True}}


@pytest.mark.parametrize(
    ("file", "clean"), [("bench/a.py", False), ("bench/new.py", False), ("README.md", True), ("new", True)]
)
def test_only_changes_of_the_packages_count(checkout: Path, file: str, clean: bool) -> None:
    (checkout / file).write_text("changed\n")
    assert read_source_version(checkout)["source"]["clean"] is clean


def test_a_staged_change_is_one(checkout: Path) -> None:
    (checkout / "bench" / "a.py").write_text("a = 2\n")
    git(checkout, "add", ".")
    assert read_source_version(checkout)["source"]["clean"] is False


def test_the_variables_of_git_name_no_other_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_source_version(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert read_source_version(checkout) == expected != {}


def test_a_linked_worktree_is_a_checkout(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "--detach", str(tmp_path / "linked"))
    assert read_source_version(tmp_path / "linked") == read_source_version(checkout) != {}


def test_a_folder_inside_a_checkout_is_none(checkout: Path) -> None:
    installed = checkout / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    assert read_source_version(installed) == {}


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert read_source_version(tmp_path) == {}


def test_a_damaged_repository(checkout: Path) -> None:
    (checkout / ".git" / "HEAD").unlink()
    assert read_source_version(checkout) == {}


def test_no_git(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_source_version(checkout) == {}


def test_a_git_that_hangs(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(source_version, "TIMEOUT_S", 0.2)
    assert read_source_version(checkout) == {}


def test_records_note_it_once_per_process(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(source_version, "CHECKOUT", checkout)
    monkeypatch.chdir(tmp_path)  # the user's folder does not matter
    first = describe_environment(tiny.run_context(tmp_path))
    assert first["source"]["commit"] == git(checkout, "rev-parse", "HEAD")
    json.dumps(first)
    (checkout / "bench" / "a.py").write_text("a = 2\n")
    assert describe_environment(tiny.run_context(tmp_path)) == first


def test_an_installed_package_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source_version, "CHECKOUT", tmp_path)
    assert "source" not in describe_environment(tiny.run_context(tmp_path))
