"""Which of several runs measures best, where that can be said."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evae.runs.evaluation import Numbers, distance_settings

_LOWER = frozenset({"bce", "mse", "reconstruction", "frechet_distance", "fid", "kernel_distance", "kid"})
_HIGHER = frozenset({"psnr", "ssim", "sharpness", "precision", "recall", "density", "coverage"})
_ERRORS = 1.96  # standard errors of a difference beyond which it is taken for one


def best(column: str, runs: Sequence[Numbers]) -> int | None:
    """The run that is best in a column by more than 1.96 combined standard errors of it and the second; else None.

    Without standard errors nothing can be said, nor of columns that are no matter of better or worse.
    """
    name = column.rpartition(": ")[2]  # of "samples: fid"
    if name not in _LOWER | _HIGHER:
        return None
    sign = 1 if name in _LOWER else -1
    known = [
        (sign * run[column][0], i) for i, run in enumerate(runs) if column in run and math.isfinite(run[column][0])
    ]
    if len(known) < 2:
        return None
    (first, winner), (second, runner_up) = sorted(known)[:2]
    error, other = (runs[i][column][1] for i in (winner, runner_up))
    if error is None or other is None:
        return None
    return winner if second - first > _ERRORS * math.hypot(error, other) else None


def disagreement(results: Mapping[str, dict[str, Any]]) -> str | None:
    """One sentence on why no run is better than another: they were evaluated on other images or in another way.

    Args:
        results: evaluations by run, each with the "size" of its images, which their fingerprint leaves out.
    """
    told = []
    for name in ("images", "size", "split", "latents"):
        values = {run: result.get(name) for run, result in results.items()}
        if len(set(map(str, values.values()))) > 1:
            described = {run: _described(name, results[run]) for run in values}
            told.append(f"{name}: {', '.join(f'{value} for {run}' for run, value in described.items())}")
    return f"Nothing is marked as best, for the runs were evaluated differently ({'; '.join(told)})." if told else None


def _described(name: str, result: dict[str, Any]) -> str:
    """Two data sets may have one name: part of the fingerprint tells them apart."""
    value = str(result.get(name))
    return f"{result.get('data')} [{value[:8]}]" if name == "images" else value


def incomparable(results: Mapping[str, dict[str, Any]], pixels: Mapping[str, str]) -> dict[str, str]:
    """Columns, by how their names start, that are not ranked though the images are the same, each with the reason.

    Args:
        results: evaluations by run.
        pixels: the name of each run's likelihood p(x|z).
    """
    reasons = {}
    if len(set(pixels.values())) > 1:
        reasons["reconstruction"] = "the models have different likelihoods p(x|z)"
    settings = [distance_settings(result) for result in results.values()]
    for kind in dict.fromkeys(kind for of_run in settings for kind in of_run):
        of_kind = [of_run[kind] for of_run in settings if kind in of_run]
        if any(other != of_kind[0] for other in of_kind):
            reasons[f"{kind}: "] = "they were computed from different numbers of images or features"
    return reasons
