"""What a trained model is used for: samples, reconstructions of one's own images, latent codes."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from itertools import count as numbers
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evae import checks, figures, row_tables
from evae.console import console, warn
from evae.data import to_float
from evae.data.decode import SUFFIXES
from evae.data.rows import listed
from evae.data.sources import find_source
from evae.errors import DataError, RunError
from evae.files import replacing
from evae.fitting import fit_prior
from evae.models import VAE
from evae.models.pretrained import read_columns
from evae.models.vae import Latents
from evae.numerics import resolve_device, seeded
from evae.outputs import Kind, check_output, check_output_folder, data_of, mark
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.images import preprocessing
from evae.runs.preprocessing import Preprocessing

_BATCH = 500  # images decoded at a time
_ARRAY = ".npy"
_COMPARED = 16  # images in comparison.png


def load_model(folder: str | Path) -> VAE:
    """The model of a run, in evaluation mode on the CPU.

    Raises:
        RunError: the folder is not a run, has no weights yet, or they are damaged.
    """
    return RunFolder(Path(folder)).model()


def load_images(run_or_model: str | Path | RunFolder | VAE, images: str | Path | Sequence[str | Path]) -> Tensor:
    """Image files as a model takes them: floats (N, C, H, W) in [0, 1], on the CPU; or standardised rows (N, F).

    A file that the run was trained on gives the very pixels that it was trained on: the run's crop, size and scale of
    values are applied, and grey or colour is converted. A model alone knows its size and channels; its images are
    cropped to the centre square.

    Args:
        run_or_model: the folder of a trained run, or a model.
        images: files, or folders of them.

    Raises:
        RunError: the folder is not a run, or it is damaged.
        DataError: a file cannot be read or is not an image, or a folder holds none.
    """
    model = run_or_model if isinstance(run_or_model, VAE) else None
    if model is None and read_columns(path_of(run_or_model)) is not None:
        model = load_model(path_of(run_or_model))
    if model is not None and model.is_row:
        parts = [row_tables.read_rows(model, find_source(str(file))).standardised for file in _files(images)]
        return torch.from_numpy(np.concatenate(parts))
    if isinstance(run_or_model, VAE):
        rule = Preprocessing(run_or_model.image_shape)
    else:
        run = run_or_model if isinstance(run_or_model, RunFolder) else RunFolder(Path(run_or_model))
        rule = preprocessing(run, run.model())
    files = _image_files(images)
    return to_float(np.stack([rule.load(file) for file in files]))


def sample(
    run_folder: Path,
    count: int = 64,
    out: Path | None = None,
    prior: Literal["fitted", "model"] = "fitted",
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Decode draws from a prior of a run into a grid of images, an array, or one file each; or into a table of rows.

    Args:
        run_folder: the folder of a trained run.
        count: number of samples.
        prior: fitted, that of evae fit-prior, which is fitted first where there is none; or model, the one the model
            was trained with.
        out: an image file (.png) for a grid, in which small images are enlarged, an .npy for an array (count, H, W, C),
            or a folder for one .png each, of 2 or more than 4 channels one .tif with a page for each; default: a grid
            in the run folder, figures/samples.png. For rows of numbers a .parquet, .csv or .npy file, in the units of
            the data; default: samples.parquet in the run folder.
        seed: seed of the draws.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        overwrite: replace files that out names also where they are not samples by evae, or say nothing of it (.npy).

    Raises:
        RunError: the folder is not a run, its fitted prior is of other weights, or the output cannot be written or
            would replace other files.
        DataError: no prior was fitted, and the run's images are not there to fit one.
        ConfigError: a setting cannot work.
    """
    checks.whole_number("count", count, most=2**40)
    checks.one_of("prior", prior, ("fitted", "model"))
    checks.seed(seed)
    run = RunFolder(run_folder)
    is_row = read_columns(run.path) is not None
    if is_row:
        default = run.path / "samples.parquet"
        path = row_tables.check_table(default if out is None else Path(out), "samples", run, overwrite, default)
    else:
        path = _checked_output_of_samples(run, out, count, overwrite)
    model = run.model()
    if not is_row and _is_grid(path):
        figures.check_grid(path, count, model.image_shape, _columns(count))
    if prior == "fitted" and model.read_prior() is None:
        _fit_default(run, seed, device)
        model = run.model()
    model = model.to(resolve_device(device))
    if is_row:
        row_tables.write_samples(model, count, prior, seed, path)
        return path
    sizes = (min(_BATCH, count - start) for start in range(0, count, _BATCH))
    with seeded(seed):
        _write_samples((model.sample(size, prior).cpu() for size in sizes), count, path)
    console.print(f"{counted(count, 'sample')} of the {prior} prior in {path}", soft_wrap=True)
    return path


def _fit_default(run: RunFolder, seed: int, device: str) -> None:
    """Fit the default prior."""
    console.print(f"no prior was fitted to the codes of {run}: evae fit-prior {run} does it now", soft_wrap=True)
    try:
        fit_prior(run.path, seed=seed, device=device)
    except (DataError, RunError) as error:
        raise type(error)(f"{error}; --prior model draws from the prior the model was trained with") from error


def _checked_output_of_samples(run: RunFolder, out: Path | None, count: int, overwrite: bool) -> Path:
    """The file or folder of samples, if all of it may be written."""
    default = run.path / "figures" / "samples.png"
    path, data = default if out is None else Path(out), data_of(run)
    if _is_file(path):
        check_output(path, "samples", overwrite, default, data)
    else:
        there = chain(path.glob("*.png"), path.glob("*.tif")) if path.is_dir() else iter(())
        numbered = (file.name for file in there if re.fullmatch("[0-9]{6,}", file.stem) and int(file.stem) < count)
        check_output_folder(path, sorted(numbered), "samples", overwrite, data)
    return path


