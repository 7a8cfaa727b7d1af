"""Figures of a run in training."""

import numpy as np

from evae import figures
from evae.data import ImageSet, to_float
from evae.files import write_atomically
from evae.models import VAE
from evae.reporting import charts
from evae.reporting.row_charts import against_originals
from evae.runs import RunFolder
from evae.runs.images import columns_of

_SHOWN = 12  # hold-out images
_SCATTERED = 500  # hold-out rows


def draw_training(run: RunFolder, model: VAE, holdout: ImageSet) -> None:
    """Write figures/losses.png and figures/reconstructions.png into the run folder.

    The first holds the curves of loss, reconstruction and divergence by epoch; the second, hold-out images above
    their reconstructions; or, of rows of numbers, reconstructed over original values of 12 columns.

    Args:
        run: its metrics.jsonl has the curves.
        model: in evaluation mode.
        holdout: 12 of these images, at equal distances, are shown.

    Raises:
        RunError: a figure cannot be written.
    """
    if panels := charts.training_panels(run, model):
        write_atomically(run.path / "figures" / "losses.png", charts.curves(*panels).png)
    if model.is_row:
        columns = columns_of(model)
        real = to_float(holdout.read(slice(0, _SCATTERED)), model.device).to(next(model.parameters()).dtype)
        values, rebuilt = (columns.restore(x.cpu().numpy()) for x in (real, model.reconstruct(real)))
        write_atomically(run.path / "figures" / "reconstructions.png", against_originals(values, rebuilt, columns).png)
        return
    rows = np.linspace(0, len(holdout) - 1, min(_SHOWN, len(holdout))).astype(np.int64)
    images = to_float(holdout.read(rows), model.device).to(next(model.parameters()).dtype)
    shown = {"original": images, "reconstruction": model.reconstruct(images)}
    figures.save_rows(shown, run.path / "figures" / "reconstructions.png")
