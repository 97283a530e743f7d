"""Measure on a GPU, in at most eight minutes: the CUDA tests, the benchmarks, a reduced ``paper-utkface``.

``measure.py --data PACKED --out FOLDER`` on the folder of `pack.py`, in an environment with torch and
torchvision. Whatever fails or takes too long is noted, and the rest goes on. ``--tiny`` tries the script on a
CPU.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTEST = ("-m", "pytest", "-o", "addopts=--import-mode=importlib")
CUDA_TESTS = ("tests/engine/stages/test_memory.py", "tests/engine/stages/test_synchronizations.py")
REDUCED = ("--only", "seed=0", "--set", "params.dataset.utkface.size=64", "--set", "recipe.epochs=10")
TINY = (
    *("--only", "seed=0", "--only", "attack=mtl-ue-tap", "--only", "regime=mtl", "--set", "recipe.epochs=1"),
    *("--set", "params.dataset.utkface.size=16", "--set", "params.dataset.utkface.limit=40"),
    *("--set", "params.attack.mtl-ue-tap.rounds=1", "--set", "params.attack.mtl-ue-tap.width=4"),
)


class Steps:
    """Runs commands one after the other, with a limit each, and notes how they ended.

    Attributes:
        ended: command → its exit code, None after too long a time, and its seconds.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.ended: dict[str, tuple[int | None, float]] = {}

    def run(self, name: str, limit_s: float, *command: str) -> None:
        """Run Python with some arguments; its output goes to ``NAME.txt``."""
        start, code = time.perf_counter(), None
        with (self._out / f"{name}.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        self.ended[name] = code, round(time.perf_counter() - start, 1)
        print(f"{name}: exit code {code} after {self.ended[name][1]} s", flush=True)


def install_wheels(steps: Steps, wheels: Path) -> None:
    """Install what was packed, if it is not there."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if files:
        steps.run("install", 90, "-m", "pip", "install", "--no-index", "--no-deps", *files)


def describe_machine() -> dict[str, str]:
    """Return the names of the device and of the versions."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "torch": torch.__version__, "python": platform.python_version()}


def main() -> None:
    """Run all steps, and write what they print and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="little work, on a CPU")
    given = parser.parse_args()
    data, out = given.data.resolve(), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    steps = Steps(out)
    if not given.tiny:
        install_wheels(steps, data / "wheels")
    device = "cpu" if given.tiny else "cuda"
    steps.run("tests", 60, *PYTEST, *CUDA_TESTS, "-k", "test_what_waits" if given.tiny else "cuda or gpus")
    chosen = "regularizers" if given.tiny else "cuda"
    steps.run(
        "benchmarks", 120, *PYTEST, "tests/benchmarks", "--benchmark-only", "--benchmark-quiet", "-k", chosen
    )
    if (ROOT / "benchmarks.json").exists():
        (ROOT / "benchmarks.json").replace(out / "benchmarks.json")
    suite = ("run", "--suite", "paper-utkface", *(TINY if given.tiny else REDUCED), "--no-track")
    folders = ("--data-root", str(data), "--cache", str(out / "cache"), "--out", str(out / "run"))
    steps.run("paper-utkface", 200, "-m", "bench", *suite, *folders, "--device", device, "--jobs", "1")
    steps.run("leaderboard", 20, "-m", "bench", "report", "--out", str(out / "run"))
    summary = {**describe_machine(), "steps": steps.ended}
    (out / "machine.json").write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
