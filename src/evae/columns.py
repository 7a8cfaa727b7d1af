"""Columns of numbers: their names, and the mean and standard deviation by which a model's rows are standardised."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evae.errors import DataError
from evae.records import Finite

MAX_NAMED = 5  # columns named in a message


@dataclass(frozen=True)
class Columns:
    """F columns of numbers x; a model takes (x - mean)/deviation in float32, and ``restore`` gives back x's units.

    Attributes:
        names: of the columns, (F,).
        mean, deviation: of the training rows, (F,), in the units of the data; a deviation is 0 for a constant column.
    """

    names: tuple[str, ...]
    mean: tuple[Finite, ...]
    deviation: tuple[Finite, ...]

    @classmethod
    def of(cls, names: Sequence[str], values: NDArray[np.float64]) -> "Columns":
        """Names, and mean and population standard deviation of rows (N, F)."""
        deviation = np.where(np.ptp(values, 0) > 0, values.std(0), 0.0)
        return cls(tuple(names), tuple(values.mean(0).tolist()), tuple(deviation.tolist()))

    def __len__(self) -> int:
        return len(self.names)

    def standardise(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Rows (N, F) in the data's units as a model takes them."""
        rows: NDArray[np.float32] = ((values - self._mean) / self._deviation).astype(np.float32)
        return rows

    def restore(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Rows (N, F) of a model, as samples and reconstructions, in the data's units."""
        values: NDArray[np.float64] = rows.astype(np.float64) * self._deviation + self._mean
        return values

    def select(self, places: Sequence[int]) -> "Columns":
        """Those at these places, in this order."""
        mean, deviation = (tuple(part[i] for i in places) for part in (self.mean, self.deviation))
        return Columns(tuple(self.names[i] for i in places), mean, deviation)

    def places_in(self, names: Sequence[str], data: str) -> list[int]:
        """Where each column is among others' names.

        Raises:
            DataError: ``data`` lacks one.
        """
        index = {name: place for place, name in enumerate(names)}
        if missing := [name for name in self.names if name not in index]:
            raise DataError(
                f"{data} has no column of numbers {listed(missing)}, which the model was trained on; "
                f"it has {listed(names)}"
            )
        return [index[name] for name in self.names]

    def check(self) -> None:
        """Raise ValueError unless there are as many means and deviations as names, and no deviation is below 0."""
        if not len(self.names) == len(self.mean) == len(self.deviation) or min(self.deviation, default=0) < 0:
            raise ValueError("its columns, means and deviations do not agree")

    @cached_property
    def _mean(self) -> NDArray[np.float64]:
        return np.array(self.mean)

    @cached_property
    def _deviation(self) -> NDArray[np.float64]:
        return np.array(self.deviation)


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
