"""Disentanglement of codes (N, d) with respect to known factors (N, K): the mutual information gap, and DCI.

Factors are numbers, or classes 0, 1, ... where ``is_class`` (K,) says so; NaN is a value that is not known. Codes are
one vector for each image, such as the means of its posteriors.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 20
_PER_BIN = 50  # images, at least
_GROUPS = 20  # of the jackknife

Floats = NDArray[np.float64]


class Information(NamedTuple):
    """Of d latents and K factors, in nats: ``mutual`` is I(z_j; v_k), (..., d, K), ``entropy`` is H(v_k), (..., K)."""

    mutual: Floats
    entropy: Floats

    @property
    def gap(self) -> Floats:
        """The mutual information gap, shape (...): see ``mutual_information_gap``."""
        ordered = np.sort(self.mutual, axis=-2)
        second = ordered[..., -2, :] if self.mutual.shape[-2] > 1 else 0.0
        known = self.entropy > 0
        gaps = (ordered[..., -1, :] - second) / np.where(known, self.entropy, 1)
        mean: Floats = (gaps * known).sum(-1) / np.where(known.any(-1), known.sum(-1), math.nan)
        return mean


def mutual_information(codes: Floats, factors: Floats, is_class: Sequence[bool], bins: int = BINS) -> Information:
    r"""I(z_j; v_k) of each latent and each factor, from N images, by counts of values in bins.

    Latents and numeric factors are put into ``bins`` bins of equal numbers of images, or fewer where there are below 50
    for each, classes are their own bins. Counts of m_z, m_v and m_zv bins that are not empty give the plug-in estimate

        I = H(z) + H(v) - H(z, v),   H = -Σ p ln p,   p = count/N,

    which is too large by about (m_z - 1)(m_v - 1)/(2N). Each entropy has Miller's (1955) correction, (m - 1)/(2N), so
    that I and H(v) are those plus (m_z + m_v - m_zv - 1)/(2N) and (m_v - 1)/(2N). An estimate below 0 counts as 0.

    Args:
        codes: (N, d).
        factors: (N, K).
        is_class: (K,).
        bins: at most.

    Returns:
        Mutual information and entropies, both 0 for a factor with one known value.
    """
    whole = _information(codes, factors, is_class, bins, np.zeros(len(codes), np.int64))
    return Information(whole.mutual[0], whole.entropy[0])


def mutual_information_gap(
    codes: Floats, factors: Floats, is_class: Sequence[bool], bins: int = BINS
) -> tuple[float, float]:
    r"""The mutual information gap (Chen et al., NeurIPS 2018), from 0 to 1, and its standard error.

        MIG = (1/K) Σ_k (I(z_j*; v_k) - max_{j ≠ j*} I(z_j; v_k)) / H(v_k),   j* = argmax_j I(z_j; v_k)

    1 where every factor is a function of one latent, and no other latent says anything of it; 0 where no factor has one
    latent that says more than any other. Chen et al. take z from the posteriors, with their noise; here, as in
    Locatello et al. (ICML 2019), each image has one code, and z is discrete (``mutual_information``). Factors with one
    known value do not count. The error is that of a jackknife over 20 groups of images, NaN where there are fewer than
    40 images.
    """
    gaps = _information(codes, factors, is_class, bins, np.arange(len(codes)) % _GROUPS).gap
    error = (_GROUPS - 1) / math.sqrt(_GROUPS) * gaps[1:].std(ddof=1) if len(codes) >= 2 * _GROUPS else math.nan
    return float(gaps[0]), float(error)


def _information(
    codes: Floats, factors: Floats, is_class: Sequence[bool], bins: int, groups: NDArray[np.int64]
) -> Information:
    """Of all images and, below, of those without each of the groups (N,): (1 + groups, d, K) and (1 + groups, K)."""
    count = 1 + int(groups.max(initial=0))
    mutual = np.zeros((1 + count, codes.shape[1], factors.shape[1]))
    entropy = np.zeros((1 + count, factors.shape[1]))
    for k, (factor, of_classes) in enumerate(zip(factors.T, is_class, strict=True)):
        known = np.isfinite(factor)
        own = max(2, min(bins, int(known.sum()) // _PER_BIN))
        v = np.unique(factor[known], return_inverse=True)[1] if of_classes else _binned(factor[known], own)
        if len(np.unique(v)) < 2:
            continue
        for j, code in enumerate(codes.T):
            z = _binned(code[known], own)
            shape = count, z.max() + 1, v.max() + 1
            each = np.bincount((groups[known] * shape[1] + z) * shape[2] + v, minlength=math.prod(shape)).reshape(shape)
            tables = each.sum(0) - np.concatenate([np.zeros_like(each[:1]), each])
            entropy[:, k] = _entropy(tables.sum(1))
            both = _entropy(tables.reshape(1 + count, -1))
            mutual[:, j, k] = np.maximum(0, _entropy(tables.sum(2)) + entropy[:, k] - both)
    return Information(mutual, entropy)


def _binned(values: Floats, bins: int) -> NDArray[np.int64]:
    """Bins 0, 1, ... of about equal numbers of values; equal values share one."""
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins)) if len(values) else values
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]


def _entropy(counts: NDArray[np.int64]) -> Floats:
    """Of each row of counts, with Miller's correction."""
    total = np.maximum(1, counts.sum(-1, keepdims=True))
    p = counts / total
    plain = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    entropy: Floats = plain + ((counts > 0).sum(-1) - 1) / (2 * total[..., 0])
    return entropy


