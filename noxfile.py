"""The tasks of a developer: `nox -l` lists them, `nox -s NAME` runs one in its own environment.

`nox --no-venv -s NAME` runs it in the current environment instead.
"""

import shutil

import nox

nox.options.sessions = ["lint", "types", "imports", "tests"]
nox.options.default_venv_backend = "venv"

PYTHONS = ["3.11", "3.12", "3.13"]


def install(session: nox.Session) -> None:
    if session.virtualenv.is_sandboxed:
        session.install("-c", "constraints.txt", "-e", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Static types, strictly."""
    install(session)
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Imports flow one way."""
    install(session)
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests; arguments go to pytest: `nox -s tests-3.11 -- -k digits`."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill runs 300 times, workers and nodes 25 times each, inject all other faults, and report the loss."""
    install(session)
    tests = (
        "tests/engine/execution/test_faults.py",
        "tests/engine/execution/test_terminal_signals.py",
        "tests/engine/executors/test_ray.py::test_runs_that_lose_nodes",
    )
    session.run(
        *("pytest", *tests, "-n", "0", "-s", "--timeout", "7200", *session.posargs),
        env={"MTLUE_KILLS": "300"},
    )


@nox.session
def smoke(session: nox.Session) -> None:
    """Run the suite `smoke`."""
    install(session)
    session.run("bench", "run", "--suite", "smoke", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run the suite `nightly` and compare it with the committed reference."""
    install(session)
    session.run("bench", "run", "--suite", "nightly", *session.posargs)
    session.run(
        *("bench", "check", "--against", "tests/golden/nightly.json", "--out", "runs/nightly"),
        *("--junit", "runs/nightly/check.xml"),
    )


@nox.session
def planted(session: nox.Session) -> None:
    """Plant defects in the suite `nightly`; the check against the committed reference must find each."""
    install(session)
    session.run(
        *("pytest", "tests/leaderboard/test_planted_defects.py", "-n", "0", "--timeout", "600"),
        *("-s", *session.posargs),
        env={"MTLUE_PLANTED": "nightly"},
    )


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Time the hot paths beside their plain forms; print one table and write benchmarks.json."""
    install(session)
    # Without the project's options, which check the shapes at every call.
    options = ("-o", "addopts=--import-mode=importlib", "--benchmark-only", "--benchmark-quiet")
    session.run("pytest", "tests/benchmarks", *options, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Simulate how often intervals over seeds hold the truth; print the table of docs/statistics.md."""
    install(session)
    session.run("python", "-m", "tests.simulation.coverage", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Measure on a GPU for at most eight minutes: `nox -s gpu -- --data PACKED --out FOLDER`."""
    install(session)
    session.run("python", "tests/gpu/measure.py", *session.posargs)


@nox.session
def picture(session: nox.Session) -> None:
    """Make the pictures of the README again: craft the poison of one, take the other in a browser."""
    install(session)
    session.run("bench", "run", "--suite", "docs/poison.toml", "--out", "runs/poison", "--no-track")
    session.run("python", "docs/poison.py", "runs/poison", "docs/poison.png")
    browser = shutil.which("chromium")
    if not browser:
        session.run("playwright", "install", "chromium")
    archive = "leaderboard/results/quick.jsonl.gz"
    session.run("python", "docs/page_picture.py", archive, "docs/page.png", *filter(None, [browser]))
