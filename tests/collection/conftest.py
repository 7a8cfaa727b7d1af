"""A run of the blobs, and folders of smooth pictures."""

import numpy as np
import pytest
from PIL import Image

from evae import EVAE
from tests.small import trained


@pytest.fixture(scope="session")
def run(tmp_path_factory, blobs, _shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(_shared_cache))
        return trained(EVAE, blobs, tmp_path_factory.mktemp("collection") / "run")


def pictures(count, seed=0, size=48):
    """Smooth colour pictures (count, size, size, 3): bright spots of random place, width and colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    found = np.full((count, size, size, 3), 0.15)
    for _ in range(12):
        a, b, width = rng.uniform(0, 1, (3, count, 1, 1))
        spot = np.exp(-((y - a) ** 2 + (x - b) ** 2) / (0.003 + 0.02 * width))
        found += spot[..., None] * rng.uniform(0, 0.7, (count, 1, 1, 3))
    return (255 * found.clip(0, 1)).astype(np.uint8)


def written(root, images, names):
    """The images as files of these names below a folder."""
    for image, name in zip(images, names, strict=True):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=92)
    return root
