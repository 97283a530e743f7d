"""Run the checks of a part and report what failed."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.conformance.part import Check, NoResultError, PartUnderTest
from bench.table import fill_paragraphs, format_table


@dataclass(frozen=True)
class Verdict:
    """The result of one check on one case.

    Attributes:
        check: the check's name.
        case: the case; empty if the check needs none.
        failure: what is wrong; None if nothing is.
        not_applicable: why the check does not apply; None if it does.
    """

    check: str
    case: str
    failure: str | None = None
    not_applicable: str | None = None


NO_RESULT = "there is nothing to check"


def run_checks(tested: PartUnderTest, checks: Sequence[Check]) -> Iterator[Verdict]:
    """Yield the verdict of every check on every one of its cases, in order."""
    for check in checks:
        for case in check.cases or ("",):
            yield _run_check(tested, check, case)


def _run_check(tested: PartUnderTest, check: Check, case: str) -> Verdict:
    if case and (reason := tested.reason_to_skip(case)) is not None:
        return Verdict(check.name, case, not_applicable=reason)
    with torch.random.fork_rng(devices=[]):
        try:
            return Verdict(check.name, case, not_applicable=check.run(tested, case))
        except NoResultError:
            return Verdict(check.name, case, not_applicable=NO_RESULT)
        except (Exception, SystemExit) as error:  # any error is a failure of the part
            return Verdict(check.name, case, failure=tested.describe_error(error))


def render_verdicts(
    tested: PartUnderTest, verdicts: Sequence[Verdict], case_name: str, width: int | None = None
) -> str:
    """Return a table of the checks, the reasons why some do not apply, every failure, and a summary.

    They fit a terminal of a width; None: lines of any length.
    """
    by_check: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_check[verdict.check].append(verdict)
    rows = [(check, *_summarize(of_check)) for check, of_check in by_check.items()]
    failed = sum(verdict.failure is not None for verdict in verdicts)
    applied = sum(verdict.not_applicable is None for verdict in verdicts)
    summary = f"{failed} of {applied} checks failed" if failed else f"all {applied} checks passed"
    table = format_table(rows, ("check", case_name, "result"), width, right=(1,))
    return "\n\n".join(
        [
            table,
            *(fill_paragraphs(note, width) for note in _notes(tested, verdicts)),
            *_failures(verdicts, case_name),
            f"{tested.choice.label}: {summary}",
        ]
    )


def _summarize(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """Return the number of cases that a check was run on, and its result."""
    applied = sum(verdict.not_applicable is None for verdict in verdicts)
    failed = sum(verdict.failure is not None for verdict in verdicts)
    if not verdicts[0].case:
        return "", "FAILED" if failed else "passed" if applied else "does not apply"
    count = f"{applied}" if applied in (0, len(verdicts)) else f"{applied} of {len(verdicts)}"
    return count, f"FAILED on {failed}" if failed else "passed" if applied else "does not apply"


def _notes(tested: PartUnderTest, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield the parameters that were chosen to be quick, and every reason why a check does not apply."""
    if tested.quick_params:
        params = ", ".join(f"{name}={value}" for name, value in tested.quick_params.items())
        yield f"note: checked with its quick parameters {params}; yours come before them"
    checks: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.not_applicable not in (None, NO_RESULT):
            checks[str(verdict.not_applicable)][verdict.check] = None
    for reason, names in checks.items():
        yield f"note: {', '.join(names)}: does not apply, since {reason}"


def _failures(verdicts: Sequence[Verdict], case_name: str) -> Iterator[str]:
    """Yield everything that is wrong, once, with the cases it is wrong on."""
    counts = Counter(verdict.check for verdict in verdicts)
    failed: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.failure is not None:
            failed[verdict.check, verdict.failure].append(verdict.case)
    for (check, failure), cases in failed.items():
        where = f"all {case_name}" if 1 < len(cases) == counts[check] else ", ".join(cases)
        yield f"FAILED: {check}\n  {failure}" + (f"\n  on: {where}" if any(cases) else "")
