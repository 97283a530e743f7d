"""The catalog: names, parameters and their spelling, what is refused and how, parts from outside."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from baselines.em import EM
from bench.catalog import parts
from bench.catalog.build import build_part, load_part_class, part_settings
from bench.catalog.choice import Choice, parse_value
from bench.catalog.description import describe_part
from bench.catalog.parts import CATALOG, FAMILIES, catalog_axes, catalog_entries, locate_part, names_on_axis
from bench.cli import app
from bench.errors import BenchError
from bench.files import hash_json
from bench.record import AXES
from tests.added_parts import parts_in_catalog

# Spelling


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("em", "em", {}),
        ("  em ", "em", {}),
        ("em()", "em", {}),
        ("mtl-ue-em", "mtl-ue-em", {}),
        ("em(steps=5)", "em", {"steps": 5}),
        ("em( steps = 5 , step_size=0.4 )", "em", {"steps": 5, "step_size": 0.4}),
        ("em(step_size=1e-3)", "em", {"step_size": 0.001}),
        ("random(lift=average)", "random", {"lift": "average"}),
        ('random(lift="average")', "random", {"lift": "average"}),
        ("x(flag=true, list=[1, 2, 3], last=-4)", "x", {"flag": True, "list": [1, 2, 3], "last": -4}),
        ('x(names=["a", "b"], n=1)', "x", {"names": ["a", "b"], "n": 1}),
        ("timm:vit_base_patch16_224.augreg_in1k", "timm:vit_base_patch16_224.augreg_in1k", {}),
        ("timm:resnet10t(size=64)", "timm:resnet10t", {"size": 64}),
    ],
)
def test_a_choice_is_a_name_with_parameters(text: str, name: str, params: dict[str, Any]) -> None:
    choice = Choice.parse(text)
    assert choice.name == name
    assert dict(choice.params) == params
    assert [type(value) for _, value in choice.params] == [type(params[key]) for key in sorted(params)]


@pytest.mark.parametrize(
    "text", ["", "()", "em(", "em)", "em(steps)", "em(steps=5) x", "em steps=5", "em(5)"]
)
def test_what_is_no_choice_is_refused_with_the_form_that_is(text: str) -> None:
    with pytest.raises(BenchError, match=r"cannot read .*write .*key=value"):
        Choice.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "em(x=[1)",
        "em(x=1])",
        "em(x=1)(y=2)",
        "em() ()",
        'em(x="a)',
        'em(x="a\\")',
        "em(x=1)+",
        "+em",
        "em++tap",
    ],
)
def test_brackets_and_quotes_must_be_closed(text: str) -> None:
    with pytest.raises(BenchError, match="cannot read"):
        Choice.parse(text)


def test_a_separator_in_quotes_or_brackets_separates_nothing() -> None:
    text = r'x(a="1, \"2)+3", b=[[1, 2], [3]], c=(1+2))'
    assert dict(Choice.parse(text).params) == {"a": '1, "2)+3', "b": [[1, 2], [3]], "c": "(1+2)"}


def test_a_parameter_that_is_given_twice_is_refused() -> None:
    with pytest.raises(BenchError, match=r"'em\(steps=5, steps=6\)' gives 'steps' twice"):
        Choice.parse("em(steps=5, steps=6)")


@pytest.mark.parametrize(
    "text",
    [
        f"random{' ' * 50_000}x",
        f"random({' ' * 50_000}",
        f"random(x{' ' * 50_000}",
        f"jpeg{' ' * 50_000}+",
        "jpeg+" * 10_000,
        f"random(x={'[' * 50_000})",
        f"random(x={chr(34) + chr(92)}{(chr(92) + chr(34)) * 50_000})",
        f"random(x={',' * 50_000}",
    ],
    ids=lambda text: text[:8],
)
def test_a_long_text_is_refused_at_once_and_shown_in_part(text: str) -> None:
    """The time grows with the length, not with its square: 20,000 blanks took seven seconds."""
    started = time.process_time()
    with pytest.raises(BenchError) as caught:
        Choice.parse(text)
    assert time.process_time() - started < 10  # a guard against squares, not a measurement
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("opened", ["[", "{a="])
@pytest.mark.parametrize("depth", [25, 3000])
def test_a_value_that_is_nested_too_deeply_is_refused(opened: str, depth: int) -> None:
    closed = {"[": "]", "{a=": "}"}[opened]
    with pytest.raises(BenchError, match="is refused: it is nested too deeply"):
        Choice.parse(f"em(steps={opened * depth}1{closed * depth})")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9223372036854775808", "a whole number has at most 64 bits"),
        ("[-9223372036854775809]", "a whole number has at most 64 bits"),
        (f"0x{'f' * 9000}", "a whole number has at most 64 bits"),
        ("photos-\udcff", r"'photos-\\udcff' is not UTF-8 text"),
    ],
)
def test_a_value_that_no_suite_can_hold_is_refused(value: str, reason: str) -> None:
    with pytest.raises(BenchError, match=f"is refused: {reason}"):
        parse_value(value)


def test_a_value_is_one_value() -> None:
    assert parse_value("9223372036854775807") == 2**63 - 1
    assert parse_value("1\nother = 2") == "1\nother = 2"  # it was 1
    assert parse_value("9" * 5000) == "9" * 5000  # Python refuses to read a number that is so long


def test_the_order_of_parameters_does_not_matter() -> None:
    one, other = Choice.parse("em(steps=5, rounds=2)"), Choice.parse("em(rounds=2, steps=5)")
    assert one == other
    assert one.label == other.label == "em(rounds=2, steps=5)"


WORDS = st.text("abz019_-.+ ,=", max_size=6)
SCALARS = st.integers(-(10**9), 10**9) | st.booleans() | st.floats(allow_nan=False) | WORDS
VALUES = SCALARS | st.sampled_from(["true", "3", "1e3", "inf", "2020-01-01"]) | st.lists(SCALARS, max_size=3)
PARAMS = st.dictionaries(st.from_regex(r"[a-z]\w{0,3}", fullmatch=True), VALUES, max_size=3)


def typed(value: Any) -> Any:
    """A value with its type: 1, 1.0 and True are three things."""
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)


@settings(max_examples=200, deadline=None)
@given(value=SCALARS.filter(lambda value: not isinstance(value, str)))
def test_a_label_reads_back_numbers_and_switches(value: Any) -> None:
    choice = Choice("em", (("key", value),))
    ((key, back),) = Choice.parse(choice.label).params
    assert (key, typed(back)) == ("key", typed(value))


@settings(max_examples=300, deadline=None)
@given(params=PARAMS)
def test_a_label_reads_back_whatever_a_suite_may_hold(params: dict[str, Any]) -> None:
    choice = Choice("em", tuple(sorted(params.items())))
    back = Choice.parse(choice.label)
    assert back.name == "em"
    assert [(key, typed(value)) for key, value in back.params] == [
        (key, typed(value)) for key, value in choice.params
    ]


def test_a_value_is_read_as_toml_or_as_a_bare_word() -> None:
    read = [parse_value(text) for text in ("3", " 3.0 ", "true", '"x y"', "[1, 2]", "patch", "1.2.3")]
    assert read == [3, 3.0, True, "x y", [1, 2], "patch", "1.2.3"]
    assert [type(value) for value in read[:3]] == [int, float, bool]


# Names


def test_every_axis_but_the_seed_has_parts() -> None:
    assert catalog_axes() == tuple(axis for axis in AXES if axis != "seed")
    assert all(CATALOG[axis] for axis in catalog_axes())


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(BenchError, match=r"unknown attack 'mtl-eu-em'; did you mean 'mtl-ue-em'\?"):
        build_part("attack", "mtl-eu-em")
    with pytest.raises(BenchError, match=r"unknown weighting 'zzzzzz'; there are: .*ew"):
        locate_part("weighting", "zzzzzz")
    with pytest.raises(BenchError, match=r"unknown axis 'atack'; did you mean 'attack'\?"):
        catalog_entries("atack")


# Families of names

MODEL = "torchvision:squeezenet1_1"


def test_a_name_of_a_family_is_a_part_that_knows_it() -> None:
    part = build_part("backbone", f"{MODEL}(size=64)")
    assert (part.model, part.size) == ("squeezenet1_1", 64)
    assert part == build_part("backbone", MODEL, {"size": 64})
    other = build_part("backbone", "torchvision:squeezenet1_0(size=64)")
    assert type(part) is type(other)
    assert part != other
    assert part_settings(Choice.parse(MODEL), part) == {
        "name": MODEL,
        "version": 1,
        "params": {"model": "squeezenet1_1", "size": 64},
    }
    assert Choice.parse(Choice.parse(f"{MODEL}( size = 64 )").label) == Choice(MODEL, (("size", 64),))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("torchvision:squeezenet1_2", "unknown backbone '.*1_2'; did you mean 'torchvision:squeezenet1_"),
        ("torchvision:zzzz", "unknown backbone 'torchvision:zzzz'; did you mean 'torchvision:"),
        ("torchvision:fcn_resnet50", "unknown backbone 'torchvision:fcn_resnet50'; did you mean"),
        ("torchvision:", "unknown backbone 'torchvision:'; did you mean 'torchvision:MODEL'"),
        ("torchvision", r"unknown backbone 'torchvision'; did you mean 'torchvision:MODEL'"),
        ("touch:resnet18", "unknown backbone 'touch:resnet18'"),
        (f"{MODEL}(model=resnet18)", f"unknown parameter of backbone '{MODEL}': 'model'"),
        (f"{MODEL}(sizes=64)", f"unknown parameter of backbone '{MODEL}': 'sizes'; did you mean 'size'"),
        (f"{MODEL}(size=0)", f"backbone '{MODEL}': size = 0 is refused"),
    ],
)
def test_a_wrong_name_of_a_family_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(BenchError, match=wanted):
        build_part("backbone", text)
    with pytest.raises(BenchError, match=rf"unknown weighting '{MODEL}'"):
        build_part("weighting", MODEL)


def test_a_family_is_listed_and_described_but_no_entry() -> None:
    for axis, families in FAMILIES.items():
        assert names_on_axis(axis) == [*catalog_entries(axis), *(f"{family}:MODEL" for family in families)]
        assert not set(families) & set(catalog_entries(axis))
        for name in names_on_axis(axis)[len(catalog_entries(axis)) :]:
            description = describe_part(axis, name)
            assert description.source
            assert "model" not in {parameter.name for parameter in description.parameters}
            assert all(parameter.meaning for parameter in description.parameters)
    assert names_on_axis("attack") == list(catalog_entries("attack"))
    shown = CliRunner().invoke(app, ["list", "backbone"]).output
    assert all(f" {name} " in shown for name in names_on_axis("backbone"))


# Parameters


def test_parameters_are_defaults_below_those_of_the_choice() -> None:
    defaults = {"rounds": 7, "steps": 3}
    assert build_part("attack", "em(steps=5)", defaults) == EM(rounds=7, steps=5)
    assert build_part("attack", "em", defaults) == EM(rounds=7, steps=3)
    assert build_part("attack", "em") == EM()
    assert defaults == {"rounds": 7, "steps": 3}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("em(step=5)", "unknown parameter of attack 'em': 'step'; did you mean 'steps'"),
        ("em(version=2)", "unknown parameter of attack 'em': 'version'"),
        ("em(needs_surrogate=true)", "unknown parameter of attack 'em': 'needs_surrogate'"),
        ("em(steps=many)", "attack 'em': steps = 'many' is refused"),
        ("em(steps=2.5)", "attack 'em': steps = 2.5 is refused"),
        ("em(steps=[5])", "attack 'em': steps = \\[5\\] is refused"),
        ("em(steps=0)", "attack 'em': steps = 0 is refused"),
        ("em(step_size=0)", "attack 'em': step_size = 0 is refused"),
        ("em(stop_error=-0.1)", "attack 'em': stop_error = -0.1 is refused"),
        ("em(step_size=nan)", "attack 'em': step_size = nan is refused"),
        ("em(step_size=inf)", "attack 'em': step_size = inf is refused"),
        ("em(rounds=true)", "attack 'em': rounds = True is refused"),
        ("random(lift=both)", "attack 'random': lift = 'both' is refused"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(text: str, wanted: str) -> None:
    with pytest.raises(BenchError, match=wanted):
        build_part("attack", text)


@dataclass(frozen=True)
class WithBounded:
    """An attack of an installed package that was written for an earlier version."""

    needs_surrogate: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1


def test_an_attack_that_says_bounded_is_told_what_to_write() -> None:
    wanted = (
        r"^attack 'old' \(WithBounded\) has no class variable 'norm'; it has replaced 'bounded': "
        r"write norm = \"linf\", or norm = None where bounded was False$"
    )
    with parts_in_catalog(("attack", "old", WithBounded)), pytest.raises(BenchError, match=wanted):
        build_part("attack", "old")


def test_the_same_number_spelled_in_two_ways_is_one_part_with_one_key() -> None:
    texts = ("em(step_size=1, steps=20)", "em(step_size=1.0, steps=20)", "em(step_size=1e0)")
    made = [build_part("attack", text) for text in texts]
    assert made[0] == made[1] == made[2]
    assert len({hash_json(part_settings(Choice("em"), part)) for part in made}) == 1


def test_settings_are_the_name_the_version_and_every_parameter() -> None:
    written = part_settings(
        Choice.parse("random(lift=average)"), build_part("attack", "random(lift=average)")
    )
    assert written == {"name": "random", "version": 1, "params": {"lift": "average"}}
    assert json.loads(json.dumps(written)) == written


# Descriptions

PART = '''
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Odd:
    """An odd attack: it
    goes on.

    Source: Nobody, Nowhere 2001,
    section 7

    Attributes:
        much: how much.
    """

    version: ClassVar[int] = 3
    much: "int | None" = 2 + 3
    word: str = "a"


raise RuntimeError("imported")
'''


RAISES = """
class Mute(Exception):
    def __str__(self):
        raise ValueError

