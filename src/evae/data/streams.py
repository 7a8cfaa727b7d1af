"""Images that stay where they are: parquet files, on the Hugging Face hub or in a folder, read by row groups."""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from threading import Lock

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evae.console import progress, warn
from evae.data.batches import Groups
from evae.data.decode import BadImageError, decode
from evae.data.rows import NO_LABEL, Row, Source, Split, resolved, split_names
from evae.data.tables import Table, arrow_source, image_column, label, label_column, payload
from evae.errors import DataError, first_line

PREFIX = "hf-stream:"

_WINDOW = 2**27  # bytes of images among which an epoch is shuffled
_HELD_OUT = 10_000  # images at most where a dataset has no hold-out split
_FETCHES = 8  # at the same time
_NAMED = 5  # bad images that are warned of


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a parquet file, which can be read without the others.

    Attributes:
        url: of the file, as fsspec takes it.
        metadata: the file's, read once.
        number: which of its row groups.
    """

    url: str
    metadata: pq.FileMetaData
    number: int

    @property
    def count(self) -> int:
        return int(self.metadata.row_group(self.number).num_rows)

    @property
    def size(self) -> int:
        """In bytes, decompressed, with all columns."""
        return int(self.metadata.row_group(self.number).total_byte_size)

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns, in this order."""
        with _failure_named(self.url), fsspec.open(self.url, "rb") as file:
            parquet = pq.ParquetFile(file, metadata=self.metadata, pre_buffer=True)
            return parquet.read_row_group(self.number, columns).select(columns)


