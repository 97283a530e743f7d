"""What a suite or an override can get wrong is said in one sentence that names what and where."""

import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.datasets.digits import Digits
from bench.engine.planning.expand import expand_suite
from bench.engine.planning.suite_file import read_suite
from bench.errors import BenchError
from tests.engine import tiny


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(tiny.TOML)
    return path


def complaint(file: Path | str, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> str:
    with pytest.raises(BenchError) as caught:
        expand_suite(read_suite(str(file), overrides), only)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in ("Traceback", "pydantic", "dict[", "list["):
        assert word not in sentence
    return sentence


@pytest.mark.parametrize(
    ("override", "words"),
    [
        # names
        ("matrix.atack=['em']", ["[matrix]", "'atack'", "did you mean 'attack'?"]),
        ("params.atack.em.rounds=1", ["[params]", "'atack'", "did you mean 'attack'?"]),
        ("params.attack.emm.rounds=1", ["[params.attack]", "'emm'", "did you mean 'em'?"]),
        ("include=[{defence='jpeg'}]", ["[[include]]", "'defence'", "did you mean 'defense'?"]),
        ("exclude=[{defence='jpeg'}]", ["[[exclude]]", "'defence'", "did you mean 'defense'?"]),
        ("include=[{attack='emm'}]", ["attack", "'emm'", "did you mean 'em'?"]),
        ("exclude=[{attack='emm'}]", ["attack", "'emm'", "did you mean 'em'?"]),
        ("matrix.attack=['randm']", ["attack", "'randm'", "did you mean 'random'?"]),
        ("matrix.dataset=['digts']", ["dataset", "'digts'", "did you mean 'digits'?"]),
        ("matrix.defense=['jpg']", ["defense", "'jpg'", "did you mean 'jpeg'?"]),
        ("surrogate.backbone=smal", ["backbone", "'smal'", "did you mean 'small'?"]),
        ("matrix.defense=['jpeg(qualty=3)']", ["'jpeg'", "'qualty'", "did you mean 'quality'?"]),
        ("params.dataset.digits.trian=3", ["'digits'", "'trian'", "did you mean 'train'?"]),
        ("recipe.epoch=3", ["'tiny'", "'recipe.epoch'", "did you mean 'recipe.epochs'?"]),
        ("epochs=3", ["'epochs'", "did you mean 'recipe.epochs'?"]),
        ("budget.epsilom=3", ["'budget.epsilom'", "did you mean 'budget.epsilon'?"]),
        ("surrogate.recipe.epoch=3", ["'surrogate.recipe.epoch'", "did you mean 'surrogate.recipe.epochs'?"]),
        ("poisonseed=3", ["'poisonseed'", "did you mean 'poison_seed'?"]),
        # types
        ("recipe.epochs=many", ["recipe.epochs", "'many'", "integer"]),
        ("recipe.epochs=1.5", ["recipe.epochs", "1.5", "integer"]),
        ("recipe.milestones=3", ["recipe.milestones", "3", "tuple"]),
        ("recipe=3", ["recipe", "3"]),
        ("star=maybe", ["star", "'maybe'", "boolean"]),
        ("name=3", ["name", "3", "string"]),
        ("poison_seed=x", ["poison_seed", "'x'", "integer"]),
        ("data_seed=3", ["data_seed", "3", "'seed'"]),
        ("matrix=3", ["matrix", "3"]),
        ("matrix.attack=em", ["matrix.attack", "'em'", "list", "'all'"]),
        ("matrix.attack=[['em']]", ["matrix.attack.0", "['em']", "string"]),
        ("params=3", ["params", "3"]),
        ("params.attack=3", ["params.attack", "3"]),
        ("params.attack.em=3", ["params.attack.em", "3"]),
        ("include=3", ["include", "3", "list"]),
        ("include=['em']", ["include.0", "'em'"]),
        ("exclude={attack='em'}", ["exclude", "list"]),
        ("params.dataset.digits.train=lots", ["'digits'", "train", "'lots'", "integer"]),
        ("matrix.defense=['jpeg(quality=high)']", ["'jpeg'", "quality", "'high'", "integer"]),
        # seeds
        ("matrix.seed=['0']", ["seed", "whole number", "'0'"]),
        ("matrix.seed=[1.5]", ["matrix.seed.0", "1.5", "integer"]),
        ("matrix.seed=[true]", ["matrix.seed.0", "True", "integer"]),
        ("matrix.seed=0", ["matrix.seed", "0", "list"]),
        ("matrix.seed=all", ["seed", "whole number", "'all'"]),
        ("include=[{seed='x'}]", ["seed", "whole number", "'x'"]),
        ("exclude=[{seed='x'}]", ["seed", "whole number", "'x'"]),
        # ranges
        ("recipe.epochs=0", ["recipe.epochs", "0", "greater than or equal to 1"]),
        ("recipe.learning_rate=-1", ["recipe.learning_rate", "-1", "greater than 0"]),
        ("recipe.learning_rate=inf", ["recipe.learning_rate", "inf", "finite"]),
        ("recipe.milestones=[0.5, nan]", ["recipe.milestones.1", "nan", "finite"]),
        ("recipe.gamma=1.5", ["recipe.gamma", "1.5", "less than or equal to 1"]),
        ("budget.epsilon=0", ["budget.epsilon", "0", "greater than or equal to 1"]),
        ("budget.epsilon=128", ["budget.epsilon", "128", "less than or equal to 127"]),
        ("budget.l2=0", ["budget.l2", "0", "greater than 0"]),
        ("budget.l2=inf", ["budget.l2", "inf"]),
        ("matrix.attack=['em(epsilon=0)']", ["attack 'em'", "epsilon = 0", "greater than or equal to 1"]),
        ("matrix.attack=['em(epsilon=0.5)']", ["attack 'em'", "epsilon = 0.5", "integer"]),
        ("matrix.attack=['em(epsilon=true)']", ["attack 'em'", "epsilon = True", "integer"]),
        ("matrix.attack=['ar-l2(epsilon=-1)']", ["attack 'ar-l2'", "-1", "greater than 0"]),
        ("matrix.attack=['lsp-l2(epsilon=big)']", ["attack 'lsp-l2'", "'big'", "number"]),
        ("matrix.attack=['ops(epsilon=8)']", ["attack 'ops' has no budget; remove epsilon=8"]),
        ("matrix.defense=['jpeg(quality=101)']", ["'jpeg'", "quality", "101"]),
        ("params.dataset.digits.train=0", ["'digits'", "train", "0", "greater than or equal to 1"]),
        ("matrix.attack=['em(step_size=inf)']", ["'em'", "step_size", "inf", "finite"]),
        # spelling
        ("recipe.epochs", ["--set", "'recipe.epochs'", "KEY=VALUE"]),
        ("name.epochs=3", ["--set", "'name'", "not a table"]),
        ("matrix.attack=['em(']", ["'em('", "name(key=value"]),
        ("matrix.attack=['em(rounds)']", ["'rounds'", "key=value"]),
        ("matrix.attack=[]", ["[matrix]", "'attack'"]),
    ],
)
def test_an_override_that_does_not_fit(file: Path, override: str, words: list[str]) -> None:
    sentence = complaint(file, [override])
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("only", "words"),
    [
        ("atack=em", ["--only", "'atack'", "did you mean 'attack'?"]),
        ("attack=randm", ["--only", "'tiny'", "'randm'", "did you mean 'random'?"]),
        ("attack=em", ["--only", "'tiny'", "'em'"]),  # a part, but not in this suite
        ("attack=random,", ["''"]),
        ("seed=1", ["--only", "'1'", "there are: 0."]),
        ("attack", ["--only", "'attack'", "AXIS=a,b"]),
    ],
)
def test_a_restriction_that_does_not_fit(file: Path, only: str, words: list[str]) -> None:
    sentence = complaint(file, only=[only])
    for word in words:
        assert word in sentence


