"""The command line and a data root for the tests of reports."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import cli
from tests.dataset_report.examples import HOSTILE, Bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """Run the command line as its entry point does; return its exit code and what it printed."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MTLUE_CACHE", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        out, err = capsys.readouterr()
        return code if isinstance(code, int) else 0, out, err

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a folder of 12 images, the last a copy of the first and in the other split."""
    folder = tmp_path / "root" / "images"
    folder.mkdir(parents=True)
    lines = ["image,kind,grade,split", f"{HOSTILE.replace('/', '')}.png,{HOSTILE},1,train"]
    rng = np.random.default_rng(0)
    for row in range(12):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        kind, grade = HOSTILE if row % 3 == 0 else "b&b", "" if row == 2 else row % 4
        lines.append(f"{row}.png,{kind},{grade},{'train' if row < 8 else 'test'}")
    (folder / "11.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "root"
