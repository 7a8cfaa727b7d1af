"""Means of what the steps of an epoch return, read from the device as rarely as possible."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evae.errors import EvaeError
from evae.runs import Progress
from evae.training.settings import Recipe

_READ_SECONDS = 0.2  # a single process reads its terms this often; until then no step waits for the one before it
_READ_STEPS = 20  # several processes read theirs together


class DivergedError(EvaeError):
    """The loss is not finite any more."""


class NonfiniteStepError(DivergedError):
    """A step whose loss or gradient is not finite: its number from the start of training, and what it returned."""

    def __init__(self, number: int, terms: list[float]) -> None:
        super().__init__(f"the loss is not finite at step {number + 1}")
        self.number, self.terms = number, terms


class EpochMeter:
    """Adds up the terms of an epoch's steps.

    Args:
        names: of the terms that a step returns.
        progress: where sums, times and counts are kept, so that a resumed epoch continues them.
        recipe: batch size, schedules and what to do with steps that are not finite.
        steps_per_epoch: number of steps in an epoch.
        world_size: number of ranks; all of them read at the same steps.
        reduce: averages a tensor over the ranks.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        progress: Progress,
        recipe: Recipe,
        steps_per_epoch: int,
        world_size: int = 1,
        reduce: Callable[[Tensor], Any] = lambda terms: terms,
    ) -> None:
        self.names, self.progress, self.recipe = names, progress, recipe
        self.steps_per_epoch, self.world_size, self._reduce = steps_per_epoch, world_size, reduce
        self._unread: list[Tensor] = []
        self._since = time.monotonic()

    def add(self, terms: Tensor) -> None:
        """Take note of a step's terms, shape (len(names),), without waiting for the device."""
        self._unread.append(terms)
        self.progress.step += 1

    def is_due(self) -> bool:
        """Whether it is time to read; on several ranks at the same steps."""
        if self.world_size > 1:
            return self.progress.step % _READ_STEPS == 0
        return time.monotonic() - self._since > _READ_SECONDS

    def read(self) -> dict[str, float]:
        """Means of the epoch so far, with learning rate and speed; empty while all steps were skipped.

        Waits for the device, and for the other ranks.

        Raises:
            NonfiniteStepError: a step is not finite, and the recipe says to stop.
            DivergedError: every step of the epoch was skipped.
        """
        rows = self._reduce(torch.stack(self._unread)).tolist() if self._unread else []
        self._unread = []
        progress = self.progress
        progress.sums = progress.sums or [0.0] * len(self.names)
        # One step at a time, so that sums do not depend on when they were read.
        for number, row in enumerate(rows, progress.step - len(rows)):
            if all(map(math.isfinite, row)):
                progress.sums = [a + b for a, b in zip(progress.sums, row, strict=True)]
            elif self.recipe.on_nonfinite == "stop":
                raise NonfiniteStepError(number, row)
            else:
                progress.skipped += 1
                progress.skipped_in_epoch += 1
        now = time.monotonic()
        progress.training_seconds, self._since = progress.training_seconds + now - self._since, now
        steps = (progress.step - 1) % self.steps_per_epoch + 1
        counted = steps - progress.skipped_in_epoch
        if not counted and steps == self.steps_per_epoch:
            raise DivergedError(f"no loss of epoch {progress.step // steps} is finite; what was saved is kept")
        return self._means(steps, counted) if counted else {}

    def start_epoch(self) -> None:
        """Reset what is counted per epoch."""
        progress, self._since = self.progress, time.monotonic()
        progress.sums, progress.training_seconds, progress.skipped_in_epoch = [], 0.0, 0

    def _means(self, steps: int, counted: int) -> dict[str, float]:
        progress, recipe = self.progress, self.recipe
        at = (progress.step - 0.5) / self.steps_per_epoch
        line = {name: value / counted for name, value in zip(self.names, progress.sums, strict=True)}
        line["learning_rate"] = recipe.learning_rate_at(at)
        if recipe.divergence_warmup:
            line["divergence_weight"] = recipe.divergence_weight_at(at)
        if progress.skipped:
            line["skipped_steps"] = progress.skipped
        if progress.training_seconds:  # the clock may stand still
            line["images_per_second"] = steps * recipe.batch_size / progress.training_seconds
        return line | {"seconds": progress.training_seconds}
