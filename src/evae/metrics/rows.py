"""Distances between samples of a model of rows and the hold-out rows, in standardised units."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from evae.data import to_float
from evae.metrics.sections import Context, Measured, Measurement, Options
from evae.metrics.two_sample import kernel_mmd
from evae.models.vae import Prior
from evae.runs.evaluation import Number


def _measure(context: Context, options: Options, prior: Prior) -> Measured:
    """The kernel MMD² of samples of a prior, with the likelihood's noise, and of the training rows for comparison."""
    model, name = context.model, f"{prior} prior"
    real = all_rows(context, "holdout")
    samples = model.sample(options.samples, prior).cpu()
    numbers = [Number(f"{name}: kernel_mmd", *kernel_mmd(samples, real, context.seed), "lower")]
    if prior == "model":
        numbers.append(Number("training rows: kernel_mmd", *kernel_mmd(all_rows(context, "train"), real, context.seed)))
    return Measured(numbers, {f"{name}: count": options.samples, "hold-out count": len(real)})


def all_rows(context: Context, split: str) -> Tensor:
    """The rows (N, F) of "train" or "holdout", standardised."""
    images = context.store.train if split == "train" else context.store.holdout
    return to_float(images.read(slice(0, len(images))), torch.device("cpu"))


def _depends_on(options: Options) -> dict[str, Any] | None:
    return {"samples": options.samples} if options.is_row else None


ROW_DISTANCES = Measurement("distances of rows", partial(_measure, prior="model"), _depends_on)
FITTED_ROW_DISTANCES = Measurement(
    "distances of rows, fitted prior", partial(_measure, prior="fitted"), _depends_on, True
)
