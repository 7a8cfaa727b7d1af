"""Where images come from. Another source is a function in a module of its own, and its name in ``SOURCES``."""

from contextlib import suppress
from pathlib import Path

from evae.data.account import warned
from evae.data.arrays import arrays
from evae.data.builtin import BUILT_IN, builtin
from evae.data.hub import hub
from evae.data.lists import listing
from evae.data.local import local
from evae.data.rows import Source, existing
from evae.data.scan import scan
from evae.data.streams import PREFIX, streamed
from evae.errors import DataError

SOURCES = (builtin, streamed, local, arrays, listing, hub)  # each None for what it does not know


def find_source(data: str | Path) -> Source:
    """The source that ``data`` names.

    Args:
        data: a built-in name, a folder of images, a Parquet or Arrow file or a folder of them, an .npz or .npy file,
            a CSV file of numbers, a .txt file that lists image files, or the id of a dataset on the Hugging Face hub
            (owner/name); with hf-stream: (experimental) before an id or a folder of Parquet files, training images are
            read from Parquet on demand instead of being decoded to the cache.

    Raises:
        DataError: there is no such source, or it has no images.
    """
    data = str(data)
    for find in SOURCES:
        if (source := find(data)) is not None:
            return source
    path = existing(data)
    if path is None:
        known = f"a built-in name ({', '.join(BUILT_IN)})"
        why = f"is no file or folder that exists, nor {known}, nor a dataset id of the form owner/name"
    elif path.is_dir():
        scanned = scan(path)
        count, lost = len(scanned.files), warned([*scanned.left_out, *scanned.others([])])
        why = f"holds {count} files, but no images or Parquet files" if count or lost else "is an empty folder"
        why += f": {lost}" if lost else ""
    else:
        why = "is neither a folder nor a .parquet, .arrow, .npz, .npy, .csv, .tsv or .txt file"
    raise DataError(f"--data {data} {why}")


def absolute(data: str) -> str:
    """A name of the same images that does not depend on the current folder."""
    prefix = PREFIX if data.startswith(PREFIX) else ""
    with suppress(DataError, OSError, RuntimeError):  # of names that are no paths
        if data not in BUILT_IN and (path := existing(data.removeprefix(prefix))):
            return prefix + str(path.resolve())
    return data
