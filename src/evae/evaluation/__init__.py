"""A run and images to numbers, pictures, pages and codes."""

from evae.evaluation.comparison import compare
from evae.evaluation.measure import evaluate, results_table
from evae.evaluation.metrics import Sharpness
from evae.evaluation.outputs import encode, reconstruct, sample
from evae.evaluation.reporting import report

__all__ = ["Sharpness", "compare", "encode", "evaluate", "reconstruct", "report", "results_table", "sample"]
