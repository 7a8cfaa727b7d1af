"""``hf-stream:`` (experimental): Parquet files, on the hub or in a folder, of which row groups are read on demand."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
from evae.data.builtin import ON_HUB
from evae.data.columns import label_column
from evae.data.decode import BadImageError, decode
from evae.data.hub import HubDataset, from_hub, hub_splits
from evae.data.images import Images
from evae.data.labels import as_label, classes_of
from evae.data.rows import MAX_NAMED, Findings, Source, StreamOptions, existing, files_by_split, read_content
from evae.data.tables import (
    Table,
    arrow_source,
    check_columns,
    check_unpacked,
    failure_named,
    payload,
    rows_per_batch,
    validated,
)
from evae.errors import DataError

PREFIX = "hf-stream:"
FETCHES = 8  # reads at the same time
_HELD_OUT = 10_000  # images at most where a dataset has no hold-out split
_WINDOW = 2**27  # bytes of images that are shuffled together
_LARGE = 2**14  # bytes of an image for which threads are worth it: of MNIST they decode 2,900 a second, one alone 7,200


@dataclass(frozen=True)
class RowGroup:
    """Rows of a Parquet file that can be read without the others."""

    url: str  # of the file, as fsspec takes it
    metadata: pq.FileMetaData  # of the file, read once
    number: int  # index of the row group in the file
    count: int  # number of rows
    size: int  # bytes of all columns, decompressed

    def read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """These columns in this order, 256 rows at a time."""
        with failure_named(self.url), fsspec.open(self.url, "rb") as file:
            parquet = pq.ParquetFile(file, metadata=self.metadata, pre_buffer=True)
            rows = rows_per_batch(self.url, self.metadata, columns)
            read = parquet.iter_batches(rows, row_groups=[self.number], columns=columns)
            yield from validated(batch.select(columns) for batch in read)

    def column(self, name: str) -> pa.ChunkedArray:
        """All of one column.

        Raises:
            DataError: it cannot be read, has another number of rows than the file says, or takes too much memory.
        """
        chunks, unpacked = [], 0
        for batch in self.read([name]):
            unpacked += batch.nbytes
            check_unpacked(self.url, self.size, unpacked)
            chunks.append(batch.column(0))
        if (found := sum(map(len, chunks))) != self.count:
            raise DataError(f"{self.url} is damaged ({found:,} rows in a group of {self.count:,})")
        return pa.chunked_array(chunks)


@dataclass(frozen=True)
class Stream:
    """Row groups of training images, and where their images are."""

    groups: list[RowGroup]
    column: str  # of images
    roots: tuple[str, ...]  # folders below which the files lie that rows may name


class StreamedImages(Images):
    """Training images of some row groups, fetched and decoded to (C, H, W) when they are read: see ``Images``.

    The row groups read last are kept in memory, as many as three windows of an epoch have. An undecodable image is
    replaced by the next decodable one of its row group, or an error where ``options.skip_bad`` is false.
    """

    def __init__(self, stream: Stream, options: StreamOptions) -> None:
        groups = stream.groups
        counts, sizes = np.array([g.count for g in groups]), np.array([g.size for g in groups])
        self.split, self.shape = "train", (int(counts.sum()), *options.image_shape)
        self.bad: set[int] = set()
        self.is_local = False
        self._groups, self._column, self._roots, self._options = groups, stream.column, stream.roots, options
        self._order = Groups(counts, sizes, _WINDOW)
        self._label, _ = label_column(groups[0].metadata.schema.to_arrow_schema())
        self._held: dict[int, Future[pa.ChunkedArray]] = {}  # the least recently used first
        self._bytes, self._most = 0, 3 * (_WINDOW + int(sizes.max()))
        self._lock = Lock()
        self._fetching = ThreadPoolExecutor(FETCHES)
        are_large = sizes.sum() > _LARGE * counts.sum()
        self._map = ThreadPoolExecutor(joblib.cpu_count()).map if are_large else map

    def indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        return self._order.batch_indices(seed, epoch, step, batch_size)

    def prefetch(self, seed: int, epoch: int, step: int, batch_size: int) -> None:
        for group in self._order.soon(seed, epoch, step, batch_size).tolist():
            self._fetched(group)

    def cancel_prefetch(self) -> None:
        with self._lock:
            for group, future in list(self._held.items()):
                if future.cancel():
                    self._drop(group)

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        indices = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        groups = np.searchsorted(self._order.starts, indices, "right") - 1
        contents: list[object] = [None] * len(indices)
        for group in np.unique(groups).tolist():  # each is fetched once, though not all may fit in memory
            column, start = self._fetched(group).result(), int(self._order.starts[group])
            for place in np.flatnonzero(groups == group).tolist():
                contents[place] = column[int(indices[place]) - start].as_py()
        images: NDArray[np.uint8] = np.empty((len(indices), *self.shape[1:]), np.uint8)
        known = len(self.bad)
        for place, image in enumerate(self._map(self._image, groups.tolist(), indices.tolist(), contents)):
            images[place] = image
        if known < len(self.bad) and known <= MAX_NAMED:
            named = ", ".join(map(str, sorted(self.bad)[:MAX_NAMED]))
            more = "; further ones will not be named" if len(self.bad) > MAX_NAMED else ""
            warn(f"skipping undecodable training images {named} (replaced by their successors){more}")
        return images

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Reads the column of all files."""
        if (name := self._label) is None:
            return classes_of([None] * len(self), ())
        columns = self._fetching.map(lambda group: group.column(name), self._groups)
        values = [as_label(code) for column in columns for code in column.to_pylist()]
        return classes_of(values, self._options.class_names)

    @cached_property
    def names(self) -> list[str]:
        """Row numbers."""
        return [str(i) for i in range(len(self))]

    def _fetched(self, group: int) -> Future[pa.ChunkedArray]:
        """The encoded images of a row group, in memory or being fetched; the least recently used are dropped."""
        with self._lock:
            future = self._held.get(group)
            if future is not None:
                self._drop(group)
            if future is None or (future.done() and future.exception()):  # a later attempt may succeed
                future = self._fetching.submit(self._groups[group].column, self._column)
            self._held[group] = future  # at the end
            self._bytes += self._groups[group].size
            while self._bytes > self._most:
                self._drop(next(iter(self._held)))
            return future

    def _drop(self, group: int) -> None:
        del self._held[group]
        self._bytes -= self._groups[group].size

    def _image(self, group: int, index: int, content: object) -> NDArray[np.uint8]:
        """An image, or the next decodable one of its row group, whatever else is read with it."""
        start, count, reason = int(self._order.starts[group]), self._groups[group].count, ""
        channels, size, _ = self.shape[1:]
        for number in chain(range(index, start + count), range(start, index)):
            try:
                cell = content if number == index else self._fetched(group).result()[number - start].as_py()
                options = self._options
                taken = read_content(payload(cell, self._roots))
                image = decode(taken, size, options.crop, options.scaling, options.channels)
                if len(image) in (1, channels):
                    return image
                raise BadImageError(f"has {len(image)} channels, but all hold-out images have {channels}")
            except BadImageError as error:
                if not self._options.skip_bad:
                    raise DataError(f"training image {number} {error} (--on-bad-image skip replaces it)") from error
                self.bad.add(number)
                reason = reason or f"training image {number} {error}"
            except DataError as error:  # of an image, or of its file
                raise DataError(f"training image {number}: {error}") from error
        raise DataError(f"all images of a row group of {self._groups[group].url} are undecodable, for example {reason}")


