"""Pages, tables and charts of runs."""

from typing import TYPE_CHECKING

from evae.imports import on_demand

if TYPE_CHECKING:
    from evae.reporting.comparison import compare
    from evae.reporting.run_page import report
    from evae.reporting.training_figures import draw_training

__all__ = ["compare", "draw_training", "report"]

# Tables of benchmarks use a part that is quick to import.
__getattr__ = on_demand(__name__, {"compare": "comparison", "report": "run_page", "draw_training": "training_figures"})