def test_nothing_left(file: Path) -> None:
    sentence = complaint(file, ["matrix.seed=[0, 1]", "exclude=[{seed=1}]"], ["seed=1"])
    assert sentence == "suite 'tiny' has no cell left"


@pytest.mark.parametrize("opened", ["[", "{a="])
@pytest.mark.parametrize("depth", [25, 3000])
def test_a_suite_that_is_nested_too_deeply(file: Path, opened: str, depth: int) -> None:
    closed = {"[": "]", "{a=": "}"}[opened]
    value = f"{opened * depth}1{closed * depth}"
    assert "nested too deeply" in complaint(file, [f"recipe.epochs={value}"])
    assert "nested too deeply" in complaint(file, [f"matrix.attack=['em(steps={value})']"])
    assert "nested too deeply" in complaint(file, [f"params.attack.{'.'.join('a' * depth)}=1"])
    file.write_text(f"x = {value}\n{tiny.TOML}")
    assert "nested too deeply" in complaint(file)
    file.write_text(f"{tiny.TOML}\n[{'.'.join('x' * depth)}]\ny = 1\n")
    assert "nested too deeply" in complaint(file)


@pytest.mark.parametrize(
    "override",
    ["matrix.seed=[9223372036854775808]", "poison_seed=-9223372036854775809", "x.y=[0xfffffffffffffffff]"],
)
def test_a_number_of_more_than_64_bits(file: Path, override: str) -> None:
    assert "a whole number has at most 64 bits" in complaint(file, [override])


