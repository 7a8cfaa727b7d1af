"""``evae train``: from settings to a running loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from evae import checks
from evae.console import console
from evae.data import ImageOptions, Images, Store, absolute, open_store, to_float
from evae.data.decode import NUMBERS, Channels
from evae.data.memory import Data, named
from evae.data.store import check_transform
from evae.errors import ConfigError, DataError
from evae.fitting import fit_prior
from evae.fitting.kinds import check_fittable
from evae.models import EVAE, VAE, ImageShape, check_buildable
from evae.numerics import seeded
from evae.rounding import counted
from evae.runs import Progress, RunFolder
from evae.runs.checkpoints import trained_images
from evae.settings import flat
from evae.training.fabric import arithmetic, explain_memory_errors, open_fabric
from evae.training.fit import fit
from evae.training.loggers import check_logger, open_logger
from evae.training.meter import DivergedError
from evae.training.preemption import InterruptedRun, signals_as_exceptions
from evae.training.processes import launched
from evae.training.ranks import StoppedElsewhereError
from evae.training.settings import Compute, Logging, Recipe, RunOptions, Settings
from evae.training.sharding import check_shardable

_CHOSEN_BY_HOLDOUT = (
    "the best epoch is chosen by the hold-out {noun}s, which evae evaluate also measures; --validation 0.1 chooses it "
    "by held-back training {noun}s instead"
)


@flat
@signals_as_exceptions()
def train(
    data: Data,
    out: Path,
    model: Callable[[ImageShape], VAE] = EVAE,
    images: ImageOptions = ImageOptions(),
    recipe: Recipe = Recipe(),
    run: RunOptions = RunOptions(),
    compute: Compute = Compute(),
    logging: Logging = Logging(),
) -> Path:
    """Train a model on images or rows of numbers and write a run folder: configuration, metrics, model and figures.

    The fields of the last five parameters are keywords, too: ``train("mnist5k", "runs/a", EVAE, epochs=3)``.

    Args:
        data: mnist5k, shapes, mnist, fashion_mnist, cifar10, celeba, a dataset id of the Hugging Face hub, a folder of
            images, Parquet or Arrow files of images or of columns of numbers, a CSV file of numbers, an .npz or .npy
            file, or a .txt file that lists image files. With hf-stream: before an id or a folder of Parquet files,
            training images are read on demand instead of being decoded to the cache (experimental).
        out: the run folder to write.
        model: a family (see evae models) or an import path of your own, e.g. mypackage.nets.MyVAE; its hyperparameters
            are set by --model.NAME, e.g. --model.latent_dim 64.
        images: how images are read.
        recipe: optimisation.
        run: what to do with an existing run, and when to stop.
        compute: devices and arithmetic.
        logging: loggers.

    Raises:
        DataError: the images cannot be used.
        ConfigError: a setting cannot work.
        RunError: the run folder cannot be created, written or resumed.
        InterruptedRun: SIGINT, SIGTERM or SIGUSR1 came, or the time limit; the state is saved.
        StoppedError: SIGTERM or SIGUSR1 came before the first step or after the last.
        DivergedError: the loss is not finite any more; the checkpoint before is kept.
    """
    data, settings = named(data), Settings(images, recipe, run, compute, logging)
    deadline = None if run.time_limit is None else time.monotonic() + 60 * run.time_limit
    folder = RunFolder(Path(out))
    fabric = open_fabric(compute)
    with _quiet(not fabric.is_global_zero), arithmetic(compute.precision), seeded(recipe.seed):
        _check_before_decoding(fabric, folder, model, settings)
        store = open_store(
            data,
            images.image_size,
            images.crop,
            images.on_bad_image,
            images.image_column,
            show_account=True,
            channels=images.channels,
        )
        store = store.split_validation(recipe.validation, recipe.seed)
        network = _build(model, store, settings)
        if run.fit_prior:
            check_fittable(run.fit_prior, network)
        config = _resolved(data, folder, network, store, settings)
        network.prepare(partial(_drawn, store.train, recipe.seed), recipe.batch_size)
        if compute.sync_batchnorm and compute.processes > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        progress = _run(fabric, network, store, folder, config, settings, deadline)
        if progress is not None:
            trained = progress.step // (len(store.train) // recipe.batch_size)
            early = f", {recipe.patience} of them without a lower validation loss" if trained < recipe.epochs else ""
            done = f"{folder}: trained for {counted(trained, 'epoch')}{early}; evae evaluate {folder} measures it"
            console.print(done, soft_wrap=True)
        if progress is not None and run.fit_prior and fabric.is_global_zero:
            fit_prior(folder.path, kind=run.fit_prior, seed=recipe.seed, device=fabric.device.type)
    return folder.path


def _check_before_decoding(
    fabric: Fabric, folder: RunFolder, model: Callable[[ImageShape], VAE], settings: Settings
) -> None:
    """Raise what is found wrong without the images, before hours of decoding."""
    recipe, compute, images = settings.recipe, settings.compute, settings.images
    if recipe.batch_size % compute.processes:
        raise ConfigError(f"batch_size {recipe.batch_size} is not divisible by {compute.processes} devices")
    if compute.strategy == "fsdp" and recipe.ema is not None:
        raise ConfigError("--ema is not for --strategy fsdp: an average needs all weights in every step")
    if settings.logging.logger is not None:
        check_logger(settings.logging.logger)
    if fabric.is_global_zero:
        if settings.run.resume and folder.is_run:
            folder.check_not_shorter(recipe.epochs)
        else:
            folder.check_free(settings.run.overwrite)
    check_transform(images.image_size, images.crop)
    with explain_memory_errors(recipe.batch_size):
        channels = checks.one_of("channels", images.channels, get_args(Channels))
        check_buildable(model, images.image_size, (NUMBERS[channels],) if channels in NUMBERS else (3, 1))


def _build(model: Callable[[ImageShape], VAE], store: Store, settings: Settings) -> VAE:
    """The model with its initial weights, a function of the seed."""
    size, count = settings.recipe.batch_size, len(store.train)
    if size > count:
        raise ConfigError(f"batch_size {size} is larger than the {count} training {store.noun}s of {store.source}")
    torch.manual_seed(settings.recipe.seed)
    with explain_memory_errors(size):
        network = model(store.image_shape)
    network.columns = store.columns
    if settings.compute.strategy == "fsdp":
        check_shardable(network)
    return network


def _drawn(images: Images, seed: int, count: int) -> Tensor:
    """This many distinct training images (count, C, H, W), or rows (count, F), chosen by the seed."""
    if count > len(images):
        noun = "rows" if len(images.shape) == 2 else "images"
        raise ConfigError(f"the model initialises from {count} training {noun}, but there are only {len(images)}")
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return to_float(images.read(np.sort(chosen)), torch.device("cpu"))


def _run(
    fabric: Fabric,
    network: VAE,
    store: Store,
    folder: RunFolder,
    config: dict[str, Any],
    settings: Settings,
    deadline: float | None,
) -> Progress | None:
    """Claim the folder, start the other processes and train; None on a rank that leaves the message to the first."""
    first, run, logger = fabric.is_global_zero, settings.run, settings.logging.logger
    # What only one process may do comes before the others are started: if it fails, none starts.
    with folder.locked() if first else nullcontext():
        if first:
            is_same = trained_images(folder) == store.fingerprint
            folder.claim(config, Settings().flat(), run.resume is not None, run.overwrite, is_same)
            folder.write_account(store.account)
        compute = settings.compute
        with (
            open_logger(logger if first else None, folder.path, config) as log,
            launched(fabric, compute.processes, compute.num_nodes),
        ):
            if store.validation is None:
                console.print(_CHOSEN_BY_HOLDOUT.format(noun=store.noun), soft_wrap=True)
            try:
                return fit(fabric, network, store, folder, settings, log, deadline=deadline)
            except (InterruptedRun, DivergedError, StoppedElsewhereError, DataError):
                if first:
                    raise
                return None  # the first process reports it; another exit code would kill that one before it has


def _resolved(data: str, folder: RunFolder, network: VAE, store: Store, settings: Settings) -> dict[str, Any]:
    """The settings as plain values, enough to run the command again."""
    arguments = {name: value for name, value in network.hyperparameters.items() if name != "image_shape"}
    plain = settings.flat() | {"image_size": store.transform.get("size"), "crop": store.transform.get("crop")}
    model = {"class_path": network.class_path, "init_args": arguments}
    return {"data": absolute(data), "out": str(folder), "model": model, **plain}


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Messages of one process only."""
    before, console.quiet = console.quiet, quiet or console.quiet
    try:
        yield
    finally:
        console.quiet = before
