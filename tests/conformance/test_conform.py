"""`bench conform`: every check finds the fault that it is there for, and says what is wrong where."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from typer.testing import CliRunner

from bench.api import CraftContext, Noise, Norm
from bench.catalog.parts import CATALOG, catalog_entries
from bench.cli import app
from bench.conformance.cases import (
    CASES,
    DENSE_CASE,
    HALF_MISSING_CASE,
    LABELED_CASES,
    ODD_SIZE_CASE,
    PLAIN_CASE,
)
from bench.conformance.contracts import CONTRACTS
from bench.conformance.craft_run import AttackUnderTest
from bench.conformance.part import ContractError
from bench.conformance.report import Verdict, run_checks
from bench.errors import BenchError
from bench.values import Batch, Split

CONTRACT = CONTRACTS["attack"]

CHECKS, TOTAL = CONTRACT.checks, CONTRACT.verdict_count

COUNT = itertools.count(1)
"""Different whenever it is asked: no seed governs it."""

Craft = Callable[[Split, CraftContext], Any]


class Table:
    """One δ for every image."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def delta(self, batch: Batch) -> Tensor:
        return self.rows[batch.index]


class Asked(Table):
    """A table that does something when it is asked."""

    def __init__(self, rows: Tensor, act: Callable[[Tensor, Batch], Tensor]) -> None:
        super().__init__(rows)
        self.act = act

    def delta(self, batch: Batch) -> Tensor:
        return self.act(super().delta(batch), batch)


class Kept(Table):
    """A table that claims to be more."""

    def state(self) -> dict[str, Tensor]:
        return {"rows": self.rows}


class Pattern:
    """One δ for all images."""

    def __init__(self, pattern: Tensor) -> None:
        self.pattern = pattern

    def delta(self, batch: Batch) -> Tensor:
        return self.pattern.expand_as(batch.images)

    def state(self) -> dict[str, Tensor]:
        return {"pattern": self.pattern}


def rows(train: Split) -> Tensor:
    return (torch.rand(train.images.shape) - 0.5) / 16


def labels(train: Split) -> Tensor:
    return next(iter(train.targets.values()))


# Faults, and what is said of them


class Fault(NamedTuple):
    craft: Craft
    check: str
    sentence: str
    on: Sequence[str]


FAULTS: dict[str, Fault] = {}
SOUND: dict[str, Craft] = {}


def fault(check: str, sentence: str, on: Sequence[str] | None = None) -> Callable[[Craft], Craft]:
    """Note that a crafting must fail a check on these training sets, by default on all that it is made on."""
    (cases,) = (each.cases for each in CHECKS if each.name == check)

    def register(craft: Craft) -> Craft:
        FAULTS[craft.__name__] = Fault(craft, check, sentence, cases if on is None else on)
        return craft

    return register


def sound(craft: Craft) -> Craft:
    SOUND[craft.__name__] = craft
    return craft


@sound
def table(train: Split, context: CraftContext) -> Noise:
    return Table(rows(train))


@sound
def pattern(train: Split, context: CraftContext) -> Noise:
    return Pattern(rows(train)[0])


@sound
def far_beyond_the_budget(train: Split, context: CraftContext) -> Noise:
    return Table(rows(train) * 100)


CRAFTED = "can be crafted"
RAISED = r"{}: .* \(test_conform.py, line \d+\)"


@fault(CRAFTED, "returned δ with NaN or infinite values")
def not_finite(train: Split, context: CraftContext) -> Noise:
    return Table(rows(train).log())


@fault(CRAFTED, r"returned δ of shape \(.*\) for images")
def shape(train: Split, context: CraftContext) -> Noise:
    return Asked(rows(train), lambda own, _: own[..., 1:])


@fault(CRAFTED, "returned int, which has no delta")
def nothing(train: Split, context: CraftContext) -> Any:
    return 3


@fault(CRAFTED, RAISED.format("IndexError"), ["one binary task", "one task of five classes"])
def one_task(train: Split, context: CraftContext) -> Noise:
    return Table(rows(train) * len(list(train.targets)[1]))


