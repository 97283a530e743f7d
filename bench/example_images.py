"""A few training images of a poison, clean and as released: ``examples.safetensors`` next to the poison.

With them a figure or a page shows what an attack does, without the dataset and without torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.files import require_file

if TYPE_CHECKING:  # the store imports the file's name, and `bench explain` the store
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES: Final = "examples.safetensors"
"""Name of the file in the folder of a poison."""


@dataclass(frozen=True, eq=False)
class ExampleImages:
    """Training images of a poison.

    Attributes:
        rows: int64 [k], their places in the training set.
        clean: uint8 [k c h w].
        released: uint8 [k c h w], the same images with the change of the poison.
        side: the longer side of the images in the dataset, in pixels. If it is longer than that of these
            images, clean and released images were shrunk in the same way. That averages pixels, and so also
            their changes: the difference of the two is smaller than the change that was released.
    """

    rows: "NDArray[np.int64]"
    clean: "NDArray[np.uint8]"
    released: "NDArray[np.uint8]"
    side: int

    @property
    def is_shrunk(self) -> bool:
        """Whether the images are smaller than those of the dataset."""
        return bool(max(self.clean.shape[2:]) < self.side)


def encode_example_images(examples: ExampleImages) -> bytes:
    """Return the content of the file; the same images give the same bytes."""
    import numpy as np
    from safetensors.numpy import save

    side = np.array([examples.side])
    return save({"rows": examples.rows, "clean": examples.clean, "released": examples.released, "side": side})


def read_example_images(run: Path, poison: str) -> ExampleImages | None:
    """Return the example images of a poison.

    None if there are none: the poison was made without them or is gone, or the file is damaged.

    Args:
        run: the run's folder.
        poison: its key, as in a record.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(require_file(run / "poisons" / poison / EXAMPLES).read_bytes())
        rows, clean, released, side = (tensors[name] for name in ("rows", "clean", "released", "side"))
        is_valid = clean.dtype == released.dtype == "uint8" and clean.shape == released.shape
        if not is_valid or clean.ndim != 4 or not clean.size or rows.shape != clean.shape[:1]:
            return None
        return ExampleImages(rows, clean, released, side.item())
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
