"""``hf-stream:`` (experimental): a dataset of which only the hold-out images are decoded to the cache."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import blake2b

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evae.console import progress
from evae.data.builtin import ON_HUB
from evae.data.hub import HubDataset, from_hub
from evae.data.images import Split
from evae.data.paths import existing, listing_key, with_suffix
from evae.data.rows import Source, split_names
from evae.data.streams import FETCHES, RowGroup, StreamedImages, failure_named
from evae.data.tables import Table, arrow_source, check_columns, image_column, splits_of_files
from evae.errors import DataError

PREFIX = "hf-stream:"

_HELD_OUT = 10_000  # images at most where a dataset has no hold-out split


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
    files = with_suffix(root.resolve(), ".parquet")
    if not files:
        raise DataError(f"--data {data} holds no Parquet files; leave out {PREFIX} to decode it first")
    root = files[0].parent if root.is_file() else root.resolve()
    urls: dict[Split | None, list[str]] = {"train": [], "holdout": [], None: []}
    for file, split in splits_of_files(files, root).items():
        urls[split].append(str(file))
    return _stream(data, urls["train"] or urls[None], urls["holdout"], listing_key(files, root))


def _stream(data: str, train: list[str], holdout: list[str], version: str) -> Source:
    """The hold-out images of a dataset as rows to decode, and its training images as a stream.

    Without a hold-out split, some row groups drawn with a fixed seed are held out: at least one, else a tenth of the
    rows or 10,000, of which 10,000 are decoded.

    Args:
        data: as given by the user.
        train, holdout: the Parquet files of each split, as fsspec takes them; there may be no hold-out files.
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


def _hub_stream(data: str, dataset: HubDataset) -> Source:
    """``_stream`` of a dataset on the hub, whose files ``datasets`` finds.

    Raises:
        DataError: there is no such dataset, or it is not stored as Parquet files.
    """
    import datasets

    config = from_hub(
        lambda: datasets.load_dataset_builder(dataset.id).config,
        f"--data {data} is no folder and was not found on the hub",
    )
    files = {str(split): list(urls) for split, urls in (config.data_files or {}).items()}
    if not files or not all(url.endswith(".parquet") for urls in files.values() for url in urls):
        raise DataError(f"--data {data} is not stored as Parquet files; leave out {PREFIX} to decode it first")
    train, found = split_names(set(files))
    version = blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()  # the URLs name the commit
    holdout = files.get(dataset.holdout or found, [])
    return replace(_stream(data, files[train or next(iter(files))], holdout, version), crop=dataset.crop)


def _row_groups(data: str, urls: list[str]) -> list[RowGroup]:
    """Those that have rows."""
    groups = []
    with ThreadPoolExecutor(FETCHES) as pool, progress() as bar:
        found = bar.track(pool.map(_metadata, urls), len(urls), description=f"reading the metadata of {data}")
        for url, metadata in zip(urls, found, strict=True):
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                groups.append(RowGroup(url, metadata, number, group.num_rows, group.total_byte_size))
    if not any(group.count for group in groups):
        more = f" and {len(urls) - 1} more files" if len(urls) > 1 else ""
        raise DataError(f"--data {data}: there are no rows in {urls[0]}{more}")
    return [group for group in groups if group.count]


def _metadata(url: str) -> pq.FileMetaData:
    with failure_named(url), fsspec.open(url, "rb") as file:
        return pq.read_metadata(file)


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
    """The first ``limit`` rows of the groups."""
    for group in groups:
        for batch in group.read(columns):
            yield batch.slice(0, limit)
            limit -= min(limit, len(batch))
