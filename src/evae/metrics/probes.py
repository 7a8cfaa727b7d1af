"""Linear and nearest-neighbour probes: classes from latent codes, from pixels and from their principal components."""

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evae.console import warn
from evae.data import Images, to_float
from evae.metrics.sections import Context, Measured, Measurement, Options
from evae.models import VAE
from evae.runs.evaluation import Number
from evae.runs.images import BATCH

_MAX_IMAGES = 10_000  # to fit probes to, and to test them on


def _measure(context: Context, _: Options) -> Measured:
    """Accuracy on hold-out images of a linear probe and of 5 nearest neighbours, fitted to training images.

    Each is given the posteriors' codes, the raw pixels, and the pixels' first d principal components; the linear
    probe is scikit-learn's logistic regression on standardised inputs. At most 10,000 images of each split are used,
    drawn at random. Data without labels have no numbers, and a warning says so.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, store, seed = context.model, context.store, context.seed
    train, test = (_labelled(images, seed) for images in (store.train, store.holdout))
    if min(len(train), len(test)) == 0 or len(np.unique(store.train.labels[train])) < 2:
        warn(f"no probes: {store.source} has no labels of two classes in both splits")
        return Measured()
    codes, pixels, labels = _training_data(model, store.train, train)
    holdout = [(model.code(q).cpu(), images.cpu().flatten(1)) for images, q in context.batches("probes")]
    test_codes, test_pixels = (torch.cat(parts).numpy()[test] for parts in zip(*holdout, strict=True))
    components = PCA(min(codes.shape[1], *pixels.shape), random_state=seed).fit(pixels)
    inputs = {
        "latents": (codes, test_codes.astype(np.float64)),
        "columns" if model.is_row else "pixels": (pixels, test_pixels),
        "pca": (components.transform(pixels), components.transform(test_pixels)),
    }
    classifiers = {
        "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        # not standardised, which would make unused latents as important as the others
        "nearest_neighbours": KNeighborsClassifier(min(5, len(codes))),
    }
    numbers = []
    for kind, classifier in classifiers.items():
        for name, (x, y) in inputs.items():
            with warnings.catch_warnings():  # 300 steps are enough to tell codes apart
                warnings.simplefilter("ignore", ConvergenceWarning)
                accuracy = float(classifier.fit(x, labels).score(y, store.holdout.labels[test]))
            error = math.sqrt(accuracy * (1 - accuracy) / len(test))
            numbers.append(Number(f"{kind} accuracy, {name}", accuracy, error, "higher"))
    return Measured(numbers, settings={"train_count": len(codes), "count": len(test)})


PROBES = Measurement("probes", _measure, lambda options: {} if options.probes else None)


def _labelled(images: Images, seed: int) -> NDArray[np.int64]:
    """Indices of at most 10,000 images with labels, in order."""
    known = np.flatnonzero(np.asarray(images.labels) >= 0)
    return np.sort(np.random.default_rng(seed).permutation(known)[:_MAX_IMAGES])


def _training_data(model: VAE, images: Images, rows: NDArray[np.int64]) -> tuple[Any, Any, NDArray[np.int64]]:
    """Codes, pixels and labels of those that can be read."""
    codes, pixels = [], []
    for start in range(0, len(rows), BATCH):
        batch = to_float(images.read(rows[start : start + BATCH]), model.device)
        codes.append(model.encode(batch).cpu())
        pixels.append(batch.flatten(1).cpu())
    good = ~np.isin(rows, list(images.bad))
    return torch.cat(codes).double().numpy()[good], torch.cat(pixels).numpy()[good], images.labels[rows[good]]
