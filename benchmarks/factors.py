"""Traversals of the latents that tell most of a factor, for the models of configs/factors.yaml, as one figure.

evae benchmark configs/factors.yaml --out results/factors
python benchmarks/factors.py results/factors docs/figures/factors.png
"""

import argparse
from pathlib import Path

from torch import Tensor

from evae import figures
from evae.benchmark.cell import folder_of
from evae.benchmark.cells import cells_of
from evae.benchmark.spec import read_spec
from evae.reporting.exploration import survey, traversals
from evae.runs import RunFolder
from evae.runs.evaluation import read_evaluation
from evae.runs.images import own_images

SHOWN = {"EVAE, support_length 0.1": "EVAE, B = 0.1", "GaussianVAE": "GaussianVAE", "BetaVAE, beta 4": "BetaVAE, 4"}
LATENTS, STEPS = 4, 11


def rows_of(run: RunFolder, name: str) -> dict[str, Tensor]:
    """The images of each traversal, named by the model, the latent and the factor that it tells most of."""
    evaluation = read_evaluation(run)
    assert evaluation is not None
    details = evaluation.sections["factors"].details
    information = details["information"]
    model = run.model()
    found = survey(model, own_images(run).holdout)
    rows = {}
    for t in traversals(model, found, LATENTS, STEPS, [max(of_latent) for of_latent in information]):
        shares = dict(zip(details["factors"], information[t.latent], strict=True))
        told = sorted(shares, key=lambda factor: -shares[factor])[:2]
        rows[f"{name}, z{t.latent}: " + ", ".join(f"{factor} {shares[factor]:.2f}" for factor in told)] = t.images
    return rows


def main() -> None:
    """Draw the figure of seed 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    options = parser.parse_args()
    cells = cells_of(read_spec(Path(__file__).parents[1] / "configs" / "factors.yaml"))
    rows: dict[str, Tensor] = {}
    for cell in cells:
        named = [name for start, name in SHOWN.items() if cell.value("model").startswith(f"{start},")]
        if named and cell.value("seed") == "0":
            rows |= rows_of(RunFolder(folder_of(options.results, cell).run), named[0])
    figures.save_rows(rows, options.figure)


if __name__ == "__main__":
    main()
