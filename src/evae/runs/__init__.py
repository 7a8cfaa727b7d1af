"""What runs leave: the run folder, checkpoints, the images and the evaluation of a run."""

from evae.runs.folder import Progress, RunFolder

__all__ = ["Progress", "RunFolder"]
