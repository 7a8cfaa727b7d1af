"""One image, from any file Pillow reads to a square array of 8-bit grey or RGB."""

import io
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
_MAX_PIXELS = 10**8  # of one decoded image: about 1.5 GB where it has transparency
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

    def __call__(self, content: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels (1, size, size) of a grey image, else (3, size, size), 8 bit; errors as of ``decode``."""
        try:
            image = self._grey_or_rgb(self._loaded(content))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything for damaged files
            raise BadImageError(_reason(content, error)) from error
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
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {_MAX_PIXELS:,}")
        image.load()
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
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        mode = "L" if grey else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        if self.levels.is_dark:
            self.levels.byte = max(self.levels.byte, int(np.asarray(image).max(initial=0)))
        factor = 1 if self.scaling is None else self.scaling.bytes
        return image if factor == 1 else image.point(lambda value: min(255, factor * value))

    def _of_words(self, image: Image.Image) -> Image.Image:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"whole numbers from {values.min()} to {values.max()}, beyond 16 bits")
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(_BITS, (16,))[0] if tags else 16
        white = 2**bits - 1 if 8 < bits < 16 and values.max() < 2**bits else 65535
        if tags.get(_PHOTOMETRIC) == 0:  # 0 is white
            values = white - values
        self.levels.count("16-bit")
        self.levels.word = max(self.levels.word, int(values.max()))
        scaled = values // 257 if white == 65535 else (values * 255 + white // 2) // white
        return Image.fromarray(scaled.astype(np.uint8))

    def _of_floats(self, image: Image.Image) -> Image.Image:
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("some pixels are no numbers")
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            raise ValueError("floating-point values of which 0 is white")
        own, levels = Levels(low=float(values.min()), high=float(values.max())), self.levels
        levels.count("floating-point")
        levels.add(own)
        factor = (255 if own.high <= 1 else 1) if self.scaling is None else self.scaling.floats
        return Image.fromarray((values * factor).clip(0, 255).round().astype(np.uint8))


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
