"""The protocol of images, decoded or streamed, and the decoded ones: memory-mapped 8-bit arrays."""

import mmap
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from evae.data.batches import batch_indices
from evae.errors import DataError, first_line
from evae.records import read_json

_MAX_NAMES = 2**30  # bytes

Split = Literal["train", "validation", "holdout"]


class Images(Protocol):
    """One split: N 8-bit images, or rows of numbers, with labels and names. The defaults are those of local images.

    Attributes:
        split: which one.
        shape: (N, C, H, W); (N, F) of rows.
        labels: (N,), -1 for none.
        names: of the files, or row numbers.
        bad: indices of images found to be undecodable; ``read`` returns other images in their place.
        is_local: False where reading may fail for a while, as over a network.
    """

    split: Split
    shape: tuple[int, ...]
    bad: Collection[int] = frozenset()  # undecodable images are not written to the cache
    is_local: bool = True

    @property
    def labels(self) -> NDArray[np.int64]: ...
    @property
    def names(self) -> list[str]: ...

    def __len__(self) -> int:
        return self.shape[0]

    def indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """(batch_size,) indices of the images of one step: a pure function of its arguments."""
        return batch_indices(seed, epoch, step, len(self), batch_size)

    def prefetch(self, seed: int, epoch: int, step: int, batch_size: int) -> None:
        """Begin to fetch the images of this step and of those soon after it."""
        return None

    def cancel_prefetch(self) -> None:
        """Cancel pending reads."""
        return None

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """A copy of some images (n, C, H, W), uint8; of standardised rows (n, F), float32.

        Raises:
            DataError: streamed images cannot be fetched or decoded.
        """


@dataclass
class ImageSet(Images):
    """One split of a store, in ``folder``: see ``Images``."""

    folder: Path
    split: Split
    shape: tuple[int, ...]

    @cached_property
    def images(self) -> NDArray[Any]:
        """(N, C, H, W), memory-mapped."""
        return np.memmap(self.folder / f"{self.split}.u8", np.uint8, mode="r", shape=self.shape)

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """A copy of some images; the mapped pages they were on are released, lest a process seem to need them all."""
        path = self.folder / f"{self.split}.u8"
        if path.stat().st_size < prod(self.shape):  # else the system would kill the process
            raise DataError(f"{path} was cut short while it was in use; run the command again")
        images = np.array(self.images[rows])
        mapped: object = self.images.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
        return images

    def __getitem__(self, index: int) -> NDArray[Any]:
        """A copy of one image (C, H, W), as torch's DataLoader asks for; ``labels`` has its label."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} images, none with the index {index}")
        return np.array(self.images[index])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        with self._damage("labels.npy") as path:
            labels: NDArray[np.int64] = np.load(path, mmap_mode="r")
            if labels.shape != (len(self),) or labels.dtype != np.int64:
                raise ValueError(f"{labels.dtype} of shape {labels.shape}")
            return np.array(labels)

    @cached_property
    def names(self) -> list[str]:
        with self._damage("names.json") as path:
            names = read_json(path, list[str], _MAX_NAMES)
            if len(names) != len(self):
                raise ValueError(f"{len(names):,} names of {len(self):,} images")
            return names

    @contextmanager
    def _damage(self, name: str) -> Iterator[Path]:
        """A file beside the images; DataError where it is not what was written."""
        path = self.folder / f"{self.split}-{name}"
        try:
            yield path
        except Exception as error:  # numpy raises anything for damaged headers
            raise DataError(f"{path} is damaged ({first_line(error)}); evae cache --verify deletes it") from error


class Subset(Images):
    """Some images of another split, decoded: those at ``chosen`` (n,), in this order."""

    def __init__(self, whole: Images, chosen: NDArray[np.int64], split: Split) -> None:
        self.whole, self.chosen, self.split = whole, chosen, split
        self.shape = (len(chosen), *whole.shape[1:])

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        return self.whole.read(self.chosen[rows])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return self.whole.labels[self.chosen]

    @cached_property
    def names(self) -> list[str]:
        return [self.whole.names[i] for i in self.chosen.tolist()]
