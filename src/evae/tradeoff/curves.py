"""Points of rate, distortion and sharpness, and the curves that they make."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from evae.benchmark.cells import Cell
from evae.metrics.likelihood import RATE
from evae.runs.evaluation import Evaluation, Number

_RATES = ("kl", "monte_carlo_kl", RATE)
_DISTORTION = "reconstruction"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its error: their standard deviation, of one seed the standard error over images."""

    value: float
    error: float = 0.0

    @classmethod
    def of(cls, numbers: Sequence[Number]) -> "Estimate":
        """From the number of each seed."""
        values = [number.value for number in numbers]
        return cls(fmean(values), stdev(values) if len(values) > 1 else numbers[0].error or 0.0)


@dataclass(frozen=True)
class Point:
    """A setting of a curve's hyperparameter, measured.

    Attributes:
        setting: the value of the hyperparameter.
        rate: the least of the KL to the model's own prior and of that to the fitted one, in nats per image.
        prior: "model" or "fitted": whose rate it is.
        distortion: -E ln p(x|z), in nats per image.
        sharpness: variance of the Laplacian of reconstructions.
        originals: the same of the original images.
    """

    setting: str
    rate: Estimate
    prior: str
    distortion: Estimate
    sharpness: Estimate
    originals: float

    @property
    def bound(self) -> float:
        """Distortion + rate, a negative ELBO."""
        return self.distortion.value + self.rate.value


@dataclass(frozen=True)
class Curve:
    """Points of one model in order of their rates; ``parameter`` is the hyperparameter that they differ in."""

    name: str
    parameter: str
    points: Sequence[Point]

    @property
    def rates(self) -> tuple[float, float]:
        """The least and the greatest rate."""
        return self.points[0].rate.value, self.points[-1].rate.value

    def at(self, rates: NDArray[np.float64], quantity: str) -> NDArray[np.float64]:
        """``distortion`` or ``sharpness`` at rates within its own, linear between its points."""
        x = [point.rate.value for point in self.points]
        y = [getattr(point, quantity).value for point in self.points]
        return np.interp(rates, x, y)


def curves_of(measured: Iterable[tuple[Cell, Evaluation]]) -> tuple[list[Curve], list[str]]:
    """The curves of finished cells, and the names of the models that have no rate: those without a density."""
    groups: dict[tuple[str, str], dict[str, list[Evaluation]]] = {}
    for cell, evaluation in measured:
        name, parameter, setting = _place(cell)
        groups.setdefault((name, parameter), {}).setdefault(setting, []).append(evaluation)
    curves, without = [], []
    for (name, parameter), settings in groups.items():
        points = [p for setting, seeds in settings.items() if (p := _point(setting, seeds)) is not None]
        if points:
            curves.append(Curve(name, parameter, sorted(points, key=lambda point: point.rate.value)))
        else:
            without.append(name)
    return curves, without


def common_rates(a: Curve, b: Curve) -> NDArray[np.float64] | None:
    """The ends of the interval of rates that both curves reach, and their points between; None where there is none."""
    low, high = max(a.rates[0], b.rates[0]), min(a.rates[1], b.rates[1])
    if not low < high:
        return None
    return np.unique(np.clip([low, high, *(point.rate.value for c in (a, b) for point in c.points)], low, high))


def _place(cell: Cell) -> tuple[str, str, str]:
    """The curve of a cell, its hyperparameter and the value of that: the last grid among the model's."""
    axes = [axis for axis in cell.values if axis.startswith("model.")]
    name = ", ".join(part for part in cell.value("model").split(", ") if not part.startswith("latent_dim "))
    others = [f"{axis.removeprefix('model.')} {cell.values[axis]}" for axis in axes[:-1]]
    last = axes[-1] if axes else ""
    return ", ".join([name, *others]), last.removeprefix("model."), cell.values.get(last, "")


def _point(setting: str, seeds: Sequence[Evaluation]) -> Point | None:
    rates = {name: numbers for name in _RATES if (numbers := _numbers(seeds, name))}
    distortion, sharpness = _numbers(seeds, _DISTORTION), _numbers(seeds, "sharpness")
    if not rates or distortion is None or sharpness is None:
        return None
    estimates = {name: Estimate.of(numbers) for name, numbers in rates.items()}
    least = min(estimates, key=lambda name: estimates[name].value)
    return Point(
        setting,
        estimates[least],
        "fitted" if least == RATE else "model",
        Estimate.of(distortion),
        Estimate.of(sharpness),
        sharpness[0].reference or math.nan,
    )


def _numbers(seeds: Sequence[Evaluation], name: str) -> list[Number] | None:
    """A finite metric of every seed; None where one lacks it."""
    found = [number for evaluation in seeds if (number := evaluation.number(name)) is not None]
    return found if len(found) == len(seeds) and all(math.isfinite(n.value) for n in found) else None
