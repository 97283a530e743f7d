"""Settings for every test: one thread, no telemetry, runs kept out of the repository."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# Before torch is imported: small tensors on many threads are slower, and workers of the test run share cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TQDM_DISABLE", "1")
# The tests start hundreds of processes, each of which would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Background jobs of a shell ignore Ctrl-C, and so do processes of theirs; tests send it to both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["MTLUE_CACHE"] = str(Path(tempfile.gettempdir()) / f"mtlue-bench-tests-{os.getuid()}")


def pytest_xdist_auto_num_workers() -> int:
    """Use two processes more than there are cores: many tests wait for processes they have started."""
    return 2 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder with real images, or skip: users need not have one."""
    folder = Path(os.environ.get("MTLUE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is not there (set MTLUE_DATA)")
    return folder
