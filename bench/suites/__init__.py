"""The suites of this package, one TOML file each."""

import tomllib
from importlib.resources import files


def suite_names() -> list[str]:
    """Return the names of the suites."""
    return sorted(
        path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml")
    )


def suite_text(name: str) -> str:
    """Return the TOML of a suite."""
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")


def describe_suites() -> list[tuple[str, str]]:
    """Return the name and the description of every suite."""
    return [(name, tomllib.loads(suite_text(name)).get("description", "")) for name in suite_names()]
