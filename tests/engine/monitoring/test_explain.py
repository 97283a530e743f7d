"""`bench explain` and `bench status`, as a person asks them."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.engine.monitoring.explain import FoundItem, list_items
from bench.engine.monitoring.status import publish_status
from bench.engine.storage.store import SCHEMA
from bench.files import hash_json
from bench.record import Cost, Failure, Record, write_record
from tests.cli.test_cli import bench
from tests.engine import tiny
from tests.engine.monitoring.test_status import running, wait_until
from tests.records import cost, fail, make_record, task_info

ROOT = Path(__file__).resolve().parents[3]

KNOWN = "0, 1, clean, digits, em, em(rate=0.5), ew, mtl, mtl-ue-em, none, seed, small"
"""All words of the cells in `made`."""


def sections(text: str) -> dict[str, str]:
    """Return what is under each title."""
    head, *rest = re.split(r"\n\n(?=\S)", text.rstrip("\n"))
    return {"": head} | {title: body for title, _, body in (section.partition("\n") for section in rest)}


def part(name: str, version: int = 1, **params: Any) -> dict[str, Any]:
    """Return a part as settings have it."""
    return {"name": name, "version": version, "params": params}


SURROGATE = {
    "dataset": part("digits", train=64),
    "backbone": part("small", width=3),
    "recipe": {"epochs": 2, "milestones": [0.6, 0.8]},
    "seed": 0,
}

SETTINGS = {
    "weighting": part("ew"),
    "attack": part("em", 2, step_size=0.12345678, bands=[[1, 2], [3]], random=None),
    "defense": part("jpeg+grayscale", parts=[part("jpeg", quality=10), part("grayscale")]),
    "seed": 0,
    "epsilon": 8,
    "rate": 1 / 3,
    "protected": ["a", "b"],
    "surrogate": SURROGATE,
    "poison_seed": 7,
}

TASKS = {"a": task_info(), "b": task_info(scored="auroc", headline="auroc", floor=0.1)}

PLATFORM = "Linux-of-a-kind-whose-name-stands-on-a-line-of-its-own-since-it-is-too-long-and-not-to-be-broken"


def write_about(folder: Path, **about: Any) -> Path:
    """Write the description of an item that cells share."""
    folder.mkdir(parents=True)
    path = folder / "about.json"
    note = {"schema": SCHEMA, "checksum": hash_json(about), "about": about}
    path.write_text(json.dumps(note, ensure_ascii=False))
    (folder / "tensors.safetensors").touch()
    return path


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that can be explained about a cell."""
    monkeypatch.chdir(tmp_path)
    out = Path("run")
    clean = make_record({"a": 0.9}, raw={"a": 0.85}, attack="clean", changes={"key": "c1ea" * 4})
    changes = {
        "key": "ce11" * 4,
        "victim": "71c7" * 4,
        "poison": "9015" * 4,
        "peak": {"a": {"accuracy": 0.75, "balanced_accuracy": 0.65}},
        "environment": {
            "python": "3.11",
            "platform": PLATFORM,
            "data": "da7a" * 4,
            "purified": "9ec1" * 4,
            "augmentation": {"crop": None, "flip": False},
            "gpu": {"name": "A100"},
        },
    }
    record = make_record(
        {"a": 0.6, "b": 0.123456},
        raw={"a": 0.7},
        tasks=TASKS,
        settings=SETTINGS,
        costs={
            "craft": cost(75, 1234.6),
            "train": Cost(seconds=3, images_per_s=None, peak_host_mb=None, peak_device_mb=20480),
        },
        changes=changes,
    )
    write_record(out / "records", replace(clean, victim=record.victim))
    write_record(out / "records", record)
    write_about(out / "poisons" / record.poison, settings=SETTINGS)
    for name in (".5ca15ca15ca15ca1.12", "5ca15ca15ca15ca1", ".5ca15ca15ca15ca1.13"):
        write_about(out / "surrogates" / name, settings=SURROGATE)
    (out / "logs").mkdir()
    (out / "logs" / f"{record.key}.log").write_text("".join(f"line {number}\n" for number in range(14)))
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


