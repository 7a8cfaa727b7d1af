"""Which kernel, and which bandwidth? The experiments of docs/kernels.md, on 5,000 real digits.

    python examples/kernel_study.py kernels      ten kernels at equal variance, three seeds each
    python examples/kernel_study.py bandwidths   the bandwidth from 1e-3 to 3, three seeds each

Runs go to runs/kernel_study; those that are complete are not repeated. Prints a markdown table of mean (sd).
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

from evae import EVAE, evaluate, train
from evae.distributions import KERNELS

OUT = Path("runs/kernel_study")
SEEDS = range(3)
METRICS = ("bce", "mse", "sharpness", "penalty")
STUDIES = {
    "kernels": {name: {"kernel": name} for name in KERNELS},
    "bandwidths": {f"{b:g}": {"bandwidth": b} for b in (1e-3, 1e-2, 1e-1, 100 ** (-2 / 9), 1.0, 3.0)},
}


def result(name: str, seed: int, options: dict[str, object], epochs: int) -> dict[str, float]:
    """The metrics of one run, trained if it was not before."""
    out = OUT / f"{name}-{epochs}-{seed}"
    if not (out / "evaluation.json").exists():
        train("mnist5k", out, partial(EVAE, **options), epochs=epochs, seed=seed, resume="auto", accelerator="cpu")
        evaluate(out, show=False)
    metrics: dict[str, float] = json.loads((out / "evaluation.json").read_text())["metrics"]
    return metrics


def main() -> None:
    """Run one study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    print(f"| {options.study} | {' | '.join(METRICS)} |\n|{' --- |' * (len(METRICS) + 1)}", flush=True)
    for name, settings in STUDIES[options.study].items():
        runs = [result(f"{options.study}-{name}", seed, settings, options.epochs) for seed in SEEDS]
        columns = [[run[metric] for run in runs] for metric in METRICS]
        cells = [f"{statistics.mean(c):.4g} ({statistics.stdev(c):.2g})" for c in columns]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
