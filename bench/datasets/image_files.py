"""One image file: which formats are read, and how it becomes a row of pixels."""

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import UInt8

from bench.errors import BenchError
from bench.files import require_file

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
"""Endings of the names of image files, in lower case."""

_FORMATS: Final[tuple[str, ...]] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""The formats that are read, by Pillow's names."""

_HEAD: Final = 132
"""Bytes at the start of a file that say what it is."""

_KINDS: Final = (
    (0, b"RIFF", "a WebP image"),
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftyphev", "a HEIC image"),
    (4, b"ftypmif", "a HEIC image"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (4, b"JXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"8BPS", "a Photoshop file"),
    (128, b"DICM", "a DICOM file"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"<!doctype html", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the image"),
    (0, b"%PDF", "a PDF file"),
    (0, b"PK\x03\x04", "a zip archive"),
)
"""Where a file that Pillow cannot open has which bytes (in lower case if it is text), and what it is then."""

Share = Annotated[float, Gt(0), Le(1)]


class UnreadableImageError(Exception):
    """A file that cannot become a row; the message says why."""


class WrongAspectError(UnreadableImageError):
    """An image of another shape than the published ones."""


@dataclass(frozen=True)
class DecodeSettings:
    """How a file becomes a row: full decode, ``mode``, central crop, then Pillow's bilinear resize.

    JPEG's draft mode, which decodes at a fraction of the size, is not used: it is faster below half size, but
    gives other pixels. Transparency is dropped, not blended. Of several frames the first is read.

    Attributes:
        size: height and width of the row in px.
        crop: shares of the image's height and width that are cut out first, in whole pixels and at the
            position of torchvision's ``CenterCrop``; None: the whole image.
        mode: three channels or one.
        aspect: height and width of the published images in px: other sizes are read if they have this ratio,
            up to one pixel of rounding; None: any ratio.
    """

    size: tuple[int, int]
    crop: tuple[Share, Share] | None = None
    mode: Literal["RGB", "L"] = "RGB"
    aspect: tuple[int, int] | None = None

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape [c h w] of a row."""
        return len(self.mode), *self.size


def decode_image(path: Path, decode: DecodeSettings) -> UInt8[np.ndarray, "c h w"]:
    """Return the row of one file.

    Raises:
        UnreadableImageError: if it is not an image that can be read.
        BenchError: if there is not enough memory for it.
    """
    from PIL import Image, ImageOps

    height, width = decode.size
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with Image.open(require_file(path), formats=formats) as image:
            if image.mode[0] in "IF":
                raise UnreadableImageError("more than 8 bits per channel")
            upright = ImageOps.exif_transpose(image)  # as every viewer shows it
            _check_aspect(upright.size, decode.aspect)
            # A palette's transparency has to be an alpha channel before Pillow drops it without a warning.
            opaque = upright.convert("RGBA") if upright.mode == "P" else upright
            whole = opaque.convert(decode.mode)
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise BenchError(f"there is not enough memory to decode {path}; make it smaller") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImageError(f"too large: more than {limit:,} pixels") from error
    except Exception as error:  # a damaged file can raise anything in a library
        raise UnreadableImageError(_describe_unreadable(path)) from error
    part = whole if decode.crop is None else whole.crop(_central_box(whole.size, decode.crop))
    row = part.resize((width, height), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(row).reshape(height, width, -1).transpose(2, 0, 1))


@contextmanager
def quiet_image_libraries() -> Iterator[None]:
    """Suppress warnings of Pillow, in all threads, within the block, and those of libtiff from then on.

    What they warn of is in the notes if it matters: a file that cannot be read is named there.
    """
    from PIL import _imaging

    with suppress(OSError, AttributeError):  # another build of Pillow may hide libtiff's functions
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetWarningHandler(None)
        library.TIFFSetErrorHandler(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_aspect(size: tuple[int, int], aspect: tuple[int, int] | None) -> None:
    """Check the ratio of an image of this width and height."""
    if aspect is None:
        return
    (width, height), (published_height, published_width) = size, aspect
    ratio = published_width / published_height
    if min(abs(width - height * ratio), abs(height - width / ratio)) > 1:
        published = f"{published_width}:{published_height}"
        raise WrongAspectError(f"{width}×{height} px, not in the ratio {published}")


def _describe_unreadable(path: Path) -> str:
    """Return why a file cannot be read, from its first bytes."""
    from PIL import features

    try:
        with require_file(path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not head:
        return "empty file"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for start, mark, kind in _KINDS:
        if head[start:].startswith(mark) or (start == 0 and text.startswith(mark)):
            codec = {"a WebP image": "webp", "an AVIF image": "avif"}.get(kind)
            return "unreadable image" if codec and features.check(codec) else f"{kind}; convert it to PNG"
    return "unreadable image"


def _central_box(size: tuple[int, int], shares: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the central crop of an image with this width and height."""
    width, height = (max(1, round(side * share)) for side, share in zip(size, shares[::-1], strict=True))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return left, top, left + width, top + height