WHOLE = f"""\
digits · em · small · ew · none · mtl · seed 0
done 2026-03-01T12:00:00+00:00, suite synthetic

scores
  task    metric               score    clean    floor    best epoch    protection
  a       balanced_accuracy    0.600    0.900    0.500         0.650         0.750
  a       accuracy             0.700    0.850    0.500         0.750             -
  b       auroc                0.123        -    0.100             -             -

configuration
  attack       em v2 (step_size = 0.123457, bands = [[1, 2], [3]], random = none)
  weighting    ew v1
  defense      jpeg+grayscale v1 (jpeg v1 (quality = 10), grayscale v1)
  seed         0
  poison seed  7
  protected    a, b
  rate         0.3333 of the images
  surrogate    dataset = digits v1 (train = 64), backbone = small v1 (width = 3), recipe = [epochs =
               2, milestones = [0.6, 0.8]], seed = 0
  budget       8/255 per pixel

provenance
  key           ce11ce11ce11ce11
  victim        71c771c771c771c7, shared by all cells that differ only in the attack
  clean cell    c1eac1eac1eac1ea
  poison        run/poisons/9015901590159015
  surrogate     run/surrogates/5ca15ca15ca15ca1
  purified set  run/purified/9ec19ec19ec19ec1
  data          da7ada7ada7ada7a
  noise         linf = 8, l2 = 1.25, l0 = 0.95, psnr = 32.5, clamped = 0.02, ssim = 0.93
  environment   python = 3.11, platform =
                {PLATFORM},
                augmentation = [crop = none, flip = False], gpu = [name = A100]
  protocol      2

costs
  phase          time    images/s    host MiB    device MiB
  craft    1 min 15 s       1,235         400             -
  train         3.0 s           -           -        20,480

log
  run/logs/ce11ce11ce11ce11.log
  line 2
  line 3
  line 4
  line 5
  line 6
  line 7
  line 8
  line 9
  line 10
  line 11
  line 12
  line 13
"""


def test_everything_that_is_known_of_a_cell(whole: Path) -> None:
    assert bench("explain", "ce11", "--out", whole) == (0, WHOLE, "")


FAILED = """\
digits · em(rate=0.5) · small · ew · none · mtl · seed 0
failed 2026-03-01T12:00:00+00:00, suite synthetic

error
  RuntimeError: no [31m room
  in line 3

configuration
  protected  all tasks
  rate       all images
  budget     none

provenance
  key          {0.key}
  victim       {0.victim}, shared by all cells that differ only in the attack
  clean cell   none is finished
  poison       run/poisons/{0.poison}, which is missing
  environment  device = cpu, threads = 1
  protocol     2

log
  no log

log of its poison
  run/logs/{0.poison}.log
  of the poison
"""


def test_a_failure_is_explained_with_its_traceback_and_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("run")
    error = Failure(type="RuntimeError", message="no\x1b[31m room", traceback="in line 3\n\n")
    record = replace(fail(attack="em(rate=0.5)", bounded=False), error=error)
    write_record(out / "records", record)
    write_record(out / "records", fail(attack="clean"))
    # A surrogate of which nothing is known is not that of a cell which has none.
    (out / "surrogates" / "5ca15ca15ca15ca1").mkdir(parents=True)
    (out / "logs").mkdir()
    (out / "logs" / f"{record.poison}.log").write_text("of the poison\n")
    assert bench("explain", record.key, "--out", out) == (0, FAILED.format(record), "")


def test_whatever_a_run_makes_is_explained(tmp_path: Path) -> None:
    axes = {"attack": ["tap"], "defense": ["jpeg+grayscale", "orthogonal-projection"]}
    tiny.run(tiny.plan(matrix=axes), tmp_path)
    titles = ["configuration", "provenance", "costs", "log"]
    for record in tiny.records(tmp_path).values():
        titled = sections(bench("explain", record.key, "--out", tmp_path)[1])
        assert list(titled) == ["", "scores", *titles]
        assert "missing" not in titled["provenance"]
        assert "none is finished" not in titled["provenance"]
        assert ("surrogates" in titled["provenance"]) == (record.cell["attack"] == "tap")
        assert "done in" in titled["log"]
    shared = [path for kind in ("poisons", "surrogates", "purified") for path in (tmp_path / kind).iterdir()]
    assert len(shared) == 2 + 1 + 2
    for folder in shared:
        titled = sections(bench("explain", folder.name, "--out", tmp_path)[1])
        assert list(titled) == ["", *titles]
        assert "damaged" not in titled["provenance"]
        assert "done in" in titled["log"]


