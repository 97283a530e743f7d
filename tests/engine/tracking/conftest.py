"""The store that the tests of a process share, since making its tables takes seconds."""

import pytest

from bench.engine.tracking import listener
from bench.engine.tracking.mlflow_database import default_uri


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no slow store."""
    monkeypatch.setattr(listener, "MAX_DELAY_S", 300.0)


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which every test has a suite of its own."""
    return default_uri(tmp_path_factory.mktemp("out"))