@fault(CRAFTED, r"ValueError: no room \(test_conform.py, line \d+\)", ["40 tasks of two and three classes"])
def many_tasks(train: Split, context: CraftContext) -> Noise:
    if len(context.tasks) > 30:
        raise ValueError("no\nroom")
    return Table(rows(train))


@fault(CRAFTED, RAISED.format("RuntimeError"), ["one binary task", "11 binary tasks"])
def binary_tasks(train: Split, context: CraftContext) -> Noise:
    if max(task.outputs for task in context.tasks) == 1:
        torch.ones(2) @ torch.ones(3)
    return Table(rows(train))


@fault(
    CRAFTED, r"RuntimeError: Class values must be non-negative", [HALF_MISSING_CASE, "no labels", DENSE_CASE]
)
def missing_labels(train: Split, context: CraftContext) -> Noise:
    one_hot(labels(train))
    return Table(rows(train))


@fault(CRAFTED, r"returned δ of shape \(40, 3, 16, 16\) for images \(40, 1, 16, 16\)", ["gray images"])
def one_channel(train: Split, context: CraftContext) -> Noise:
    return Asked(rows(train), lambda own, _: own.expand(-1, 3, -1, -1))


@fault(CRAFTED, "BatchNorm|Expected more than 1 value per channel", ["41 images"])
def a_last_batch_of_one(train: Split, context: CraftContext) -> Noise:
    for part in rows(train).mean((2, 3)).split(20):
        torch.nn.BatchNorm1d(part.shape[1])(part)
    return Table(rows(train))


@fault(CRAFTED, "must set needs_surrogate = True")
def no_right_to_checkpoints(train: Split, context: CraftContext) -> Noise:
    context.surrogate_snapshots(1)
    return Table(rows(train))


@fault("changes something", "changes no pixel")
def zeros(train: Split, context: CraftContext) -> Noise:
    return Table(0 * rows(train))


@fault(
    "is the same again with the same seed", r"crafted again with the same seed, \d.*% of all values differ"
)
def unseeded(train: Split, context: CraftContext) -> Noise:
    draw = torch.Generator().manual_seed(next(COUNT))
    return Table((torch.rand(train.images.shape, generator=draw) - 0.5) / 16)


@fault("differs with another seed", "with another seed the poison is the same.*deterministic: ClassVar")
def ignores_the_seed(train: Split, context: CraftContext) -> Noise:
    draw = torch.Generator().manual_seed(1)
    return Table((torch.rand(train.images.shape, generator=draw) - 0.5) / 16)


@fault("leaves its inputs alone", "writes to the training images")
def writes_images(train: Split, context: CraftContext) -> Noise:
    train.images[0, 0, 0, 0] ^= 1
    return Table(rows(train))


@fault("leaves its inputs alone", "writes to the training set's labels")
def writes_labels(train: Split, context: CraftContext) -> Noise:
    labels(train)[0] += 1
    return Table(rows(train))


@fault("leaves its inputs alone", r"changes '.*weight' of a snapshot")
def writes_weights(train: Split, context: CraftContext) -> Noise:
    with torch.no_grad():
        next(context.surrogate_snapshots(1)[0].parameters()).add_(1)
    return Table(rows(train))


@fault("leaves its inputs alone", r"changes '.*running_mean' of a snapshot")
def writes_means(train: Split, context: CraftContext) -> Noise:
    context.surrogate_snapshots(9)[0].train()(train.images / 255)
    return Table(rows(train))


@fault("leaves the process alone", "whether torch computes gradients and how NumPy treats errors")
def switches(train: Split, context: CraftContext) -> Noise:
    torch.set_grad_enabled(False)
    np.seterr(all="ignore")
    return Table(rows(train))


@fault("leaves the batch alone", "writes to the images of its batch")
def writes_batch(train: Split, context: CraftContext) -> Noise:
    def delta(own: Tensor, batch: Batch) -> Tensor:
        batch.images.add_(own)
        return own

    return Asked(rows(train), delta)


@fault("leaves the batch alone", "writes to the targets of its batch")
def writes_targets(train: Split, context: CraftContext) -> Noise:
    def delta(own: Tensor, batch: Batch) -> Tensor:
        next(iter(batch.targets.values())).add_(1)
        return own

    return Asked(rows(train), delta)


OTHERS = "ignores the other images of the batch"


