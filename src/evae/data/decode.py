"""One image, from any file Pillow reads to a square array of 8-bit grey or RGB."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from evae.errors import DataError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
    | {".jp2", ".avif", ".ico"}
)
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
# What Pillow raises for files that are damaged or not images.
_PYTHON_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError)
_DECODING_ERRORS = (*_PYTHON_ERRORS, struct.error, zlib.error, Image.DecompressionBombError)


class BadImageError(DataError):
    """An image that cannot be decoded."""


def decode(content: bytes | NDArray[np.uint8], size: int, crop: int | None = None) -> NDArray[np.uint8]:
    """Decode, rotate by EXIF, composite onto white, centre-crop and resize (bilinear, antialiased).

    Args:
        content: an encoded image, or pixels (H, W) or (H, W, C).
        size: height and width of the result.
        crop: side of the centre square in the image's pixels; None: the shorter side.

    Returns:
        (1, size, size) for grey images, else (3, size, size), 8 bit.

    Raises:
        BadImageError: the image cannot be decoded.
        DataError: the image is smaller than the crop.
    """
    try:
        image = _open(content)
        is_jpeg = image.format in ("JPEG", "MPO")
        if crop is None and is_jpeg and min(image.size) >= 4 * size:  # decoded at a fraction of its size, faster
            factor = 2 * size / min(image.size)
            image.draft(None, (round(image.width * factor), round(image.height * factor)))
        image.load()
        if not is_jpeg or "exif" in image.info:
            ImageOps.exif_transpose(image, in_place=True)
        image = _grey_or_rgb(image)
    except _DECODING_ERRORS as error:
        raise BadImageError(_reason(content, error)) from error
    side = min(image.size) if crop is None else crop
    if side > min(image.size):
        raise DataError(f"is {image.width}x{image.height}, smaller than the crop of {crop} pixels; lower --crop")
    if image.size != (size, size) or side != size:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def shorter_side(content: bytes | NDArray[np.uint8]) -> int:
    """The shorter side of an image, read from its header; BadImageError where it cannot be read."""
    try:
        return min(_open(content).size)
    except _DECODING_ERRORS as error:
        raise BadImageError(_reason(content, error)) from error


def _open(content: bytes | NDArray[np.uint8]) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content[..., 0] if content.shape[2:] == (1,) else content)
    return Image.open(io.BytesIO(content), formats=_FORMATS)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to "L" or "RGB"."""
    if image.mode.startswith("I"):  # 16 bit, also where Pillow holds it in 32
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("some pixels are no numbers")
        return Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).round().astype(np.uint8))
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _reason(content: bytes | NDArray[np.uint8], error: Exception) -> str:
    if isinstance(content, bytes) and not content:
        return "is empty"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image"
    return f"cannot be decoded ({str(error) or type(error).__name__})"
