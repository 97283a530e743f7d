"""The commit of the source code that records are made with."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
"""The folder that holds the package; a checkout if there is a ``.git`` in it."""

PACKAGES = ("bench", "baselines", "mtlue", "leaderboard")
"""The folders of the checkout whose changes count: documents and data of the user cannot change results."""

TIMEOUT_S = 10.0


@cache
def describe_source_version() -> dict[str, Any]:
    """Return ``{"source": {"commit", "clean"}}`` of the running code; empty without git or a checkout."""
    return read_source_version(CHECKOUT)


def read_source_version(checkout: Path) -> dict[str, Any]:
    """Return the commit of a checkout, and whether its packages are as committed, without untracked files."""
    if not (checkout / ".git").exists():
        return {}
    # Other users' checkouts are read too, as in a container; git's own variables name another repository.
    command = ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false")
    arguments = ("status", "--porcelain=v2", "--branch", "--untracked-files=normal", "--", *PACKAGES)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        status = subprocess.run(
            [*command, *arguments],
            cwd=checkout,
            env={**variables, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = next((line.split()[2] for line in status if line.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":  # there is no commit yet
        return {}
    return {"source": {"commit": commit, "clean": all(line.startswith("#") for line in status)}}