@pytest.mark.parametrize(
    "override", ["name=a\udcff", "\udcff=1", "recipe.\udcff=1", "matrix.attack=['em\udcff']"]
)
def test_bytes_that_are_no_text(file: Path, override: str) -> None:
    """A command line's bytes that are not UTF-8 arrive as half of a surrogate pair."""
    sentence = complaint(file, [override])
    assert "\\udcff" in sentence
    assert "is not UTF-8 text" in sentence
    assert "cannot read" in complaint(file, only=["attack=em\udcff"])


def test_long_values_are_shown_in_part(file: Path) -> None:
    """An error stays a sentence that can be read, whatever it is about."""
    word = "x" * 100_000
    for override in (
        *(f"{key}={word}" for key in ("recipe.epochs", "matrix.attack", "budget.epsilon", "star")),
        *(
            f"matrix.attack=['{text}']"
            for text in (word, f"em({word})", f"em({word}=1)", f"em(steps={word})")
        ),
        *(f"{key}=1" for key in (word, f"recipe.{word}", f"matrix.{word}", f"params.{word}.x.y")),
        f"params.attack.{word}.x=1",
        f"name=/{word}",
        word,
    ):
        assert len(complaint(file, [override])) < 700
    for restriction in (word, f"{word}=1", f"attack={word}", f"seed={word}"):
        assert len(complaint(file, only=[restriction])) < 700


def hundreds(axis: str, count: int) -> str:
    part = {"backbone": "small(width={})", "defense": "jpeg(quality={})", "attack": "random(rate=0.{:04})"}
    values = [part[axis].format(number + 1) for number in range(count)] if axis in part else range(count)
    return f"matrix.{axis}={json.dumps(list(values))}"


BILLION = ["star=false", hundreds("backbone", 200), hundreds("defense", 100), hundreds("seed", 50_000)]


def test_a_suite_with_a_billion_combinations_is_refused_at_once(file: Path) -> None:
    """2 attacks, 200 backbones, 100 defenses, 50,000 seeds."""
    started = time.process_time()
    sentence = complaint(file, BILLION)
    assert time.process_time() - started < 20  # a guard against listing them, not a measurement
    for words in ("'tiny'", "2,000,000,000 combinations", "1,000,000", "--only", "star = true"):
        assert words in sentence


