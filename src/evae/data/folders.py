"""Images from a folder of image files."""

from collections.abc import Iterator
from pathlib import Path

from evae.data.decode import SUFFIXES
from evae.data.paths import existing, listing_key, with_suffix
from evae.data.rows import NO_LABEL, Row, Source, as_split, split_names


def image_folder(data: str) -> Source | None:
    """Files in train/ and test/ (or validation/, ...) have their split; the names of other folders are labels."""
    root = existing(data)
    if root is None or not root.is_dir() or not (files := with_suffix(root, *SUFFIXES)):
        return None
    root = _parent_of_splits(root, files)
    parts = {file: file.relative_to(root).parts for file in files}
    top = {first for first, *_ in parts.values()}
    train, holdout = split_names({first for first, *rest in parts.values() if rest})
    chosen = [
        (file, names[1:] if train else names, as_split(names[0], train, holdout))
        for file, names in parts.items()
        if not train or names[0] in (train, holdout)
    ]
    classes = sorted({names[0] for _, names, _ in chosen if len(names) > 1})
    index = {name: i for i, name in enumerate(classes)}

    def rows() -> Iterator[Row]:
        for file, names, split in chosen:
            label = index[names[0]] if len(names) > 1 else NO_LABEL
            yield Row(file.relative_to(root).as_posix(), file, label, split)

    key = listing_key([file for file, _, _ in chosen], root)
    unused = tuple(sorted(top - {train, holdout})) if train else ()
    return Source(data, f"folder {key}", len(chosen), rows, tuple(classes), unused=unused)


def _parent_of_splits(root: Path, files: list[Path]) -> Path:
    """``root``, or the only folder in it where that has the splits."""
    top = {f.relative_to(root).parts[0] for f in files}
    inner = root / next(iter(top))
    nested = {f.relative_to(inner).parts[0] for f in files} if len(top) == 1 and inner.is_dir() else set()
    return inner if any(split_names(nested)) else root
