"""Duplicates: by content, by look, and none among pictures that are only alike."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from evae.collection.duplicates import exact, near, representatives
from tests.collection.conftest import pictures


def small(images):
    return np.stack([np.asarray(Image.fromarray(i).resize((32, 32))) for i in images]).transpose(0, 3, 1, 2)


def encoded_again(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


VARIANTS = {
    "encoded again": encoded_again,
    "resized": lambda image: np.asarray(Image.fromarray(image).resize((30, 30), Image.Resampling.BICUBIC)),
    "brightened": lambda image: np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.2)),
    "darker": lambda image: image // 2,
    "of another format": lambda image: image,
}


@pytest.fixture(scope="module")
def images():
    return pictures(150)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_found(images, variant):
    changed = VARIANTS[variant](images[7])
    found = near(small([*images, changed]))
    assert {(match.image, match.other) for match in found} == {(7, 150), (150, 7)}
    assert all(match.correlation > 0.95 for match in found)


def test_others_are_none(images):
    assert near(small(images)) == []


def test_one_parameter_families_are_none():
    """Neighbours of a dense family are near each other, and no duplicates."""
    y, x = np.mgrid[:32, :32]
    centres = np.random.default_rng(0).uniform(8, 24, (200, 2))
    images = np.exp(-((y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2) / 20)
    found = near((255 * images[:, None]).astype(np.uint8))
    assert len(found) <= 2


def test_pictures_of_one_colour_are_not_compared():
    flat = np.full((30, 3, 16, 16), 7, np.uint8)
    assert near(flat) == []
    assert near(flat[:1]) == []


def test_groups_by_content():
    assert exact([b"a", None, b"b", b"a", None, b"a"]) == [[0, 3, 5]]


def test_the_first_of_a_group():
    first = representatives(6, [(0, 1), (3, 1), (4, 5)], [1, 1, 0, 0, 0, 1])
    assert first.tolist() == [3, 3, 2, 3, 4, 4]
