"""A run and images to numbers, pictures, pages and codes."""

from evae.evaluation.compare import compare
from evae.evaluation.measure import evaluate, results_table
from evae.evaluation.metrics import Sharpness
from evae.evaluation.outputs import encode, reconstruct, sample
from evae.evaluation.report import report

__all__ = ["Sharpness", "compare", "encode", "evaluate", "reconstruct", "report", "results_table", "sample"]
