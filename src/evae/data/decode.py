"""One image, from any file Pillow reads, or an array, to a square of 8-bit channels: grey, RGB, RGBA or others."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from evae.data.colour import to_srgb
from evae.data.levels import WORD, Levels, Scaling
from evae.errors import DataError, first_line
from evae.rounding import counted

Channels = Literal["auto", "grey", "rgb", "rgba"]
NUMBERS: dict[Channels, int] = {"grey": 1, "rgb": 3, "rgba": 4}  # of channels; "auto" leaves it to the images

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ico"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs"}
)
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
# Of one image, so that decoding takes less than 1 GB: 8 bytes for each pixel, up to 24 in formats of several buffers.
_MAX_PIXELS, _MAX_PIXELS_OF = 10**8, dict.fromkeys(("WEBP", "JPEG2000", "AVIF"), 4 * 10**7)
_STRIP = 2**22  # pixels that are converted at a time
_ORIENTATION, _PHOTOMETRIC, _BITS, _SAMPLES = 0x0112, 262, 258, 277  # tags of EXIF and TIFF
_PAGES, _MAX_PAGES = ("L", "I;16", "I;16B", "F"), 1000  # modes of pages that may be channels
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


class SmallerThanCropError(DataError):
    """An image of which no square of the crop's side can be cut."""


class UnreadableError(BadImageError):
    """An image whose file cannot be read, perhaps only for a while."""


@dataclass
class Seen:
    """What is known of a decoded image besides its pixels.

    Attributes:
        digest: of its pixels, or of its file.
        kept: its area that was not cropped away, as a fraction.
        is_colour: whether it is no grey image.
        is_transparent: whether some of its pixels are.
        is_profiled: whether its colours were converted to sRGB.
        is_partial: whether its file has more channels, or pages, than are read.
    """

    digest: bytes = b""
    kept: float = 1.0
    is_colour: bool = False
    is_transparent: bool = False
    is_profiled: bool = False
    is_partial: bool = False


