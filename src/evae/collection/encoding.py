"""``evae encode``: what a model says of each image, as a table that other tools read."""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from evae import checks, figures
from evae.collection.description import Describer, Description, percentiles, reference_errors
from evae.collection.parts import Part, collection
from evae.console import console
from evae.data import ImageOptions, to_float
from evae.data.labels import Label
from evae.data.labels import encode as encode_labels
from evae.data.memory import Data, named
from evae.errors import ConfigError, DataError
from evae.files import replacing, utf8
from evae.numerics import resolve_device, seeded
from evae.outputs import check_output, data_of, mark, parquet_mark
from evae.rounding import counted
from evae.runs import RunFolder
from evae.settings import flat

Layout = Literal["vector", "columns"]

_ABOUT = "evae.{}"  # keys of the schema's metadata
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as datasets and Embedding Atlas take images


@flat
def encode(
    run_folder: Path,
    out: Path,
    data: Data | None = None,
    layout: Layout = "vector",
    thumbnails: bool = False,
    likelihood_samples: int = 1,
    images: ImageOptions = ImageOptions(),
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write codes of images to a Parquet file, with file or index, split, label, reconstruction error, rate and bound.

    A code is the posterior's mean, on a sphere its mean direction. The error is the mean squared error of the image
    decoded from it, error_percentile the percentage of the run's hold-out images with a smaller one. The rate is the
    divergence between posterior and prior in nats; the bound, of ln p(x), is importance-weighted, under the fitted
    prior or else the model's, and left out where posteriors leave the support of both. Other images than the run's own
    are cropped, resized and scaled as those, unless options say otherwise; grey and colour are converted. Their split
    is the one that their folders or files tell, and empty where these tell none.

    Args:
        run_folder: the folder of a trained run.
        out: the file to write: NAME.parquet, or NAME.h5ad for scanpy, which needs evae[anndata].
        data: images to encode instead of the run's own; as in evae train, or a single image file.
        layout: the code as one list column, vector, or as columns z0, z1, ...
        thumbnails: also write the images, as the model sees them, as PNG files in a column named image.
        likelihood_samples: posterior samples per image for the bound on ln p(x); 0 leaves it out.
        images: how other images are read.
        seed: seed of these samples.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        overwrite: replace the file that out names also where it does not hold codes by evae.

    Raises:
        ConfigError: the output has another suffix, or an option is not valid.
        RunError: the folder is not a run, or the file cannot be written or would replace another one.
        DataError: the images cannot be used with this model.
    """
    run, out, data = RunFolder(run_folder), Path(out), None if data is None else named(data)
    checks.one_of("layout", layout, get_args(Layout))
    checks.whole_number("likelihood_samples", likelihood_samples, 0)
    checks.seed(seed)
    check_output(out, "codes", overwrite, data=data_of(run, data))
    _check_format(out, thumbnails)
    model = run.model().to(resolve_device(device))
    if thumbnails and model.is_row:
        raise ConfigError("--thumbnails is for images; the model is of rows of numbers")
    describer = Describer(model, likelihood_samples)
    reference = reference_errors(run, describer)
    with seeded(seed), TemporaryDirectory(prefix="evae-") as folder:
        labels = list[Label]()
        spool = _Spool(Path(folder) / "codes.arrows")
        found = collection(run, model, data, images).parts
        spool.fill(_table(part, describer, reference, layout, thumbnails, labels) for part in found)
        about = {"rate": model.objective.divergence_name, "bound": f"under the {describer.prior_name} prior"}
        write = _write_h5ad if out.suffix.lower() == ".h5ad" else _write_parquet
        with replacing(out) as temporary:
            write(spool, _label_column(labels), about, temporary)
    console.print(f"{counted(len(labels), 'latent code')} in {out}", soft_wrap=True)
    return out


def _check_format(out: Path, thumbnails: bool) -> None:
    suffix = out.suffix.lower()
    if suffix not in (".parquet", ".h5ad"):
        raise ConfigError(f"--out {out} does not end with .parquet or .h5ad; name it {out.stem}.parquet")
    if suffix == ".h5ad":
        if thumbnails:
            raise ConfigError("--thumbnails is for .parquet files; leave it out, or choose another --out")
        _anndata()


def _anndata() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise ConfigError(
            f"an .h5ad file needs the extra: pip install 'evae[anndata]' ({error}); .parquet needs none"
        ) from error
    return anndata


def _table(
    part: Part,
    describer: Describer,
    reference: NDArray[np.float64] | None,
    layout: Layout,
    thumbnails: bool,
    labels: list[Label],
) -> pa.Table:
    """The rows of some images but for their labels, which are added to ``labels``: their type is known at the end."""
    labels += part.labels
    found = describer(to_float(part.pixels, describer.model.device))
    columns = _identity(part) | {"split": pa.array(part.splits, pa.string())} | _numbers(found, reference)
    columns |= _codes(found.codes, layout)
    if thumbnails:
        seen = part.pixels if part.pixels.shape[1] == 4 else figures.shown(part.pixels)
        pictures = [figures.png(figures.to_image(pixels.transpose(1, 2, 0))) for pixels in seen]
        names = map(utf8, part.names)
        files = [{"bytes": content, "path": name} for content, name in zip(pictures, names, strict=True)]
        columns["image"] = pa.array(files, _IMAGE)
    return pa.table(columns)


def _identity(part: Part) -> dict[str, pa.Array]:
    if all(name.isdigit() for name in part.names):
        return {"index": pa.array([int(name) for name in part.names], pa.int64())}
    return {"file": pa.array([utf8(name) for name in part.names])}


def _numbers(found: Description, reference: NDArray[np.float64] | None) -> dict[str, pa.Array]:
    """The columns of numbers; bounds that are not finite are null."""
    errors = found.errors.double().numpy()
    columns = {"error": pa.array(errors, pa.float32())}
    if reference is not None:
        columns["error_percentile"] = pa.array(percentiles(errors, reference), pa.float32())
    for name, values in (("rate", found.rates), ("bound", found.bounds)):
        if values is not None:
            numbers = values.double().numpy()
            columns[name] = pa.array(numbers, pa.float32(), mask=~np.isfinite(numbers))
    return columns


def _codes(codes: Tensor, layout: Layout) -> dict[str, pa.Array]:
    values = codes.float().numpy()
    if layout == "columns":
        return {f"z{k}": pa.array(np.ascontiguousarray(values[:, k])) for k in range(values.shape[1])}
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return {"vector": fixed.cast(pa.list_(pa.float32()))}


def _label_column(labels: Sequence[Label]) -> pa.Array:
    """Whole numbers as such; where there are other labels, all as texts."""
    classes, names = encode_labels(labels, ())
    if names:
        return pa.array([names[i] if i >= 0 else None for i in classes.tolist()], pa.string())
    return pa.array([i if i >= 0 else None for i in classes.tolist()], pa.int64())


class _Spool:
    """Tables on the disk, between the time they are made and the time the labels' type is known."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, tables: Iterator[pa.Table]) -> None:
        """Write all tables; the first one has the columns of all."""
        first = next(tables)
        with pa.OSFile(str(self.path), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                if table.column_names != first.column_names:
                    raise DataError("some images have the names of files and others have numbers; encode them apart")
                writer.write_table(table.cast(first.schema))

    def tables(self, labels: pa.Array) -> Iterator[pa.Table]:
        """The tables with their labels after the split."""
        start = 0
        with pa.memory_map(str(self.path)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                table, stop = pa.Table.from_batches([batch]), start + batch.num_rows
                yield table.add_column(2, "label", labels[start:stop])
                start = stop


def _write_parquet(spool: _Spool, labels: pa.Array, about: dict[str, str], path: Path) -> None:
    writer = None
    for table in spool.tables(labels):
        if writer is None:
            metadata = parquet_mark("codes") | {_ABOUT.format(key): value for key, value in about.items()}
            writer = pq.ParquetWriter(path, table.schema.with_metadata(metadata))
        writer.write_table(table.cast(writer.schema))
    assert writer is not None  # a collection without images is an error
    writer.close()


def _write_h5ad(spool: _Spool, labels: pa.Array, about: dict[str, str], path: Path) -> None:
    """Codes as X, one column for each latent; all else of an image in obs."""
    import pandas as pd

    anndata = _anndata()
    whole = pa.concat_tables(list(spool.tables(labels)))
    codes = [name for name in whole.column_names if name == "vector" or re.fullmatch(r"z\d+", name)]
    if codes == ["vector"]:
        x = np.stack(whole["vector"].to_numpy()).astype(np.float32)
    else:
        x = np.column_stack([whole[name].to_numpy() for name in codes])
    obs = {name: _plain(whole[name]) for name in whole.column_names if name not in codes}
    names = _distinct([str(name) for name in whole[0].to_pylist()])
    table = anndata.AnnData(
        x,
        obs=pd.DataFrame(obs, index=pd.Index(names, dtype=object)).assign(
            **{name: _categories(whole[name]) for name in ("split", "label")}
        ),
        uns={"evae": about | {"mark": mark("codes")}},
    )
    table.var_names = pd.Index([f"z{k}" for k in range(x.shape[1])], dtype=object)
    whole_file = spool.path.with_suffix(".h5ad")
    table.write_h5ad(whole_file)  # not to ``path``, which is locked: HDF5 would lock it, too
    shutil.copyfile(whole_file, path)


def _plain(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers, NaN for none; texts as Python's: anndata writes no others."""
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), object)
    return np.asarray(column.to_numpy())


def _categories(column: pa.ChunkedArray) -> Any:
    import pandas as pd

    values = [None if value is None else str(value) for value in column.to_pylist()]
    return pd.Categorical(values, pd.Index(sorted({value for value in values if value is not None}), dtype=object))


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where they are the same: files of several tables may share one."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found