def test_a_part_of_a_suite_with_a_billion_combinations(file: Path) -> None:
    plan = expand_suite(
        read_suite(str(file), BILLION), ["defense=jpeg(quality=7)", "backbone=small(width=9)", "seed=3,5"]
    )
    assert [(cell.poison.attack.name, cell.defense.label, cell.seed) for cell in plan.cells] == [
        *(("clean", defense, seed) for seed in (3, 5) for defense in ("none", "jpeg(quality=7)")),
        *(("random", "jpeg(quality=7)", seed) for seed in (3, 5)),
    ]


def test_a_star_and_an_entry_with_a_billion_combinations(file: Path) -> None:
    star = complaint(file, ["star=true", hundreds("backbone", 200), hundreds("seed", 50_000)])
    assert "20,000,000 combinations" in star  # 2 attacks, 200 victims, 50,000 seeds
    seeds = list(range(40_000))
    entry = complaint(
        file, [f"include=[{{seed={seeds}, attack=['em', 'tap', 'sep'], defense={['jpeg'] * 20}}}]"]
    )
    assert "2,400,000 combinations" in entry


@pytest.mark.parametrize("raised", [SystemExit(0), OSError("no disk")])
def test_a_dataset_that_fails_when_it_is_looked_for(
    file: Path, raised: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(Digits, "missing", fail)
    sentence = complaint(file)
    assert sentence.startswith(f"cannot look for the dataset digits: {type(raised).__name__}: ")


def test_an_unknown_suite() -> None:
    assert complaint("smok") == "unknown suite 'smok'; did you mean 'smoke'?"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    sentence = complaint(tmp_path / "mine.toml")
    assert str(tmp_path / "mine.toml") in sentence
    assert os.strerror(2) in sentence


def test_a_folder_is_no_suite(tmp_path: Path) -> None:
    assert str(tmp_path) in complaint(tmp_path)


@pytest.mark.parametrize("content", [b"name = ", b"a = 1\na = 2\n", b"\xff\xfe", b"[matrix\n"])
def test_malformed_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert f"{path} is not valid TOML" in complaint(path)


@pytest.mark.parametrize("table", ["matrix", "surrogate"])
def test_a_table_is_missing(tmp_path: Path, table: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tiny.TOML.replace(f"[{table}]", "[params.weighting.ew]"))
    assert table in complaint(path)


def test_an_axis_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tiny.TOML.replace('weighting = ["ew"]', ""))
    assert complaint(path) == "suite 'tiny': [matrix] has no values for the axis 'weighting'"


def test_an_empty_file_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("")
    assert complaint(path) == "suite 'mine': 'matrix' is missing"


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".", "", "a\nb", "a\0b"])
def test_a_name_that_leads_out_of_the_runs_folder(file: Path, name: str) -> None:
    file.write_text(tiny.TOML.replace('name = "tiny"', f"name = {json.dumps(name)}"))
    sentence = complaint(file)
    assert repr(name) in sentence
    assert "the run's folder gets this name" in sentence


@pytest.mark.parametrize("name", ["tiny", "tiny 2", "été.v2", "x-y_z(1)"])
def test_a_name_that_is_one(file: Path, name: str) -> None:
    file.write_text(tiny.TOML.replace('name = "tiny"', f"name = {json.dumps(name)}"))
    assert read_suite(str(file)).name == name


def test_a_suite_file_of_any_bytes_is_a_plan_or_one_sentence(tmp_path: Path) -> None:
    """Cut off anywhere, or with one bit flipped anywhere."""
    whole = tiny.TOML.strip().encode()
    rng = random.Random(5)
    path = tmp_path / "mine.toml"
    sentences = []
    for _ in range(150):
        place = rng.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        for content in (whole[:place], bytes(flipped), rng.randbytes(place)):
            path.write_bytes(content)
            try:
                expand_suite(read_suite(str(path)))
            except BenchError as error:
                sentences.append(str(error))
    assert len(sentences) > 150
    assert [sentence for sentence in sentences if "\n" in sentence] == []