def streamed(data: str) -> Source | None:
    """A Parquet file, a folder of them or a dataset of the hub, whose training images are streamed."""
    if not data.startswith(PREFIX):
        return None
    name = data.removeprefix(PREFIX)
    if not name.strip():
        raise DataError(f"--data {data} names no data; put the id of a dataset or a folder after {PREFIX}")
    root = existing(name)
    if root is None:
        return _hub_stream(data, ON_HUB.get(name, HubDataset(name)))
    files = files_by_split(root.resolve(), ".parquet")
    if not files.splits:
        raise DataError(f"--data {data} holds no Parquet files; leave out {PREFIX} to decode it first")
    train = [str(file) for file, split in files.splits.items() if split != "holdout"]
    holdout = [str(file) for file, split in files.splits.items() if split == "holdout"]
    return _stream(data, train, holdout, files.key, files.found, (str(files.root),))


def _hub_stream(data: str, dataset: HubDataset) -> Source:
    """``_stream`` of a dataset on the hub, whose files ``datasets`` finds."""
    import datasets

    config = from_hub(
        lambda: datasets.load_dataset_builder(dataset.id).config,
        f"--data {data} is no folder and was not found on the hub",
    )
    files = {str(split): list(urls) for split, urls in (config.data_files or {}).items()}
    if not files or not all(url.endswith(".parquet") for urls in files.values() for url in urls):
        raise DataError(f"--data {data} is not stored as Parquet files; leave out {PREFIX} to decode it first")
    chosen = hub_splits(list(files), dataset)
    version = blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()  # the URLs name the commit
    train = [url for name, split in chosen.items() if split != "holdout" for url in files[name]]
    holdout = [url for name, split in chosen.items() if split == "holdout" for url in files.get(name, [])]
    found = Findings(unused=tuple(sorted(set(files) - set(chosen))), splits_from=f"the splits {' and '.join(chosen)}")
    return replace(_stream(data, train, holdout, version, found), crop=dataset.crop)


