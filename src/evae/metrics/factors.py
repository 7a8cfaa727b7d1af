"""What codes tell about known factors: mutual information gap, and disentanglement, completeness, informativeness."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evae.console import warn
from evae.data import Images, to_float
from evae.data.factors import Factors
from evae.metrics.disentanglement import dci, mutual_information, mutual_information_gap
from evae.metrics.sections import Context, Measured, Measurement, Options
from evae.models import VAE
from evae.runs.evaluation import Number
from evae.runs.images import BATCH

_MAX_TRAIN, _MAX_HOLDOUT = 2_000, 10_000  # images to fit to, and to measure on
_LEAST = 50  # of each split
OF_FACTOR = "informativeness, "  # before the name of a factor


def _measure(context: Context, options: Options) -> Measured:
    """MIG of the codes of hold-out images, and DCI, fitted to the codes of training images, of hold-out images.

    At most 2,000 training and 10,000 hold-out images are used, drawn at random from those with a known factor. Details
    are ``information``, I(z_j; v_k)/H(v_k), and ``importance``, R_jk, a row for each latent (None where it is not
    known). Where fewer than 50 images of a split have factors there are no numbers, and a warning says so.
    """
    factors, model, store = options.factors, context.model, context.store
    assert factors is not None  # as depends_on says
    train, train_values = _chosen(store.train, factors, _MAX_TRAIN, context.seed)
    rows, values = _chosen(store.holdout, factors, _MAX_HOLDOUT, context.seed)
    if min(len(train), len(rows)) < _LEAST:
        warn(
            f"no measures of factors: {len(train):,} training and {len(rows):,} hold-out images of {store.source} have "
            f"any, and {_LEAST} are needed; names of images are such as {store.holdout.names[0]!a}"
        )
        return Measured()
    codes = torch.cat([model.code(q).cpu() for _, q in context.batches("factors")]).double().numpy()[rows]
    found = mutual_information(codes, values, factors.is_class)
    score = dci(_codes(model, store.train, train), train_values, codes, values, factors.is_class, context.seed)
    known = score.informativeness[np.isfinite(score.informativeness)]
    numbers = [
        Number("mig", *mutual_information_gap(codes, values, factors.is_class), "higher"),
        Number("disentanglement", score.disentanglement, better="higher"),
        Number("completeness", score.completeness, better="higher"),
        Number("informativeness", float(known.mean()) if len(known) else np.nan, better="higher"),
        *(
            Number(OF_FACTOR + name, float(value), better="higher")
            for name, value in zip(factors.names, score.informativeness, strict=True)
        ),
    ]
    share = found.mutual / np.where(found.entropy > 0, found.entropy, 1)
    details = {"factors": list(factors.names), "information": share.tolist(), "importance": score.importance.tolist()}
    return Measured(numbers, {"train_count": len(train), "count": len(rows)}, details)


def _chosen(images: Images, factors: Factors, most: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices of at most so many images of which a factor is known, in order, and the values of all their factors."""
    values = factors.of(images.names)
    known = np.flatnonzero(np.isfinite(values).any(1) & ~np.isin(np.arange(len(values)), list(images.bad)))
    rows = np.sort(np.random.default_rng(seed).permutation(known)[:most])
    return rows, values[rows]


def _codes(model: VAE, images: Images, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The codes (n, d) of some images."""
    parts = [
        model.encode(to_float(images.read(rows[start : start + BATCH]), model.device)).cpu()
        for start in range(0, len(rows), BATCH)
    ]
    codes: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return codes


def _depends_on(options: Options) -> dict[str, Any] | None:
    return None if options.factors is None else {"factors": options.factors.digest}


FACTORS = Measurement("factors", _measure, _depends_on)