@fault(OTHERS, r"δ of an image differs by up to [\d.]+/255 with the rest of its batch")
def mean_of_the_batch(train: Split, context: CraftContext) -> Noise:
    return Asked(rows(train), lambda own, _: own - own.mean(0))


@fault(OTHERS, r"δ of an image differs by up to [\d.]+/255 with the rest of its batch")
def place_in_the_batch(train: Split, context: CraftContext) -> Noise:
    noise = rows(train)
    return Asked(noise, lambda own, _: noise[: len(own)])


@fault(OTHERS, "delta\\(\\) returns two different δ")
def drawn_when_asked(train: Split, context: CraftContext) -> Noise:
    return Asked(rows(train), lambda own, _: (torch.rand(own.shape) - 0.5) / 16)


@fault("needs no gradient", "δ requires a gradient")
def graph(train: Split, context: CraftContext) -> Noise:
    return Table(rows(train).requires_grad_(True))


@fault("reports its progress in order", r"from step 2/3 to step 1/3")
def backwards(train: Split, context: CraftContext) -> Noise:
    for done in (1, 2, 1):
        context.progress("step", done, 3)
    return Table(rows(train))


@fault("reports its progress in order", r"to step 4/3")
def beyond_the_end(train: Split, context: CraftContext) -> Noise:
    context.progress("step", 4, 3)
    return Table(rows(train))


@fault("reports its progress in order", r"from step 1/3 to step 2/4")
def another_end(train: Split, context: CraftContext) -> Noise:
    context.progress("step", 1, 3)
    context.progress("other", 0, 9)
    context.progress("step", 2, 4)
    return Table(rows(train))


def stepwise(
    train: Split,
    context: CraftContext,
    *,
    random: Callable[[], Tensor] = torch.get_rng_state,
    extra: Callable[[], Any] = lambda: "",
    steps: Callable[[], int] = lambda: 3,
) -> Noise:
    """Three steps, each of which adds random noise and is noted."""
    kept = context.checkpoint.load() or {"done": 0, "rows": torch.zeros(train.images.shape), "random": None}
    done, noise = kept["done"], kept["rows"]
    if kept["random"] is not None:
        torch.set_rng_state(kept["random"])
    for step in range(done + 1, steps() + 1):
        noise = noise + rows(train) / 3

        def state(step: int = step, noise: Tensor = noise) -> dict[str, Any]:
            return {"done": step, "rows": noise, "random": random(), "extra": extra()}

        with contextlib.suppress(Exception):  # one who catches everything is not spared
            context.checkpoint.save(state)
    return Table(noise)


@sound
def checkpointed(train: Split, context: CraftContext) -> Noise:
    return stepwise(train, context)


KILLED = "resumes after a kill"


@fault(KILLED, "resumed from checkpoint 1 of 3, the attack produced a different poison")
def forgets_chance(train: Split, context: CraftContext) -> Noise:
    return stepwise(train, context, random=lambda: torch.Generator().get_state())


@fault(KILLED, "resumed from checkpoint 1 of 3, the attack produced a different poison")
def draws_when_noted(train: Split, context: CraftContext) -> Noise:
    return stepwise(train, context, extra=lambda: torch.rand(1))


@fault(KILLED, "a checkpoint holds tensors and plain values, not Table")
def notes_an_object(train: Split, context: CraftContext) -> Noise:
    return stepwise(train, context, extra=lambda: Table(torch.zeros(1)))


UNSEEN = "serves unseen images"


@fault(UNSEEN, "restored from its state.*the noise differs")
def another_noise(train: Split, context: CraftContext) -> Noise:
    noise = Pattern(rows(train)[0])
    noise.state = lambda: {"pattern": 0.5 * noise.pattern}  # type: ignore[method-assign]
    return noise


@fault(
    UNSEEN,
    "for images it was not crafted on: IndexError: .*out of bounds",
    [PLAIN_CASE, "gray images", ODD_SIZE_CASE, DENSE_CASE],
)
def only_its_own(train: Split, context: CraftContext) -> Noise:
    return Kept(rows(train))


# The parts


