"""Images from numpy files: .npy with one array, .npz with several."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evae.data.rows import NO_LABEL, Row, Source, existing, label, listing_key, natural_size, splits_of, words
from evae.errors import DataError, first_line

_LABELS = {"y", "label", "labels", "mask", "masks"}


def arrays(data: str) -> Source | None:
    """Arrays (N, H, W) or (N, H, W, C) of a .npz or .npy file, with splits and labels where their names say so."""
    path = existing(data)
    if path is None or not path.is_file() or path.suffix.lower() not in (".npz", ".npy"):
        return None
    loaded = _load_arrays(data, path)
    images = {name: array for name, array in loaded.items() if array.ndim in (3, 4) and not words(name) & _LABELS}
    if not images:
        shapes = ", ".join(f"{name or 'array'} {array.shape}" for name, array in loaded.items())
        raise DataError(f"--data {data} has no array of images, (N, H, W) or (N, H, W, C); it has {shapes}")
    splits = splits_of({name: words(name) for name in images})
    if None in splits.values() and len(splits) > 1:
        raise DataError(
            f"--data {data} has several arrays of images ({', '.join(images)}), none of them named train and test"
        )
    chosen = [(_pixels(data, images[name]), _labels(loaded, name), split) for name, split in splits.items()]

    def rows() -> Iterator[Row]:
        number = count()
        for pixels, labels, split in chosen:
            for image, code in zip(pixels, labels, strict=True):
                yield Row(str(next(number)), _to_uint8(data, image), label(code), split)

    total = sum(len(pixels) for pixels, _, _ in chosen)
    if not total:
        raise DataError(f"--data {data} has no images")
    return Source(data, f"arrays {listing_key([path], path.parent)}", total, rows, size=natural_size(rows()))


def _load_arrays(data: str, path: Path) -> dict[str, NDArray[Any]]:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}
    except Exception as error:  # of many kinds: damage of the zip or of a header, sizes beyond all memory
        raise DataError(f"--data {data} is no array file that can be read ({first_line(error)})") from error


def _pixels(data: str, array: NDArray[Any]) -> NDArray[Any]:
    """(N, H, W) or (N, H, W, C), of uint8, bool or floats."""
    if 0 in array.shape[1:]:
        raise DataError(f"--data {data}: images of shape {array.shape[1:]} have no pixels")
    if array.dtype not in (bool, np.uint8) and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"--data {data}: images of type {array.dtype}; uint8, or floats in [0, 1], are needed")
    if array.ndim == 3 or array.shape[-1] in (1, 3, 4):
        return array
    if array.shape[1] in (1, 3, 4):
        return array.transpose(0, 2, 3, 1)
    raise DataError(f"--data {data}: an array of shape {array.shape} has no axis of 1, 3 or 4 channels")


def _to_uint8(data: str, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        extremes = f"[{pixels.min():.3g}, {pixels.max():.3g}]"
        raise DataError(f"--data {data}: floating-point images must be in [0, 1], not {extremes}")
    return (pixels * 255.0).round().astype(np.uint8)


def _labels(arrays: dict[str, NDArray[Any]], images: str) -> list[int]:
    """The labels beside an array of images: y_train for x_train, train_labels for train_images, ..."""
    for old, new in (("x", "y"), ("images", "labels"), ("data", "labels"), ("image", "label")):
        name = re.sub(rf"(?<![a-zA-Z]){old}(?![a-zA-Z])", new, images)
        labels = arrays.get(name) if name != images else None
        if labels is not None and labels.size == len(arrays[images]) and np.issubdtype(labels.dtype, np.integer):
            return labels.ravel().tolist()
    return [NO_LABEL] * len(arrays[images])
