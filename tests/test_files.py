"""What a user's path leads to is written to; only a regular file is replaced."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.files import write_atomically, write_output


@pytest.mark.parametrize(("text", "written"), [("new", b"new\n"), ("new\n", b"new\n"), ("a\udcff", b"a?\n")])
def test_a_regular_file_is_replaced_and_ends_with_a_newline(
    tmp_path: Path, text: str, written: bytes
) -> None:
    path = tmp_path / "board.md"
    path.write_text("the old text, which is longer")
    write_output(path, text)
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_to() -> None:
    controller, terminal = os.openpty()
    write_output(Path(os.ttyname(terminal)), "new")
    assert os.read(controller, 100) == b"new\r\n"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    write_output(path, "new")
    reader.join(10)
    assert read == [b"new\n"]
    assert path.is_fifo()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(tmp_path: Path, exists: bool) -> None:
    link, target = tmp_path / "link", tmp_path / "folder" / "target"
    target.parent.mkdir()
    if exists:
        target.write_text("old")
    link.symlink_to("folder/target")
    write_output(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new\n"


@pytest.mark.parametrize("arguments", [("1", "/proc/self/fd/1"), ("2", "/proc/self/fd/2"), ("1", "log")])
def test_the_file_of_standard_output_is_written_to_in_order(
    tmp_path: Path, arguments: tuple[str, str]
) -> None:
    code = (
        "import sys; from pathlib import Path; from bench.files import write_output\n"
        "stream = {'1': sys.stdout, '2': sys.stderr}[sys.argv[1]]\n"
        "print('before', file=stream); write_output(Path(sys.argv[2]), 'new'); print('after', file=stream)"
    )
    with (tmp_path / "log").open("w") as log:
        log.write("first\n")
        log.flush()
        command = [sys.executable, "-c", code, *arguments]
        streams = {"1": {"stdout": log}, "2": {"stderr": log}}[arguments[0]]
        root = Path(__file__).parents[1]
        subprocess.run(
            command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, **streams
        )
    assert (tmp_path / "log").read_text() == "first\nbefore\nnew\nafter\n"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=f"^cannot write {tmp_path}: Is a directory$"):
        write_output(tmp_path, "new")


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "board.md"
    path.touch(0o600)
    write_output(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "board.md", tmp_path / "other"
    other.write_text("of somebody else")
    (tmp_path / f".board.md.{os.getpid()}.tmp").symlink_to(other)
    write_atomically(path, "new")
    assert (path.read_text(), other.read_text()) == ("new", "of somebody else")
