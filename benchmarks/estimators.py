"""Codes as features and scores of outliers, by the estimators for scikit-learn; prints the table of docs/sklearn.md."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evae.sklearn import VAEOutlierDetector, VAETransformer

MODELS = ("BoundedVAE", "GaussianVAE", "EVAE", "AE")
DATA = (("wine", load_wine, 2, 2), ("breast cancer", load_breast_cancer, 4, 0))  # latents, and the class left out


def accuracy(transformer: Any, x: Any, y: Any) -> float:
    """Of a logistic regression on the features that a transformer makes, mean over five folds."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(transformer, StandardScaler(), LogisticRegression(max_iter=1000))
    return float(cross_val_score(model, x, y, cv=folds).mean())


def auc(detector: Any, x: Any, is_normal: Any) -> float:
    """Of scores that tell one class from held-out rows of the others, two thirds of which were trained on."""
    order = np.random.default_rng(0).permutation(np.flatnonzero(is_normal))
    count = len(order) * 2 // 3
    tested = np.r_[order[count:], np.flatnonzero(~is_normal)]
    return float(roc_auc_score(is_normal[tested], detector.fit(x[order[:count]]).score_samples(x[tested])))


def lines() -> Iterator[str]:
    """A line for each data set and model."""
    for name, load, latents, outlier in DATA:
        x, y = load(return_X_y=True)
        settings = {"latent_dim": latents, "random_state": 0, "device": "cpu"}
        yield f"{name}  principal components  {accuracy(make_pipeline(StandardScaler(), PCA(latents)), x, y):.3f}"
        for model in MODELS:
            of_codes = accuracy(VAETransformer(model, **settings), x, y)
            yield f"{name}  {model}  {of_codes:.3f}  {auc(VAEOutlierDetector(model, **settings), x, y != outlier):.3f}"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
