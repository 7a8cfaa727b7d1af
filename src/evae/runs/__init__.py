"""What runs leave: the run folder, checkpoints, the images and the evaluation of a run."""

from evae.runs.folder import RunFolder
from evae.runs.records import Progress

__all__ = ["Progress", "RunFolder"]
