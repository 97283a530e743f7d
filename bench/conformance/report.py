"""Run the checks on an attack and report what failed."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.conformance.cases import CASES
from bench.conformance.checks import CHECKS, Check, describe_error
from bench.conformance.craft_run import AttackUnderTest, CraftFailedError


@dataclass(frozen=True)
class Verdict:
    """What came of one check on one kind of training set.

    Attributes:
        check: the check's name.
        case: the kind of training set; empty where the check needs none.
        failure: what is wrong; None where nothing is.
        beside: why the check does not apply; None where it does.
    """

    check: str
    case: str
    failure: str | None = None
    beside: str | None = None


NOT_DENSE = "it makes no noise for dense tasks, and says so"

UNCRAFTED = "there is nothing to check where it cannot be crafted"


def run_checks(trial: AttackUnderTest, checks: Sequence[Check] = CHECKS) -> Iterator[Verdict]:
    """Yield the verdict of every check on every kind of training set, in order."""
    for check in checks:
        for case in check.cases or ("",):
            yield _run_check(trial, check, case)


def _run_check(trial: AttackUnderTest, check: Check, case: str) -> Verdict:
    if case and CASES[case].dense and not getattr(trial.attack, "dense", False):
        return Verdict(check.name, case, beside=NOT_DENSE)
    with torch.random.fork_rng(devices=[]):
        try:
            return Verdict(check.name, case, beside=check.run(trial, case))
        except CraftFailedError:
            return Verdict(check.name, case, beside=UNCRAFTED)
        except Exception as error:  # whatever an attack raises is a finding
            return Verdict(check.name, case, failure=describe_error(error, trial))


def render_verdicts(attack: str, verdicts: Sequence[Verdict]) -> str:
    """Return a table of the checks, what does not apply, all that is wrong, and the sum of it."""
    from tabulate import tabulate

    by_check: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_check[verdict.check].append(verdict)
    rows = [(check, *_summarize(found)) for check, found in by_check.items()]
    failed = sum(verdict.failure is not None for verdict in verdicts)
    judged = sum(verdict.beside is None for verdict in verdicts)
    last = f"{failed} of {judged} checks failed" if failed else f"all {judged} checks passed"
    table = tabulate(rows, ("check", "training sets", "result"), "github", colalign=("left", "right", "left"))
    return "\n\n".join([table, *_remarks(verdicts), f"{attack}: {last}"])


def _summarize(found: Sequence[Verdict]) -> tuple[str, str]:
    """Return on how many training sets a check was made, and what came of it."""
    judged = sum(verdict.beside is None for verdict in found)
    failed = sum(verdict.failure is not None for verdict in found)
    if not found[0].case:
        return "", "FAILED" if failed else "passed"
    made = f"{judged}" if judged in (0, len(found)) else f"{judged} of {len(found)}"
    return made, f"FAILED on {failed}" if failed else "passed" if judged else "does not apply"


def _remarks(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield every reason why a check does not apply, then everything that is wrong, each once."""
    for check, beside in dict.fromkeys((v.check, v.beside) for v in verdicts if v.beside is not None):
        if beside != UNCRAFTED:
            yield f"note: {check}: does not apply, since {beside}"
    made = Counter(verdict.check for verdict in verdicts)
    failed: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.failure is not None:
            failed[verdict.check, verdict.failure].append(verdict.case)
    for (check, failure), cases in failed.items():
        where = "all training sets" if 1 < len(cases) == made[check] else ", ".join(cases)
        yield f"FAILED: {check}\n  {failure}" + (f"\n  on: {where}" if any(cases) else "")