class Decoder:
    """Decodes images of one data set by one rule; ``levels`` collects the values they have.

    Args:
        size: height and width of the results.
        crop: side of the centre square in the images' own pixels; None: the shorter side.
        scaling: how values become 8 bits; None: floating-point images are scaled by their own range.
        channels: "auto": transparent images are laid over white, and arrays and TIFF files of other numbers of
            channels keep theirs; "grey" and "rgb": of TIFF files the first page, over white; "rgba": alpha, too.
    """

    def __init__(
        self, size: int, crop: int | None = None, scaling: Scaling | None = None, channels: Channels = "auto"
    ) -> None:
        self.size, self.crop, self.scaling, self.channels = size, crop, scaling, channels
        self.levels = Levels()
        self.last = Seen()

    def __call__(self, content: bytes | NDArray[Any]) -> NDArray[np.uint8]:
        """The pixels (C, size, size), 8 bit; errors as of ``decode``."""
        self.last = Seen()
        try:
            bands = self._bands(content)
        except (MemoryError, DataError):
            raise
        except Exception as error:  # decoders raise anything for damaged files
            raise BadImageError(_reason(content, error)) from error
        self.last.digest = _digest(content, bands)
        width, height = bands[0].size
        side = min(width, height) if self.crop is None else self.crop
        if side > min(width, height):
            raise SmallerThanCropError(
                f"is {width}x{height}, smaller than the crop of {self.crop} pixels; lower --crop"
            )
        self.last.kept = side**2 / (width * height)
        size = self.size
        if (width, height) != (size, size) or side != size:
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            bands = [_without_hidden(band.resize((size, size), Image.Resampling.BILINEAR, box=box)) for band in bands]
        if len(bands) > 1:
            return np.stack([np.asarray(band) for band in bands])
        pixels = np.asarray(bands[0])
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _bands(self, content: bytes | NDArray[Any]) -> list[Image.Image]:
        """An upright 8-bit image of Pillow; or several grey ones, one for each channel."""
        if isinstance(content, np.ndarray):
            return self._of_array(content)
        image = self._loaded(content)
        if image.format == "TIFF" and (pages := self._pages(image)):
            return self._planes(np.stack([np.asarray(page) for page in pages], -1))
        image.load()  # the first page again, which turns a TIFF upright
        is_plain_jpeg = image.format in ("JPEG", "MPO") and "exif" not in image.info
        return [self._as_wished(self._grey_or_rgb(image if is_plain_jpeg else _upright(image)))]

    def _of_array(self, pixels: NDArray[Any]) -> list[Image.Image]:
        """(H, W) or (H, W, C)."""
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if self.channels == "rgba" and channels != 4:
            raise DataError(
                f"has {counted(channels, 'channel')} and no alpha, which --channels rgba and models of 4 channels need"
            )
        if channels not in (1, 3, 4):
            if self.channels != "auto":
                raise DataError(f"has {channels} channels, and --channels {self.channels} is for images of 1, 3 or 4")
            return self._planes(pixels)
        if pixels.dtype == np.uint8:
            return [self._as_wished(self._grey_or_rgb(_picture(pixels)))]
        return [self._as_wished(self._of_bytes(_picture(self._scaled(pixels)), "L" if channels == 1 else "RGB", 1))]

    def _planes(self, pixels: NDArray[Any]) -> list[Image.Image]:
        """The channels of (H, W, C), each as a grey image."""
        scaled = self._scaled(pixels)
        return [Image.fromarray(np.ascontiguousarray(scaled[..., i])) for i in range(scaled.shape[-1])]

    def _scaled(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Values of any type as 8 bits."""
        if pixels.dtype == np.uint8:
            self.levels.count("8-bit")
            self.levels.byte = max(self.levels.byte, int(pixels.max()))
            factor = 1 if self.scaling is None else self.scaling.bytes
            return pixels if factor == 1 else (pixels.astype(np.int64) * factor).clip(max=255).astype(np.uint8)
        low, high = pixels.min(), pixels.max()
        if pixels.dtype.kind == "f":
            return self._scaler_of_floats(float(low), float(high))(pixels)
        return self._scaler_of_words(int(low), int(high))(pixels)

    def _loaded(self, content: bytes) -> Image.Image:
        """The image, not yet upright."""
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        is_jpeg = image.format in ("JPEG", "MPO")
        if self.crop is None and is_jpeg and min(image.size) >= 4 * self.size:  # at a fraction of its size, faster
            factor = 2 * self.size / min(image.size)
            image.draft(None, (round(image.width * factor), round(image.height * factor)))
        _check_size(image)
        image.load()
        _check_size(image)  # of an icon, which is that of the picture in it
        return image

    def _pages(self, image: Image.Image) -> list[Image.Image]:
        """The pages of a TIFF file that are channels: several grey ones of one size; none where there is one page."""
        samples = getattr(image, "tag_v2", {}).get(_SAMPLES, 1)
        if samples == 1 and image.mode in _PAGES and self.channels == "auto" and (pages := _grey_pages(image)):
            return pages
        self.last.is_partial = samples > len(image.getbands()) or _is_followed(image)
        return []

    def _as_wished(self, image: Image.Image) -> Image.Image:
        """An image of "L" or "RGB", or "RGBA", in the mode that ``channels`` asks for."""
        mode = {"grey": "L", "rgba": "RGBA"}.get(self.channels, image.mode)
        return image if image.mode == mode else image.convert(mode)

    def _grey_or_rgb(self, image: Image.Image) -> Image.Image:
        """Any Pillow mode to "L" or "RGB", over white, or to "RGBA" where alpha is kept."""
        srgb = to_srgb(image)
        self.last.is_profiled = srgb is not None
        if image.mode.startswith("I"):  # 16 bit, also where Pillow holds it in 32
            return self._of_words(image)
        if image.mode == "F":
            return self._of_floats(image)
        self.levels.count("8-bit")
        factor = 1 if self.scaling is None else self.scaling.bytes
        mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        return _by_strips(image, lambda strip: self._of_bytes(srgb(strip) if srgb else strip, mode, factor))

    def _of_bytes(self, image: Image.Image, mode: str, factor: int) -> Image.Image:
        self.last.is_colour = mode == "RGB"
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            self.last.is_transparent |= np.asarray(rgba.getchannel("A")).min(initial=255) < 255
            if self.channels == "rgba":
                return _without_hidden(rgba)
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        image = image if image.mode == mode else image.convert(mode)
        if self.levels.is_dark:
            self.levels.byte = max(self.levels.byte, int(np.asarray(image).max(initial=0)))
        return image if factor == 1 else image.point(lambda value: min(255, factor * value))

    def _of_words(self, image: Image.Image) -> Image.Image:
        low, high = _extremes(image)
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(_BITS, (16,))[0] if tags else 16
        own_white = 2**bits - 1 if 8 < bits < 16 and high < 2**bits else WORD
        scale = self._scaler_of_words(int(low), int(high), own_white, is_inverse=tags.get(_PHOTOMETRIC) == 0)
        return _by_strips(image, lambda strip: Image.fromarray(scale(np.asarray(strip))))

    def _scaler_of_words(
        self, low: int, high: int, white: int = WORD, is_inverse: bool = False
    ) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
        """What makes 8 bits of an image's whole numbers; ``white`` is the largest that its file allows."""
        if low < 0 or high > WORD:
            raise ValueError(f"whole numbers from {low} to {high}, beyond 16 bits; 0 to 65,535 can be read")
        largest = (white - low if is_inverse else high) * WORD // white
        self.levels.count("16-bit")
        self.levels.word = max(self.levels.word, largest)
        words = WORD if self.scaling is None else self.scaling.words

        def to_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
            values = pixels.astype(np.int64)
            values = white - values if is_inverse else values
            if words == WORD == white:
                scaled, rest = np.divmod(values, 257)
            else:
                values = values * WORD // white if words != WORD else values
                scale = white if words == WORD else words
                scaled, rest = np.divmod(values * 255 + scale // 2, scale)
                rest -= scale // 2
            self.levels.lost = max(self.levels.lost, float(np.any(rest)))
            return scaled.clip(max=255).astype(np.uint8)

        return to_bytes

    def _of_floats(self, image: Image.Image) -> Image.Image:
        low, high = _extremes(image)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            raise ValueError("floating-point values of which 0 is white")
        scale = self._scaler_of_floats(float(low), float(high))
        return _by_strips(image, lambda strip: Image.fromarray(scale(np.asarray(strip))))

    def _scaler_of_floats(self, low: float, high: float) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
        """What makes 8 bits of an image's floating-point values."""
        if not np.isfinite([low, high]).all():
            raise ValueError("some pixels are no numbers")
        self.levels.count("floating-point")
        self.levels.add(Levels(low=low, high=high))
        factor = (255 if high <= 1 else 1) if self.scaling is None else self.scaling.floats

        def to_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
            values = (pixels * factor).clip(0, 255)
            rounded = values.round()
            self.levels.lost = max(self.levels.lost, float(np.abs(values - rounded).max(initial=0)))
            return rounded.astype(np.uint8)

        return to_bytes


def _digest(content: bytes | NDArray[Any], bands: Sequence[Image.Image]) -> bytes:
    """Of the pixels before they are cropped and resized, so that one picture in two formats has one digest.

    A JPEG's is of its bytes: it is decoded at a fraction of its size, which depends on that of the results.
    """
    state = blake2b(digest_size=8)
    if isinstance(content, bytes) and content.startswith(b"\xff\xd8"):
        state.update(content)
        return state.digest()
    for image in bands:
        state.update(f"{image.mode} {image.width} {image.height}".encode())
        state.update(image.tobytes())
    return state.digest()


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF orientation says."""
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (H, W) or (H, W, C), C = 1, 3 or 4, as an image of Pillow."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _without_hidden(image: Image.Image) -> Image.Image:
    """White where nothing is seen: colours that editors leave below alpha 0 are none that a model should learn."""
    if image.mode == "RGBA":
        image.paste((255, 255, 255, 0), mask=image.getchannel("A").point([255] + [0] * 255))
    return image


def _is_followed(image: Image.Image) -> bool:
    """Whether there is another page of the same size; smaller ones are previews."""
    size = image.size
    try:
        image.seek(1)
    except Exception:  # none, or damage beyond the first page
        return False
    is_large = image.size == size
    image.seek(0)
    return is_large


def _grey_pages(image: Image.Image) -> list[Image.Image]:
    """All pages of a TIFF file, upright, if there are several and each has the mode and size of the first."""
    mode, size, pages = image.mode, image.size, list[Image.Image]()
    if image.tag_v2.get(_PHOTOMETRIC) == 0 and mode != "L":  # type: ignore[attr-defined]
        return []
    for number in range(_MAX_PAGES + 1):
        try:
            image.seek(number)
        except EOFError:
            break
        if (image.mode, image.size) != (mode, size):
            image.seek(0)
            return []
        if (number + 1) * image.width * image.height > _MAX_PIXELS or number == _MAX_PAGES:
            raise ValueError(f"more than {_MAX_PAGES} pages, or than {_MAX_PIXELS:,} pixels in all of them")
        pages.append(_upright(image.copy()))
    image.seek(0)
    return pages if len(pages) > 1 else []


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
    content: bytes | NDArray[Any],
    size: int,
    crop: int | None = None,
    scaling: Scaling | None = None,
    channels: Channels = "auto",
) -> NDArray[np.uint8]:
    """Decode, rotate by EXIF, convert to sRGB, composite onto white, centre-crop and resize (bilinear, antialiased).

    Args:
        content: an encoded image, or pixels (H, W) or (H, W, C).
        size, crop, scaling, channels: see ``Decoder``.

    Returns:
        (1, size, size) for grey images, else (3, size, size), 8 bit; other numbers of channels as of ``Decoder``.

    Raises:
        BadImageError: the image cannot be decoded.
        DataError: the image is smaller than the crop.
    """
    return Decoder(size, crop, scaling, channels)(content)


def shorter_side(content: bytes | NDArray[Any]) -> int:
    """The shorter side of an image, read from its header; BadImageError where it cannot be read."""
    if isinstance(content, np.ndarray):
        return int(min(content.shape[:2]))
    try:
        return min(Image.open(io.BytesIO(content), formats=_FORMATS).size)
    except Exception as error:  # as above
        raise BadImageError(_reason(content, error)) from error


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; other tags may be of wrong types, and are not needed."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata of a good picture
        return None


def _reason(content: bytes | NDArray[Any], error: Exception) -> str:
    if isinstance(content, bytes) and not content:
        return "is empty"
    if isinstance(error, UnidentifiedImageError):
        if isinstance(content, bytes) and content[:4] in (b"II*\0", b"MM\0*"):
            return "is a TIFF file that cannot be read; save several channels as pages, or all images as an .npy array"
        return "is not an image"
    return f"cannot be decoded ({first_line(error)})"