def disentanglement(importance: Floats) -> float:
    r"""How far each latent is important for one factor alone (Eastwood and Williams, ICLR 2018), from 0 to 1.

        D = Σ_j ρ_j (1 + Σ_k P_jk log_K P_jk),   P_jk = R_jk/Σ_k R_jk,   ρ_j = Σ_k R_jk/Σ_jk R_jk

    Args:
        importance: R ≥ 0 of each latent for each factor, (d, K), K > 1.

    Returns:
        D; NaN where all is 0 or there is one factor.
    """
    return _concentration(importance, importance.sum(1))


def completeness(importance: Floats) -> float:
    r"""How far each factor is told by one latent alone (Eastwood and Williams, ICLR 2018), from 0 to 1.

        C = (1/K) Σ_k (1 + Σ_j Q_jk log_d Q_jk),   Q_jk = R_jk/Σ_j R_jk

    Args:
        importance: R ≥ 0 of each latent for each factor, (d, K), d > 1.

    Returns:
        C, over the factors for which some latent is important; NaN where there is none, or one latent.
    """
    return _concentration(importance.T, (importance.sum(0) > 0).astype(np.float64))


def _concentration(rows: Floats, weights: Floats) -> float:
    """The weighted mean of 1 minus the normalised entropy of each row."""
    if rows.shape[1] < 2 or not weights.sum() > 0:
        return math.nan
    p = rows / np.where(rows.sum(1) > 0, rows.sum(1), 1)[:, None]
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1) / math.log(rows.shape[1])
    return float(((1 - entropy) * weights).sum() / weights.sum())


class Dci(NamedTuple):
    """Disentanglement and completeness of ``importance`` R, (d, K), and the informativeness of each factor, (K,)."""

    disentanglement: float
    completeness: float
    informativeness: Floats
    importance: Floats


def dci(
    codes: Floats,
    factors: Floats,
    test_codes: Floats,
    test_factors: Floats,
    is_class: Sequence[bool],
    seed: int = 0,
    trees: int = 100,
) -> Dci:
    r"""Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018).

    Each factor is predicted from all latents by gradient boosting, scikit-learn's ``GradientBoostingRegressor`` of
    numbers and ``GradientBoostingClassifier`` of classes, with its defaults (trees of depth 3, learning rate 0.1). The
    importance R_jk of latent j for factor k is the model's: the fraction of the reduction of its training loss by
    splits of that latent. Eastwood and Williams use lasso and random forests; Locatello et al. (ICML 2019) this, with
    all factors as classes. The informativeness of factor k, at most 1, is that of test images,

        1 - Σ (v - v̂)²/Σ (v - v̄)²    of numbers, v̄ the mean of the training values,
        1 - errors/errors of the most frequent class    of classes,

    1 where it is predicted without error, 0 where it is predicted as well as without a code, and below 0 where worse.

    Args:
        codes, factors: (N, d) and (N, K), to fit.
        test_codes, test_factors: (M, d) and (M, K), of other images.
        is_class: (K,).
        seed: of scikit-learn's choice between equally good splits.
        trees: of each prediction; as many for each class.

    Returns:
        NaN informativeness, and importance 0, for a factor with one known value in either part.
    """
    importance = np.zeros((codes.shape[1], factors.shape[1]))
    scores = np.full(factors.shape[1], math.nan)
    for k, of_classes in enumerate(is_class):
        known, test = np.isfinite(factors[:, k]), np.isfinite(test_factors[:, k])
        v, w = factors[known, k], test_factors[test, k]
        if min(len(np.unique(v)), len(np.unique(w))) > 1:
            model = _booster(of_classes, seed, trees).fit(codes[known], v)
            importance[:, k] = model.feature_importances_
            scores[k] = _informativeness(v, w, model.predict(test_codes[test]), of_classes)
    return Dci(disentanglement(importance), completeness(importance), scores, importance)


def _booster(of_classes: bool, seed: int, trees: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingClassifier if of_classes else GradientBoostingRegressor
    return kind(n_estimators=trees, random_state=seed)


def _informativeness(v: Floats, w: Floats, predicted: Floats, of_classes: bool) -> float:
    """Of test values w and their predictions, with respect to the best constant of the training values v."""
    if of_classes:
        values, counts = np.unique(v, return_counts=True)
        return float(1 - (predicted != w).mean() / (values[counts.argmax()] != w).mean())
    return float(1 - ((w - predicted) ** 2).mean() / ((w - v.mean()) ** 2).mean())
