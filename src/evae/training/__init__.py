"""Model and batches to a run folder. What trains is imported when first used: reading a run needs no engine."""

from typing import TYPE_CHECKING, Any

from evae.training.run import load_model
from evae.training.stops import StoppedError

if TYPE_CHECKING:
    from evae.training.command import train
    from evae.training.fit import DivergedError, InterruptedRun

__all__ = ["DivergedError", "InterruptedRun", "StoppedError", "load_model", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from evae.training.command import train

        return train
    if name in __all__:
        from evae.training import fit

        return getattr(fit, name)
    raise AttributeError(f"module 'evae.training' has no attribute {name!r}")
