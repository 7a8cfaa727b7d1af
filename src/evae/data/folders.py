"""Images from a folder of image files."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from evae.data.decode import SUFFIXES
from evae.data.images import Split
from evae.data.labels import NO_LABEL
from evae.data.rows import Findings, Row, Source, existing, listing_key, split_doubts, told_by
from evae.data.scan import Scan, kinds, scan
from evae.data.splits import Division, divide, kind_of


def image_folder(data: str) -> Source | None:
    """Folders named train and test (or validation, ...) are splits, at any level; the names of other folders labels."""
    if (images := _image_files(data)) is None:
        return None
    scanned, files = images
    division = _divide(scanned, files)
    labels, level = _labels(scanned, division)
    classes = tuple(sorted(set(labels.values()) - {""}))
    index = {"": NO_LABEL} | {name: i for i, name in enumerate(classes)}

    def rows() -> Iterator[Row]:
        for file, split in division.splits.items():
            yield Row(scanned.relative(file), file, index[labels[file]], split)

    found = Findings(
        files={f"{suffix} files": count for suffix, count in kinds(division.splits).items()},
        left_out=(*scanned.left_out, *scanned.others(files)),
        unused=_unused(scanned, files, division),
        splits_from=told_by("the names of files" if division.level == -1 else "folders", division),
        labels_from=f"the names of folders{f' at level {level + 1}' * (level > 0)}" if classes else "",
        doubts=split_doubts(division),
    )
    key = f"folder {listing_key(list(division.splits), scanned.root)}"
    return Source(data, key, len(division.splits), rows, classes, found=found)


def every_file(data: str) -> tuple[Source, dict[str, str]] | None:
    """All image files of a folder, also those of parts that no split takes, and the part that each one's path tells.

    Parts are train, test, validation, dev, holdout and eval, by name of the file; without an entry where none is told.
    """
    if (images := _image_files(data)) is None:
        return None
    scanned, files = images
    level = _divide(scanned, files).level
    parts = {}
    for file in files:
        own = (file.stem,) if level == -1 else file.relative_to(scanned.root).parts[:-1]
        if level is not None and level < len(own) and (kind := kind_of(own[level])) is not None:
            parts[scanned.relative(file)] = str(kind)

    def rows() -> Iterator[Row]:
        for file in files:
            yield Row(scanned.relative(file), file, None, None)

    left_out = (*scanned.left_out, *scanned.others(files))
    return Source(data, "", len(files), rows, found=Findings(kinds(files), left_out)), parts


def _image_files(data: str) -> tuple[Scan, list[Path]] | None:
    """What is in a folder, and the image files in it; None where it is none, or has none."""
    root = existing(data)
    if root is None or not root.is_dir():
        return None
    scanned = scan(root)
    files = scanned.with_suffix(*SUFFIXES)
    return (scanned, files) if files else None


def _divide(scanned: Scan, files: list[Path]) -> Division[Path]:
    """By the names of folders; else by those of files, where they say train and test."""
    folders = {file: file.relative_to(scanned.root).parts[:-1] for file in files}
    division = divide(folders)
    if division.level is None and any("train" in file.name.lower() for file in files):
        by_name = divide({file: (file.stem,) for file in files}, strict=False, levels=[-1])
        if 2 * len(by_name.splits) >= len(files) and by_name.level is not None:
            return by_name
    return division


def _labels(scanned: Scan, division: Division[Path]) -> tuple[dict[Path, str], int]:
    """The label of each file, "" for none, and the level of the folders it comes from.

    It is the first level that has several folders, without those that tell the split. A split with a single folder
    there, which the other split does not have, has no labels.
    """
    parts = {file: _unsplit(file.relative_to(scanned.root).parts[:-1], division, file) for file in division.splits}
    for level in range(max(map(len, parts.values()), default=0)):
        labels = {file: "".join(own[level : level + 1]) for file, own in parts.items()}
        if len(set(labels.values()) - {""}) > 1:
            return _without_lonely(labels, division.splits), level
    return dict.fromkeys(parts, ""), 0


def _unsplit(parts: tuple[str, ...], division: Division[Path], file: Path) -> tuple[str, ...]:
    """The folders on the way to a file without those that tell its split, or are all that says train."""
    split = division.splits[file]
    if split is None:
        return parts
    return tuple(name for i, name in enumerate(parts) if i != division.level and not _tells(name, split))


def _tells(name: str, split: Split) -> bool:
    kind = kind_of(name)
    return kind is not None and (kind == "train") == (split == "train")


def _without_lonely(labels: dict[Path, str], splits: Mapping[Path, Split | None]) -> dict[Path, str]:
    """Labels without those of a split that has a single one, which the other split does not have."""
    of: dict[Split | None, set[str]] = {}
    for file, label in labels.items():
        of.setdefault(splits[file], set()).add(label)
    lonely = {
        split for split, own in of.items() if len(own - {""}) == 1 and len(of) > 1 and not own & _others(of, split)
    }
    return {file: "" if splits[file] in lonely else label for file, label in labels.items()}


def _others(of: Mapping[Split | None, set[str]], split: Split | None) -> set[str]:
    return set().union(*(own - {""} for other, own in of.items() if other != split))


def _unused(scanned: Scan, files: list[Path], division: Division[Path]) -> tuple[str, ...]:
    """The folders, down to the level that tells the split, of images that have no split."""
    depth = max(division.level or 0, 0) + 1
    left = (file.relative_to(scanned.root).parts[:depth] for file in files if file not in division.splits)
    return tuple(sorted({"/".join(parts) for parts in left}))
