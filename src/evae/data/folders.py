"""Images from a folder of image files."""

from collections.abc import Iterator
from pathlib import Path

from evae.data.decode import SUFFIXES
from evae.data.rows import NO_LABEL, Row, Source, existing, listing_key, split_names, splits_of, with_suffix


def image_folder(data: str) -> Source | None:
    """Files in train/ and test/ (or validation/, ...) have their split; the names of other folders are labels."""
    root = existing(data)
    if root is None or not root.is_dir() or not (files := with_suffix(root, *SUFFIXES)):
        return None
    root = _parent_of_splits(root, files)
    parts = {file: file.relative_to(root).parts for file in files}
    splits = splits_of({file: {name.lower() for name in names[:-1][:1]} for file, names in parts.items()})
    depth = 0 if None in splits.values() else 1  # of the folders that are labels
    label_of = {file: "".join(parts[file][depth:-1][:1]) for file in splits}
    classes = tuple(sorted(set(label_of.values()) - {""}))
    index = {"": NO_LABEL} | {name: i for i, name in enumerate(classes)}

    def rows() -> Iterator[Row]:
        for file, split in splits.items():
            yield Row(file.relative_to(root).as_posix(), file, index[label_of[file]], split)

    unused = tuple(sorted({parts[file][0] for file in files if file not in splits}))
    return Source(data, f"folder {listing_key(list(splits), root)}", len(splits), rows, classes, unused=unused)


def _parent_of_splits(root: Path, files: list[Path]) -> Path:
    """``root``, or the only folder in it where that has the splits."""
    top = {f.relative_to(root).parts[0] for f in files}
    inner = root / next(iter(top))
    nested = {f.relative_to(inner).parts[0] for f in files} if len(top) == 1 and inner.is_dir() else set()
    return inner if any(split_names(nested)) else root
