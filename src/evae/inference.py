"""What a trained run makes: samples, reconstructions of one's own images, latent codes."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from evae import checks, figures
from evae.console import console
from evae.data import ImageOptions, Images, to_float
from evae.data.decode import SUFFIXES, BadImageError, decode
from evae.data.store import OnBadImage
from evae.errors import ConfigError, DataError, RunError
from evae.models import VAE
from evae.models.vae import Latents
from evae.numerics import resolve_device
from evae.runs import RunFolder
from evae.runs.images import batches, images_for


def load_model(folder: Path) -> VAE:
    """The model of a run, in evaluation mode on the CPU.

    Raises:
        RunError: the folder is not a run, has no weights yet, or they are damaged.
    """
    return RunFolder(folder).model()


def sample(run_folder: Path, count: int = 64, out: Path | None = None, seed: int = 0, device: str = "cpu") -> Path:
    """Decode draws from a run's prior into a grid of images, or into one file each.

    Args:
        run_folder: the folder of a trained run.
        count: how many.
        out: an image file (.png) for a grid, an .npy for an array (count, H, W, C), or a folder for one .png each;
            default: a grid in the run folder, figures/samples.png.
        seed: of the draws.
        device: where to compute, e.g. cpu or cuda.

    Returns:
        What was written.

    Raises:
        RunError: the folder is no run, or the output cannot be written.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}")
    folder = Path(run_folder)
    model = RunFolder(folder).model().to(resolve_device(device))
    torch.manual_seed(checks.seed(seed))
    images = torch.cat([model.sample(min(500, count - start)) for start in range(0, count, 500)])
    path = Path(out) if out else folder / "figures" / "samples.png"
    try:
        if path.suffix == ".npy":
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, figures.to_uint8(images))
        elif path.suffix.lower() in SUFFIXES:
            path.parent.mkdir(parents=True, exist_ok=True)
            figures.image_grid(images, columns=round(count**0.5)).save(path)
        else:
            _save_each(images, [f"{i:06d}" for i in range(count)], path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror})") from error
    console.print(f"{count} samples in {path}", soft_wrap=True)
    return path


def reconstruct(
    run_folder: Path, images: list[Path], out: Path, latents: Latents = "mean", seed: int = 0, device: str = "cpu"
) -> Path:
    """Reconstruct images with a trained run: one file each, and a figure of originals above reconstructions.

    Args:
        run_folder: the folder of a trained run.
        images: files, or folders of them; cropped to the centre square and resized as the model needs.
        out: folder for the reconstructions and comparison.png.
        latents: decode the posterior's mean, or one sample of it.
        seed: of the samples.
        device: where to compute, e.g. cpu or cuda.

    Returns:
        The folder.

    Raises:
        RunError: the folder is no run, or the output cannot be written.
        DataError: a file does not exist or is no image.
    """
    model = RunFolder(Path(run_folder)).model().to(resolve_device(device))
    files = _image_files(images)
    shape = model.image_shape
    names = _distinct([file.stem for file in files])
    written = {(Path(out) / f"{name}.png").resolve() for name in [*names, "comparison"]}
    if overwritten := [file for file in files if file.resolve() in written]:
        raise RunError(f"{overwritten[0]} would be overwritten by its reconstruction; choose another --out than {out}")
    originals = to_float(np.stack([_load(file, shape[0], shape[1]) for file in files]), device)
    torch.manual_seed(checks.seed(seed))
    rebuilt = torch.cat([model.reconstruct(batch, latents) for batch in originals.split(500)])
    out = Path(out)
    try:
        _save_each(rebuilt, names, out)
        figures.save_rows({"original": originals[:16], "reconstruction": rebuilt[:16]}, out / "comparison.png")
    except OSError as error:
        raise RunError(f"{out} could not be written ({error.strerror})") from error
    console.print(f"{len(files)} reconstructions and comparison.png in {out}", soft_wrap=True)
    return out


def encode(
    run_folder: Path,
    out: Path,
    data: str | None = None,
    image_size: int | None = None,
    crop: int | None = None,
    on_bad_image: OnBadImage = "skip",
    device: str = "cpu",
) -> Path:
    """Write the posterior means of images to a parquet file: file or index, split, label, and one column per latent.

    Args:
        run_folder: the folder of a trained run.
        out: the parquet file to write.
        data: images to encode instead of the run's own; as in evae train.
        image_size: resize other images to this; default: their own, which must be the model's.
        crop: side of the centre crop of other images.
        on_bad_image: skip images that cannot be decoded with a warning, or stop with an error.
        device: where to compute, e.g. cpu or cuda.

    Returns:
        The parquet file.

    Raises:
        RunError: the folder is no run, or the file cannot be written.
        DataError: the images cannot be used with this model.
    """
    folder, out = Path(run_folder), Path(out)
    model = RunFolder(folder).model().to(resolve_device(device))
    store = images_for(RunFolder(folder), model, data, ImageOptions(image_size, crop, on_bad_image))
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writer, written = None, 0
        for images in (store.train, store.holdout):
            start = 0
            for batch in batches(images, resolve_device(device), f"encoding {images.split}"):
                with torch.no_grad():
                    latents = model.encode(batch).cpu()
                table = _latent_table(images, start, latents, store.class_names)
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
                written += table.num_rows
                start += len(batch)
        assert writer is not None  # a store has images in both splits
        writer.close()
        os.replace(temporary, out)
    except OSError as error:
        raise RunError(f"{out} could not be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    console.print(f"{written} latent codes in {out}", soft_wrap=True)
    return out


def _latent_table(images: Images, start: int, latents: Tensor, class_names: tuple[str, ...]) -> pa.Table:
    rows = slice(start, start + len(latents))
    names, labels = images.names[rows], images.labels[rows].tolist()
    by_index = images.names[0].isdigit()
    identity = {"index": pa.array(map(int, names))} if by_index else {"file": pa.array(map(_readable, names))}
    if class_names:
        known = dict(enumerate(class_names))
        label = pa.array([known.get(i, str(i)) if i >= 0 else None for i in labels], pa.string())
    else:
        label = pa.array([i if i >= 0 else None for i in labels], pa.int64())
    split = pa.array([images.split] * len(latents))
    codes = {f"z{k}": pa.array(latents[:, k].numpy()) for k in range(latents.shape[1])}
    good = [i for i in range(len(latents)) if start + i not in images.bad]
    return pa.table({**identity, "split": split, "label": label, **codes}).take(good)


def _readable(name: str) -> str:
    """A file's name with what is not UTF-8 in it replaced."""
    return name.encode(errors="replace").decode()


def _image_files(images: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, images):
        found = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
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
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(names, figures.to_uint8(images), strict=True):
        figures.to_image(pixels).save(folder / f"{name}.png")


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where they are the same (or another output's)."""
    taken = {"comparison"}
    distinct = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate)
        distinct.append(candidate)
    return distinct
