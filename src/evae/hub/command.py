"""``evae push`` and ``evae pull``: a run to the Hugging Face hub, and from it into a run folder."""

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from evae import figures
from evae.console import console
from evae.data import Account, to_float
from evae.errors import ConfigError, RunError
from evae.files import replace, temporary_folder, write_atomically
from evae.hub.card import Published, card
from evae.hub.public import (
    as_json,
    as_yaml,
    check_no_paths,
    public_config,
    public_data,
    public_evaluation,
    public_prior,
)
from evae.hub.remote import check_repository, check_token, commit, download, find_revision
from evae.models import VAE
from evae.models.fitted import FOLDER, RECORD, TENSORS, prior_files
from evae.models.pretrained import CONFIG as MODEL_CONFIG
from evae.models.pretrained import WEIGHTS
from evae.numerics import resolve_device, seeded
from evae.outputs import mark
from evae.records import RecordError, read_json
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.evaluation import RESULTS, current_evaluation
from evae.runs.folder import ACCOUNT, CONFIG, METRICS
from evae.runs.images import check_is_of_images, own_images

_CARD, _SAMPLES, _RECONSTRUCTIONS = "README.md", "figures/samples.png", "figures/reconstructions.png"
_PRIOR = (f"{FOLDER}/{RECORD}", f"{FOLDER}/{TENSORS}")
_FILES = (MODEL_CONFIG, WEIGHTS, _CARD, CONFIG, METRICS, RESULTS, *_PRIOR, _SAMPLES, _RECONSTRUCTIONS)
_OURS = re.compile("|".join(map(re.escape, _FILES)))
_SAMPLED, _COLUMNS, _COMPARED = 64, 8, 12  # images in the pictures


