"""A run and images to numbers."""

from typing import TYPE_CHECKING

from evae.imports import on_demand

if TYPE_CHECKING:
    from evae.metrics.command import evaluate, results_table
    from evae.metrics.image import Sharpness

__all__ = ["Sharpness", "evaluate", "results_table"]

# Tables of benchmarks use a part that is quick to import.
__getattr__ = on_demand(__name__, {"evaluate": "command", "results_table": "command", "Sharpness": "image"})
