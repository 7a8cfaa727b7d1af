"""Model and images to a run folder."""

from evae.training.command import train
from evae.training.fit import DivergedError, InterruptedRun
from evae.training.preemption import StoppedError

__all__ = ["DivergedError", "InterruptedRun", "StoppedError", "train"]
