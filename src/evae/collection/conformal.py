"""Conformal p-values: how unusual a score is among calibration scores, valid for any number of images."""

import numpy as np
from numpy.typing import NDArray


def p_values(
    scores: NDArray[np.floating], calibration: NDArray[np.floating], own: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    r"""p_i = (1 + #{j ≠ i: s_j ≥ s_i}) / (1 + number of j ≠ i), j over the calibration images.

    Where an image and the calibration images are exchangeable, given what the score was fitted to, its rank among them
    is uniform, so that P(p_i ≤ α) ≤ α for every α and every number of calibration images (Vovk, Gammerman and Shafer
    2005; for outliers Laxhammar and Falkman 2015, Bates et al. 2023). Images that trained the model must not be
    compared with images that did not.

    Args:
        scores: (N,), larger for more unusual images.
        calibration: (M,).
        own: (N,), whether an image's own score is among those of the calibration; it is left out there.
    """
    ordered = np.sort(calibration)
    above = len(ordered) - np.searchsorted(ordered, scores, "left")
    counted = np.zeros(len(scores), np.int64) if own is None else own.astype(np.int64)
    found: NDArray[np.float64] = (1 + above - counted) / (1 + len(ordered) - counted)
    return found