@dataclass(frozen=True)
class Faulty:
    """An attack with a fault.

    Not from a paper: a test.

    Attributes:
        fault: its name.
    """

    fault: str = "table"
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> Any:
        craft = SOUND.get(self.fault) or FAULTS[self.fault].craft
        return craft(train, context)

    def restore(
        self, state: Mapping[str, Tensor], context: CraftContext, shape: tuple[int, int, int]
    ) -> Noise:
        return Pattern(state["pattern"]) if "pattern" in state else Kept(state["rows"])


@dataclass(frozen=True)
class WithSurrogate(Faulty):
    """An attack with a fault, and a trained surrogate.

    Not from a paper: a test.
    """

    needs_surrogate: ClassVar[bool] = True


@dataclass(frozen=True)
class Unbounded(Faulty):
    """An attack without a budget.

    Not from a paper: a test.
    """

    norm: ClassVar[Norm | None] = None
    dense: ClassVar[bool] = True


@dataclass(frozen=True)
class LimitedNorm(Faulty):
    """An attack with a budget for the norm of its noise.

    Not from a paper: a test.
    """

    norm: ClassVar[Norm | None] = "l2"


@dataclass(frozen=True)
class Deterministic(Faulty):
    """An attack that says that it draws nothing at random, but does.

    Not from a paper: a test.
    """

    deterministic: ClassVar[bool] = True


@dataclass(frozen=True)
class Resumable(Faulty):
    """An attack that says that it saves checkpoints, but does not.

    Not from a paper: a test.
    """

    resumable: ClassVar[bool] = True


@dataclass(frozen=True)
class Quick(Faulty):
    """An attack with quick parameters.

    Not from a paper: a test.
    """

    quick_params: ClassVar[dict[str, object]] = {"fault": "zeros"}


@dataclass(frozen=True)
class Unrestorable:
    """An attack whose noise says that it can be kept.

    Source: Nobody, Nowhere 2001
    """

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> Noise:
        return pattern(train, context)


@dataclass
class Thawed:
    """Not from a paper."""

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1


@dataclass(frozen=True)
class Trackless:
    """Not from a paper."""

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Any] = True
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1


@dataclass(frozen=True)
class FieldForVersion:
    """Not from a paper.

    Attributes:
        version: of the attack.
    """

    version: int = 1
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True


@dataclass(frozen=True)
class VersionZero(Faulty):
    """Not from a paper."""

    version: ClassVar[int] = 0


@dataclass(frozen=True)
class TakenName(Faulty):
    """Not from a paper.

    Attributes:
        rate: of something else.
    """

    rate: float = 0.5


@dataclass(frozen=True)
class Endless(Faulty):
    """Not from a paper.

    Attributes:
        strength: of the noise.
    """

    strength: float = float("inf")


@dataclass(frozen=True)
class Silent(Faulty):
    pass


@dataclass(frozen=True)
class Sourceless(Faulty):
    """It does something."""


@dataclass(frozen=True)
class Undescribed(Faulty):
    """Not from a paper."""

    strength: float = 1.0


class NoDataclass:
    """Not from a paper."""