def _stream(
    data: str, train: list[str], holdout: list[str], version: str, found: Findings, roots: tuple[str, ...] = ()
) -> Source:
    """The hold-out images of a dataset as rows to decode, and its training images as a stream.

    Without hold-out files, some row groups drawn with a fixed seed are held out: at least one, else a tenth of the
    rows or 10,000, of which 10,000 are decoded.
    """
    groups = _row_groups(data, train)
    ours, held = (groups, _row_groups(data, holdout)) if holdout else _hold_out(data, groups)
    count = sum(group.count for group in held)
    limit = count if holdout else min(_HELD_OUT, count)
    schema = held[0].metadata.schema.to_arrow_schema()

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        left = limit
        for batch in chain.from_iterable(group.read(columns) for group in held):
            yield batch.slice(0, left)
            left -= min(left, len(batch))

    if not holdout:
        found = replace(found, splits_from="row groups drawn with a fixed seed are held out")
    table = Table(schema, limit, batches, held[0].url, sum(group.size for group in held))
    source = arrow_source(data, f"stream {version}", [(table, "holdout")], found, roots=roots)
    return _streaming(source, data, ours, held, roots)


def _streaming(source: Source, data: str, ours: list[RowGroup], held: list[RowGroup], roots: tuple[str, ...]) -> Source:
    """The source of hold-out images with its stream of training images, also after a choice of another column."""
    for url, metadata in {group.url: group.metadata for group in [*ours, *held]}.items():
        check_columns(data, url, metadata.schema.to_arrow_schema(), [source.column])
    other = source.with_column

    def with_column(name: str) -> Source:
        return _streaming(other(name), data, ours, held, roots) if other else source

    stream = partial(StreamedImages, Stream(ours, source.column, roots))
    return replace(source, stream=stream, with_column=with_column)


def _row_groups(data: str, urls: list[str]) -> list[RowGroup]:
    """Those that have rows."""

    def metadata_of(url: str) -> pq.FileMetaData:
        with failure_named(url), fsspec.open(url, "rb") as file:
            return pq.read_metadata(file)

    with ThreadPoolExecutor(FETCHES) as pool, progress() as bar:
        found = bar.track(pool.map(metadata_of, urls), len(urls), description=f"reading the metadata of {data}")
        groups = [
            RowGroup(url, metadata, number, group.num_rows, group.total_byte_size)
            for url, metadata in zip(urls, found, strict=True)
            for number, group in enumerate(map(metadata.row_group, range(metadata.num_row_groups)))
            if group.num_rows
        ]
    if not groups:
        more = f" and {len(urls) - 1} more files" if len(urls) > 1 else ""
        raise DataError(f"--data {data}: there are no rows in {urls[0]}{more}")
    return groups


def _hold_out(data: str, groups: list[RowGroup]) -> tuple[list[RowGroup], list[RowGroup]]:
    """Row groups to train on, and to hold out."""
    if len(groups) == 1:
        raise DataError(f"--data {data} is a single row group and has no hold-out split; leave out {PREFIX}")
    order = np.random.default_rng(0).permutation(len(groups))
    rows = np.cumsum([groups[i].count for i in order])
    count = max(1, int(np.searchsorted(rows, min(_HELD_OUT, rows[-1] // 10), "right")))
    held = set(order[:count].tolist())
    return [g for i, g in enumerate(groups) if i not in held], [groups[i] for i in sorted(held)]
