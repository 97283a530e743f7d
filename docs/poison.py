"""Draw the picture of the README from a run of `docs/poison.toml`: clean image, amplified δ, released image.

Usage: python docs/poison.py RUN PICTURE; `nox -s picture` makes the run as well.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from bench.catalog.build import build_part
from bench.record import Record, read_records

ROWS = (3, 8, 19)
"""Training images that are shown."""

AMPLIFICATION = 12
"""Factor of the shown δ, around gray: a change of 8/255 is three quarters of the way to black or white."""

SCALE, GAP = 3, 6
"""Screen pixels per image pixel, and between images."""


def draw_picture(run: Path) -> Image.Image:
    """Return a row of clean image, δ and released image for each of `ROWS`."""
    records = [record for record in read_records(run / "records") if isinstance(record, Record)]
    record = next(record for record in records if record.cell["attack"] != "clean")
    data = build_part("dataset", str(record.cell["dataset"])).load(None, run)
    clean = data.train.images[list(ROWS)].int()
    change = load_file(run / "poisons" / record.poison / "tensors.safetensors")["change"][list(ROWS)].int()
    columns = (clean, 128 + AMPLIFICATION * change, clean + change)
    images = torch.stack(columns, 1).clamp(0, 255).to(torch.uint8)
    images = images.repeat_interleave(SCALE, -2).repeat_interleave(SCALE, -1)
    rows, count, _, height, width = images.shape
    page = Image.new("RGB", (count * (width + GAP) - GAP, rows * (height + GAP) - GAP), color=(255, 255, 255))
    for row in range(rows):
        for column in range(count):
            tile = Image.fromarray(images[row, column].permute(1, 2, 0).numpy())
            page.paste(tile, (column * (width + GAP), row * (height + GAP)))
    return page


if __name__ == "__main__":
    draw_picture(Path(sys.argv[1])).save(sys.argv[2], optimize=True)
