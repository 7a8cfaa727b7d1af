"""Model and batches to a run folder."""

from evae.training.command import train
from evae.training.fit import DivergedError, InterruptedRun
from evae.training.run import load_model

__all__ = ["DivergedError", "InterruptedRun", "load_model", "train"]
