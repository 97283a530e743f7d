"""A folder of images as `load_decoded` returns it, for tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bench.datasets.decoding import Selection, list_files, load_decoded
from bench.datasets.image_files import DecodeSettings

SIZE = 8
SMALL = DecodeSettings((SIZE, SIZE))


class Decoded(NamedTuple):
    """What `load_decoded` returns, by name."""

    images: torch.Tensor
    names: list[str]
    skipped: dict[str, str]
    copies: dict[str, str]


def decoded(
    tmp_path: Path,
    decode: DecodeSettings = SMALL,
    select: Callable[[], Selection] | None = None,
    suffixes: Sequence[str] = (".jpg",),
) -> Decoded:
    """Decode the files of ``tmp_path/images``, all of them if nothing else is selected."""
    folder = tmp_path / "images"
    files = list_files(folder, *suffixes)
    images, selection, _ = load_decoded(
        tmp_path / "cache",
        "some",
        folder,
        files=files,
        decode=decode,
        order={"seed": 0},
        select=select or (lambda: Selection([file.name for file in files])),
    )
    return Decoded(images, selection.names, selection.skipped, selection.copies)
