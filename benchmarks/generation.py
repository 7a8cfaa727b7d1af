"""Samples of every prior of every family: Fréchet and kernel distances, precision, recall and the copy check.

    python benchmarks/generation.py --data PATH_OR_NAME [--latent-dims 16 64] [--epochs 20] [--samples 10000]
        [--families EVAE AE ...] [--kinds gaussian gmm kde flow vae] [--fit-epochs 100] [--out generation]

Trains each family (Appendix C's networks and training), fits each kind of prior to its codes and measures what they
draw with the features of efficientnet-lite0. It goes on where it was stopped: runs are resumed, and what is in
OUT/results.json is not measured again. Prints a Markdown table of all results so far.
"""

import argparse
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from evae import AE, EVAE, RAE, WAE, BetaVAE, GaussianVAE, evaluate, fit_prior, load_model, train
from evae.errors import ConfigError
from evae.files import write_atomically

FAMILIES = {
    "EVAE": (EVAE, {}),
    "GaussianVAE": (GaussianVAE, {}),
    "BetaVAE 0.1": (BetaVAE, {"beta": 0.1}),
    "WAE": (WAE, {}),
    "AE": (AE, {}),
    "RAE": (RAE, {}),
}
KINDS = ("gaussian", "gmm", "kde", "flow", "vae")
COLUMNS = ("frechet_distance", "kernel_distance", "precision", "recall", "nearest_training_distance")


def main() -> None:
    """Train, fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--latent-dims", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--fit-epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("generation"))
    options = parser.parse_args()
    path = options.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for dim in options.latent_dims:
        for name in options.families:
            cell = f"{Path(options.data).name} d={dim} {name} epochs={options.epochs} samples={options.samples}"
            found = results.setdefault(cell, {})
            measure(cell, found, options, dim, name)
            write_atomically(path, json.dumps(results, indent=1) + "\n")
            for kind in options.kinds:
                if kind not in found:
                    found[kind] = measure_prior(run_folder(options, dim, name), kind, options)
                    write_atomically(path, json.dumps(results, indent=1) + "\n")
    print(table(results))


def run_folder(options: argparse.Namespace, dim: int, name: str) -> Path:
    """Of a family's run."""
    folder: Path = options.out / f"{Path(options.data).name}-d{dim}-{name.replace(' ', '-')}"
    return folder


def measure(cell: str, found: dict[str, Any], options: argparse.Namespace, dim: int, name: str) -> None:
    """Train, and measure reconstructions and the model's own prior."""
    if "reconstructions" in found:
        return
    family, settings = FAMILIES[name]
    folder = run_folder(options, dim, name)
    print(cell, flush=True)
    train(
        options.data,
        folder,
        partial(family, latent_dim=dim, **settings),
        epochs=options.epochs,
        resume="auto",
    )
    shutil.rmtree(folder / "prior", ignore_errors=True)  # of fewer epochs
    numbers = measured(folder, options.samples)
    for kind in ("reconstructions", "model prior"):
        found[kind] = {k.partition(": ")[2]: v for k, v in numbers.items() if k.startswith(f"{kind}: ")}


def measure_prior(folder: Path, kind: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Fit a prior and measure its samples; None where the family has no such prior."""
    start = time.monotonic()
    try:
        fit_prior(folder, kind=kind, fit_epochs=options.fit_epochs)
    except ConfigError as error:
        print(error, flush=True)
        return None
    about = json.loads((folder / "prior" / "prior.json").read_text())["about"]
    seconds = time.monotonic() - start
    numbers = measured(folder, options.samples)
    found: dict[str, Any] = {k.partition(": ")[2]: v for k, v in numbers.items() if k.startswith("fitted prior: ")}
    found["fit"] = about | {"seconds": seconds, "density": str(load_model(folder).read_prior())}
    return found | {"held_out_log_density": [about.get("held_out_log_density"), about.get("standard_error")]}


def measured(folder: Path, samples: int) -> dict[str, list[float | None]]:
    """All numbers of an evaluation, each with its standard error."""
    sections = evaluate(folder, features="efficientnet-lite0", samples=samples, show=False)["sections"]
    return {n["name"]: [n["value"], n["error"]] for section in sections.values() for n in section["numbers"]}


def table(results: dict[str, Any]) -> str:
    """A row for each cell and prior."""
    lines = [f"| run | images of | {' | '.join(COLUMNS)} |", f"| --- | --- |{' ---: |' * len(COLUMNS)}"]
    for cell, kinds in results.items():
        for kind, numbers in kinds.items():
            values = [numbers.get(column) for column in COLUMNS] if numbers else [None] * len(COLUMNS)
            lines.append(f"| {cell} | {kind} | {' | '.join(map(shown, values))} |")
    return "\n".join(lines)


def shown(number: list[float | None] | None) -> str:
    """A value and its standard error."""
    value, error = number or (None, None)
    if value is None:
        return "-"
    return f"{value:.4g}" + (f" ± {error:.1g}" if error is not None else "")


if __name__ == "__main__":
    main()
