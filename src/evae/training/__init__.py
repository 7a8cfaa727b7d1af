"""Model and images to a run folder."""

from evae.training.command import train
from evae.training.meter import DivergedError
from evae.training.preemption import InterruptedRun, StoppedError

__all__ = ["DivergedError", "InterruptedRun", "StoppedError", "train"]
