"""Streamed images (experimental): Parquet files, on the hub or in a folder, read by row groups on demand."""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from threading import Lock

import fsspec
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evae.console import warn
from evae.data.batches import Groups
from evae.data.decode import BadImageError, decode
from evae.data.images import Split
from evae.data.rows import MAX_NAMED, NO_LABEL, label, read_content
from evae.data.tables import image_column, label_column, payload
from evae.errors import DataError, first_line

FETCHES = 8  # reads at the same time
_WINDOW = 2**27  # bytes of images that are shuffled together
_LARGE = 2**14  # bytes of an image for which threads are worth it: of MNIST they decode 2,900 a second, one alone 7,200


@dataclass(frozen=True)
class RowGroup:
    """Rows of a Parquet file that can be read without the others.

    Attributes:
        url: of the file, as fsspec takes it.
        metadata: of the file, read once.
        number: index of the row group in the file.
        count: number of rows.
        size: bytes of all columns, decompressed.
    """

    url: str
    metadata: pq.FileMetaData
    number: int
    count: int
    size: int

    def read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """These columns in this order, 256 rows at a time."""
        with failure_named(self.url), fsspec.open(self.url, "rb") as file:
            parquet = pq.ParquetFile(file, metadata=self.metadata, pre_buffer=True)
            for batch in parquet.iter_batches(256, row_groups=[self.number], columns=columns):
                yield batch.select(columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """All of one column."""
        return pa.chunked_array([batch.column(0) for batch in self.read([name])])


@contextmanager
def failure_named(url: str) -> Iterator[None]:
    """Any error as a DataError that names the file."""
    try:
        yield
    except Exception as error:  # fsspec's file systems have no common base of their errors
        raise DataError(f"{url} cannot be read ({first_line(error)})") from error


class StreamedImages:
    """Training images that are fetched and decoded when they are read: see ``Images``.

    The row groups read last are kept in memory, as many as three windows of an epoch have. An undecodable image is
    replaced by the next decodable one of its row group.

    Args:
        groups: where the images are.
        image_shape: (C, H, W) after decoding.
        crop: see ``decode``.
        skip_bad: whether to replace undecodable images, or stop with an error.
    """

    split: Split = "train"
    is_local = False

    def __init__(
        self, groups: list[RowGroup], image_shape: tuple[int, int, int], crop: int | None, skip_bad: bool
    ) -> None:
        counts, sizes = np.array([g.count for g in groups]), np.array([g.size for g in groups])
        self.shape: tuple[int, int, int, int] = (int(counts.sum()), *image_shape)
        self.bad = set[int]()
        self._groups, self._crop, self._skip_bad = groups, crop, skip_bad
        self._order = Groups(counts, sizes, _WINDOW)
        schema = groups[0].metadata.schema.to_arrow_schema()
        self._column, self._label = image_column(groups[0].url, schema), label_column(schema)
        self._held: OrderedDict[int, Future[pa.ChunkedArray]] = OrderedDict()
        self._bytes, self._most = 0, 3 * (_WINDOW + int(sizes.max()))
        self._lock = Lock()
        self._fetching = ThreadPoolExecutor(FETCHES)
        are_large = sizes.sum() > _LARGE * counts.sum()
        self._map = ThreadPoolExecutor(joblib.cpu_count()).map if are_large else map

    def __len__(self) -> int:
        return self.shape[0]

    def indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        return self._order.batch_indices(seed, epoch, step, batch_size)

    def prefetch(self, seed: int, epoch: int, step: int, batch_size: int) -> None:
        for group in self._order.soon(seed, epoch, step, batch_size):
            self._fetched(int(group))

    def cancel_prefetch(self) -> None:
        with self._lock:
            for group, future in list(self._held.items()):
                if future.cancel():
                    self._drop(group)

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        indices = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        groups = np.searchsorted(self._order.starts, indices, "right") - 1
        contents: list[object] = [None] * len(indices)
        for group in np.unique(groups):
            column = self._result(int(group))
            for place in np.flatnonzero(groups == group).tolist():
                contents[place] = column[int(indices[place] - self._order.starts[group])].as_py()
        images: NDArray[np.uint8] = np.empty((len(indices), *self.shape[1:]), np.uint8)
        known = len(self.bad)
        for place, image in enumerate(self._map(self._image, groups.tolist(), indices.tolist(), contents)):
            images[place] = image
        self._warn(known)
        return images

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Reads the column of all files."""
        if self._label is None:
            return np.full(len(self), NO_LABEL)
        columns = self._fetching.map(lambda group: group.column(self._label), self._groups)
        return np.array([label(code) for column in columns for code in column.to_pylist()], np.int64)

    @cached_property
    def names(self) -> list[str]:
        """Row numbers."""
        return [str(i) for i in range(len(self))]

    def _fetched(self, group: int) -> Future[pa.ChunkedArray]:
        """The encoded images of a row group, in memory or being fetched; the least recently used are dropped."""
        with self._lock:
            if group not in self._held:
                self._held[group] = self._fetching.submit(self._groups[group].column, self._column)
                self._bytes += self._groups[group].size
            self._held.move_to_end(group)
            future = self._held[group]
            while self._bytes > self._most:
                self._drop(next(iter(self._held)))
            return future

    def _result(self, group: int) -> pa.ChunkedArray:
        try:
            return self._fetched(group).result()
        except DataError:  # a later attempt may succeed
            with self._lock:
                self._drop(group)
            raise

    def _drop(self, group: int) -> None:
        if self._held.pop(group, None) is not None:
            self._bytes -= self._groups[group].size

    def _image(self, group: int, index: int, content: object) -> NDArray[np.uint8]:
        """An image, or the next decodable one of its row group, whatever else is read with it."""
        start, count, reason = int(self._order.starts[group]), self._groups[group].count, ""
        for number in chain(range(index, start + count), range(start, index)):
            try:
                return self._decoded(content if number == index else self._result(group)[number - start].as_py())
            except BadImageError as error:
                if not self._skip_bad:
                    raise DataError(f"training image {number} {error} (--on-bad-image skip replaces it)") from error
                self.bad.add(number)
                reason = reason or f"training image {number} {error}"
            except DataError as error:  # of an image, or of its file
                raise DataError(f"training image {number}: {error}") from error
        raise DataError(f"all images of a row group of {self._groups[group].url} are undecodable, for example {reason}")

    def _decoded(self, content: object) -> NDArray[np.uint8]:
        channels, size, _ = self.shape[1:]
        image = decode(read_content(payload(content)), size, self._crop)
        if len(image) > channels:
            raise BadImageError("is in colour, but all hold-out images are grey")
        return image

    def _warn(self, known: int) -> None:
        """Name the first few undecodable images, and say once that there are more."""
        if known < len(self.bad) and known <= MAX_NAMED:
            named = ", ".join(map(str, sorted(self.bad)[:MAX_NAMED]))
            more = "; further ones will not be named" if len(self.bad) > MAX_NAMED else ""
            warn(f"skipping undecodable training images {named} (replaced by their successors){more}")
