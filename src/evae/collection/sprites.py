"""Sprite sheets: many small images in few files, inside a page."""

import io
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evae.figures import shown

_SHEET = 2048  # pixels a side of a sheet: what all browsers draw from
_PIXELS = 2**26  # of all images: 256 MB once a browser has decoded them
_SIDES = (64, 48, 32, 24, 16)
_QUALITY = 80  # of WebP


def side_for(count: int, largest: int) -> int:
    """Pixels a side of each of ``count`` images, at most ``largest``, that keep a page small enough to open."""
    fitting = (side for side in _SIDES if count * side**2 <= _PIXELS)
    return min(largest, next(fitting, _SIDES[-1]))


class Sprites:
    """Collects images in order into sheets of WebP, each decoded by a browser when it is needed.

    Args:
        side: pixels a side of an image.
    """

    def __init__(self, side: int) -> None:
        self.side, self.columns = side, _SHEET // side
        self.sheets = list[str]()
        self._count, self._sheet = 0, self._blank()

    def _blank(self) -> NDArray[np.uint8]:
        pixels = self.columns * self.side
        return np.full((pixels, pixels, 3), 255, np.uint8)

    def add(self, images: NDArray[np.uint8]) -> None:
        """Add 8-bit images (n, C, S, S)."""
        for image in shown(images):
            row, column = divmod(self._count, self.columns)
            top, left = row * self.side, column * self.side
            self._sheet[top : top + self.side, left : left + self.side] = self._fitted(image)
            self._count += 1
            if self._count == self.columns**2:
                self._close()

    def _fitted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = image.transpose(1, 2, 0)
        if pixels.shape[0] == self.side:
            return pixels
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        resized = np.asarray(picture.resize((self.side, self.side), Image.Resampling.BOX))
        return resized[..., None] if resized.ndim == 2 else resized

    def _close(self) -> None:
        rows = -(-self._count // self.columns)
        file = io.BytesIO()
        sheet = Image.fromarray(self._sheet[: rows * self.side])
        sheet.save(file, "WEBP", quality=_QUALITY, method=2)
        self.sheets.append(f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}")
        self._count, self._sheet = 0, self._blank()

    def record(self) -> dict[str, Any]:
        """What the page needs to know: the side of an image, the columns of a sheet, and the sheets."""
        if self._count:
            self._close()
        return {"side": self.side, "columns": self.columns, "sheets": self.sheets}
