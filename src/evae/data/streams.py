"""Images that stay where they are: parquet files, on the Hugging Face hub or in a folder, read by row groups."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from itertools import chain
from threading import Lock

import fsspec
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evae.console import progress, warn
from evae.data.batches import Groups
from evae.data.decode import BadImageError, decode
from evae.data.hub import from_hub
from evae.data.rows import NO_LABEL, Source, Split, label, read_content, split_names
from evae.data.tables import Table, arrow_source, check_columns, image_column, label_column, payload
from evae.errors import DataError, first_line

PREFIX = "hf-stream:"

_WINDOW = 2**27  # bytes of images among which an epoch is shuffled
_HELD_OUT = 10_000  # images at most where a dataset has no hold-out split
_FETCHES = 8  # at the same time
_LARGE = 2**14  # bytes of an image for which threads are worth it: of MNIST they decode 2,900 a second, one alone 7,200
_NAMED = 5  # bad images that are warned of


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a parquet file, which can be read without the others.

    Attributes:
        url: of the file, as fsspec takes it.
        metadata: the file's, read once.
        number: which of its row groups.
        count: its rows.
        size: its bytes, decompressed, with all columns.
    """

    url: str
    metadata: pq.FileMetaData
    number: int
    count: int
    size: int

    def read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns, in this order, a few rows at a time."""
        with _failure_named(self.url), fsspec.open(self.url, "rb") as file:
            parquet = pq.ParquetFile(file, metadata=self.metadata, pre_buffer=True)
            for batch in parquet.iter_batches(256, row_groups=[self.number], columns=columns):
                yield batch.select(columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """All of one column."""
        return pa.chunked_array([batch.column(0) for batch in self.read([name])])


class StreamedImages:
    """One split as ``ImageSet`` has it, except that images are fetched and decoded whenever they are read.

    Row groups that were read lately are kept, as many as three windows of an epoch have. In the place of an image that
    cannot be decoded stands the next one of its row group that can.

    Args:
        groups: where the images are.
        image_shape: (C, H, W) of the decoded ones.
        crop: see ``decode``.
        skip_bad: whether to go on where an image cannot be decoded.

    Attributes:
        shape: (N, C, H, W).
        bad: numbers of the images that have been found not to be decodable.
    """

    split: Split = "train"

    def __init__(self, groups: list[RowGroup], image_shape: tuple[int, ...], crop: int | None, skip_bad: bool) -> None:
        counts, sizes = np.array([g.count for g in groups]), np.array([g.size for g in groups])
        self.shape, self.bad = (int(counts.sum()), *image_shape), set[int]()
        self._groups, self._crop, self._skip_bad = groups, crop, skip_bad
        self._order = Groups(counts, sizes, _WINDOW)
        schema = groups[0].metadata.schema.to_arrow_schema()
        self._column, self._label = image_column(groups[0].url, schema), label_column(schema)
        self._held: OrderedDict[int, Future[pa.ChunkedArray]] = OrderedDict()
        self._bytes, self._most = 0, 3 * (_WINDOW + int(sizes.max()))
        self._lock = Lock()
        self._fetching = ThreadPoolExecutor(_FETCHES)
        are_large = sizes.sum() > _LARGE * counts.sum()
        self._map = ThreadPoolExecutor(joblib.cpu_count()).map if are_large else map

    def __len__(self) -> int:
        return self.shape[0]

    def batch_indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """Of the images of one step."""
        return self._order.batch_indices(seed, epoch, step, batch_size)

    def prepare(self, seed: int, epoch: int, step: int, batch_size: int) -> None:
        """Begin to fetch what will be read soon after this step."""
        for group in self._order.soon(seed, epoch, step, batch_size):
            self._fetched(int(group))

    def rest(self) -> None:
        """Fetch nothing more of what was asked for and not begun."""
        with self._lock:
            for group, future in list(self._held.items()):
                if future.cancel():
                    self._drop(group)

    def read(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Some images (N, C, H, W), decoded now.

        Raises:
            DataError: they cannot be fetched, or not decoded.
        """
        indices = np.arange(*chosen.indices(len(self))) if isinstance(chosen, slice) else chosen
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
        """(N,), -1 for none; reads the column of all files."""
        if self._label is None:
            return np.full(len(self), NO_LABEL)
        columns = self._fetching.map(lambda group: group.column(self._label), self._groups)
        return np.array([label(code) for column in columns for code in column.to_pylist()], np.int64)

    @cached_property
    def names(self) -> list[str]:
        """Numbers of rows."""
        return [str(i) for i in range(len(self))]

    def _fetched(self, group: int) -> Future[pa.ChunkedArray]:
        """The images of a row group, there or on their way; those asked for longest ago make room."""
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
        except DataError:  # may be there another time
            with self._lock:
                self._drop(group)
            raise

    def _drop(self, group: int) -> None:
        if self._held.pop(group, None) is not None:
            self._bytes -= self._groups[group].size

    def _image(self, group: int, index: int, content: object) -> NDArray[np.uint8]:
        """An image, or the next one of its row group that can be decoded, whatever else is read with it."""
        start, count, reason = int(self._order.starts[group]), self._groups[group].count, ""
        for number in chain(range(index, start + count), range(start, index)):
            try:
                return self._decoded(content if number == index else self._result(group)[number - start].as_py())
            except BadImageError as error:
                if not self._skip_bad:
                    raise DataError(f"training image {number} {error} (--on_bad_image skip leaves it out)") from error
                self.bad.add(number)
                reason = reason or f"training image {number} {error}"
            except DataError as error:  # of an image, or of its file
                raise DataError(f"training image {number}: {error}") from error
        raise DataError(f"no image of a row group of {self._groups[group].url} can be used: {reason}, say")

    def _decoded(self, content: object) -> NDArray[np.uint8]:
        channels, size, _ = self.shape[1:]
        image = decode(read_content(payload(content)), size, self._crop)
        if len(image) > channels:
            raise BadImageError("is in colour, but no hold-out image is")
        return image

    def _warn(self, known: int) -> None:
        """Of the first few images that are bad, and once that there are more."""
        if known < len(self.bad) and known <= _NAMED:
            named = ", ".join(map(str, sorted(self.bad)[:_NAMED]))
            more = "; no others will be named" if len(self.bad) > _NAMED else ""
            warn(f"training images {named} cannot be used; those that follow are read in their place{more}")


