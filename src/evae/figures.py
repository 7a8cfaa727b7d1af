"""Grids of images; knows neither models nor runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from evae.errors import ConfigError
from evae.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 2  # pixels between images of a grid
_MAX_PIXELS = 2**28  # of a grid: 3 GB as floats
_LONGEST = dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), 65_500) | {".webp": 16_383, ".gif": 65_535, ".ico": 256}
_SOFTWARE = 0x0131  # tag of EXIF and TIFF, which most formats can hold


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to 8 bits, of the same shape."""
    return (images.clamp(0, 1) * 255).round().byte()


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [0, 1] as rounded 8-bit (N, H, W, C)."""
    pixels: NDArray[np.uint8] = to_bytes(images).cpu().numpy()
    return pixels.transpose(0, 2, 3, 1)


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (H, W, C), C = 1 or 3, as a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def check_grid(path: Path, count: int, image_shape: tuple[int, ...], columns: int) -> None:
    """Raise ConfigError unless ``image_grid`` of so many images (C, H, W) can be saved under the name of ``path``."""
    suffix = path.suffix.lower()
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise ConfigError(f"--out {path}: no image can be saved as {suffix or 'a file without a suffix'}; use .png")
    lines = -(-count // columns), columns
    height, width = (_GAP + n * (_GAP + side) for n, side in zip(lines, image_shape[1:], strict=True))
    most = _LONGEST.get(suffix, _MAX_PIXELS)
    if max(height, width) > most or height * width > _MAX_PIXELS:
        what = f"a grid of {count:,} images has {width:,}x{height:,} pixels"
        raise ConfigError(f"--out {path}: {what}, too many for {suffix}; choose another --out, or fewer")


def image_grid(images: Tensor, columns: int = 8, least: int = 1) -> Image.Image:
    """Images (N, C, H, W) in [0, 1] on a white grid, enlarged by a whole factor to ``least`` pixels a side or more."""
    count, channels, height, width = images.shape
    columns = min(columns, count)
    tiles = images.new_ones(-(-count // columns) * columns, channels, height + _GAP, width + _GAP)
    tiles[:count, :, _GAP:, _GAP:] = images
    grid = tiles.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    image = to_image(to_uint8(functional.pad(grid, (0, _GAP, 0, _GAP), value=1)[None])[0])
    times = -(-least // min(height, width))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def save_image(image: Image.Image, path: str | Path, mark: str = "") -> None:
    """Write an image in the format of its suffix; ``mark`` says in its metadata, where it can have any, what wrote it.

    Raises:
        RunError: it cannot be written.
    """
    path = Path(path)
    with replacing(path) as temporary:
        image.save(temporary, Image.registered_extensions()[path.suffix.lower()], **_metadata(mark))


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
    from matplotlib.figure import Figure

    count = max(map(len, rows.values()))
    figure = Figure(figsize=(1.4 + 0.8 * count, 0.85 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(np.asarray(image_grid(images, columns=len(images))), cmap="gray", vmin=0, vmax=255)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    save_figure(figure, path, mark, dpi=120, bbox_inches="tight")
