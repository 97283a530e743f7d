"""`bench why` and `bench status`, as a person asks them."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from bench import cli
from bench.engine.status import published
from bench.record import Record, write_record
from tests.engine import tiny
from tests.engine.test_status import running, wait_until
from tests.records import fail, make_record

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str | Path) -> tuple[int, str, str]:
    """Return the exit code of a command and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        patch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()


def sections(text: str) -> dict[str, str]:
    """Return what is under each title."""
    head, *rest = re.split(r"\n\n(?=\S)", text.rstrip("\n"))
    return {"": head} | {title: body for title, _, body in (section.partition("\n") for section in rest)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run, for reading only."""
    out = tmp_path_factory.mktemp("ran")
    tiny.run(tiny.plan(matrix={"attack": ["clean", "tap"], "defense": ["none", "jpeg+grayscale"]}), out)
    return out


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Record]:
    """The records of a folder by attack and seed."""
    records = [make_record({"a": 0.9}, attack="clean"), fail("no\x1b[31m room", attack="em(rate=0.5)")]
    records += [
        make_record({"a": 0.6}, attack=attack, seed=s) for attack in ("em", "mtl-ue-em") for s in (0, 1)
    ]
    for record in records:
        write_record(tmp_path / "records", record)
    return {f"{record.cell['attack']} {record.cell['seed']}": record for record in records}


def test_everything_that_is_known_of_a_cell(ran: Path) -> None:
    records = tiny.records(ran)
    label = "digits · tap · small · ew · jpeg+grayscale · mtl · seed 0"
    record, clean = records[label], records[label.replace("tap", "clean")]
    code, text, err = bench("why", record.key[:10], "--out", ran)
    assert (code, err) == (0, "")
    told = sections(text)
    assert told[""] == f"{label}\ndone {record.finished}, suite tiny"
    assert list(told) == ["", "scores", "configuration", "provenance", "costs", "log"]
    scores = [line.split() for line in told["scores"].splitlines()]
    assert {line[0] for line in scores[1:]} == set(record.tasks)
    left = next(line for line in scores if line[:2] == ["left", "balanced_accuracy"])
    metric = [record.scores, clean.scores, {"left": record.tasks["left"]["floor"]}, record.peak]
    assert left[2:6] == [f"{where['left']['balanced_accuracy']:.3f}" for where in metric]
    configuration = {line[2:15].strip(): line[15:].strip() for line in told["configuration"].splitlines()}
    assert configuration["dataset"] == "digits v1 (train = 64, test = 32, data_seed = 0)"
    assert configuration["attack"].startswith("tap v")
    assert "steps = 1" in configuration["attack"]
    assert configuration["backbone"] == "small v1 (width = 2)"
    assert configuration["defense"] == "jpeg+grayscale v1 (jpeg v1 (quality = 10), grayscale v1)"
    assert configuration["budget"] == "8/255 a pixel"
    assert configuration["rate"] == "all images"
    assert configuration["recipe"].startswith("epochs = 2, stl_epochs = none, batch = 8")
    assert "small v1 (width = 3)" in re.sub(r"\s+", " ", told["configuration"])
    provenance = re.sub(r"\s+", " ", told["provenance"])
    (surrogate,) = (ran / "surrogates").iterdir()
    for value in (
        *(record.key, record.victim, record.environment["data"], f"clean cell {clean.key}"),
        *(str(ran / "poisons" / record.poison), str(surrogate), f"torch = {record.environment['torch']}"),
    ):
        assert value in provenance
    assert "not there" not in provenance
    assert {line.split()[0] for line in told["costs"].splitlines()[1:]} == set(record.cost)
    log = told["log"].splitlines()
    assert log[0].strip() == str(ran / "logs" / f"{record.key}.log")
    assert re.search(r"done in \d+\.\d s$", log[-1])
    assert any(f"begins: {label}" in line for line in log)


def test_a_poison_and_a_surrogate_are_explained_too(ran: Path) -> None:
    (surrogate,) = (ran / "surrogates").iterdir()
    record = tiny.records(ran)["digits · tap · small · ew · none · mtl · seed 0"]
    for kind, folder in (("poison", ran / "poisons" / record.poison), ("surrogate", surrogate)):
        code, text, _ = bench("why", folder.name, "--out", ran)
        told = sections(text)
        assert code == 0
        assert told[""] == f"{kind} {folder.name}"
        assert list(told) == ["", "configuration", "provenance", "costs", "log"]
        assert str(folder) in told["provenance"]
        assert "done in" in told["log"]


def test_of_a_poison_that_was_killed_there_is_its_log(made: dict[str, Record], tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "0123456789abcdef.log").write_text("one\n\x1b]0;two\n")
    code, text, _ = bench("why", "01234567", "--out", tmp_path)
    assert code == 0
    assert text.splitlines()[0] == "unfinished 0123456789abcdef"
    assert text.splitlines()[-2:] == ["  one", "   ]0;two"]


def test_a_failure_is_told_with_its_traceback_and_the_logs(made: dict[str, Record], tmp_path: Path) -> None:
    record = made["em(rate=0.5) 0"]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{record.poison}.log").write_text("of the poison\n")
    code, text, _ = bench("why", "em(rate=0.5)", "--out", tmp_path)
    assert code == 0
    assert "\x1b" not in text
    told = sections(text)
    assert told[""].splitlines()[1].startswith("failed ")
    assert told["error"].splitlines()[0] == "  RuntimeError: no [31m room"
    assert told["log"] == "  there is none"
    assert told["log of its poison"].splitlines()[1] == "  of the poison"
    assert "which is not there" in re.sub(r"\s+", " ", told["provenance"])
    assert "scores" not in told


def test_protection_stands_beside_the_scores(made: dict[str, Record], tmp_path: Path) -> None:
    _, text, _ = bench("why", "em", "seed 0", "--out", tmp_path)
    row = sections(text)["scores"].splitlines()[1].split()
    assert row == ["a", "balanced_accuracy", "0.600", "0.900", "0.500", "0.650", "0.750"]
    _, text, _ = bench("why", "em", "seed 1", "--out", tmp_path)
    row = sections(text)["scores"].splitlines()[1].split()
    assert row == ["a", "balanced_accuracy", "0.600", "-", "0.500", "0.650", "-"]
    assert "none is finished" in sections(text)["provenance"]


def test_a_part_of_a_word_means_more_than_the_word(made: dict[str, Record], tmp_path: Path) -> None:
    _, text, _ = bench("why", "mtl-ue", "1", "--out", tmp_path)
    assert text.startswith(made["mtl-ue-em 1"].label)
    code, text, err = bench("why", "em", "--out", tmp_path)
    assert code == 2
    both = sorted((made["em 0"], made["em 1"]), key=lambda record: record.key)
    assert text.splitlines() == [f"{record.key}  done  {record.label}" for record in both]
    assert err == "error: 2 things are meant by 'em'; give more words or a key\n"


def test_of_many_matches_some_are_listed(tmp_path: Path) -> None:
    for seed in range(23):
        write_record(tmp_path / "records", make_record({"a": 0.6}, seed=seed))
    code, text, err = bench("why", "digits", "--out", tmp_path)
    assert code == 2
    assert len(text.splitlines()) == 21
    assert text.splitlines()[-1] == "and 3 more"
    assert "23 things" in err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["mtl-ue-emm"], "unknown word in the cells of OUT: 'mtl-ue-emm'; did you mean 'mtl-ue-em'?"),
        (["em", "cleam"], "unknown word in the cells of OUT: 'cleam'; did you mean 'clean'?"),
        (["clean", "mtl-ue-em"], "no cell in OUT is called 'clean mtl-ue-em'"),
        (["0123456789abcdef"], "unknown word in the cells of OUT: '0123456789abcdef'; there are: "),
    ],
)
def test_a_wrong_word_gets_a_hint(
    made: dict[str, Record], tmp_path: Path, words: list[str], error: str
) -> None:
    code, text, err = bench("why", *words, "--out", tmp_path)
    assert (code, text) == (2, "")
    assert err.startswith("error: " + error.replace("OUT", str(tmp_path)))
    assert len(err.splitlines()) == 1


def test_a_damaged_record_is_named(made: dict[str, Record], tmp_path: Path) -> None:
    key = made["em 0"].key
    path = tmp_path / "records" / f"{key}.json"
    path.write_text(path.read_text()[:100])
    code, _, err = bench("why", key, "--out", tmp_path)
    assert code == 2
    assert err.startswith(f"error: {path} is damaged")


def test_a_note_of_a_poison_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    for content in ("", "[]", json.dumps({"about": 3})):
        folder = tmp_path / "poisons" / "0123456789abcdef"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "about.json").write_text(content)
        code, text, _ = bench("why", "0123", "--out", tmp_path)
        assert code == 0
        assert "about.json cannot be read" in text


def test_status_of_a_run_that_is_there_and_of_none(made: dict[str, Record], tmp_path: Path) -> None:
    assert bench("status", "--out", tmp_path)[:2] == (
        0,
        f"no run is active in {tmp_path}; {len(made)} cells have a record\n",
    )
    with published(running(), tmp_path):
        wait_until(lambda: list((tmp_path / "status").glob("*.json")))
        code, text, err = bench("status", "--out", tmp_path)
    assert (code, err) == (0, "")
    head, *_, item = text.splitlines()
    assert head.startswith("smoke in ")
    assert f"process {os.getpid()} on" in text
    assert "cells 1/3" in text
    assert item.split() == ["em", "·", "b", "epoch", "3/10"]


def test_nothing_heavy_is_imported_to_ask(made: dict[str, Record], tmp_path: Path) -> None:
    code = (
        "import sys; from bench.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(*sorted({'torch', 'pandas', 'mlflow', 'numpy'} & set(sys.modules)), file=sys.stderr)\n"
    )

    def imported(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments, "--out", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
        assert done.stdout
        return done.stderr.strip()

    assert imported("status") == ""
    assert "torch" not in imported("why", "em", "seed 0")
