"""Figures of images: large enough to look at, labels whole, no blank space."""

import numpy as np
import pytest
import torch
from PIL import Image

from evae import figures


@pytest.mark.parametrize(("count", "side", "channels"), [(1, 32, 1), (2, 64, 3), (12, 32, 1), (3, 256, 3), (40, 32, 1)])
def test_rows(count, side, channels, tmp_path):
    """Labels stand on white to the left, and images end at the right edge but for a gap."""
    dark = torch.zeros(count, channels, side, side)
    figures.save_rows({"original": dark, "reconstruction": dark, "": dark[:1]}, str(tmp_path / "rows.png"))
    with Image.open(tmp_path / "rows.png") as image:
        pixels = np.asarray(image.convert("L"))
    height, width = pixels.shape
    times = (height // 3) // (side + 4)
    assert times >= 1
    left = width - times * (count * (side + 2) + 2)
    assert left > 100
    assert (pixels[:, :10] == 255).all()
    assert (pixels[: height // 3, left + 3 * times : width - 2 * times] == 0).any(0).mean() > 0.9
    assert (pixels[: height // 3, width - 2 * times - 1] == 0).any()
    assert min(800, 256 * count) <= width < 1300 or times == 1


@pytest.mark.parametrize(
    ("size", "side", "width"), [((274, 274), 32, 822), ((36, 36), 32, 288), ((1000, 90), 32, 1000)]
)
def test_enlarged_by_whole_factors(size, side, width):
    assert figures.enlarged(Image.new("L", size), side).width == width
