"""Metrics against direct loops, on grey and colour; they depend on no batch size and no order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from evae.metrics import Sharpness
from evae.metrics.image import (
    binary_cross_entropy,
    mean_squared_error,
    sharpness,
    structural_similarity,
)


def sharpness_by_loops(image):
    """The definition, pixel by pixel, in Python numbers."""
    channels, height, width = image.shape
    luma = [1.0] if channels == 1 else [0.299, 0.587, 0.114]

    def grey(i, j):
        return sum(weight * image[c, i, j].item() for c, weight in enumerate(luma))

    activations = [
        grey(i - 1, j) + grey(i + 1, j) + grey(i, j - 1) + grey(i, j + 1) - 4 * grey(i, j)
        for i in range(1, height - 1)
        for j in range(1, width - 1)
    ]
    mean = sum(activations) / len(activations)
    return sum((a - mean) ** 2 for a in activations) / len(activations)


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpness_is_a_direct_double_loop(channels):
    images = torch.rand(4, channels, 9, 7)
    expected = [sharpness_by_loops(image) for image in images]
    assert sharpness(images).tolist() == pytest.approx(expected, rel=1e-12)
    metric = Sharpness()
    metric.update(images)
    assert metric.compute().item() == pytest.approx(sum(expected) / 4, rel=1e-12)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_batches_and_order_do_not_matter(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(sum(sizes), 3, 6, 6, generator=generator)
    whole, parts = Sharpness(), Sharpness()
    whole.update(images)
    for batch in images[torch.randperm(len(images), generator=generator)].split(sizes):
        parts.update(batch)
    assert parts.compute().item() == pytest.approx(whole.compute().item(), rel=1e-13)


def test_flat_images_have_no_sharpness_and_impulses_a_known_one():
    assert sharpness(torch.full((2, 3, 8, 8), 0.4)).tolist() == pytest.approx([0, 0], abs=1e-20)
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1  # nine activations: -4, four of 1, four of 0
    assert sharpness(image).item() == pytest.approx((16 + 4) / 9)


def test_reconstruction_metrics_by_hand():
    real = torch.tensor([0.0, 1.0, 0.5, 0.25]).reshape(1, 1, 2, 2)
    rebuilt = torch.tensor([0.1, 0.8, 0.5, 0.5]).reshape(1, 1, 2, 2)
    mse = (0.01 + 0.04 + 0 + 0.0625) / 4
    assert mean_squared_error(rebuilt, real).item() == pytest.approx(mse, rel=1e-6)
    pairs = [(0.0, 0.1), (1.0, 0.8), (0.5, 0.5), (0.25, 0.5)]
    bce = -sum(x * math.log(p) + (1 - x) * math.log(1 - p) for x, p in pairs)
    assert binary_cross_entropy(rebuilt, real).item() == pytest.approx(bce, rel=1e-6)


def test_cross_entropy_of_certain_and_wrong_pixels_is_finite():
    assert binary_cross_entropy(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item() == pytest.approx(400)


def test_images_smaller_than_a_window_have_no_ssim():
    assert structural_similarity(*torch.rand(2, 3, 1, 10, 16)) is None


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 11, 11), (1, 32, 32), (3, 16, 24)])
def test_ssim_is_torchmetrics(channels, height, width):
    x, y = torch.rand(2, 5, channels, height, width, dtype=torch.float64)
    y = (x + 0.3 * y).clamp(0, 1)
    expected = structural_similarity_index_measure(y, x, data_range=1.0, reduction="none")
    torch.testing.assert_close(structural_similarity(y, x), expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(structural_similarity(x, x), torch.ones(5, dtype=torch.float64))
