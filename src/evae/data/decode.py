"""One image, from any file Pillow reads to a square array of 8-bit grey or RGB."""

import io
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from evae.data.levels import Levels, Scaling
from evae.errors import DataError, first_line

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ico"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs"}
)
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
# Of one image, so that decoding takes less than 1 GB: 8 bytes for each pixel, up to 24 in formats of several buffers.
_MAX_PIXELS, _MAX_PIXELS_OF = 10**8, dict.fromkeys(("WEBP", "JPEG2000", "AVIF"), 4 * 10**7)
_STRIP = 2**22  # pixels that are converted at a time
_ORIENTATION, _PHOTOMETRIC, _BITS = 0x0112, 262, 258  # tags of EXIF and TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(DataError):
    """An image that cannot be decoded."""


class UnreadableError(BadImageError):
    """An image whose file cannot be read, perhaps only for a while."""


class Decoder:
    """Decodes images of one data set by one rule; ``levels`` collects the values they have.

    Args:
        size: height and width of the results.
        crop: side of the centre square in the images' own pixels; None: the shorter side.
        scaling: how values become 8 bits; None: floating-point images are scaled by their own range.
    """

    def __init__(self, size: int, crop: int | None = None, scaling: Scaling | None = None) -> None:
        self.size, self.crop, self.scaling = size, crop, scaling
        self.levels = Levels()
        self.kept = 1.0  # area of the last image that was not cropped away, as a fraction
        self.digest = b""  # of the last image

    def __call__(self, content: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels (1, size, size) of a grey image, else (3, size, size), 8 bit; errors as of ``decode``."""
        try:
            image = self._grey_or_rgb(self._loaded(content))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything for damaged files
            raise BadImageError(_reason(content, error)) from error
        self.digest = _digest(content, image)
        side = min(image.size) if self.crop is None else self.crop
        if side > min(image.size):
            raise DataError(
                f"is {image.width}x{image.height}, smaller than the crop of {self.crop} pixels; lower --crop"
            )
        self.kept = side**2 / (image.width * image.height)
        size = self.size
        if image.size != (size, size) or side != size:
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _loaded(self, content: bytes | NDArray[np.uint8]) -> Image.Image:
        """The image, upright."""
        image = _open(content)
        is_jpeg = image.format in ("JPEG", "MPO")
        if self.crop is None and is_jpeg and min(image.size) >= 4 * self.size:  # at a fraction of its size, faster
            factor = 2 * self.size / min(image.size)
            image.draft(None, (round(image.width * factor), round(image.height * factor)))
        _check_size(image)
        image.load()
        _check_size(image)  # of an icon, which is that of the picture in it
        if not is_jpeg or "exif" in image.info:
            turn = _UPRIGHT.get(_orientation(image))
            image = image if turn is None else image.transpose(turn)
        return image

    def _grey_or_rgb(self, image: Image.Image) -> Image.Image:
        """Any Pillow mode to "L" or "RGB"."""
        if image.mode.startswith("I"):  # 16 bit, also where Pillow holds it in 32
            return self._of_words(image)
        if image.mode == "F":
            return self._of_floats(image)
        self.levels.count("8-bit")
        grey = image.mode in ("1", "L", "LA", "La")
        return _by_strips(image, lambda strip: self._of_bytes(strip, "L" if grey else "RGB"))

    def _of_bytes(self, image: Image.Image, mode: str) -> Image.Image:
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        image = image if image.mode == mode else image.convert(mode)
        if self.levels.is_dark:
            self.levels.byte = max(self.levels.byte, int(np.asarray(image).max(initial=0)))
        factor = 1 if self.scaling is None else self.scaling.bytes
        return image if factor == 1 else image.point(lambda value: min(255, factor * value))

    def _of_words(self, image: Image.Image) -> Image.Image:
        low, high = _extremes(image)
        if low < 0 or high > 65535:
            raise ValueError(f"whole numbers from {low} to {high}, beyond 16 bits")
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(_BITS, (16,))[0] if tags else 16
        white = 2**bits - 1 if 8 < bits < 16 and high < 2**bits else 65535
        is_inverse = tags.get(_PHOTOMETRIC) == 0  # 0 is white
        self.levels.count("16-bit")
        self.levels.word = max(self.levels.word, int(white - low if is_inverse else high))

        def to_bytes(strip: Image.Image) -> Image.Image:
            values = np.asarray(strip).astype(np.int64)
            values = white - values if is_inverse else values
            scaled = values // 257 if white == 65535 else (values * 255 + white // 2) // white
            return Image.fromarray(scaled.astype(np.uint8))

        return _by_strips(image, to_bytes)

    def _of_floats(self, image: Image.Image) -> Image.Image:
        low, high = _extremes(image)
        if not np.isfinite([low, high]).all():
            raise ValueError("some pixels are no numbers")
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            raise ValueError("floating-point values of which 0 is white")
        self.levels.count("floating-point")
        self.levels.add(Levels(low=float(low), high=float(high)))
        factor = (255 if high <= 1 else 1) if self.scaling is None else self.scaling.floats

        def to_bytes(strip: Image.Image) -> Image.Image:
            return Image.fromarray((np.asarray(strip) * factor).clip(0, 255).round().astype(np.uint8))

        return _by_strips(image, to_bytes)


def _digest(content: bytes | NDArray[np.uint8], image: Image.Image) -> bytes:
    """Of the pixels before they are cropped and resized, so that one picture in two formats has one digest.

    A JPEG's is of its bytes: it is decoded at a fraction of its size, which depends on that of the results.
    """
    state = blake2b(digest_size=8)
    if isinstance(content, bytes) and content.startswith(b"\xff\xd8"):
        state.update(content)
    else:
        state.update(f"{image.mode} {image.width} {image.height}".encode())
        state.update(image.tobytes())
    return state.digest()


def _check_size(image: Image.Image) -> None:
    most = _MAX_PIXELS_OF.get(image.format or "", _MAX_PIXELS)
    if image.width * image.height > most:
        raise ValueError(f"{image.width}x{image.height} pixels, more than {most:,}")


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """The rows of an image, some at a time: to convert all at once would take several times its memory."""
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    strips = map(convert, _strips(image))
    first = next(strips)
    if first.size == image.size:
        return first
    whole, top = Image.new(first.mode, image.size), first.height
    whole.paste(first)
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole


def _extremes(image: Image.Image) -> tuple[Any, Any]:
    """The least and the largest value; NaN where there is one."""
    values = [(own.min(), own.max()) for own in map(np.asarray, _strips(image))]
    return np.min(values), np.max(values)


def decode(
    content: bytes | NDArray[np.uint8], size: int, crop: int | None = None, scaling: Scaling | None = None
) -> NDArray[np.uint8]:
    """Decode, rotate by EXIF, composite onto white, centre-crop and resize (bilinear, antialiased).

    Args:
        content: an encoded image, or pixels (H, W) or (H, W, C).
        size, crop, scaling: see ``Decoder``.

    Returns:
        (1, size, size) for grey images, else (3, size, size), 8 bit.

    Raises:
        BadImageError: the image cannot be decoded.
        DataError: the image is smaller than the crop.
    """
    return Decoder(size, crop, scaling)(content)


def shorter_side(content: bytes | NDArray[np.uint8]) -> int:
    """The shorter side of an image, read from its header; BadImageError where it cannot be read."""
    try:
        return min(_open(content).size)
    except Exception as error:  # as above
        raise BadImageError(_reason(content, error)) from error


def _open(content: bytes | NDArray[np.uint8]) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content[..., 0] if content.shape[2:] == (1,) else content)
    return Image.open(io.BytesIO(content), formats=_FORMATS)


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; other tags may be of wrong types, and are not needed."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata of a good picture
        return None


def _reason(content: bytes | NDArray[np.uint8], error: Exception) -> str:
    if isinstance(content, bytes) and not content:
        return "is empty"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image"
    return f"cannot be decoded ({first_line(error)})"
