"""A run and images to numbers."""

from evae.metrics.command import evaluate, results_table
from evae.metrics.image import Sharpness

__all__ = ["Sharpness", "evaluate", "results_table"]
