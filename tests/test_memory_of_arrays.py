"""Arrays that need not fit in memory."""

from pathlib import Path

import pytest
import torch

from bench import memory
from bench.errors import BenchError


def crowded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no array be small enough for the memory."""
    monkeypatch.setattr(memory, "SHARE", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.float16])
def test_an_array_that_does_not_fit_is_in_a_file_that_has_no_name(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded(monkeypatch, tmp_path)
    array = memory.allocate_zeros((3, 5, 2), dtype)
    assert (array.shape, array.dtype) == ((3, 5, 2), dtype)
    assert not array.any()
    array[1] = 7
    assert array.sum() == 70
    assert not list(tmp_path.iterdir())
    assert "(deleted)" in Path("/proc/self/maps").read_text() or not Path("/proc").exists()


def test_an_array_that_fits_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: pytest.fail("a file was made"))
    assert torch.equal(memory.allocate_zeros((2, 3), torch.int8), torch.zeros(2, 3, dtype=torch.int8))


def test_a_full_disk_is_said_at_once_and_not_by_a_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded(monkeypatch, tmp_path)
    with pytest.raises(BenchError, match=r"GiB fits neither in memory nor in .*set TMPDIR"):
        memory.allocate_zeros((2**50,), torch.uint8)


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="control groups are Linux's")
@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_containers_limit_counts_like_the_machines_memory(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path("/proc/self/cgroup").read_text()
    if file == "memory.max" and "0::" not in own:
        pytest.skip("no control groups of version 2 here")
    if file != "memory.max" and "memory" not in own:
        pytest.skip("no control groups of version 1 here")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("1000\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory._container_memory_limit() == 1000
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert len(memory.allocate_zeros((250,), torch.uint8)) == 250
    with pytest.raises(BenchError, match="neither in memory"):
        memory.allocate_zeros((251,), torch.uint8)
