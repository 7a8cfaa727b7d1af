"""Runs to pages and charts."""

from evae.report.comparison import compare
from evae.report.run_page import report

__all__ = ["compare", "report"]