@pytest.mark.parametrize(
    ("name", "kind"), [("surrogates", "surrogate"), ("poisons", "poison"), ("purified", "purified set")]
)
def test_what_cells_share_is_explained_too(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "records").mkdir()
    folder = tmp_path / name / "0123456789abcdef"
    path = write_about(folder, settings=SURROGATE, cost={"craft": cost(75)}, place="café", nothing=[])
    provenance = f"  folder  {folder}\n  place   café"
    titled = sections(bench("explain", "01234567", "--out", tmp_path)[1])
    assert titled == {
        "": f"{kind} 0123456789abcdef",
        "configuration": "  dataset   digits v1 (train = 64)\n  backbone  small v1 (width = 3)\n"
        "  seed      0\n  recipe    epochs = 2, milestones = [0.6, 0.8]",
        "provenance": provenance,
        "costs": "  phase          time    images/s    host MiB    device MiB\n"
        "  craft    1 min 15 s           -         400             -",
        "log": "  no log",
    }
    altered = path.read_text().replace("café", "tea")
    for content in ("", "[]", '{"about": {}}', "[" * 10**5, altered, None):
        path.unlink() if content is None else path.write_text(content)
        code, text, _ = bench("explain", "0123", "--out", tmp_path)
        assert code == 0
        damaged = f"provenance\n  folder   {folder}\n  damaged  {path} is damaged: "
        assert re.sub(r"\n {11}", " ", text).startswith(f"{kind} 0123456789abcdef\n\n{damaged}")
        assert text.endswith("\n\nlog\n  no log\n")