def _is_file(path: Path) -> bool:
    """Whether samples are written to a single file of this name."""
    return path.suffix.lower() == _ARRAY or _is_grid(path)


def _is_grid(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _columns(count: int) -> int:
    return round(count**0.5)


def _write_samples(images: Iterator[Tensor], count: int, path: Path) -> None:
    """To a grid, an array or a folder, as the path's suffix says; a batch at a time but for the grid."""
    if path.suffix.lower() == _ARRAY:
        with replacing(path) as temporary, temporary.open("wb") as file:
            for start, pixels in zip(range(0, count, _BATCH), map(figures.to_uint8, images), strict=True):
                if start == 0:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *pixels.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(pixels).data)
    elif _is_file(path):
        samples = torch.cat(list(images))
        grid = figures.enlarged(figures.image_grid(samples, columns=_columns(count)), samples.shape[-1])
        figures.save_image(grid, path, mark("samples"))
    else:
        for start, batch in zip(range(0, count, _BATCH), images, strict=True):
            _save_each(batch, [f"{start + i:06d}" for i in range(len(batch))], path, "samples")


def reconstruct(
    run_folder: Path,
    images: list[Path] | Path,
    out: Path,
    latents: Latents = "mean",
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Reconstruct image files with a trained run: one file each, and a figure of originals above reconstructions.

    Images are cropped and resized as those that the run was trained on; grey and colour are converted. Files that
    cannot be read are named in a warning, and the others are done. A run of rows of numbers takes one file of them, and
    writes one: a .parquet or .csv file with the index of each row, or an .npy file, in the units of the data.

    Args:
        run_folder: the folder of a trained run.
        images: files, or folders of them.
        out: folder for the reconstructions and comparison.png; of rows the table to write.
        latents: decode the posterior mean, or one sample of the posterior.
        seed: seed of the samples.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        overwrite: replace files of out also where they are not reconstructions by evae.

    Raises:
        RunError: the folder is not a run, or the output cannot be written or would replace other files.
        DataError: none of the files is an image that can be read.
    """
    run = RunFolder(run_folder)
    model = run.model().to(resolve_device(device))
    if model.is_row:
        return row_tables.reconstruct_rows(run, model, _files(images), Path(out), latents, seed, overwrite)
    files, out = _image_files(images), Path(out)
    names = _distinct([file.stem for file in files])
    own = figures.suffix(model.image_shape[0])
    targets = [*(f"{name}{own}" for name in names), "comparison.png"]
    written = {(out / target).resolve() for target in targets}
    if overwritten := [file for file in files if file.resolve() in written]:
        raise RunError(f"{overwritten[0]} would be overwritten by its reconstruction; choose another --out than {out}")
    check_output_folder(out, targets, "reconstruction", overwrite, data_of(run))
    rule = preprocessing(run, model)
    compared: list[tuple[Tensor, Tensor]] = []
    done, bad = 0, list[str]()
    with seeded(seed):
        for start in range(0, len(files), _BATCH):
            chunk = slice(start, start + _BATCH)
            loaded = _load(files[chunk], names[chunk], rule, bad)
            if not loaded:
                continue
            originals = to_float(np.stack(list(loaded.values())), model.device)
            rebuilt = model.reconstruct(originals, latents)
            _save_each(rebuilt, list(loaded), out, "reconstruction")
            compared = compared or [(originals[:_COMPARED], rebuilt[:_COMPARED])]
            done += len(loaded)
    if not done:
        raise DataError(listed(bad, "; "))
    rows = dict(zip(("original", "reconstruction"), compared[0], strict=True))
    figures.save_rows(rows, out / "comparison.png", mark("reconstruction"))
    console.print(f"{counted(done, 'reconstruction')} and comparison.png in {out}", soft_wrap=True)
    if bad:
        noun = "file was" if len(bad) == 1 else "files were"
        warn(f"{len(bad)} {noun} not reconstructed: {listed(bad, '; ')}")
    return out


def _load(files: list[Path], names: list[str], rule: Preprocessing, bad: list[str]) -> dict[str, NDArray[np.uint8]]:
    """The pixels of each file that can be read, by name; the sentences about the others are added to ``bad``."""
    loaded = {}
    for file, name in zip(files, names, strict=True):
        try:
            loaded[name] = rule.load(file)
        except DataError as error:
            bad.append(str(error))
    return loaded


def path_of(run: object) -> Path:
    """The folder of a run."""
    return run.path if isinstance(run, RunFolder) else Path(str(run))


def _files(files: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]


def _image_files(images: str | Path | Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in _files(images):
        found = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path} holds no images")
        files += found
    return files


def _save_each(images: Tensor, names: list[str], folder: Path, kind: Kind) -> None:
    for name, pixels in zip(names, figures.to_uint8(images), strict=True):
        first, *more = figures.pages(pixels)
        figures.save_image(first, folder / f"{name}{figures.suffix(pixels.shape[-1])}", mark(kind), more)


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where they are the same (or another output's)."""
    distinct = {"comparison": True}
    for name in names:
        candidates = chain([name], (f"{name}-{number}" for number in numbers(2)))
        distinct[next(candidate for candidate in candidates if candidate not in distinct)] = True
    return list(distinct)[1:]
