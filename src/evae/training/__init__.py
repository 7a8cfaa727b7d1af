"""Model and batches to a run folder."""

from evae.training.fit import InterruptedRun, train
from evae.training.run import load_model

__all__ = ["InterruptedRun", "load_model", "train"]
