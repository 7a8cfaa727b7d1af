"""How far the tails of samples are from those of the data: for rows of numbers, one column at a time.

The right tail of a column are the values above a threshold u, by default a quantile of the data; the left one are those
below another. The scores of the left tail are those of the right tail of -x.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from torch import Tensor

from evae.columns import Columns, listed
from evae.console import warn
from evae.errors import DataError
from evae.metrics.bounds import MeanBound, mean_bound
from evae.metrics.rows import all_rows
from evae.metrics.sections import Context, Measured, Measurement, Options
from evae.metrics.two_sample import MmdTest, mmd_test
from evae.models import VAE
from evae.models.vae import Prior
from evae.runs.evaluation import Number

LEAST = 10  # rows beyond a threshold, or a quantile, from which it is measured
QUANTILES = (0.999, 0.9999)
_BATCH = 10_000  # rows drawn at a time

Side = Literal["left", "right"]
_SIGNS: dict[Side, float] = {"left": -1.0, "right": 1.0}


def tail_ks(data: NDArray[np.float64], samples: NDArray[np.float64], threshold: float) -> float:
    """sup over x > u of |F(x|x > u) - G(x|x > u)|: the Kolmogorov-Smirnov distance of two right tails.

    F and G are the empirical distribution functions of the values above u. 0 for equal shapes, whatever the fraction of
    values in the tails; 1 where no sample lies above u, NaN where no value of the data does. The tail
    Kolmogorov-Smirnov distance is the score of Ziani, Horváth and Ballarini (arXiv 2603.01800 and 2605.18931); the
    definition here is ours, as theirs was not at hand.

    Args:
        data: values (N,).
        samples: values (M,).
        threshold: u.
    """
    x, y = data[data > threshold], samples[samples > threshold]
    if not len(x):
        return math.nan
    return float(ks_2samp(x, y, method="asymp").statistic) if len(y) else 1.0


def quantile_error(data: NDArray[np.float64], samples: NDArray[np.float64], level: float) -> float | None:
    """The relative error of a quantile of the samples, Q̂(p)/Q(p) - 1; negative where the samples do not reach as far.

    p = ``level`` is close to 1, or, for the left tail, to 0. None where either set has fewer than ten values beyond its
    quantile, or Q(p) is 0: with k values beyond, the quantile of a Pareto law of index α varies by 1/(α√k), relatively.
    The error is relative to the distance from 0 in the units of the data. Extreme quantile errors are scores of Ziani,
    Horváth and Ballarini (arXiv 2603.01800 and 2605.18931).

    Args:
        data: values (N,).
        samples: values (M,).
        level: p, between 0 and 1.
    """
    beyond = min(level, 1 - level) * min(len(data), len(samples))
    if beyond < LEAST - 1e-6:
        return None
    reference, value = float(np.quantile(data, level)), float(np.quantile(samples, level))
    return value / reference - 1 if reference else None


@dataclass(frozen=True)
class TailScores:
    """The tails of a column of samples beside those of the data.

    Attributes:
        thresholds: u of each side.
        fractions: of the samples, beyond each threshold.
        of_data: fractions of the data there.
        ks: ``tail_ks`` of each side.
        quantiles: ``quantile_error`` by level; None where there are too few values.
        largest: of the samples' absolute values.
        largest_of_data: of the data's.
    """

    thresholds: dict[Side, float]
    fractions: dict[Side, float]
    of_data: dict[Side, float]
    ks: dict[Side, float]
    quantiles: dict[float, float | None]
    largest: float
    largest_of_data: float


def tail_scores(
    data: NDArray[np.float64],
    samples: NDArray[np.float64],
    fraction: float = 0.01,
    thresholds: tuple[float, float] | None = None,
) -> TailScores:
    """All scores of the tails of one column.

    Args:
        data: values (N,) in the units of the data.
        samples: values (M,).
        fraction: of the data beyond each threshold, which are its quantiles at ``fraction`` and 1 - ``fraction``.
        thresholds: other thresholds of the left and the right tail, e.g. (-6, 6) as in t³VAE (Kim et al., ICLR 2024).
    """
    low, high = thresholds or np.quantile(data, [fraction, 1 - fraction]).tolist()
    ends: dict[Side, float] = {"left": low, "right": high}
    outer = {side: (sign * data, sign * samples, sign * ends[side]) for side, sign in _SIGNS.items()}
    levels = [level for q in QUANTILES for level in (round(1 - q, 12), q)]
    return TailScores(
        thresholds=ends,
        fractions={side: float((y > u).mean()) for side, (_, y, u) in outer.items()},
        of_data={side: float((x > u).mean()) for side, (x, _, u) in outer.items()},
        ks={side: tail_ks(x, y, u) for side, (x, y, u) in outer.items()},
        quantiles={level: quantile_error(data, samples, level) for level in levels},
        largest=float(np.abs(samples).max()),
        largest_of_data=float(np.abs(data).max()),
    )


def check_enough(fraction: float, rows: int, samples: int) -> None:
    """Raise DataError where a tail of this fraction has too few rows to be measured."""
    fewest = min(rows, samples)
    if fraction * fewest < LEAST - 1e-6:
        what = "hold-out rows" if rows <= samples else "samples"
        raise DataError(
            f"--tails {fraction:g} leaves {fraction * fewest:.3g} of {fewest:,} {what} in each tail, and at least "
            f"{LEAST} are needed; take a larger fraction or more {'rows, e.g. by --data' if rows <= samples else what}"
        )


def _measure(context: Context, options: Options, prior: Prior) -> Measured:
    """Scores of the tails of samples of a prior, for each column, and MMD tests of all rows and of those in a tail.

    A row is in the left or the right tail where one of its columns is. Scores of columns are in the units of the data;
    of several columns the means come first, and each with the column's name follows.
    """
    assert options.tails is not None
    assert context.store.columns is not None
    columns, title = context.store.columns, f"{prior} prior"
    data = all_rows(context, "holdout")
    samples, means = _drawn(context.model, options.samples, prior)
    real, drawn = columns.restore(data.numpy()), columns.restore(samples.numpy())
    scores = [tail_scores(real[:, i], drawn[:, i], options.tails) for i in range(len(columns))]
    tests = {"": mmd_test(samples, data, context.seed)}
    for side, sign in _SIGNS.items():
        ends = sign * np.array([score.thresholds[side] for score in scores])
        of_data, of_samples = (torch.from_numpy((sign * rows > ends).any(1)) for rows in (real, drawn))
        tests[f"_{side}"] = mmd_test(samples[of_samples], data[of_data], context.seed)
    numbers = [number for end, test in tests.items() for number in _of_test(f"{title}: mmd2{end}", test)]
    if len(columns) > 1:
        numbers += _of_columns(title, scores)
    for name, score in zip(columns.names, scores, strict=True):
        numbers += _of_columns(f"{title}, {name}" if len(columns) > 1 else title, [score])
    largest = np.abs(columns.restore(means.numpy())).max(0)
    numbers.append(Number(f"{title}: largest_mean", float(largest.max())))
    bound: MeanBound | str = "a fitted prior may have an unbounded support"
    missing = _missing(scores, columns)
    if prior == "model":
        bound = mean_bound(context.model, columns)
        numbers.append(Number("hold-out rows: largest", max(score.largest_of_data for score in scores)))
        numbers += [] if isinstance(bound, str) else [Number(f"{title}: bound_on_mean", max(bound.largest))]
        if missing:  # of both priors, as they have as many samples
            warn("; ".join(missing))
    details = {
        "intervals": {f"mmd2{end}": [test.low, test.high] for end, test in tests.items()},
        "thresholds": {name: score.thresholds for name, score in zip(columns.names, scores, strict=True)},
        "not_measured": missing,
        "largest_mean": dict(zip(columns.names, largest.tolist(), strict=True)),
        "bound_on_mean": bound if isinstance(bound, str) else dict(zip(columns.names, bound.largest, strict=True)),
    }
    return Measured(numbers, {f"{title}: count": options.samples, "fraction in each tail": options.tails}, details)


@torch.no_grad()
def _drawn(model: VAE, count: int, prior: Prior) -> tuple[Tensor, Tensor]:
    """Draws of x and its means E[x|z], z from a prior, each (count, F), standardised."""
    p = model.prior() if prior == "model" else model.fitted_prior
    assert p is not None
    draws, means = [], []
    for start in range(0, count, _BATCH):
        likelihood = model.likelihood(p.sample((min(_BATCH, count - start),)))
        draws.append(likelihood.sample().cpu())
        means.append(likelihood.mean.cpu())
    return torch.cat(draws), torch.cat(means)


def _of_test(name: str, test: MmdTest) -> list[Number]:
    return [Number(name, test.value, test.error, "lower"), Number(f"{name}_p", test.p_value)]


def _of_columns(title: str, scores: Sequence[TailScores]) -> list[Number]:
    """The means of the scores of some columns; the largest value is the largest of all."""
    numbers = []
    for side in _SIGNS:
        numbers.append(_mean(f"{title}: {side}_tail_ks", [score.ks[side] for score in scores], 0.0))
        of_data = float(np.mean([score.of_data[side] for score in scores]))
        numbers.append(_mean(f"{title}: {side}_tail_fraction", [score.fractions[side] for score in scores], of_data))
    for level in scores[0].quantiles:
        errors = [error for score in scores if (error := score.quantiles[level]) is not None]
        if errors:
            numbers.append(_mean(f"{title}: quantile_{level:g}_error", errors, 0.0))
    largest = max(score.largest for score in scores)
    return [*numbers, Number(f"{title}: largest", largest, None, "reference", max(s.largest_of_data for s in scores))]


def _mean(name: str, values: Sequence[float], reference: float) -> Number:
    known = [value for value in values if not math.isnan(value)]
    return Number(name, float(np.mean(known)) if known else math.nan, None, "reference", reference)


def _missing(scores: Sequence[TailScores], columns: Columns) -> list[str]:
    """Which scores there are not, and why."""
    told = []
    if missing := [f"{level:g}" for level in scores[0].quantiles if all(s.quantiles[level] is None for s in scores)]:
        told.append(f"no error of the quantiles {', '.join(missing)}: fewer than {LEAST} rows or samples lie beyond")
    if empty := [name for name, s in zip(columns.names, scores, strict=True) if math.isnan(sum(s.ks.values()))]:
        reason = "no hold-out row lies beyond a threshold, as many are equal to it"
        told.append(f"no distance of the tails of {listed(empty)}: {reason}")
    return told


def _depends_on(options: Options) -> dict[str, Any] | None:
    return None if options.tails is None else {"tails": options.tails, "samples": options.samples}


TAILS = Measurement("tails", partial(_measure, prior="model"), _depends_on)
FITTED_TAILS = Measurement("tails, fitted prior", partial(_measure, prior="fitted"), _depends_on, True)