raise Mute
"""

BROKEN = {
    "raises": "raises_package",
    "exits": "exits_package",
    "broken": "broken_package",
    "latin": "latin_package",
    "above": "above.part",
}
"""Attack → its module, which cannot be imported."""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that brings attacks of its own."""
    (tmp_path / "odd_package.py").write_text(PART, encoding="utf-8")
    (tmp_path / "fine_package.py").write_text("from baselines.em import EM as Mine\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    group = "mtlue_bench.attack"
    (tmp_path / "raises_package.py").write_text(RAISES, encoding="utf-8")
    (tmp_path / "exits_package.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    (tmp_path / "broken_package.py").write_text("class Part(:\n", encoding="utf-8")
    (tmp_path / "latin_package.py").write_bytes(b"x = '\xe4'\n")
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "__init__.py").write_text("raise SystemExit\n", encoding="utf-8")
    (tmp_path / "above" / "part.py").write_text(PART, encoding="utf-8")
    found = {
        group: [
            *(EntryPoint(name, f"{module}:Part", group) for name, module in BROKEN.items()),
            EntryPoint("odd", "odd_package:Odd", group),
            EntryPoint("mine", "fine_package:Mine", group),
            EntryPoint("gone", "fine_package:Gone", group),
            EntryPoint("nowhere", "no_such_package:Part", group),
            EntryPoint("deep", "no_such_package.deep:Part", group),
            EntryPoint("em", "fine_package:Impostor", group),
        ]
    }
    monkeypatch.setattr(parts, "entry_points", lambda group: found.get(group, []))
    catalog_entries.cache_clear()
    yield
    catalog_entries.cache_clear()


@pytest.mark.usefixtures("outside")
def test_installed_packages_add_parts_but_do_not_replace_any() -> None:
    assert set(catalog_entries("attack")) == {
        *CATALOG["attack"],
        *("odd", "mine", "gone", "nowhere", "deep", *BROKEN),
    }
    assert set(catalog_entries("defense")) == set(CATALOG["defense"])
    assert build_part("attack", "mine(steps=4)") == EM(steps=4)
    assert load_part_class("attack", "em") is EM


@pytest.mark.usefixtures("outside")
def test_a_description_is_read_from_the_source_without_running_it() -> None:
    description = describe_part("attack", "odd")
    assert description.summary.startswith("An odd attack")
    assert description.source == "Nobody, Nowhere 2001, section 7"
    assert [(field.name, field.type, field.default) for field in description.parameters] == [
        ("much", "'int | None'", "2 + 3"),
        ("word", "str", "'a'"),
    ]


def test_inherited_parameters_are_described_where_they_come_from() -> None:
    fields = {field.name: field for field in describe_part("attack", "sep-fa-vr").parameters}
    assert list(fields)[:4] == ["checkpoints", "steps", "step_size", "batch"]
    assert fields["checkpoints"].default == "15"
    assert fields["checkpoints"].meaning.startswith("equidistant snapshots of the clean training run")
    assert fields["inner_steps"].meaning == "corrected steps within each step (M)."


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gone", "cannot load attack 'gone' from fine_package:Gone"),
        ("nowhere", "cannot load attack 'nowhere' from no_such_package:Part"),
        ("deep", "cannot load attack 'deep' from no_such_package.deep:Part"),
        ("raises", "cannot load attack 'raises' from raises_package:Part: Mute$"),
        ("exits", "cannot load attack 'exits' from exits_package:Part: SystemExit: 0$"),
        ("broken", r"cannot load attack 'broken' from broken_package:Part: SyntaxError: .*line 1"),
        ("latin", r"cannot load attack 'latin' from latin_package:Part: SyntaxError: .*utf-8"),
        ("above", "cannot load attack 'above' from above.part:Part: SystemExit$"),
    ],
)
def test_a_part_that_cannot_be_loaded_is_named(name: str, wanted: str) -> None:
    with pytest.raises(BenchError, match=wanted):
        load_part_class("attack", name)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gone", "fine_package has no class Gone, which attack 'gone' should be"),
        ("nowhere", "cannot find no_such_package, where attack 'nowhere' should be"),
        ("deep", "cannot find no_such_package.deep, where attack 'deep' should be"),
        ("raises", "raises_package has no class Part, which attack 'raises' should be"),
        ("broken", "cannot read broken_package, where attack 'broken' should be: SyntaxError: "),
        ("latin", "cannot read latin_package, where attack 'latin' should be: SyntaxError: "),
        ("above", "cannot read above.part, where attack 'above' should be: SystemExit$"),
    ],
)
def test_a_part_that_cannot_be_described_is_named(name: str, wanted: str) -> None:
    with pytest.raises(BenchError, match=wanted):
        describe_part("attack", name)


