"""What latent codes are good for: classes told from them, and from raw pixels and as many principal components."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evae.console import warn
from evae.data import Images, Store, to_float
from evae.models import VAE
from evae.runs.images import BATCH

_MOST = 10_000  # images to learn from, and images to test on


@torch.no_grad()
def probe(model: VAE, store: Store, seed: int = 0) -> dict[str, Any]:
    """Accuracy on hold-out images of a linear probe and of 5 nearest neighbours, learnt from training images.

    Each is given the posterior's centres, the raw pixels, and the pixels' first d principal components; the linear
    probe is scikit-learn's logistic regression on standardised inputs. At most 10,000 images of each split are used,
    drawn at random. Nothing is returned for data without labels, and a warning says so.
    """
    from sklearn.decomposition import PCA

    train, test = (_labelled(images, seed) for images in (store.train, store.holdout))
    if min(len(train), len(test)) == 0 or len(np.unique(store.train.labels[train])) < 2:
        warn(f"no probes: {store.source} has no labels of two classes in both splits")
        return {}
    (codes, pixels, labels), (test_codes, test_pixels, test_labels) = (
        _codes_and_pixels(model, images, rows) for images, rows in ((store.train, train), (store.holdout, test))
    )
    components = PCA(min(codes.shape[1], *pixels.shape), random_state=seed).fit(pixels)
    inputs = {
        "latents": (codes, test_codes),
        "pixels": (pixels, test_pixels),
        "pca": (components.transform(pixels), components.transform(test_pixels)),
    }
    results: dict[str, Any] = {
        "train_count": len(codes),
        "count": len(test_codes),
        "linear": {},
        "nearest_neighbours": {},
    }
    for name, (x, y) in inputs.items():
        results["linear"][name], results["nearest_neighbours"][name] = _accuracies(x, labels, y, test_labels)
    return results


def _labelled(images: Images, seed: int) -> NDArray[np.int64]:
    """Indices of at most 10,000 images with labels, in order."""
    known = np.flatnonzero(np.asarray(images.labels) >= 0)
    chosen = np.random.default_rng(seed).permutation(known)[:_MOST]
    return np.sort(chosen)


def _codes_and_pixels(model: VAE, images: Images, rows: NDArray[np.int64]) -> tuple[Any, Any, NDArray[np.int64]]:
    """Codes, pixels and labels of those that can be read."""
    device = model.device
    codes, pixels = [], []
    for start in range(0, len(rows), BATCH):
        batch = to_float(images.read(rows[start : start + BATCH]), device)
        codes.append(model.encode(batch).cpu())
        pixels.append(batch.flatten(1).cpu())
    good = ~np.isin(rows, list(images.bad))
    return torch.cat(codes).double().numpy()[good], torch.cat(pixels).numpy()[good], images.labels[rows[good]]


def _accuracies(x: Any, labels: Any, test: Any, expected: Any) -> tuple[float, float]:
    """Of a linear probe and of nearest neighbours."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():  # 300 steps are enough to tell codes apart
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear.fit(x, labels)
    # not standardised, which would make unused latents as important as the others
    neighbours = KNeighborsClassifier(min(5, len(x))).fit(x, labels)
    return float(linear.score(test, expected)), float(neighbours.score(test, expected))