def push(
    run_folder: Path,
    repository: str,
    licence: str | None = None,
    private: bool = False,
    show_data: bool = False,
    labels: bool = False,
    out: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path | str:
    """Publish a run on the Hugging Face hub: model, fitted prior, settings, metrics, and a model card with a picture.

    Left out are checkpoints, the account of the data, and whatever names a file or folder of this machine or a class:
    data that are neither built in nor on the hub are called "(not published)". The files are searched for the paths of
    the home folder, the run and the data before anything is uploaded.

    Args:
        run_folder: the folder of a trained run.
        repository: owner/name on the hub; it is made where there is none.
        licence: of the model, an identifier of the hub's list, e.g. apache-2.0.
        private: make the repository private.
        show_data: also publish what shows images of the data: hold-out images beside their reconstructions, and a prior
            of kind kde, which holds the code of every training image.
        labels: also publish the names of the classes.
        out: write the files to this new folder, to look at them, and upload nothing.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        overwrite: replace a model that the repository has; the hub keeps the earlier commit.

    Returns:
        The address of the repository, or ``out``.

    Raises:
        RunError: the folder is no run, its weights are missing or damaged, there is no token, the hub cannot be reached
            or refuses, or a file would publish a path of this machine.
        DataError: the hold-out images are to be published and are not there any more.
        ConfigError: the name of the repository or of the licence cannot be one.
    """
    check_repository(repository)
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise ConfigError(f"--licence {licence} is no identifier of the hub's list, such as apache-2.0 or cc-by-4.0")
    if out is None:
        check_token()
    else:
        _check_new(out)
    run = RunFolder(run_folder)
    files = _published(run, repository, licence, show_data, labels, device)
    check_no_paths(files, run)
    size = sum(map(len, files.values())) / 1e6
    if out is not None:
        for name, content in files.items():
            write_atomically(Path(out) / name, content)
        console.print(f"{counted(len(files), 'file')}, {size:.1f} MB, in {out}; nothing was uploaded", soft_wrap=True)
        return out
    console.print(f"uploading {counted(len(files), 'file')}, {size:.1f} MB: {', '.join(files)}", soft_wrap=True)
    url = commit(repository, files, _OURS, private, overwrite)
    console.print(f"{run} is {url}; evae pull {repository} --out RUN loads it", soft_wrap=True)
    return url


def _published(
    run: RunFolder, repository: str, licence: str | None, show_data: bool, labels: bool, device: str
) -> dict[str, bytes]:
    """The files of the repository, by name."""
    config = public_config(run, repository.rpartition("/")[2])
    model, data = run.model(), public_data(run)
    check_is_of_images(run, model, "push")
    evaluation = current_evaluation(run)
    evaluation = evaluation and public_evaluation(evaluation, data)
    files = {name: (run.path / name).read_bytes() for name in (MODEL_CONFIG, WEIGHTS)}
    files[CONFIG] = as_yaml(config)
    if lines := run.metrics():
        files[METRICS] = "".join(f"{line}\n" for line in map(json.dumps, lines)).encode()
    if evaluation is not None:
        files[RESULTS] = as_json(evaluation.to_dict())
    prior = model.read_prior()
    if prior is not None and prior.kind == "kde" and not show_data:
        console.print("the kde prior holds the codes of all training images and is left out; --show-data publishes it")
        prior = None
        model.attach_prior(None)
    if prior is not None:
        files |= prior_files(public_prior(prior, data))
    captions = _pictures(run, model.to(resolve_device(device)), show_data, files)
    about = Published(
        repository, model, config, data, _account(run), evaluation, captions, licence=licence, labels=labels
    )
    return {_CARD: card(about).encode(), **files}


def _account(run: RunFolder) -> Account | None:
    """What was read of the data; None where the run does not tell."""
    try:
        return read_json(run.path / ACCOUNT, Account)
    except (OSError, RecordError):
        return None


def _pictures(run: RunFolder, model: VAE, show_data: bool, files: dict[str, bytes]) -> dict[str, str]:
    """Draw the pictures of the card and add them to the files; their captions by name."""
    captions = {}
    with TemporaryDirectory(prefix="evae-") as folder, seeded(0):
        path = Path(folder) / "picture.png"
        prior = model.read_prior()
        grid = figures.image_grid(model.sample(_SAMPLED).cpu(), _COLUMNS)
        figures.save_image(figures.enlarged(grid, model.image_shape[-1]), path, mark("samples"))
        files[_SAMPLES] = path.read_bytes()
        of_model = "the prior that the model was trained with"
        of = of_model if prior is None else f"a prior that was fitted to the codes, {prior}"
        captions[_SAMPLES] = f"{_SAMPLED} samples of {of}"
        if show_data:
            originals = to_float(own_images(run).holdout.read(slice(0, _COMPARED)), model.device)
            rows = {"original": originals.cpu(), "reconstruction": model.reconstruct(originals).cpu()}
            figures.save_rows(rows, path, mark("reconstruction"))
            files[_RECONSTRUCTIONS] = path.read_bytes()
            captions[_RECONSTRUCTIONS] = "Hold-out images and their reconstructions, decoded posterior means"
    return captions


def pull(repository: str, out: Path, revision: str | None = None) -> Path:
    """Load a run that evae push published into a new run folder.

    Only models of evae's own classes and networks are loaded, so that no other code is ever imported for the folder.

    Args:
        repository: owner/name on the hub.
        out: the run folder to make.
        revision: a branch, tag or commit; default: the newest state.

    Returns:
        ``out``.

    Raises:
        RunError: the hub cannot be reached, or has no such repository; the model in it is damaged or of another class;
            or the folder exists.
        ConfigError: the name of the repository cannot be one.
    """
    check_repository(repository)
    out = Path(out)
    _check_new(out)
    found = find_revision(repository, revision)
    if not {MODEL_CONFIG, WEIGHTS} <= set(found.files):
        raise RunError(f"{repository} on the hub holds no model of evae: {MODEL_CONFIG} or {WEIGHTS} is missing")
    model: VAE = VAE.from_pretrained(repository, revision=found.commit)
    names = [name for name in found.files if name in _FILES]
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(out) as folder:
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(download(repository, name, found.commit), folder / name)
            replace(folder, out)
    except OSError as error:
        raise RunError(f"{out} could not be written ({error.strerror or error})") from error
    what = f"{type(model).__name__} of {repository} at commit {found.commit[:8]}"
    console.print(f"{what}, {counted(len(names), 'file')}, in {out}; evae sample {out} draws from it", soft_wrap=True)
    return out


def _check_new(out: Path) -> None:
    """Raise RunError unless ``out`` is the name of a folder that does not exist or is empty."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"--out {out} exists; choose another")
