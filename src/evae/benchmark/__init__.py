"""Benchmarks: the cells of a spec, computed on one machine or several, and their table."""

from evae.benchmark.command import benchmark

__all__ = ["benchmark"]
