"""Images that a text file lists."""

import os
from collections.abc import Iterator
from pathlib import Path

from evae.data.rows import Findings, Row, Source, existing, listed, listing_key
from evae.data.scan import kinds
from evae.errors import DataError
from evae.records import RecordError, read_bytes

_MAX_BYTES = 2**30


def listing(data: str) -> Source | None:
    """The image files that a .txt file names, one a line, relative to its folder; one in ten is held out."""
    path = existing(data)
    if path is None or not path.is_file() or path.suffix.lower() != ".txt":
        return None
    try:
        lines = os.fsdecode(read_bytes(path, _MAX_BYTES)).splitlines()
    except (OSError, RecordError) as error:
        raise DataError(f"--data {data} cannot be read ({error})") from error
    names = [line for line in lines if line.strip()]
    files = [Path(os.path.abspath(path.parent / name)) for name in names]  # noqa: PTH100
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing or not names:
        what = f"names {len(missing)} files that do not exist: {listed(missing)}" if missing else "names no files"
        raise DataError(f"--data {data} {what}; it must have the path of an image file in each line")

    def rows() -> Iterator[Row]:
        for name, file in zip(names, files, strict=True):
            yield Row(name, file, None, None)

    found = Findings(files={f"{suffix} files": count for suffix, count in kinds(files).items()})
    return Source(data, f"list {listing_key(files, Path(files[0].anchor))}", len(files), rows, found=found)
