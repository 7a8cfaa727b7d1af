"""What the curves say, in a few sentences whose every number is of the curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.integrate import trapezoid

from evae.tradeoff.curves import Curve, Point, common_rates

_ERRORS = 2  # a smaller difference than so many standard errors is not told as one


@dataclass(frozen=True)
class Comparison:
    """Two curves over the rates that both reach: the mean of ``first``'s distortion less ``second``'s.

    Attributes:
        first: the curve with the lower distortion.
        second: the other.
        rates: the least and the greatest rate.
        difference: in nats per image, at most 0.
        error: its standard error, as if the two were measured on different images, which is an upper bound where their
            distortions are positively correlated.
    """

    first: Curve
    second: Curve
    rates: tuple[float, float]
    difference: float
    error: float

    @property
    def is_clear(self) -> bool:
        """Whether the difference is larger than chance explains."""
        return abs(self.difference) > _ERRORS * self.error

    def __str__(self) -> str:
        low, high = self.rates
        told = f"{self.first.name} against {self.second.name}: {-self.difference:.1f} nats less distortion on average"
        unclear = "" if self.is_clear else f" (less than {_ERRORS} standard errors: no difference is shown)"
        return f"{told} at rates from {low:.1f} to {high:.1f} nats{unclear}"


def compared(curves: Sequence[Curve]) -> list[Comparison]:
    """Every two curves with rates in common."""
    found = []
    for a, b in combinations(curves, 2):
        rates = common_rates(a, b)
        if rates is None:
            continue
        differences = a.at(rates, "distortion") - b.at(rates, "distortion")
        difference = float(trapezoid(differences, rates) / (rates[-1] - rates[0]))
        first, second = (a, b) if difference <= 0 else (b, a)
        ends = float(rates[0]), float(rates[-1])
        found.append(Comparison(first, second, ends, -abs(difference), _error(first, second)))
    return found


def _error(*curves: Curve) -> float:
    """Of a difference of curves, from the largest error of each: errors of points on the same images do not average."""
    return math.hypot(*(max(point.distortion.error for point in curve.points) for curve in curves))


def advice(curves: Sequence[Curve]) -> list[str]:
    """Sentences: the lowest distortion at equal rate, what sharpness costs, and what to choose.

    Args:
        curves: at least one.
    """
    points = [(curve, point) for curve in curves for point in curve.points]
    best, sharpest = min(points, key=lambda p: p[1].bound), max(points, key=lambda p: p[1].sharpness.value)
    low, high = best[1].sharpness, sharpest[1].sharpness
    if high.value - low.value <= _ERRORS * math.hypot(low.error, high.error):
        bound = f"{_named(*best)} has the best bound on -ln p(x), {best[1].bound:.1f} nats"
        return [*_lowest(curves), f"{bound}, and no setting is shown to be sharper: choose it."]
    return [*_lowest(curves), _price(best, sharpest), _choice(best, sharpest)]


def _lowest(curves: Sequence[Curve]) -> list[str]:
    """Which curve has the lowest distortion at equal rate, if one has."""
    pairs = compared(curves)
    winners = [
        curve
        for curve in curves
        if any(pair.first is curve for pair in pairs) and not any(pair.second is curve for pair in pairs)
    ]
    if len(winners) != 1:
        return ["No curve has the lowest distortion at all rates: read the comparisons by pairs."] if pairs else []
    own = [pair for pair in pairs if pair.first is winners[0]]
    nearest = max(own, key=lambda pair: pair.difference)
    low, high = nearest.rates
    where = f"on average between {low:.0f} and {high:.0f} nats of rate"
    names, more = (winners[0].name, nearest.second.name), f"{-nearest.difference:.1f} nats"
    if not nearest.is_clear:
        return [
            f"At equal rate {names[0]} and {names[1]} have the lowest distortion, and no difference is shown between "
            f"them: {more} {where}, less than {_ERRORS} standard errors."
        ]
    return [f"At equal rate {names[0]} has the lowest distortion; {names[1]} comes next, with {more} more {where}."]


def _price(best: tuple[Curve, Point], sharpest: tuple[Curve, Point]) -> str:
    """What the step from the best bound to the sharpest reconstructions costs."""
    (_, low), (_, high) = best, sharpest
    share = f"{low.sharpness.value / low.originals:.0%} to {high.sharpness.value / high.originals:.0%}"
    rate, bound = high.rate.value - low.rate.value, high.bound - low.bound
    return (
        f"From {_named(*best)} to {_named(*sharpest)} sharpness rises from {share} of the originals', at a price of "
        f"{rate:.0f} nats of rate, and the bound on -ln p(x) gets {bound:.0f} nats worse."
    )


def _choice(best: tuple[Curve, Point], sharpest: tuple[Curve, Point]) -> str:
    likelihood = f"Choose {_named(*best)} for likelihoods ({best[1].bound:.1f} nats)"
    return f"{likelihood}, and {_named(*sharpest)} for sharp reconstructions, with samples from a fitted prior."


def _named(curve: Curve, point: Point) -> str:
    return f"{curve.name} with {curve.parameter} = {point.setting}" if curve.parameter else curve.name
