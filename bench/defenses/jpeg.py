"""JPEG: compression removes what people do not see."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.api import Task
from bench.defenses.base import NoOp
from bench.errors import BenchError
from bench.memory import allocate_zeros
from bench.values import Progress, Split, ignore_progress


@dataclass(frozen=True)
class JPEG(NoOp):
    """Each released image is compressed as JPEG and decoded once; the codec is Pillow's, chroma is 4:2:0.

    Source: Liu et al., ICML 2023, arXiv:2301.13838 (ISS, quality 10)

    Attributes:
        quality: the codec's quality, from 1 to 95.
    """

    version: ClassVar[int] = 1

    quality: Annotated[int, Ge(1), Le(95)] = 10

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the decoded images.

        Raises:
            BenchError: when they have neither one channel nor three.
        """
        images = released.images
        count, channels = images.shape[:2]
        if channels not in (1, 3):
            raise BenchError(f"defense 'jpeg' takes images of 1 or 3 channels, not {channels}")
        pixels = images.cpu().numpy()
        cleaned = allocate_zeros(images.shape, images.dtype).numpy()

        def clean(row: int) -> None:
            cleaned[row] = self._compress(pixels[row])

        with ThreadPoolExecutor() as pool:  # the codec runs outside of the interpreter's lock
            for _ in pool.map(clean, range(count)):
                pass
        return torch.from_numpy(cleaned).to(images.device)

    def _compress(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Encode and decode one image [c h w]: one channel as gray levels, three as RGB."""
        gray = len(image) == 1
        pixels = image[0] if gray else image.transpose(1, 2, 0)
        with BytesIO() as file:
            Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=self.quality)
            with Image.open(file, formats=("JPEG",)) as decoded:
                back = np.asarray(decoded)
        return back[None] if gray else back.transpose(2, 0, 1)
