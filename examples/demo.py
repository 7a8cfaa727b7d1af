"""Train an EVAE and a Gaussian VAE on 4,000 real digits; compare reconstructions of 1,000 others, and samples.

A few minutes on two cores. Everything is left in demo/.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from evae import EVAE, GaussianVAE, evaluate, figures, fit_prior, load_model, open_store, train
from evae.data import to_float
from evae.metrics import results_table
from evae.reporting import charts
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation

EPOCHS = 12
DEMO = Path("demo")


def main() -> None:
    """Train, evaluate, compare."""
    shutil.rmtree(DEMO, ignore_errors=True)
    runs = {family.__name__: DEMO / family.__name__ for family in (EVAE, GaussianVAE)}
    for family in (EVAE, GaussianVAE):
        print(f"{family.__name__}: {EPOCHS} epochs")
        train("mnist5k", runs[family.__name__], model=family, epochs=EPOCHS, accelerator="cpu")
    results = {str(run): Evaluation.from_dict(evaluate(run, device="cpu", show=False)) for run in runs.values()}
    samples = {}
    for name, run in runs.items():
        fit_prior(run, device="cpu")
        torch.manual_seed(0)
        for prior in ("model", "fitted"):
            samples[f"{name}, {prior} prior"] = load_model(run).sample(10, prior)
    figures.save_rows(samples, DEMO / "samples.png")

    digits = open_store("mnist5k")
    shown = [int(np.flatnonzero(digits.holdout.labels == digit)[0]) for digit in range(10)]
    images = to_float(digits.holdout.images[shown])
    rows = {"original": images} | {name: load_model(run).reconstruct(images) for name, run in runs.items()}
    figures.save_rows(rows, DEMO / "reconstructions.png")
    curves = [
        charts.Curve(name, charts.points(RunFolder(run).epochs(), "holdout_reconstruction"), colour)
        for colour, (name, run) in enumerate(runs.items())
    ]
    panel = charts.Panel(curves, "hold-out reconstruction", ylabel="nats per image")
    (DEMO / "curves.png").write_bytes(charts.curves(panel).png)

    Console().print(results_table(results))
    print("bce, mse: lower is closer to the original; sharpness: the originals' is sharpness_real.")
    print("Samples of a fitted prior: evae fit-prior. Figures:")
    own = [DEMO / f"{name}.png" for name in ("reconstructions", "samples", "curves")]
    for figure in [*own, *DEMO.glob("*/figures/*.png")]:
        print(f"  {figure}")


if __name__ == "__main__":
    main()
