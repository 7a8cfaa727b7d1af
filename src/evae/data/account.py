"""The account of a data set: what was found, what was left out, and every choice that was made in reading it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

MAX_NAMED = 5  # classes and kinds of files named in an account


@dataclass(frozen=True)
class LeftOut:
    """Files or parts of one kind that are not read.

    Attributes:
        what: the kind, in the plural.
        count: how many.
        first: the first one's name.
        reason: of the first one, "" where ``what`` says it.
        lost: images of the data set may be among them: a warning at every opening says so.
    """

    what: str
    count: int
    first: str
    reason: str = ""
    lost: bool = True

    def __str__(self) -> str:
        first = f"first {self.first}" if self.count > 1 else self.first
        return f"{self.count} {self.what} ({': '.join(filter(None, [first, self.reason]))})"


class Leavings:
    """Collects what is left out, by kind."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, bool], tuple[int, str, str]] = {}

    def add(self, what: str, name: str, reason: str = "", lost: bool = True) -> None:
        """Count one of a kind; the first one's name and reason are kept."""
        count, first, why = self._found.get((what, lost), (0, name, reason))
        self._found[what, lost] = count + 1, first, why

    def __iter__(self) -> Iterator[LeftOut]:
        for (what, lost), (count, first, reason) in self._found.items():
            yield LeftOut(what, count, first, reason, lost)


@dataclass(frozen=True)
class Account:
    """What ``open_store`` found in a data set; ``str`` of it is a few lines.

    Attributes:
        source: as the user named it.
        files: number of files or rows that were read, by kind.
        left_out: what was not read, and why.
        splits: number of images in each split.
        splits_from: where the splits come from.
        labels_from: where the labels come from, "" where there are none.
        classes: number of images in each class, by name.
        unlabelled: number of images without a label.
        values: how values became 8 bits, and their range.
        channels: of the store: 1 (grey), 3 (colour), 4 (with alpha) or others; 0 for rows.
        colour: number of images in colour.
        cropped: number of images of which more than a third was cropped away.
        duplicates: number of hold-out images that are training images, too, by content.
        notes: choices that were made, e.g. of a column.
        warnings: what may be wrong; every opening warns of it.
        noun: what the data set has: images, or rows of numbers.
    """

    source: str
    files: dict[str, int]
    left_out: tuple[LeftOut, ...]
    splits: dict[str, int]
    splits_from: str
    labels_from: str
    classes: dict[str, int]
    unlabelled: int
    values: str
    channels: int
    colour: int
    cropped: int
    duplicates: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    noun: str = "images"

    def __str__(self) -> str:
        total = sum(self.splits.values())
        lines = [f"--data {self.source}: " + enumerated(self.files, "{count:,} {name}")]
        if self.left_out:
            lines.append("left out: " + "; ".join(map(str, self.left_out)))
        counts = ", ".join(
            f"{count:,} {_SPLIT_NAMES.get(name, name)} {self.noun}" for name, count in self.splits.items()
        )
        lines.append(f"splits: {counts} ({self.splits_from})")
        lines.append(f"labels: {self._labels()}")
        colours = f"; {self.channels} channels" if self.channels > 1 else "; 1 channel" if self.channels else ""
        grey = f", {total - self.colour:,} of {total:,} images grey" if 0 < self.colour < total else ""
        lines.append(f"values: {self.values}{colours}{grey}")
        if self.cropped:
            lines.append(f"cropped: more than a third of {self.cropped:,} of {total:,} images was cut away")
        if self.duplicates:
            lines.append(f"duplicates: {self.duplicates:,} hold-out {self.noun} are training {self.noun}, too")
        return "\n".join([lines[0], *(f"  {line}" for line in [*lines[1:], *self.notes])])

    def _labels(self) -> str:
        if not self.labels_from:
            return "none"
        without = f", {self.unlabelled:,} {self.noun} without" if self.unlabelled else ""
        noun = "class" if len(self.classes) == 1 else "classes"
        named = enumerated(self.classes, "{name} {count:,}")
        return f"{len(self.classes):,} {noun} from {self.labels_from}: {named}{without}"


_SPLIT_NAMES = {"train": "training", "holdout": "hold-out"}


def enumerated(counts: Mapping[str, int], form: str) -> str:
    """The first few names with their counts, and how many more there are."""
    shown = [form.format(name=name, count=count) for name, count in list(counts.items())[:MAX_NAMED]]
    more = [f"{len(counts) - MAX_NAMED:,} more"] if len(counts) > MAX_NAMED else []
    return ", ".join(shown + more)


def warned(left_out: Iterable[LeftOut]) -> str:
    """What may be images of the data set and is not read, as a list; "" where there is nothing."""
    return "; ".join(str(entry) for entry in left_out if entry.lost)
