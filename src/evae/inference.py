"""What a trained model is used for: samples, reconstructions of one's own images, latent codes."""

from collections.abc import Iterator
from itertools import chain
from itertools import count as counted
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from evae import checks, figures
from evae.console import console
from evae.data import ImageOptions, Images, Store, to_float
from evae.data.decode import SUFFIXES, BadImageError, decode
from evae.errors import DataError, RunError
from evae.files import replacing
from evae.fitting import fit_prior
from evae.models import VAE
from evae.models.vae import Latents
from evae.numerics import resolve_device, seeded
from evae.runs import RunFolder
from evae.runs.images import batches, images_for
from evae.settings import flat

_BATCH = 500  # images decoded at a time
_COMPARED = 16  # images in comparison.png


def load_model(folder: Path) -> VAE:
    """The model of a run, in evaluation mode on the CPU.

    Raises:
        RunError: the folder is not a run, has no weights yet, or they are damaged.
    """
    return RunFolder(folder).model()


def sample(
    run_folder: Path,
    count: int = 64,
    out: Path | None = None,
    prior: Literal["fitted", "model"] = "fitted",
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Decode draws from a prior of a run into a grid of images, an array, or one file each.

    Args:
        run_folder: the folder of a trained run.
        count: number of samples.
        prior: fitted, that of evae fit-prior, which is fitted first where there is none; or model, the one the model
            was trained with.
        out: an image file (.png) for a grid, an .npy for an array (count, H, W, C), or a folder for one .png each;
            default: a grid in the run folder, figures/samples.png.
        seed: seed of the draws.
        device: cpu, cuda or mps; auto: a GPU where there is one.

    Raises:
        RunError: the folder is not a run, its fitted prior is of other weights, or the output cannot be written.
        DataError: no prior was fitted, and the run's images are not there to fit one.
        ConfigError: a setting cannot work.
    """
    checks.whole_number("count", count, most=2**40)
    checks.one_of("prior", prior, ("fitted", "model"))
    checks.seed(seed)
    run = RunFolder(run_folder)
    model = run.model()
    if prior == "fitted" and model.read_prior() is None:
        _fit_default(run, seed, device)
        model = run.model()
    model = model.to(resolve_device(device))
    path = Path(out) if out else run.path / "figures" / "samples.png"
    sizes = (min(_BATCH, count - start) for start in range(0, count, _BATCH))
    with seeded(seed):
        _write_samples((model.sample(size, prior).cpu() for size in sizes), count, path)
    console.print(f"{count} samples of the {prior} prior in {path}", soft_wrap=True)
    return path


def _fit_default(run: RunFolder, seed: int, device: str) -> None:
    """Fit the default prior."""
    console.print(f"no prior was fitted to the codes of {run}: evae fit-prior {run} does it now", soft_wrap=True)
    try:
        fit_prior(run.path, seed=seed, device=device)
    except (DataError, RunError) as error:
        raise type(error)(f"{error}; --prior model draws from the prior the model was trained with") from error


def _write_samples(images: Iterator[Tensor], count: int, path: Path) -> None:
    """To a grid, an array or a folder, as the path's suffix says; a batch at a time but for the grid."""
    if path.suffix.lower() == ".npy":
        with replacing(path) as temporary:
            array, start = None, 0
            for pixels in map(figures.to_uint8, images):
                if array is None:
                    array = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, *pixels.shape[1:]))
                array[start : start + len(pixels)] = pixels
                start += len(pixels)
    elif path.suffix.lower() in SUFFIXES:
        figures.save_image(figures.image_grid(torch.cat(list(images)), columns=round(count**0.5)), path)
    else:
        for start, batch in zip(range(0, count, _BATCH), images, strict=True):
            _save_each(batch, [f"{start + i:06d}" for i in range(len(batch))], path)


