"""Rows of numbers in the cache: float64 in the units of the data, standardised when they are read."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evae.columns import Columns
from evae.data.account import Account
from evae.data.build import check_bad_images, left_out
from evae.data.images import ImageSet, Split
from evae.data.labels import NO_LABEL, encode
from evae.data.levels import Scaling
from evae.data.numbers import Numbers, constant_warning, empty_columns
from evae.data.record import FileRecord, Record
from evae.data.rows import Source, listed
from evae.data.sources import absolute
from evae.errors import DataError

_HELD_OUT = 10  # one row in ten


@dataclass
class RowSet(ImageSet):
    """One split of a store of rows: see ``Images``; ``shape`` is (N, F), and ``read`` returns standardised float32.

    Attributes:
        columns: what the rows are standardised by.
        places: of these columns among the stored ones, (F,).
        stored: number of columns in the file.
    """

    columns: Columns
    places: list[int] = field(repr=False)
    stored: int

    @cached_property
    def images(self) -> NDArray[Any]:
        """All stored columns in the units of the data, (N, stored), memory-mapped."""
        path = self.folder / f"{self.split}.f64"
        return np.memmap(path, np.float64, mode="r", shape=(len(self), self.stored))

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Some rows (n, F), standardised."""
        return self.columns.standardise(self.values(rows))

    def values(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """The same rows (n, F) in the units of the data."""
        path = self.folder / f"{self.split}.f64"
        if path.stat().st_size < 8 * len(self) * self.stored:  # else the system would kill the process
            raise DataError(f"{path} was cut short while it was in use; run the command again")
        values: NDArray[np.float64] = np.array(self.images[rows])[:, self.places]
        return values

    def __getitem__(self, index: int) -> NDArray[Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} rows, none with the index {index}")
        row: NDArray[Any] = self.read(np.array([index]))[0]
        return row


def build_rows(source: Source, skip_bad: bool, folder: Path) -> Record:
    """Write the rows of a source into a folder, and its record.

    Rows with missing or infinite values are bad; columns without any number, and those that are constant over the
    training rows, are left out. Where the source tells no splits, one row in ten is held out, by its content.

    Raises:
        DataError: nothing is left, or there are bad rows and ``skip_bad`` is False.
    """
    assert source.numbers is not None
    numbers, empty = empty_columns(source.numbers())
    if not numbers.names:
        raise DataError(f"--data {source.name} has no numbers: all values are missing or infinite")
    skipped, good = _bad_rows(numbers)
    check_bad_images(skipped, skip_bad, "row")
    rows = np.flatnonzero(good)
    digests = [blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(numbers.values[rows])]
    places = _divided(numbers, rows, digests)
    _check_enough(source, places, skipped)
    columns = Columns.of(numbers.names, numbers.values[rows[places["train"]]])
    constant = [name for name, deviation in zip(columns.names, columns.deviation, strict=True) if deviation == 0]
    if len(constant) == len(columns):
        raise DataError(f"--data {source.name}: all {len(columns)} columns are constant over the training rows")
    codes, names_of_classes = encode([numbers.labels[row] for row in rows], source.class_names)
    fingerprint = blake2b(json.dumps(numbers.names).encode(), digest_size=16)
    files: dict[str, FileRecord] = {}
    for split, own in places.items():
        for place in own:
            fingerprint.update(split.encode() + digests[place])
        files |= _write(folder, split, numbers, rows[own], codes[own])
    about = numbers.found
    classes, counts = np.unique(codes[codes != NO_LABEL], return_counts=True)
    titles = [names_of_classes[code] if code < len(names_of_classes) else str(code) for code in classes.tolist()]
    used = [name for name in columns.names if name not in constant]
    train = {digests[place] for place in places["train"]}
    warnings = (constant_warning(empty, "empty"), constant_warning(constant, "constant"))
    record = Record(
        source=absolute(source.name),
        image_shape=(len(columns),),
        count={split: len(own) for split, own in places.items()},
        class_names=names_of_classes,
        fingerprint=fingerprint.hexdigest(),
        skipped=tuple(skipped),
        unread=(),
        transform={"columns": len(columns)},
        scaling=Scaling(),
        account=Account(
            source=source.name,
            files=about.files,
            left_out=left_out(source, skipped),
            splits={split: len(own) for split, own in places.items()},
            splits_from=about.splits_from,
            labels_from=about.labels_from if titles else "",
            classes=dict(zip(titles, counts.tolist(), strict=True)),
            unlabelled=int((codes == NO_LABEL).sum()),
            values=f"{len(used):,} columns of numbers ({listed(used)}), standardised by the training rows",
            channels=0,
            colour=0,
            cropped=0,
            duplicates=sum(digests[place] in train for place in places["holdout"]),
            notes=about.notes,
            warnings=(*about.doubts, *filter(None, warnings)),
            noun="rows",
        ),
        files=files,
        columns=columns,
    )
    record.write(folder)
    return record


def _bad_rows(numbers: Numbers) -> tuple[list[str], NDArray[np.bool_]]:
    """What is wrong with each row that has a missing or an infinite value, and which rows have none."""
    is_finite = np.isfinite(numbers.values)
    good = np.asarray(is_finite.all(1))
    first = is_finite.argmin(1)
    bad = []
    for row in np.flatnonzero(~good).tolist():
        what = "missing" if np.isnan(numbers.values[row, first[row]]) else "infinite"
        bad.append(f"row {row} ({numbers.names[first[row]]} is {what})")
    return bad, good


def _divided(numbers: Numbers, rows: NDArray[np.int64], digests: list[bytes]) -> dict[Split, NDArray[np.int64]]:
    """The places among the good rows of each split."""
    told = [numbers.splits[row] for row in rows]
    if any(told):
        held = np.array([split == "holdout" for split in told])
        kept = np.array([split == "train" for split in told])
    else:
        order = np.array([int.from_bytes(digest) for digest in digests], np.uint64)
        held = order % np.uint64(_HELD_OUT) == 0
        if held.all() == held.any() and len(order):  # by chance one split has none of few rows
            held = order == order.min()
        kept = ~held
    return {"train": np.flatnonzero(kept), "holdout": np.flatnonzero(held)}


def _check_enough(source: Source, places: dict[Split, NDArray[np.int64]], skipped: list[str]) -> None:
    lost = f" ({len(skipped)} have missing or infinite values: {listed(skipped, '; ')})" if skipped else ""
    train, holdout = len(places["train"]), len(places["holdout"])
    if train < 2 or holdout < 1:
        raise DataError(
            f"--data {source.name} has too few rows: {train} to train on and {holdout} held out, where at least 2 and "
            f"1 are needed{lost}"
        )


def _write(
    folder: Path, split: Split, numbers: Numbers, rows: NDArray[np.int64], codes: NDArray[np.int64]
) -> dict[str, FileRecord]:
    """Write the rows, labels and names of a split; the records of the files."""
    numbers.values[rows].astype(np.float64).tofile(folder / f"{split}.f64")
    np.save(folder / f"{split}-labels.npy", codes)
    (folder / f"{split}-names.json").write_text(json.dumps([str(row) for row in rows.tolist()]))
    names = [f"{split}{end}" for end in (".f64", "-labels.npy", "-names.json")]
    return {name: FileRecord.of(folder / name) for name in names}
