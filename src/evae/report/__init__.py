"""Pages, tables and charts of runs."""

from evae.report.comparison import compare
from evae.report.run_page import report
from evae.report.training_figures import draw_training

__all__ = ["compare", "draw_training", "report"]