def reconstruct(
    run_folder: Path, images: list[Path], out: Path, latents: Latents = "mean", seed: int = 0, device: str = "auto"
) -> Path:
    """Reconstruct image files with a trained run: one file each, and a figure of originals above reconstructions.

    Args:
        run_folder: the folder of a trained run.
        images: files, or folders of them; cropped to the centre square and resized to the model's size.
        out: folder for the reconstructions and comparison.png.
        latents: decode the posterior mean, or one sample of the posterior.
        seed: seed of the samples.
        device: cpu, cuda or mps; auto: a GPU where there is one.

    Raises:
        RunError: the folder is not a run, or the output cannot be written.
        DataError: a file does not exist or is not an image.
    """
    model = RunFolder(run_folder).model().to(resolve_device(device))
    files, out = _image_files(images), Path(out)
    names = _distinct([file.stem for file in files])
    written = {(out / f"{name}.png").resolve() for name in [*names, "comparison"]}
    if overwritten := [file for file in files if file.resolve() in written]:
        raise RunError(f"{overwritten[0]} would be overwritten by its reconstruction; choose another --out than {out}")
    compared: list[tuple[Tensor, Tensor]] = []
    with seeded(seed):
        for start in range(0, len(files), _BATCH):
            chunk = slice(start, start + _BATCH)
            originals = to_float(np.stack([_load(file, *model.image_shape[:2]) for file in files[chunk]]), model.device)
            rebuilt = model.reconstruct(originals, latents)
            _save_each(rebuilt, names[chunk], out)
            compared = compared or [(originals[:_COMPARED], rebuilt[:_COMPARED])]
        rows = dict(zip(("original", "reconstruction"), compared[0], strict=True))
        figures.save_rows(rows, out / "comparison.png")
    console.print(f"{len(files)} reconstructions and comparison.png in {out}", soft_wrap=True)
    return out


@flat
def encode(
    run_folder: Path, out: Path, data: str | None = None, images: ImageOptions = ImageOptions(), device: str = "auto"
) -> Path:
    """Write the latent codes of images to a Parquet file: file or index, split, label, and one column per latent.

    A code is the posterior's mean, on a sphere its mean direction.

    Args:
        run_folder: the folder of a trained run.
        out: the Parquet file to write.
        data: images to encode instead of the run's own; as in evae train.
        images: how other images are read.
        device: cpu, cuda or mps; auto: a GPU where there is one.

    Raises:
        RunError: the folder is not a run, or the file cannot be written.
        DataError: the images cannot be used with this model.
    """
    run, out = RunFolder(run_folder), Path(out)
    model = run.model().to(resolve_device(device))
    store = images_for(run, model, data, images)
    with replacing(out) as temporary:
        written = _write_codes(model, store, temporary)
    console.print(f"{written} latent codes in {out}", soft_wrap=True)
    return out


@torch.no_grad()
def _write_codes(model: VAE, store: Store, path: Path) -> int:
    """The codes of all splits, to a Parquet file; returns their number."""
    writer, written = None, 0
    for images in filter(None, (store.train, store.validation, store.holdout)):
        start = 0
        for batch in batches(images, model.device, f"encoding {images.split}"):
            table = _latent_table(images, start, model.encode(batch).cpu(), store.class_names)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            written += table.num_rows
            start += len(batch)
    assert writer is not None  # a store has images in both splits
    writer.close()
    return written


def _latent_table(images: Images, start: int, latents: Tensor, class_names: tuple[str, ...]) -> pa.Table:
    rows = slice(start, start + len(latents))
    names, labels = images.names[rows], images.labels[rows].tolist()
    by_index = images.names[0].isdigit()
    files = [name.encode(errors="replace").decode() for name in names]  # names may be no UTF-8
    identity = {"index": pa.array(map(int, names))} if by_index else {"file": pa.array(files)}
    if class_names:
        known = dict(enumerate(class_names))
        label = pa.array([known.get(i, str(i)) if i >= 0 else None for i in labels], pa.string())
    else:
        label = pa.array([i if i >= 0 else None for i in labels], pa.int64())
    split = pa.array([images.split] * len(latents))
    codes = {f"z{k}": pa.array(latents[:, k].numpy()) for k in range(latents.shape[1])}
    good = [i for i in range(len(latents)) if start + i not in images.bad]
    return pa.table({**identity, "split": split, "label": label, **codes}).take(good)


def _image_files(images: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, images):
        found = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path} holds no images")
        files += found
    return files


def _load(file: Path, channels: int, size: int) -> np.ndarray:
    """An image file as 8-bit (C, size, size)."""
    try:
        pixels = decode(file.read_bytes(), size)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error
    except BadImageError as error:
        raise DataError(f"{file} {error}") from error
    if len(pixels) > channels:  # colour to grey, by Pillow's luma
        return np.asarray(figures.to_image(pixels.transpose(1, 2, 0)).convert("L"))[None]
    return np.broadcast_to(pixels, (channels, size, size))


def _save_each(images: Tensor, names: list[str], folder: Path) -> None:
    for name, pixels in zip(names, figures.to_uint8(images), strict=True):
        figures.save_image(figures.to_image(pixels), folder / f"{name}.png")


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where they are the same (or another output's)."""
    distinct = {"comparison": True}
    for name in names:
        candidates = chain([name], (f"{name}-{number}" for number in counted(2)))
        distinct[next(candidate for candidate in candidates if candidate not in distinct)] = True
    return list(distinct)[1:]
