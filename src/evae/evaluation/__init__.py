"""A run and images to numbers, pictures and codes."""

from evae.evaluation.measure import evaluate, results_table
from evae.evaluation.metrics import Sharpness
from evae.evaluation.outputs import encode, reconstruct, sample

__all__ = ["Sharpness", "encode", "evaluate", "reconstruct", "results_table", "sample"]
