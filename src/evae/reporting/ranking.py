"""Which of several runs is best in a metric, where that is significant."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from evae.rounding import with_error
from evae.runs.evaluation import Evaluation, Number

LEVEL = 0.05  # bound on the probability that any best number of a table is marked wrongly
_NORMAL = 1e9  # degrees of freedom at which Student's distribution is the normal one


@dataclass(frozen=True)
class Result:
    """A metric of one row of the table: a run, or runs that differ in their seed alone.

    Attributes:
        numbers: one for each seed, of the same metric.
        images: values of each image, (count,), the mean over seeds; None where there are none.
    """

    numbers: Sequence[Number]
    images: NDArray[np.float64] | None = None

    def __str__(self) -> str:
        """A single run's standard error is over images; ± of several is the standard deviation over seeds."""
        if len(self.numbers) == 1:
            return str(self.numbers[0])
        return with_error(float(self.seeds.mean()), float(self.seeds.std(ddof=1)), digits=2)

    @property
    def seeds(self) -> NDArray[np.float64]:
        """The value of each seed."""
        return np.array([number.value for number in self.numbers])

    def loss(self) -> "_Loss | None":
        """The metric as a quantity to be minimised; None where no direction is better or a value is not finite.

        A metric with a reference value c is |mean - c|: on which side of c the mean is counts as known, so that the
        loss of each image is ±(value - c).
        """
        number, seeds = self.numbers[0], self.seeds
        if number.better is None or not np.isfinite(seeds).all():
            return None
        has_reference = number.better == "reference"
        centre = (number.reference or 0.0) if has_reference else 0.0
        sign = -1 if number.better == "higher" or (has_reference and seeds.mean() < centre) else 1
        images = None if self.images is None or len(self.images) < 2 else sign * (self.images - centre)
        return _Loss(sign * (seeds - centre), images, number.error)


class _Loss(NamedTuple):
    seeds: NDArray[np.float64]
    images: NDArray[np.float64] | None
    error: float | None


class Verdict(NamedTuple):
    """The row with the least loss, and the p-value of its not being better than every other row; how it was tested."""

    row: int
    p: float
    tests: tuple[str, ...]


def best(results: Sequence[Result | None]) -> Verdict | None:
    """The best row of a metric, compared with each of the others; None where that cannot be tested.

    The null hypothesis is that the best is not better than all the others. Its p-value is the largest of the
    two-sided p-values of the comparisons, an intersection-union test; choosing the best by the same data does not
    make it too small (Gutmann and Maymin, Ann. Statist. 1987).
    """
    losses = {i: loss for i, r in enumerate(results) if r is not None and (loss := r.loss()) is not None}
    if len(losses) < 2:
        return None
    winner = min(losses, key=lambda i: losses[i].seeds.mean())
    tests = [test for i, loss in losses.items() if i != winner and (test := _test(losses[winner], loss)) is not None]
    if len(tests) < len(losses) - 1:
        return None
    return Verdict(winner, max(p for p, _ in tests), tuple(dict.fromkeys(name for _, name in tests)))


def _test(a: _Loss, b: _Loss) -> tuple[float, str] | None:
    """The two-sided p-value of equal means, and the name of the test; None where nothing is known of the spread."""
    difference = float(a.seeds.mean() - b.seeds.mean())
    if min(len(a.seeds), len(b.seeds)) > 1:
        (va, na), (vb, nb) = ((loss.seeds.var(ddof=1) / len(loss.seeds), len(loss.seeds)) for loss in (a, b))
        freedom = (va + vb) ** 2 / (va**2 / (na - 1) + vb**2 / (nb - 1)) if va + vb > 0 else 1
        return _p(difference, math.sqrt(va + vb), freedom), "Welch's t-test over seeds"
    if a.images is not None and b.images is not None and len(a.images) == len(b.images):
        differences = a.images - b.images
        error = differences.std(ddof=1) / math.sqrt(len(differences))
        return _p(difference, error, len(differences) - 1), "paired t-test over images"
    if a.error is None or b.error is None or len(a.seeds) + len(b.seeds) > 2:
        return None
    return _p(difference, math.hypot(a.error, b.error), _NORMAL), "z-test with combined standard errors"


def _p(difference: float, error: float, freedom: float) -> float:
    if not error > 0:
        return 0.0 if difference and error == 0 else 1.0
    return float(2 * stdtr(freedom, -abs(difference) / error))


def significant(verdicts: Mapping[str, Verdict]) -> set[str]:
    """The metrics whose best row is better than all others, by Holm's procedure over all metrics at ``LEVEL``."""
    ordered = sorted(verdicts, key=lambda metric: verdicts[metric].p)
    for i, metric in enumerate(ordered):
        if verdicts[metric].p > LEVEL / (len(ordered) - i):
            return set(ordered[:i])
    return set(ordered)


# What can be compared ----------------------------------------------------------------------------------------


def basis(evaluation: Evaluation) -> dict[str, str]:
    """What evaluations must share to be compared, by name."""
    size, crop = evaluation.transform.get("size"), evaluation.transform.get("crop")
    pixels = f"{size} pixels" + (f", cropped to {crop}" if crop else "")
    return {"images": evaluation.images, "size": pixels, "split": evaluation.split, "latents": evaluation.latents}


def disagreement(evaluations: Mapping[str, Evaluation]) -> str | None:
    """One sentence on how evaluations, by run, differ in images or latents; None where they agree."""
    told, bases = [], [basis(evaluation) for evaluation in evaluations.values()]
    for name in bases[0]:
        values = [of_run[name] for of_run in bases]
        if len(set(values)) > 1:
            if name == "images":  # two data sets may have one name
                values = [f"{e.data} [{images[:8]}]" for e, images in zip(evaluations.values(), values, strict=True)]
            each = (f"{value} for {run}" for run, value in zip(evaluations, values, strict=True))
            told.append(f"{name}: {', '.join(each)}")
    if not told:
        return None
    return f"Nothing is marked as best, because the runs were evaluated differently ({'; '.join(told)})."


def incomparable(evaluations: Sequence[Evaluation], likelihoods: Sequence[str]) -> dict[str, str]:
    """Metrics that cannot be compared though the images are the same, each with the reason.

    ``likelihoods`` names each run's p(x|z): densities of different ones have different units.
    """
    reasons: dict[str, str] = {}
    first: dict[str, dict[str, Any]] = {}
    for section in (section for evaluation in evaluations for section in evaluation.sections.values()):
        for name in (number.name for number in section.numbers):
            if len(set(likelihoods)) > 1 and (name == "reconstruction" or section.name.startswith("likelihood")):
                reasons[name] = "the models have different likelihoods p(x|z)"
            # "model prior: count" concerns the numbers whose names begin with "model prior: ".
            own = {k: v for k, v in section.settings.items() if name.startswith("".join(k.rpartition(": ")[:2]))}
            other = first.setdefault(name, own)
            if differing := sorted(k for k in own.keys() | other.keys() if own.get(k) != other.get(k)):
                reasons[name] = f"the runs were measured with different settings ({', '.join(differing)})"
    return reasons
