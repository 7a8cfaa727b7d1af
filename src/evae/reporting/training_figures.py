"""Figures of a run in training."""

import numpy as np

from evae import figures
from evae.data import ImageSet, to_float
from evae.files import write_atomically
from evae.models import VAE
from evae.reporting import charts
from evae.runs import RunFolder

_SHOWN = 12  # hold-out images


def draw_training(run: RunFolder, model: VAE, holdout: ImageSet) -> None:
    """Write figures/losses.png and figures/reconstructions.png into the run folder.

    The first holds the curves of loss, reconstruction and divergence by epoch; the second, hold-out images above
    their reconstructions.

    Args:
        run: its metrics.jsonl has the curves.
        model: in evaluation mode.
        holdout: 12 of these images, at equal distances, are shown.

    Raises:
        RunError: a figure cannot be written.
    """
    if panels := charts.training_panels(run, model):
        write_atomically(run.path / "figures" / "losses.png", charts.curves(*panels).png)
    rows = np.linspace(0, len(holdout) - 1, min(_SHOWN, len(holdout))).astype(np.int64)
    images = to_float(holdout.read(rows), model.device).to(next(model.parameters()).dtype)
    shown = {"original": images, "reconstruction": model.reconstruct(images)}
    figures.save_rows(shown, run.path / "figures" / "reconstructions.png")