# Finding them ------------------------------------------------------------------------------------------------


def stream_source(data: str, train: list[str], holdout: list[str], version: str) -> Source:
    """The hold-out images of a dataset, to be decoded as ever, and a way to its training images.

    Without a hold-out split, some row groups drawn once for all are held out: at least one, else a tenth of the rows
    or 10,000, of which 10,000 are decoded.

    Args:
        data: as given by the user.
        train, holdout: the parquet files of each split, as fsspec takes them; there may be none to hold out.
        version: changes whenever the files may have changed.

    Raises:
        DataError: the files cannot be read, or have no images.
    """
    groups = _row_groups(data, train)
    ours, held = (groups, _row_groups(data, holdout)) if holdout else _hold_out(data, groups)
    count = sum(group.count for group in held)
    limit = count if holdout else min(_HELD_OUT, count)
    schema = held[0].metadata.schema.to_arrow_schema()
    table = Table(schema, limit, partial(_batches, held, limit))
    source = arrow_source(data, f"stream {version}", [(table, "holdout")])
    for url, metadata in {group.url: group.metadata for group in [*ours, *held]}.items():
        check_columns(data, url, metadata.schema.to_arrow_schema(), [image_column(data, schema)])
    return replace(source, stream=partial(StreamedImages, ours))


def hub_source(data: str, dataset: str, holdout: str) -> Source:
    """``stream_source`` of a dataset on the hub, as datasets finds its files.

    Args:
        data: as given by the user.
        dataset: its id.
        holdout: the hold-out split, or "" to look for it.

    Raises:
        DataError: there is no such dataset, or it is not stored as parquet files.
    """
    import datasets

    config = from_hub(
        lambda: datasets.load_dataset_builder(dataset).config,
        f"--data {data} is no folder and was not found on the hub",
    )
    files = {str(split): list(urls) for split, urls in (config.data_files or {}).items()}
    if not files or not all(url.endswith(".parquet") for urls in files.values() for url in urls):
        raise DataError(f"--data {data} is not stored as parquet files; without {PREFIX} it is decoded first")
    train, found = split_names(set(files))
    version = blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()  # the addresses name the commit
    return stream_source(data, files[train or next(iter(files))], files.get(holdout or found, []), version)


def _row_groups(data: str, urls: list[str]) -> list[RowGroup]:
    """Those that have rows."""
    groups = []
    with ThreadPoolExecutor(_FETCHES) as pool, progress() as bar:
        found = bar.track(pool.map(_metadata, urls), len(urls), description=f"looking at {data}")
        for url, metadata in zip(urls, found, strict=True):
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                groups.append(RowGroup(url, metadata, number, group.num_rows, group.total_byte_size))
    if not any(group.count for group in groups):
        more = f" and {len(urls) - 1} more files" if len(urls) > 1 else ""
        raise DataError(f"--data {data}: there are no rows in {urls[0]}{more}")
    return [group for group in groups if group.count]


def _metadata(url: str) -> pq.FileMetaData:
    with _failure_named(url), fsspec.open(url, "rb") as file:
        return pq.read_metadata(file)


@contextmanager
def _failure_named(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # file systems of fsspec have no base of their errors in common
        raise DataError(f"{url} cannot be read ({first_line(error)})") from error


def _hold_out(data: str, groups: list[RowGroup]) -> tuple[list[RowGroup], list[RowGroup]]:
    """Row groups to train on, and to hold out."""
    if len(groups) == 1:
        raise DataError(f"--data {data} is a single row group and has no hold-out split; leave out {PREFIX}")
    order = np.random.default_rng(0).permutation(len(groups))
    rows = np.cumsum([groups[i].count for i in order])
    count = max(1, int(np.searchsorted(rows, min(_HELD_OUT, rows[-1] // 10), "right")))
    held = set(order[:count].tolist())
    return [g for i, g in enumerate(groups) if i not in held], [groups[i] for i in sorted(held)]


def _batches(groups: list[RowGroup], limit: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Their first rows."""
    for group in groups:
        for batch in group.read(columns):
            yield batch.slice(0, limit)
            limit -= min(limit, len(batch))
