"""The images of a collection, some at a time, with what is known of each: from a store or straight from a source."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from evae.console import progress, warn
from evae.data import ImageOptions, Images
from evae.data.build import check_bad_images
from evae.data.labels import NO_LABEL, Label
from evae.data.labels import encode as encode_labels
from evae.data.rows import Source, listed
from evae.data.store import check_transform
from evae.errors import DataError
from evae.models import VAE
from evae.row_tables import Rows, read_rows
from evae.runs import RunFolder
from evae.runs.images import BATCH, channels_for, images_for, preprocessing, transform_for
from evae.runs.preprocessing import Found, source_of


class Part(NamedTuple):
    """Some images of a collection.

    Attributes:
        names: of files, or row numbers.
        splits: None where the data tell none.
        labels: as in the data; the names of classes where they have names.
        pixels: (n, C, S, S), 8 bit; of rows of numbers (n, F), standardised.
    """

    names: list[str]
    splits: list[str | None]
    labels: list[Label]
    pixels: NDArray[Any]


class Collection(NamedTuple):
    """The images of a collection in parts, and how many there are, with those that turn out to be undecodable."""

    total: int
    parts: Iterator[Part]


def collection(run: RunFolder, model: VAE, data: str | None, options: ImageOptions) -> Collection:
    """The run's own images where ``data`` is None, else those of ``data``, which take no place in the cache.

    Raises:
        RunError: the folder is not a run.
        DataError: there are no such images, or they cannot be used with this model.
    """
    source = None if data is None else source_of(data, options.image_column)
    if source is not None and (model.is_row or source.numbers is not None):
        rows = read_rows(model, source, options.on_bad_image == "skip")
        return Collection(len(rows.index), _of_rows(rows, source.class_names))
    if source is None or source.stream is not None:
        store = images_for(run, model, data, options)
        splits = [images for images in (store.train, store.validation, store.holdout) if images is not None]
        return Collection(sum(map(len, splits)), _of_splits(splits, store.class_names))
    return Collection(source.count, _of_source(run, model, source, options))


def _of_splits(splits: Sequence[Images], class_names: tuple[str, ...]) -> Iterator[Part]:
    for images in splits:
        yield from _of_split(images, class_names)


def _of_split(images: Images, class_names: tuple[str, ...]) -> Iterator[Part]:
    with progress() as bar:
        task = bar.add_task(f"encoding {images.split}", total=len(images))
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            pixels, names = images.read(rows), images.names[rows]
            labels = [_named(label, class_names) for label in images.labels[rows].tolist()]
            good = [i for i in range(len(names)) if start + i not in images.bad]  # of streamed images some may be bad
            splits: list[str | None] = [images.split] * len(good)
            yield Part([names[i] for i in good], splits, [labels[i] for i in good], pixels[good])
            bar.advance(task, len(names))


def _named(label: int, class_names: tuple[str, ...]) -> Label:
    if label == NO_LABEL:
        return None
    if not class_names:
        return label
    return class_names[label] if label < len(class_names) else str(label)


def _of_rows(rows: Rows, class_names: tuple[str, ...]) -> Iterator[Part]:
    """Rows of numbers that need neither splits nor a place in the cache."""
    classes, names = encode_labels(rows.labels, class_names)
    labels = [_named(label, names) for label in classes.tolist()]
    for start in range(0, len(rows.index), BATCH):
        part = slice(start, start + BATCH)
        own: list[str | None] = [*rows.splits[part]]
        yield Part([str(i) for i in rows.index[part]], own, labels[part], rows.standardised[part])


def _of_source(run: RunFolder, model: VAE, source: Source, options: ImageOptions) -> Iterator[Part]:
    """The images of a source that need neither splits nor a place in the cache."""
    size, crop = transform_for(run, model, options)
    if size != model.image_shape[1]:
        raise DataError(f"--image-size {size} is not the model's; leave it out, or use {model.image_shape[1]}")
    check_transform(size, crop)
    channels = channels_for(run, model, options)
    rule = replace(preprocessing(run, model), crop=source.crop if crop is None else crop, channels=channels)
    found, seen, names = Found(), 0, dict(enumerate(source.class_names))
    for images, pixels in rule.load_all(source, found):
        check_bad_images(found.bad, options.on_bad_image == "skip")
        seen += len(images)
        labels = [names.get(i.label, i.label) if isinstance(i.label, int) else i.label for i in images]
        labels = [None if label == NO_LABEL else label for label in labels]
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            part = images[rows]
            yield Part([i.name for i in part], [i.split for i in part], labels[rows], pixels[rows])
    if not seen or found.bad:
        check_bad_images(found.bad, skip_bad=bool(seen) and options.on_bad_image == "skip")
        warn(f"{len(found.bad)} bad images skipped: {listed(found.bad, '; ')}")
    rule.check_levels(source, found.levels)
