"""Codes on a plane, and how true it is to them."""

import warnings
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evae.console import progress
from evae.errors import ConfigError

Method = Literal["pca", "umap"]
_NEIGHBOURS = 10  # of purity and trustworthiness
_JUDGED = 2_000  # images by which trustworthiness, whose time and memory are quadratic, is measured


class Plane(NamedTuple):
    """Points (N, 2), what they are in words, and the fraction of the codes' variance that they keep (PCA)."""

    points: NDArray[np.float32]
    title: str
    explained: float | None = None


def place(codes: NDArray[np.float32], method: Method, seed: int) -> Plane:
    """Codes (N, d) on a plane, N ≥ 3; the same for the same seed.

    Raises:
        ConfigError: umap-learn is not installed.
    """
    if method == "umap":
        return Plane(_umap(codes, seed), "UMAP")
    if codes.shape[1] == 1:
        return Plane(np.column_stack([codes[:, 0], np.zeros(len(codes), np.float32)]), "the only latent", 1.0)
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="full" if len(codes) < 500 else "covariance_eigh", random_state=seed % 2**32)
    with np.errstate(invalid="ignore", divide="ignore"):  # of codes that are all the same
        points = pca.fit_transform(codes.astype(np.float64)).astype(np.float32)
        explained = float(np.nan_to_num(pca.explained_variance_ratio_.sum()))
    return Plane(points, "first two principal components", explained)


def _umap(codes: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError as error:
        raise ConfigError(
            f"--method umap needs the extra: pip install 'evae[umap]' ({error}); pca needs none"
        ) from error
    neighbours = min(15, len(codes) - 1)
    with warnings.catch_warnings(), progress() as bar:
        warnings.simplefilter("ignore")  # of threads, which a seed forbids, and of few points
        bar.add_task("UMAP", total=None)
        init = "spectral" if len(codes) > 10 else "random"
        umap = UMAP(n_neighbors=neighbours, init=init, random_state=seed % 2**32)
        return np.asarray(umap.fit_transform(codes), np.float32)


def neighbours(points: NDArray[np.float32], count: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """The ``count`` nearest other points of each point (N, d), nearest first, and their distances; (N, count)."""
    from sklearn.neighbors import NearestNeighbors

    count = min(count, len(points) - 1)
    distances, rows = NearestNeighbors(n_neighbors=count + 1).fit(points).kneighbors(points)
    # A point is not always its own first neighbour: others may have the same place.
    own = rows == np.arange(len(points))[:, None]
    own[~own.any(1), -1] = True
    return rows[~own].reshape(-1, count).astype(np.uint32), distances[~own].reshape(-1, count).astype(np.float32)


def purity(rows: NDArray[np.uint32], classes: NDArray[np.int64]) -> tuple[float, float] | None:
    """The mean fraction of ten nearest neighbours that have an image's class, and that of random images.

    Images without a class (-1) are left out; None where there are not two classes.
    """
    known = classes >= 0
    found, counts = np.unique(classes[known], return_counts=True)
    if len(found) < 2:
        return None
    near = classes[rows[known, :_NEIGHBOURS]]
    same = (near == classes[known, None]).sum(1) / np.maximum((near >= 0).sum(1), 1)
    total = counts.sum()
    chance = float((counts * (counts - 1)).sum() / (total * (total - 1)))
    return float(same.mean()), chance


def trustworthiness(codes: NDArray[np.float32], points: NDArray[np.float32], seed: int) -> tuple[float, int] | None:
    """Whether neighbours on the plane are neighbours of the codes, in [0, 1] (Venna and Kaski 2001), ten of each.

    Measured on at most 2,000 images, whose number is also returned; None for fewer than 22, for which it is not
    defined.
    """
    from sklearn.manifold import trustworthiness as measure

    if len(codes) < 2 * _NEIGHBOURS + 2:
        return None
    chosen = np.random.default_rng(seed).permutation(len(codes))[:_JUDGED]
    return float(measure(codes[chosen], points[chosen], n_neighbors=_NEIGHBOURS)), len(chosen)
