"""Grids of images; knows neither models nor runs."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from evae.errors import ConfigError
from evae.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 2  # pixels between images of a grid
_MOST_PIXELS = 2**28  # of a grid: 3 GB as floats
_LONGEST = dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), 65_500) | {".webp": 16_383, ".gif": 65_535, ".ico": 256}
_WIDTH = 800  # least pixels of a figure's width, unless an image would have more than _MAX_SIDE
_MAX_SIDE = 256
_LETTER = 18  # pixels, height of the letters in figures of rows
_CHECKS, _CHECK = 8, 224  # chequered squares along a side, and their grey
_SOFTWARE = 0x0131  # tag of EXIF and TIFF, which most formats can hold


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to 8 bits, of the same shape."""
    return (images.clamp(0, 1) * 255).round().byte()


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [0, 1] as rounded 8-bit (N, H, W, C)."""
    pixels: NDArray[np.uint8] = to_bytes(images).cpu().numpy()
    return pixels.transpose(0, 2, 3, 1)


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (H, W, C), C = 1, 3 or 4, as a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """8-bit images (N, C, H, W) as figures show them, (N, 1 or 3, H, W).

    Those of 4 channels, with alpha, on a chequered ground; of 2 or more than 4 channels the first three as red, green
    and blue.
    """
    channels, height, width = pixels.shape[1:]
    if channels in (1, 3):
        return pixels
    if channels != 4:
        colours = np.zeros((len(pixels), 3, height, width), np.uint8)
        colours[:, : min(3, channels)] = pixels[:, :3]
        return colours
    y, x = (np.arange(side) * _CHECKS // side % 2 for side in (height, width))
    ground = np.where(y[:, None] == x, 255, _CHECK)
    alpha = pixels[:, 3:].astype(np.uint16)
    return ((pixels[:, :3] * alpha + ground * (255 - alpha) + 127) // 255).astype(np.uint8)


def kind(channels: int) -> str:
    """What images of so many channels are called."""
    return {1: "grey", 3: "colour", 4: "colour with alpha"}.get(channels, f"{channels} channels")


def suffix(channels: int) -> str:
    """Of the files of single images: PNG, or a TIFF file with a page for each channel."""
    return ".png" if channels in (1, 3, 4) else ".tif"


def pages(pixels: NDArray[np.uint8]) -> list[Image.Image]:
    """Pixels (H, W, C) as an image, or each channel as a grey one where C is 2 or more than 4."""
    if pixels.shape[-1] in (1, 3, 4):
        return [to_image(pixels)]
    return [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(pixels.shape[-1])]


def png(image: Image.Image, optimize: bool = False) -> bytes:
    """An image as a PNG file; an optimised one is smaller, and takes longer."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=optimize)
    return file.getvalue()


def check_grid(path: Path, count: int, image_shape: tuple[int, ...], columns: int) -> None:
    """Raise ConfigError unless ``image_grid`` of so many images (C, H, W) can be saved under the name of ``path``."""
    suffix = path.suffix.lower()
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise ConfigError(f"--out {path}: no image can be saved as {suffix or 'a file without a suffix'}; use .png")
    lines = -(-count // columns), columns
    height, width = (_GAP + n * (_GAP + side) for n, side in zip(lines, image_shape[1:], strict=True))
    most = _LONGEST.get(suffix, _MOST_PIXELS)
    if max(height, width) > most or height * width > _MOST_PIXELS:
        what = f"a grid of {count:,} images has {width:,}x{height:,} pixels"
        raise ConfigError(f"--out {path}: {what}, too many for {suffix}; choose another --out, or fewer")


def image_grid(images: Tensor, columns: int = 8) -> Image.Image:
    """Images (N, C, H, W) in [0, 1], as they are ``shown``, on a white grid."""
    pixels = torch.from_numpy(shown(to_bytes(images).cpu().numpy()))
    count, channels, height, width = pixels.shape
    columns = min(columns, count)
    tiles = pixels.new_full((-(-count // columns) * columns, channels, height + _GAP, width + _GAP), 255)
    tiles[:count, :, _GAP:, _GAP:] = pixels
    grid = tiles.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return to_image(functional.pad(grid, (0, _GAP, 0, _GAP), value=255).permute(1, 2, 0).numpy())


def enlarged(grid: Image.Image, side: int, widest: int = 0) -> Image.Image:
    """A grid of small images, ``side`` pixels wide, by a whole factor, so that browsers and papers blur no pixel.

    ``widest`` is the width of the widest of several grids, which share a factor.
    """
    return magnified(grid, max(1, min(-(-_WIDTH // max(grid.width, widest)), _MAX_SIDE // side)))


def magnified(image: Image.Image, times: int) -> Image.Image:
    """Each pixel as a square of ``times`` pixels a side."""
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def save_image(image: Image.Image, path: str | Path, mark: str = "", more: Sequence[Image.Image] = ()) -> None:
    """Write an image in the format of its suffix; ``mark`` says in its metadata, where it can have any, what wrote it.

    ``more`` are the other pages of a TIFF file.

    Raises:
        RunError: it cannot be written.
    """
    path = Path(path)
    with replacing(path) as temporary:
        several = {"save_all": True, "append_images": more} if more else {}
        image.save(temporary, Image.registered_extensions()[path.suffix.lower()], **_metadata(mark), **several)


def save_png(content: bytes, path: str | Path, mark: str = "") -> None:
    """Write a PNG file in memory in the format of the path's suffix, as ``save_image``."""
    with Image.open(io.BytesIO(content)) as image:
        save_image(image.convert("RGB"), path, mark)


def mark_of(path: Path) -> str:
    """The mark of an image, "" where it has none; OSError and other errors of decoders where it is no image."""
    with Image.open(path) as image:
        return str(image.getexif().get(_SOFTWARE, ""))


def _metadata(mark: str) -> dict[str, Image.Exif]:
    """Options of Pillow that write a mark."""
    exif = Image.Exif()
    exif[_SOFTWARE] = mark
    return {"exif": exif} if mark else {}


def save_figure(figure: "Figure", path: str | Path, mark: str = "", **options: Any) -> None:
    """Write a figure of matplotlib as a PNG, with a mark; ``options`` are those of ``savefig``.

    Raises:
        RunError: it cannot be written.
    """
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", pil_kwargs=_metadata(mark), **options)


def save_rows(rows: Mapping[str, Tensor], path: str | Path, mark: str = "") -> None:
    """Named rows of images (N, C, H, W), one below the other, as a PNG: originals above reconstructions, say.

    Raises:
        RunError: it cannot be written.
    """
    small = [image_grid(images, columns=len(images)) for images in rows.values()]
    side, widest = next(iter(rows.values())).shape[-1], max(grid.width for grid in small)
    grids = [enlarged(grid, side, widest) for grid in small]
    font = ImageFont.load_default(_LETTER)
    margin = 2 * _LETTER + max(round(font.getlength(name)) for name in rows)
    size = margin + max(grid.width for grid in grids), sum(grid.height for grid in grids)
    figure = Image.new("L" if all(grid.mode == "L" for grid in grids) else "RGB", size, "white")
    top = 0
    for name, grid in zip(rows, grids, strict=True):
        figure.paste(grid, (margin, top))
        middle = top + grid.height // 2
        ImageDraw.Draw(figure).text((margin - _LETTER, middle), name, "black", font, anchor="rm")
        top += grid.height
    save_image(figure, path, mark)