Register = Callable[[type], str]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Put a class on the shelf for one test, and return its name."""

    def put(kind: type) -> str:
        monkeypatch.setitem(CATALOG["attack"], "faulty", f"{__name__}:{kind.__name__}")
        catalog_entries.cache_clear()
        return "faulty"

    yield put
    catalog_entries.cache_clear()


def failures(name: str) -> list[Verdict]:
    return [verdict for verdict in run_checks(AttackUnderTest(name), CHECKS) if verdict.failure is not None]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_where_it_is_and_nowhere_else(register: Register, fault: str) -> None:
    kind = WithSurrogate if fault in ("writes_weights", "writes_means") else Faulty
    found = failures(f"{register(kind)}(fault={fault})")
    _, check, sentence, on = FAULTS[fault]
    assert {(verdict.check, verdict.case) for verdict in found} == {(check, case) for case in on}
    for verdict in found:
        assert verdict.failure is not None
        assert re.search(sentence, verdict.failure), verdict.failure
        assert "\n" not in verdict.failure


@pytest.mark.parametrize("fault", SOUND)
@pytest.mark.parametrize("kind", [Faulty, WithSurrogate, Unbounded, LimitedNorm])
def test_what_is_sound_passes_every_check_in_order(register: Register, kind: type, fault: str) -> None:
    verdicts = list(run_checks(AttackUnderTest(f"{register(kind)}(fault={fault})"), CHECKS))
    assert [verdict for verdict in verdicts if verdict.failure is not None] == []
    wanted = [(check.name, case) for check in CHECKS for case in check.cases or ("",)]
    assert [(verdict.check, verdict.case) for verdict in verdicts] == wanted
    assert len(verdicts) == TOTAL
    not_applicable = {verdict.check for verdict in verdicts if verdict.not_applicable is not None}
    assert not_applicable == {KILLED, UNSEEN} - {{"checkpointed": KILLED, "pattern": UNSEEN}.get(fault, "")}


@pytest.mark.parametrize(
    ("kind", "check", "sentence"),
    [
        (Thawed, "is a frozen dataclass", "it is not frozen"),
        (Trackless, "is a frozen dataclass", r"no class variable norm: ClassVar\[Norm \| None\]"),
        (FieldForVersion, "is a frozen dataclass", r"no class variable version: ClassVar\[int\]"),
        (VersionZero, "is a frozen dataclass", "its version is 0; the first one is 1"),
        (TakenName, "is a frozen dataclass", "'rate' has the name of one that every attack takes"),
        (Endless, "can be written into a key", "cannot be written into a key"),
        (Silent, "says what it is and where it is from", "it has no docstring"),
        (Sourceless, "says what it is and where it is from", "no line 'Source: ...'"),
        (Undescribed, "says what it is and where it is from", "parameter 'strength' is not described"),
        (Deterministic, "differs with another seed", "the poison differs, although it says deterministic"),
        (Resumable, KILLED, "it says resumable = True, but saves no checkpoint"),
        (Unrestorable, UNSEEN, r"the attack has no restore\(state, context, shape\)"),
    ],
)
def test_a_part_that_is_no_part_is_told_why(
    register: Register, kind: type, check: str, sentence: str
) -> None:
    name = register(kind)
    found = [verdict for verdict in failures(name) if verdict.check != CRAFTED]
    assert {verdict.check for verdict in found} == {check}
    assert all(re.search(sentence, verdict.failure or "") for verdict in found)


def test_quick_parameters_come_below_those_of_the_choice(register: Register) -> None:
    name = register(Quick)
    assert AttackUnderTest(name).part.fault == "zeros"
    assert AttackUnderTest(f"{name}(fault=table)").part.fault == "table"
    assert "note: checked with its quick parameters fault=zeros" in command(name)[1]
    assert "quick parameters" not in command(f"{name}(fault=table)")[1]


def test_a_written_index_is_found(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    def delta(own: Tensor, batch: Batch) -> Tensor:
        batch.index[-1:] = 0
        return own

    monkeypatch.setitem(SOUND, "table", lambda train, _: Asked(rows(train), delta))
    sentences = {verdict.failure for verdict in failures(register(Faulty))}
    assert "delta() writes to the index of its batch" in sentences


def test_a_crafting_that_saves_less_the_second_time(register: Register) -> None:
    tested = AttackUnderTest(f"{register(Faulty)}(fault=checkpointed)")
    with pytest.raises(ContractError, match="crafted again, it saves its state fewer than 4 times"):
        tested.craft_with_a_kill(PLAIN_CASE, 4)


def test_what_a_crafting_disturbs_is_put_back(register: Register) -> None:
    made = AttackUnderTest(f"{register(Faulty)}(fault=switches)").craft_once(PLAIN_CASE)
    assert len(made.disturbed) == 2
    assert torch.is_grad_enabled()
    assert np.geterr()["divide"] == "warn"


def test_what_is_no_dataclass_at_all_is_refused(register: Register) -> None:
    with pytest.raises(BenchError, match="NoDataclass is not a dataclass, which every part must be"):
        AttackUnderTest(register(NoDataclass))


def test_an_attack_is_crafted_on_a_training_set_once(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counting(train: Split, context: CraftContext) -> Noise:
        seen.append(len(context.tasks))
        return table(train, context)

    monkeypatch.setitem(SOUND, "table", counting)
    list(run_checks(AttackUnderTest(register(Faulty)), CHECKS))
    again = next(check.cases for check in CHECKS if check.name == "is the same again with the same seed")
    assert len(seen) == len(CASES) + len(again) + 1  # with another seed


def test_an_attack_is_held_to_the_budget_unless_it_is_unbounded(register: Register) -> None:
    beyond = {
        kind: AttackUnderTest(f"{register(kind)}(fault=far_beyond_the_budget)").craft_once(PLAIN_CASE)
        for kind in (Faulty, Unbounded, LimitedNorm)
    }
    assert beyond[Faulty].change.abs().max() == 8
    assert beyond[Faulty].context.epsilon == 8 / 255
    assert beyond[Unbounded].change.abs().max() > 200
    assert beyond[Unbounded].context.epsilon == 1
    change = beyond[LimitedNorm].change.long()
    assert 0 < change.square().sum((1, 2, 3)).max() <= 255**2 * change[0].numel() / (3 * 32 * 32)
    assert (beyond[LimitedNorm].context.norm, beyond[LimitedNorm].context.epsilon) == ("l2", 1.0)


def test_parameters_of_every_attack_are_not_the_attacks(register: Register) -> None:
    register(Faulty)
    assert AttackUnderTest('faulty(rate=0.5, tasks=["left"], fault=zeros)').part == Faulty(fault="zeros")
    with pytest.raises(BenchError, match="'falt'; did you mean 'fault'"):
        AttackUnderTest("faulty(falt=zeros)")


# The command


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["conform", *arguments])
    return result.exit_code, result.stdout


def row(text: str, check: str) -> list[str]:
    """Return the cells of a check's row, but for its name."""
    (found,) = re.findall(rf"^\| {re.escape(check)} +\|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def test_the_command_says_that_all_is_well(register: Register) -> None:
    code, text = command(register(Faulty))
    assert code == 0
    assert row(text, "is a frozen dataclass") == ["", "passed"]
    assert row(text, CRAFTED) == [str(len(CASES)), "passed"]
    assert row(text, "changes something") == [str(len(LABELED_CASES)), "passed"]
    assert row(text, UNSEEN) == ["0", "does not apply"]
    assert "note: serves unseen images: does not apply, since its noise has no state()" in text
    assert text.splitlines()[-1] == f"faulty: all {TOTAL - 6} checks passed"


def test_the_command_says_what_fails_where(register: Register) -> None:
    code, text = command(f"{register(Faulty)}(fault=missing_labels)")
    assert code == 1
    assert row(text, CRAFTED) == [str(len(CASES)), "FAILED on 3"]
    assert row(text, "keeps the budget") == [f"{len(CASES) - 3} of {len(CASES)}", "passed"]
    head, said, where = re.search(r"^(FAILED: .*)\n  (.*)\n  on: (.*)$", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert head == "FAILED: can be crafted"
    assert said.startswith("RuntimeError: Class values must be non-negative")
    assert where == f"{HALF_MISSING_CASE}, no labels, {DENSE_CASE}"
    assert re.search(r"\(fault=missing_labels\): 3 of \d+ checks failed$", text.splitlines()[-1])


def test_what_fails_everywhere_is_told_in_short(register: Register) -> None:
    _, text = command(f"{register(Faulty)}(fault=zeros)")
    assert "FAILED: changes something\n  it changes no pixel of any image\n  on: all training sets" in text
    _, text = command(f"{register(Faulty)}(fault=forgets_chance)")
    assert "a different poison\n  on: all training sets\n" in text


def test_a_fault_of_the_part_itself_has_no_training_set(register: Register) -> None:
    code, text = command(register(TakenName))
    assert code == 1
    assert row(text, "is a frozen dataclass") == ["", "FAILED"]
    assert "FAILED: is a frozen dataclass\n  its parameter 'rate'" in text
    assert "on:" not in text


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        ("emm", "unknown attack 'emm'; did you mean 'em'?"),
        ("em(round=2)", "unknown parameter of attack 'em': 'round'; did you mean 'rounds'?"),
        ("em(", "cannot read 'em('"),
    ],
)
def test_what_is_misspelt_is_refused(attack: str, sentence: str) -> None:
    result = CliRunner().invoke(app, ["conform", attack])
    assert isinstance(result.exception, BenchError)
    assert sentence in str(result.exception)