@pytest.mark.usefixtures("outside")
def test_broken_packages_are_named_in_the_list_which_goes_on() -> None:
    result = CliRunner().invoke(app, ["list", "attack"])
    assert result.exit_code == 0
    for name in ("mtl-ue-em", "odd", *BROKEN):
        assert f" {name} " in result.output
    assert "broken_package" in result.output


@pytest.mark.usefixtures("outside")
def test_a_part_whose_class_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: EM) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(EM, "__post_init__", fail, raising=False)
    with pytest.raises(BenchError, match="cannot build attack 'mine': RuntimeError: no"):
        build_part("attack", "mine")


@pytest.mark.parametrize("content", [b"[mtlue_bench.attack]\nodd = \xe4:Y\n", b"[mtlue_bench.attack]\nodd\n"])
def test_a_package_whose_entry_points_are_damaged_is_named(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, lines in (("fine", b"[mtlue_bench.attack]\nmine = baselines.em:EM\n"), ("odd", content)):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_bytes(lines)
    monkeypatch.syspath_prepend(tmp_path)
    catalog_entries.cache_clear()
    try:
        assert set(catalog_entries("attack")) == {*CATALOG["attack"], "mine"}
    finally:
        catalog_entries.cache_clear()
    (message,) = caplog.messages
    assert message.startswith("the entry points of the package odd cannot be read")
