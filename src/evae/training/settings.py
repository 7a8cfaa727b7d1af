"""How to train: everything the loop needs besides model and images, and what follows from it at each step."""

import math
from dataclasses import dataclass
from typing import Literal

from evae.data.batches import usable_seed
from evae.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """The settings of ``fit``; ``train`` documents them.

    Raises:
        ConfigError: one of them cannot work.
    """

    epochs: int = 50
    batch_size: int = 100
    learning_rate: float = 3e-4
    seed: int = 0
    warmup: float = 0.0
    decay: Literal["none", "cosine"] = "none"
    divergence_warmup: float = 0.0
    gradient_clip: float | None = None
    ema: float | None = None
    patience: int | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    time_limit: float | None = None
    log_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        for name, choices in {"decay": ("none", "cosine"), "on_nonfinite": ("stop", "skip")}.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be {' or '.join(choices)}, not {getattr(self, name)!r}")
        for name in ("warmup", "divergence_warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be a number of epochs, not {getattr(self, name)}")
        for name in ("gradient_clip", "time_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive, not {value}")
        if not 0 < self.learning_rate <= 1e3:
            raise ConfigError(f"learning_rate must be positive and at most 1000, not {self.learning_rate}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema is the share of the average kept at each step, between 0 and 1, not {self.ema}")
        if self.decay == "cosine" and self.warmup >= self.epochs:
            raise ConfigError(f"a warmup of {self.warmup:g} epochs leaves nothing of {self.epochs} to decay in")
        usable_seed(self.seed)

    @property
    def settled_epoch(self) -> int:
        """The first epoch that begins after the warm-ups: losses before it are not compared."""
        return math.ceil(max(self.warmup, self.divergence_warmup))

    def learning_rate_at(self, epoch: float) -> float:
        """Rising linearly to ``learning_rate`` during the warm-up; then constant, or along a cosine to 0."""
        if epoch < self.warmup:
            return self.learning_rate * epoch / self.warmup
        if self.decay == "none":
            return self.learning_rate
        done = min(1.0, (epoch - self.warmup) / (self.epochs - self.warmup))
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def warmth_at(self, epoch: float) -> float:
        """The share of the divergence's weight: rising linearly to 1 during its warm-up."""
        return min(1.0, epoch / self.divergence_warmup) if self.divergence_warmup else 1.0
