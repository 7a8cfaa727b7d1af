"""What is said of our figures: whether they reproduce published ones, and a sign test over cells."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from evae.benchmark.spec import SAME, Claim, Published
from evae.reporting.ranking import Result

RULE = (
    "Verdict: reproduced where the difference is at most 2 sqrt(sd²/n + sd'²/n'), sd and n ours, sd' and n' published; "
    "where no sd is published or ours is of one seed, at most the tolerance that the spec states; not comparable where "
    f"there is neither, or where the spec does not say that {', '.join(SAME)} are the published ones."
)


def verdict(ours: Result | None, figure: tuple[float, float | None], entry: Published) -> str:
    """reproduced, not reproduced or not comparable, by ``RULE``; "" where there is nothing of ours yet."""
    if ours is None:
        return ""
    if set(SAME) - set(entry.same):
        return "not comparable"
    mean, published_sd = figure
    count, value = len(ours.seeds), float(ours.seeds.mean())
    if published_sd is not None and count > 1:
        bound = 2 * math.sqrt(float(ours.seeds.var(ddof=1)) / count + published_sd**2 / entry.runs)
    elif entry.tolerance is not None:
        bound = entry.tolerance * abs(mean)
    else:
        return "not comparable"
    return "reproduced" if abs(value - mean) <= bound else "not reproduced"


class Sign(NamedTuple):
    """Cells in which a claim's winner is better, the cells in which the two differ, and the one-sided p-value."""

    wins: int
    cells: int
    p: float


def sign_test(pairs: Iterable[tuple[float, float]], better: str) -> Sign:
    """The sign test of pairs (winner, loser): each is won with probability 1/2 under the null hypothesis.

    Pairs of equal values, and values that are not finite, say nothing and are left out.

    >>> sign_test([(1.0, 2.0)] * 15 + [(2.0, 1.0)], "lower")
    Sign(wins=15, cells=16, p=0.0002593994140625)
    """
    from scipy.stats import binomtest

    differences = [a - b if better == "higher" else b - a for a, b in pairs]
    signs = [difference > 0 for difference in differences if difference and math.isfinite(difference)]
    p = float(binomtest(sum(signs), len(signs), alternative="greater").pvalue) if signs else 1.0
    return Sign(sum(signs), len(signs), p)


def told(claim: Claim, metric: str, sign: Sign) -> str:
    """A claim and its test in a sentence."""
    published = f"; published: {claim.published}" if claim.published else ""
    return (
        f"{metric} is {claim.better} for {claim.winner} than for {claim.loser} in {sign.wins} of {sign.cells} cells "
        f"(one-sided sign test over cells, p = {sign.p:.2g}){published}."
    )
