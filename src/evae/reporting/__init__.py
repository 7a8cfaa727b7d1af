"""Pages, tables and charts of runs."""

from evae.reporting.comparison import compare
from evae.reporting.run_page import report
from evae.reporting.training_figures import draw_training

__all__ = ["compare", "draw_training", "report"]