def test_of_what_was_killed_there_is_its_log(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    path = tmp_path / "logs" / "0123456789abcdef.log"
    path.parent.mkdir()
    path.write_text("one\n\x1b]0;two\n")
    expected = f"unfinished 0123456789abcdef\n\nlog\n  {path}\n  one\n   ]0;two\n"
    assert bench("explain", "01234567", "--out", tmp_path) == (0, expected, "")


def test_the_clean_cell_is_that_of_the_tables(tmp_path: Path) -> None:
    """The clean cell has the same victim and the same data and is finished; of several, it is the newest."""
    data = {"environment": {"device": "cpu", "data": "a" * 32}}
    record, other = make_record({"a": 0.6}, changes=data), make_record({"a": 0.6}, seed=1, changes=data)
    clean = make_record({"a": 0.8}, attack="clean", changes=data)
    early, late, latest = (f"2026-0{month}-01T12:00:00+00:00" for month in (1, 2, 3))
    for key, changes in {
        "c1ea1": {"finished": early},
        "c1ea2": {"finished": late},
        "c1ea3": {"finished": early},
        "c1ea4": {"finished": latest, "status": "failed"},
        "c1ea5": {"finished": latest, "victim": other.victim, "suite": record.victim},
        "c1ea6": {"finished": latest, "cell": {**clean.cell, "attack": "clean(rate=0.5)"}},
        "c1ea7": {"finished": latest, "environment": {"device": "cpu", "data": "b" * 32}},
    }.items():
        write_record(tmp_path / "records", replace(clean, key=key, **changes))
    (tmp_path / "records" / "folder.json").mkdir()
    (tmp_path / "records" / "damaged.json").write_text(record.victim)
    for each in (record, other):
        write_record(tmp_path / "records", each)
    for key, found in ((record.key, "c1ea2"), (other.key, "c1ea5"), ("c1ea1", "c1ea2"), ("c1ea4", "c1ea2")):
        titled = sections(bench("explain", key, "--out", tmp_path)[1])
        assert f"clean cell   {found}\n" in titled["provenance"]


def test_a_part_of_a_word_means_more_than_the_word(made: dict[str, Record], tmp_path: Path) -> None:
    _, text, _ = bench("explain", "mtl-ue", "1", "--out", tmp_path)
    assert text.startswith(made["mtl-ue-em 1"].label)
    code, text, err = bench("explain", "em", "--out", tmp_path)
    assert code == 2
    both = sorted((made["em 0"], made["em 1"]), key=lambda record: record.key)
    assert text.splitlines() == [f"{record.key}  done  {record.label}" for record in both]
    assert err == "error: 'em' matches 2 items; give more words or a key\n"


def test_a_whole_label_is_that_of_one_cell(made: dict[str, Record], tmp_path: Path) -> None:
    for record in made.values():
        assert bench("explain", f" {record.label}", "--out", tmp_path)[1].startswith(f"{record.label}\n")


def test_a_beginning_of_several_keys_means_all_of_them(tmp_path: Path) -> None:
    record = make_record({"a": 0.6}, attack="e\x1bm", changes={"key": "0000000000000012"})
    write_record(tmp_path / "records", record)
    for folder in ("poisons/0000000000000020", "purified/0000000000000003", "logs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "logs" / "00000000000001e2.log").touch()
    assert bench("explain", "0", "--out", tmp_path)[:2] == (
        2,
        "0000000000000003  purified set\n"
        "0000000000000012  done          digits · e m · small · ew · none · mtl · seed 0\n"
        "0000000000000020  poison\n"
        "00000000000001e2  unfinished\n",
    )


def test_of_many_matches_some_are_listed() -> None:
    many = [FoundItem(f"{number:02}", "poison") for number in range(23)]
    lines = [f"{number:02}  poison" for number in range(20)]
    assert list_items(many).splitlines() == [*lines, "and 3 more"]
    assert list_items(many[:20]).splitlines() == lines


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["mtl-ue-emm"], "unknown word in the cells of OUT: 'mtl-ue-emm'; did you mean 'mtl-ue-em'?"),
        (["em", "cleam", "mtl-ue-emm"], "unknown word in the cells of OUT: 'cleam'; did you mean 'clean'?"),
        (
            ["clean", "mtl-ue-em"],
            "no cell in OUT matches 'clean mtl-ue-em'; `bench report --format csv --rows` lists them",
        ),
        (["0123456789abcdef"], f"unknown word in the cells of OUT: '0123456789abcdef'; there are: {KNOWN}."),
        (["KEY", "em"], f"unknown word in the cells of OUT: 'KEY'; there are: {KNOWN}."),
        (["MIDDLE"], f"unknown word in the cells of OUT: 'MIDDLE'; there are: {KNOWN}."),
    ],
)
def test_a_wrong_word_gets_a_hint(
    made: dict[str, Record], tmp_path: Path, words: list[str], error: str
) -> None:
    key = made["clean 0"].key
    for folder in ("poisons", "logs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "poisons" / key).mkdir()
    (tmp_path / "logs" / f"{key}.log").touch()

    def fill_in(text: str) -> str:
        return text.replace("OUT", str(tmp_path)).replace("KEY", key).replace("MIDDLE", key[1:])

    assert bench("explain", *map(fill_in, words), "--out", tmp_path) == (2, "", f"error: {fill_in(error)}\n")


def test_in_an_empty_folder_nothing_is_called_anything(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    error = f"error: no cell in {tmp_path} matches 'em'; `bench report --format csv --rows` lists them\n"
    assert bench("explain", "em", "--out", tmp_path) == (2, "", error)


def test_a_damaged_record_is_named(made: dict[str, Record], tmp_path: Path) -> None:
    key = made["em 0"].key
    path = tmp_path / "records" / f"{key}.json"
    path.write_text(path.read_text()[:100])
    code, _, err = bench("explain", key, "--out", tmp_path)
    assert code == 2
    assert err.startswith(f"error: {path} is damaged")
    assert bench("explain", "em", "--out", tmp_path)[1].startswith(made["em 1"].label)


def test_status_of_a_run_that_is_there_and_of_none(made: dict[str, Record], tmp_path: Path) -> None:
    assert bench("status", "--out", tmp_path)[:2] == (
        0,
        f"no run is active in {tmp_path}; {len(made)} cells have a record\n",
    )
    with publish_status(running(), tmp_path):
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
    assert imported("explain", "em", "seed 0") == ""
