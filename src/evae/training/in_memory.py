"""Training on arrays, without a run folder: the same loop, which keeps what it makes in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import Lock
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from evae.console import console
from evae.data import Images, to_float
from evae.errors import ConfigError
from evae.models import VAE
from evae.numerics import seeded
from evae.runs import Progress
from evae.training.fabric import arithmetic, explain_memory_errors, open_fabric
from evae.training.fit import fit_with
from evae.training.preemption import InterruptedRun
from evae.training.settings import Compute, Recipe, Settings
from evae.training.trainer import Trainer
from evae.training.writer import Writer

_one_at_a_time = Lock()  # torch's generators and settings, which training changes for a while, are the process's


class ArrayImages(Images):
    """Images (N, C, H, W) in [0, 1] or rows (N, F) of an array, float32."""

    def __init__(self, values: NDArray[np.float32], split: Any = "train") -> None:
        self.values, self.split, self.shape = values, split, values.shape

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return np.full(len(self), -1)

    @cached_property
    def names(self) -> list[str]:
        return [str(i) for i in range(len(self))]

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        return np.array(self.values[rows])


@dataclass
class ArraySplits:
    """See ``evae.training.fit.Splits``."""

    train: ArrayImages
    validation: ArrayImages | None
    holdout: ArrayImages
    fingerprint: str = ""


@dataclass
class Trained:
    """What training made.

    Attributes:
        model: in evaluation mode, on the CPU; that of the best epoch where there were validation rows.
        history: the metrics of every epoch.
    """

    model: VAE
    history: list[dict[str, float]] = field(default_factory=list)


def fit_arrays(
    make: Callable[[tuple[int, ...]], VAE],
    train: NDArray[np.float32],
    validation: NDArray[np.float32] | None,
    recipe: Recipe,
    compute: Compute,
    verbose: bool = False,
) -> Trained:
    """Build a model and train it on images (N, C, H, W) in [0, 1] or rows (N, F), as a function of the recipe's seed.

    Threads of one process wait for each other.

    Args:
        make: from the shape of an image or row to the model.
        train: what to train on.
        validation: what chooses the best epoch and ends ``recipe.patience``; None: the last epoch is taken.
        recipe: optimisation.
        compute: devices and arithmetic, of one process.
        verbose: print the metrics of every epoch.

    Raises:
        ConfigError: a setting cannot work, or the model initialises from more rows than there are.
        DivergedError: the loss is not finite any more.
        KeyboardInterrupt: Ctrl-C; nothing is kept.
    """
    fabric = open_fabric(compute)
    splits = ArraySplits(
        ArrayImages(train),
        None if validation is None else ArrayImages(validation, "validation"),
        ArrayImages(train[:0], "holdout"),
    )
    writer = _Memory(fabric, keeps_best=validation is not None)
    with _one_at_a_time, _told(verbose), arithmetic(compute.precision), seeded(recipe.seed):
        with explain_memory_errors(recipe.batch_size):
            network = make(train.shape[1:])
        network.prepare(partial(_drawn, train, recipe.seed), recipe.batch_size)
        fabric.launch()
        try:
            fit_with(writer, fabric, network, splits, Settings(recipe=recipe, compute=compute))
        except InterruptedRun as stop:
            raise KeyboardInterrupt from stop
    if writer.best is not None:
        network.load_state_dict(writer.best)
    return Trained(network.cpu().eval(), writer.lines)


def _drawn(values: NDArray[np.float32], seed: int, count: int) -> Tensor:
    """This many distinct rows, chosen by the seed."""
    if count > len(values):
        raise ConfigError(f"the model initialises from {count} training rows, but there are only {len(values)}")
    return to_float(values[np.random.default_rng(seed).choice(len(values), count, replace=False)])


class _Memory(Writer):
    """Keeps the metrics of every epoch, and the best weights where they are asked for."""

    def __init__(self, fabric: Fabric, keeps_best: bool) -> None:
        super().__init__(fabric, "memory")
        self._keeps_best = keeps_best
        self.lines: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None

    def put_line(self, line: dict[str, float], progress: Progress) -> None:
        self.lines.append(line)

    def put_best(self, trainer: Trainer) -> None:
        if self._keeps_best:
            self.best = deepcopy(trainer.result.state_dict())


@contextmanager
def _told(verbose: bool) -> Iterator[None]:
    """Messages of training only where they are asked for."""
    before, console.quiet = console.quiet, console.quiet or not verbose
    try:
        yield
    finally:
        console.quiet = before