class StreamedImages:
    """One split as ``ImageSet`` has it, except that images are fetched and decoded whenever they are read.

    What is fetched is kept as long as it is among the last three windows of an epoch, and the next window is fetched
    while this one is read. An image that cannot be decoded is replaced by another of those read with it.

    Args:
        groups: where the images are.
        image_shape: (C, H, W) of the decoded ones.
        crop: see ``decode``.
        skip_bad: whether to go on where an image cannot be decoded.
    """

    split: Split = "train"

    def __init__(self, groups: list[RowGroup], image_shape: tuple[int, ...], crop: int | None, skip_bad: bool) -> None:
        counts, sizes = (np.array(values, np.int64) for values in ([g.count for g in groups], [g.size for g in groups]))
        self.shape = (int(counts.sum()), *image_shape)
        self._groups, self._crop, self._skip_bad = groups, crop, skip_bad
        self._order, self._starts = Groups(counts, sizes, _WINDOW), np.cumsum(counts) - counts
        self._most = 3 * (_WINDOW + int(sizes.max()))
        self._schema = groups[0].metadata.schema.to_arrow_schema()
        self._held: OrderedDict[int, Future[list[Row]]] = OrderedDict()
        self._lock = Lock()
        self._fetching, self._decoding = ThreadPoolExecutor(_FETCHES), ThreadPoolExecutor(os.cpu_count())
        self._bad: set[str] = set()

    def __len__(self) -> int:
        return self.shape[0]

    def batch_indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """Of the images of one step."""
        return self._order.batch_indices(seed, epoch, step, batch_size)

    def prepare(self, seed: int, epoch: int, step: int, batch_size: int) -> None:
        """Begin to fetch what will be read soon after this step."""
        for group in self._order.following(seed, epoch, step, batch_size):
            self._fetched(int(group))

    def read(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Some images (N, C, H, W), decoded now.

        Raises:
            DataError: they cannot be fetched, or none of them can be decoded.
        """
        indices = np.arange(len(self))[chosen] if isinstance(chosen, slice) else chosen
        groups = np.searchsorted(self._starts, indices, "right") - 1
        fetched = {int(group): self._fetched(int(group)) for group in np.unique(groups)}
        rows = [fetched[int(g)].result()[i - self._starts[g]] for g, i in zip(groups, indices, strict=True)]
        return _filled(list(self._decoding.map(self._decoded, rows)))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,), -1 for none; reads the column of all files."""
        column = label_column(self._schema)
        if column is None:
            return np.full(len(self), NO_LABEL)
        tables = self._fetching.map(lambda group: group.read([column]), self._groups)
        return np.array([label(code) for table in tables for code in table.column(0).to_pylist()], np.int64)

    @cached_property
    def names(self) -> list[str]:
        """Numbers of rows."""
        return [str(i) for i in range(len(self))]

    def _fetched(self, group: int) -> Future[list[Row]]:
        """A row group that is there or on its way; those asked for longest ago make room."""
        with self._lock:
            if group not in self._held:
                self._held[group] = self._fetching.submit(self._fetch, group)
            self._held.move_to_end(group)
            while sum(self._order.sizes[list(self._held)]) > self._most and len(self._held) > 1:
                self._held.popitem(last=False)
            return self._held[group]

    def _fetch(self, group: int) -> list[Row]:
        column = image_column(self._groups[group].url, self._schema)
        contents = self._groups[group].read([column]).column(0).to_pylist()
        return [Row(f"row {i}", payload(c), NO_LABEL, "train") for i, c in enumerate(contents, self._starts[group])]

    def _decoded(self, row: Row) -> NDArray[np.uint8] | None:
        channels, size, _ = self.shape[1:]
        try:
            image = decode(row.content(), size, self._crop)
            if len(image) > channels:
                raise BadImageError("is in colour, but no hold-out image is")
            return np.broadcast_to(image, self.shape[1:])
        except BadImageError as error:
            if not self._skip_bad:
                raise DataError(f"{row.name} {error} (--on_bad_image skip leaves it out)") from error
            self._warn(row.name, error)
            return None
        except DataError as error:
            raise DataError(f"{row.name} {error}") from error

    def _warn(self, name: str, error: BadImageError) -> None:
        """Once of each of the first few."""
        if name not in self._bad and len(self._bad) < _NAMED:
            self._bad.add(name)
            warn(f"{name} {error}; another image is read in its place")


def _filled(images: list[NDArray[np.uint8] | None]) -> NDArray[np.uint8]:
    """With others in the place of those that are missing."""
    good = [image for image in images if image is not None]
    if not good and images:
        raise DataError(f"none of the {len(images)} images of a batch can be decoded")
    return np.stack([good[i % len(good)] if image is None else image for i, image in enumerate(images)])


# Finding them ------------------------------------------------------------------------------------------------


def stream_source(data: str) -> Source:
    """The hold-out images of a dataset, to be decoded as ever, and a way to its training images.

    Without a hold-out split, some row groups drawn once for all are held out: a tenth of the rows, 10,000 at most.

    Args:
        data: "hf-stream:" and the id of a dataset on the hub (owner/name), or a folder of parquet files.

    Raises:
        DataError: there is no such dataset, or it is not stored as parquet files.
    """
    if not data.removeprefix(PREFIX).strip("/ "):
        raise DataError(f"--data {data} names nothing: {PREFIX} goes before the id of a dataset or a folder")
    files = _files(data)
    train, holdout = split_names(set(files))
    if train:
        ours, held = (_row_groups(data, files[name]) for name in (train, holdout))
    else:
        ours, held = _hold_out(data, _row_groups(data, [url for urls in files.values() for url in urls]))
    schema = ours[0].metadata.schema.to_arrow_schema()
    table = Table(schema, sum(group.count for group in held), partial(_batches, held))
    layout = json.dumps([[(group.count, group.size) for group in groups] for groups in (ours, held)])
    key = f"stream {blake2b(layout.encode(), digest_size=16).hexdigest()}"
    source = arrow_source(data, key, [(table, "holdout")])
    return replace(source, stream=partial(StreamedImages, ours))


def _files(data: str) -> dict[str, list[str]]:
    """The parquet files of each split, as datasets finds them."""
    import datasets
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # one sentence at the end instead of a line for each attempt
    try:
        builder = datasets.load_dataset_builder(resolved(data.removeprefix(PREFIX)))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"--data {data} cannot be found, neither on the hub nor as a folder ({first_line(error)})"
        ) from error
    files = builder.config.data_files
    if not files or not all(url.endswith(".parquet") for urls in files.values() for url in urls):
        raise DataError(f"--data {data} is not stored as parquet files; without {PREFIX} it is decoded first")
    return {str(name): list(urls) for name, urls in files.items()}


def _row_groups(data: str, urls: list[str]) -> list[RowGroup]:
    groups = []
    with ThreadPoolExecutor(_FETCHES) as pool, progress() as bar:
        found = bar.track(pool.map(_metadata, urls), len(urls), description=f"looking at {data}")
        for url, metadata in zip(urls, found, strict=True):
            groups += [RowGroup(url, metadata, i) for i in range(metadata.num_row_groups)]
    if not groups:
        raise DataError(f"--data {data} has no rows")
    return groups


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
    order = np.random.default_rng(0).permutation(len(groups))
    rows = np.cumsum([groups[i].count for i in order])
    count = max(1, int(np.searchsorted(rows, min(_HELD_OUT, rows[-1] // 10), "right")))
    if count >= len(groups):
        raise DataError(f"--data {data} is a single row group and has no hold-out split; leave out {PREFIX}")
    held = set(order[:count].tolist())
    return [g for i, g in enumerate(groups) if i not in held], [groups[i] for i in sorted(held)]


def _batches(groups: list[RowGroup], columns: list[str]) -> Iterator[pa.RecordBatch]:
    for group in groups:
        yield from group.read(columns).to_batches()
