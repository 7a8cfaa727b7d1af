"""What a trained model of rows of numbers is used for: tables of samples, reconstructions and codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pyarrow import csv

from evae.columns import Columns
from evae.console import console, warn
from evae.data.images import Split
from evae.data.labels import Label
from evae.data.rows import Source, listed
from evae.data.sources import find_source
from evae.errors import ConfigError, DataError, RunError
from evae.files import replacing
from evae.models import VAE
from evae.models.vae import Latents
from evae.numerics import seeded
from evae.outputs import Kind, check_output, data_of, parquet_mark
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.images import BATCH, check_kind, columns_of

_SUFFIXES = (".parquet", ".csv", ".npy")


@dataclass(frozen=True)
class Rows:
    """Rows of one file that a model can take.

    Attributes:
        standardised: (N, F), as the model takes them.
        index: of each in the file, (N,).
        labels, splits: of each, (N,).
    """

    standardised: NDArray[np.float32]
    index: list[int]
    labels: list[Label]
    splits: list[Split | None]


def read_rows(model: VAE, source: Source, skip_bad: bool = True) -> Rows:
    """All rows of a source, the model's columns by name; those with missing values are left out with a warning.

    Raises:
        DataError: the source has images, or lacks a column, or has no row without missing values.
        RunError: the columns of the model are not known.
    """
    check_kind(source.numbers is not None, model, source.name)
    assert source.numbers is not None
    columns, numbers = columns_of(model), source.numbers()
    values = numbers.values[:, columns.places_in(numbers.names, f"--data {source.name}")]
    good = np.isfinite(values).all(1)
    if not good.all():
        bad = [f"row {row}" for row in np.flatnonzero(~good).tolist()]
        told = f"{counted(len(bad), 'row')} of {source.name} with missing or infinite values: {listed(bad)}"
        if not skip_bad or not good.any():
            raise DataError(told)
        warn(f"left out: {told}")
    kept = np.flatnonzero(good).tolist()
    labels, splits = ([part[i] for i in kept] for part in (numbers.labels, numbers.splits))
    return Rows(columns.standardise(values[good]), kept, labels, splits)  # type: ignore[arg-type]


def check_table(path: Path, kind: Kind, run: RunFolder, overwrite: bool, default: Path | None = None) -> Path:
    """``path`` or the default, where a table of this kind may be written.

    Raises:
        ConfigError: its suffix is not of a table.
        RunError: it would replace another file.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"--out {path}: the model is of rows of numbers, whose results are tables; name a file that ends with "
            f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
        )
    check_output(path, kind, overwrite, default, data_of(run))
    return path


def write_table(
    values: NDArray[np.float64], columns: Columns, path: Path, kind: Kind, index: Sequence[int] | None = None
) -> None:
    """Rows (N, F) in the units of the data, to a Parquet or CSV file with the columns' names, or an .npy file."""
    with replacing(path) as temporary:
        if path.suffix.lower() == ".npy":
            with temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)
            return
        place = "index" if "index" not in columns.names else "row index"
        identity = {} if index is None else {place: pa.array(index, pa.int64())}
        table = pa.table(identity | {name: values[:, i] for i, name in enumerate(columns.names)})
        if path.suffix.lower() == ".csv":
            csv.write_csv(table, temporary)
        else:
            pq.write_table(table.replace_schema_metadata(parquet_mark(kind)), temporary)


def write_samples(model: VAE, count: int, prior: str, seed: int, path: Path) -> None:
    """Draws of x from p(x|z), z from a prior, in the units of the data."""
    columns = columns_of(model)
    with seeded(seed):
        sizes = (min(BATCH, count - start) for start in range(0, count, BATCH))
        drawn = [model.sample(size, prior).cpu().numpy() for size in sizes]  # type: ignore[arg-type]
    write_table(columns.restore(np.concatenate(drawn)), columns, path, "samples")
    console.print(f"{counted(count, 'sample')} of the {prior} prior in {path}", soft_wrap=True)


@torch.no_grad()
def reconstruct_rows(
    run: RunFolder, model: VAE, files: Sequence[Path], out: Path, latents: Latents, seed: int, overwrite: bool
) -> Path:
    """Reconstruct the rows of one file of numbers into a table with their index in it.

    Raises:
        ConfigError: there are several files, or the output is not a table's.
        DataError: the file cannot be read, or has other columns.
        RunError: the output cannot be written or would replace other files.
    """
    if len(files) != 1:
        raise ConfigError(f"the model is of rows of numbers: name one file of them, not {len(files)}")
    if out.resolve() == files[0].resolve():
        raise RunError(f"{files[0]} would be overwritten by its reconstruction; choose another --out")
    path = check_table(out, "reconstruction", run, overwrite)
    rows = read_rows(model, find_source(str(files[0])))
    with seeded(seed):
        parts = torch.from_numpy(rows.standardised).split(BATCH)
        rebuilt = torch.cat([model.reconstruct(part.to(model.device), latents).cpu() for part in parts])
    columns = columns_of(model)
    write_table(columns.restore(rebuilt.numpy()), columns, path, "reconstruction", rows.index)
    error = (rebuilt - torch.from_numpy(rows.standardised)).square().mean().item()
    told = f"{counted(len(rebuilt), 'reconstruction')} in {path}, mean squared error {error:.4g} in standardised units"
    console.print(told, soft_wrap=True)
    return path
