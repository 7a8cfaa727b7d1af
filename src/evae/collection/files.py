"""All files of a collection, readable or not, as one array of small images."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evae.console import warn
from evae.data.account import LeftOut
from evae.data.decode import Decoder
from evae.data.folders import every_file
from evae.data.levels import Scaling
from evae.data.rows import Source, existing, read_content
from evae.data.tables import parquet
from evae.data.workers import Decoded
from evae.errors import ConfigError, DataError
from evae.runs.preprocessing import Found, Preprocessing, source_of


@dataclass(frozen=True)
class Files:
    """The N files of a collection in order; arrays of pixels have the M readable ones alone.

    Attributes:
        source: where they come from.
        names, splits: of all, "" for no split.
        reasons: why a file cannot be read, "" for readable ones.
        digests: of the content of the readable ones, else None.
        readable: (M,), by index.
        pixels: (M, C, S, S), 8 bit.
        rule: by which they were read.
        left_out: what was not read at all.
    """

    source: Source
    names: list[str]
    splits: list[str]
    reasons: list[str]
    digests: list[bytes | None]
    readable: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    rule: Preprocessing
    left_out: tuple[LeftOut, ...]

    def pictures(self, wanted: Collection[str], side: int) -> dict[str, NDArray[np.uint8]]:
        """Some of the images by name, their centre squares at this size, (C, side, side)."""
        decoder = Decoder(side, scaling=self.rule.scaling, channels=self.rule.reading)
        found = dict[str, NDArray[np.uint8]]()
        for row in self.source.rows():
            if row.name in wanted and row.name not in found:
                found[row.name] = decoder(read_content(row.payload))
                if len(found) == len(wanted):
                    break
        return found


def read_files(data: str, rule: Preprocessing, column: str | None) -> Files:
    """Decode all files of a collection; those that cannot be read stop nothing.

    Raises:
        ConfigError: training images would be streamed.
        DataError: there are no images, or none can be read.
    """
    source, parts = _source(data, column)
    if source.numbers is not None:
        raise DataError(f"--data {data} has rows of numbers; evae audit is for images")
    if source.stream is not None:
        raise ConfigError(f"--data {data}: an audit reads all images; leave out hf-stream:")
    images, pixels, found = _decoded(source, rule)
    if rule.scaling is None and (scaling := found.levels.scaling(data)) != Scaling():  # known only after all were seen
        rule = replace(rule, scaling=scaling)
        images, pixels, found = _decoded(source, rule)
    if not images:
        raise DataError(f"--data {data} has no image that can be read ({'; '.join(found.bad[:5])})")
    rule.check_levels(source, found.levels)
    names = [row.name for row in source.rows()] if found.bad else [image.name for image in images]
    places = _places(names, [image.name for image in images])
    reasons, digests, splits = [""] * len(names), [None] * len(names), [parts.get(name, "") for name in names]
    readable = np.array(list(places), np.int64)
    own: list[bytes | None] = list(digests)
    for place, image in zip(readable.tolist(), images, strict=True):
        own[place] = image.digest
        splits[place] = splits[place] or image.split or ""
    bad = sorted(set(range(len(names))) - set(readable.tolist()))
    for place, entry in zip(bad, found.bad, strict=True):
        reasons[place] = entry.removeprefix(f"{ascii(names[place])[1:-1]} ")
    return Files(source, names, splits, reasons, own, readable, np.concatenate(pixels), rule, source.found.left_out)


def _decoded(source: Source, rule: Preprocessing) -> tuple[list[Decoded], list[NDArray[np.uint8]], Found]:
    found, images, pixels = Found(), list[Decoded](), list[NDArray[np.uint8]]()
    for part, its_pixels in rule.load_all(source, found):
        images += part
        pixels.append(its_pixels)
    return images, pixels, found


def _source(data: str, column: str | None) -> tuple[Source, dict[str, str]]:
    """A folder with all of its parts, unless it holds more rows of tables; or any other source."""
    found = every_file(data)
    if found is None:
        return source_of(data, column), {}
    path = existing(data)
    try:
        tables = parquet(data) if path is not None and _has_tables(path) else None
    except DataError:  # tables beside the images, of something else
        tables = None
    if tables is not None and tables.count > found[0].count:
        return source_of(data, column), {}
    if column is not None:
        raise ConfigError(f"--image-column {column} is for tables; --data {data} has no columns")
    for entry in found[0].found.left_out:
        if entry.lost:
            warn(f"--data {data}: not read: {entry}")
    return found


def _has_tables(folder: Path) -> bool:
    return any(path.suffix.lower() in (".parquet", ".arrow") for path in folder.rglob("*"))


def _places(names: list[str], decoded: list[str]) -> Iterator[int]:
    """The indices of the decoded names among all, both in the same order."""
    place = 0
    for name in decoded:
        while names[place] != name:
            place += 1
        yield place
        place += 1
