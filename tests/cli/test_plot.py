"""`bench plot` writes one figure, or says in one sentence why not."""

from pathlib import Path

import pytest

from bench.record_archive import encode_archive
from tests.cli.test_cli import bench, ok
from tests.records import make_record


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plot") / "results.jsonl.gz"
    records = [
        make_record({"a": score}, attack=attack, defense=defense)
        for attack, score in (("clean", 0.9), ("em", 0.6), ("tap", 0.7))
        for defense in ("none", "jpeg")
    ]
    path.write_bytes(encode_archive(records))
    return path


def test_the_ending_is_the_format(archive: Path, tmp_path: Path) -> None:
    assert ok("plot", "-o", tmp_path / "a.PNG", "--out", archive) == ""
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    ok("plot", "heatmap", "--only", "attack=em", "--width", "3.5", "-o", tmp_path / "a.svg", "--out", archive)
    figure = (tmp_path / "a.svg").read_text()
    assert 'width="252pt"' in figure
    assert "<!-- em -->" in figure
    assert "<!-- tap -->" not in figure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ranking", "-o", "a.gif"], "cannot tell the format of 'a.gif' by its ending"),
        (["curves", "-o", "a.png"], "is an archive, which has no learning curves"),
        (["images", "-o", "a.png"], "is an archive, which has no images"),
        (["budgets", "-o", "a.png"], "there is nothing to draw"),
        (["heatmap", "--axis", "backbone", "-o", "a.png"], "needs two values of the axis 'backbone'"),
        (["heatmap", "--axis", "seed", "-o", "a.png"], "unknown axis 'seed'"),
        (["--only", "attack=sep", "-o", "a.png"], "unknown attack in --only (of these results): 'sep'"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(arguments: list[str], message: str, archive: Path) -> None:
    done = bench("plot", *arguments, "--out", archive)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
