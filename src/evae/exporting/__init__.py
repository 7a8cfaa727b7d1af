"""Trained models for programs without torch: ONNX files, a record of what they take, and a page that runs them."""

from evae.exporting.command import export

__all__ = ["export"]
