"""What runs left to be read again: their evaluation, their losses, their images. What is missing is none's fault."""

import json
import math
from pathlib import Path
from typing import Any

from evae.errors import RunError
from evae.runs.folder import RunFolder

RESULTS = "evaluation.json"

Numbers = dict[str, tuple[float, float | None]]


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """A run's evaluation; None where it has none.

    Raises:
        RunError: it is damaged, or not as this version writes it.
    """
    try:
        result = json.loads((folder / RESULTS).read_text())
        numbers(result), distance_settings(result), spread_quantiles(result), rates(result)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder / RESULTS} is damaged or of another version; evae evaluate {folder} writes it again"
        ) from error
    return dict(result)


def numbers(result: dict[str, Any]) -> Numbers:
    """All numbers of an evaluation, each with its standard error or None, by the name to show."""
    flat = flat_metrics({"metrics": {}, **result})
    return {name: (float(value), _finite(error)) for name, (value, error) in flat.items() if value is not None}


def distance_settings(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What distances depend on besides the images, for "reconstructions" and for "samples"."""
    sections = result.get("distances") or {}
    return {
        kind: {name: value for name, value in section.items() if isinstance(value, str | int)}
        for kind, section in sections.items()
    }


def spread_quantiles(result: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """What an evaluation says the posteriors' spread is, and its quantiles by their share; none where it does not."""
    latents = result.get("latents_report") or {}
    quantiles = {share: _finite(value) for share, value in (latents.get("spread_quantiles") or {}).items()}
    return latents.get("spread", "spread"), {share: value for share, value in quantiles.items() if value is not None}


def rates(result: dict[str, Any]) -> list[float]:
    """The mean divergence of each latent; none where it is no sum over latents or was not measured."""
    values = map(_finite, (result.get("latents_report") or {}).get("rate_per_dimension") or [])
    return [value for value in values if value is not None]


def epochs(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that close an epoch; none where there is no such file."""
    return RunFolder(folder).epochs()


def points(lines: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """(epoch, value) of each line that has the value."""
    return [(line["epoch"], line[name]) for line in lines if _finite(line.get(name)) is not None]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def flat_metrics(result: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """All numbers of an evaluation with their standard errors, None where there is none, by the name to show."""
    errors = result.get("standard_errors", {})
    flat: dict[str, tuple[float, float | None]] = {k: (v, errors.get(k)) for k, v in result["metrics"].items()}
    likelihood = result.get("likelihood", {})
    if "bound" in likelihood:
        flat["ln p(x) ≥"] = likelihood["bound"], likelihood["standard_error"]
    for kind, scores in result.get("distances", {}).items():
        numbers = {k: v for k, v in scores.items() if isinstance(v, float) and not k.endswith("_error")}
        flat |= {f"{kind}: {k}": (v, scores.get(f"{k}_error")) for k, v in numbers.items()}
    latents = result.get("latents_report", {})
    flat |= {k: (latents[k], None) for k in ("active_units", "share_outside") if k in latents}
    probes = result.get("probes", {})
    for kind in ("linear", "nearest_neighbours"):
        for inputs, share in probes.get(kind, {}).items():
            flat[f"{kind} accuracy, {inputs}"] = share, math.sqrt(share * (1 - share) / probes["count"])
    return flat
