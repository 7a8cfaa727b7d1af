"""``evae train``: from what was asked for to a loop that runs."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evae.console import console
from evae.data import Images, Store, absolute, open_store, to_float
from evae.data.store import OnBadImage, check_transform
from evae.errors import ConfigError, DataError
from evae.models import EVAE, VAE
from evae.runs import RunFolder
from evae.training.fabric import (
    Accelerator,
    Compile,
    Precision,
    Strategy,
    compiles,
    hints,
    is_first_process,
    open_fabric,
)
from evae.training.fit import InterruptedRun, fit
from evae.training.loggers import LoggerName, check_logger, open_logger
from evae.training.preemption import ending_stops
from evae.training.ranks import StoppedElsewhereError, synchronise_batch_norm
from evae.training.settings import Recipe
from evae.training.sharding import check_shardable

ImageShape = tuple[int, int, int]


@ending_stops()
def train(
    data: str,
    out: Path,
    model: Callable[[ImageShape], VAE] = EVAE,
    epochs: int = 50,
    batch_size: int = 100,
    learning_rate: float = 3e-4,
    seed: int = 0,
    image_size: int | None = None,
    crop: int | None = None,
    on_bad_image: OnBadImage = "skip",
    resume: Literal["auto"] | None = None,
    overwrite: bool = False,
    warmup: float = 0.0,
    decay: Literal["none", "cosine"] = "none",
    divergence_warmup: float = 0.0,
    gradient_clip: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    on_nonfinite: Literal["stop", "skip"] = "stop",
    time_limit: float | None = None,
    accelerator: Accelerator = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: Strategy = "auto",
    sync_batchnorm: bool = False,
    precision: Precision = "32-true",
    compile: Compile = "auto",
    logger: LoggerName | None = None,
    log_every: int | None = None,
) -> Path:
    """Train a model on images and leave all of it in a run folder.

    Args:
        data: mnist5k, mnist, fashion_mnist, cifar10, celeba, a dataset id of the Hugging Face hub, a folder of
            images, parquet or arrow files, or an .npz or .npy file; hf-stream: before an id or a folder of parquet
            files lets the training images stay where they are.
        out: the run folder to write.
        model: the family and its hyperparameters, e.g. --model EVAE --model.latent_dim 64.
        epochs: passes over the training images (those of the last incomplete batch wait for another epoch).
        batch_size: images in a step, over all devices; also eq. (10)'s M of an EVAE, unless --model.n is given.
        learning_rate: of Adam.
        seed: of the weights, the order of the images and the posterior's samples.
        image_size: height and width to resize to; default: 64 for folders and images above 32 pixels, else 32.
        crop: side of the centre crop in the images' own pixels; default: the largest square (celeba: 140).
        on_bad_image: skip images that cannot be decoded with a warning, or stop with an error.
        resume: auto continues the run in --out from its last checkpoint, if there is one.
        overwrite: replace the run in --out.
        warmup: epochs in which the learning rate rises linearly from 0; may be a fraction.
        decay: cosine lets the learning rate fall to 0 at the end of the last epoch.
        divergence_warmup: epochs in which the divergence's weight (1, a BetaVAE's beta, ...) rises linearly from 0.
        gradient_clip: the largest norm of the gradient; a longer one is shortened to it.
        ema: keep an exponential moving average of the weights with this decay, e.g. 0.999; it is what is saved as
            the model and measured on the hold-out images.
        patience: stop after so many epochs without a lower hold-out loss; those of the warm-ups do not count.
        on_nonfinite: stop when a loss or gradient is not finite, saying where, or skip the step and count it.
        time_limit: minutes after which to save and stop, with exit code 75.
        accelerator: where to compute.
        devices: GPUs (or processes, on CPU) of each machine.
        num_nodes: machines.
        strategy: ddp computes gradients on all devices and averages them; auto does so where there are several. fsdp
            also shares out weights, gradients and the state of Adam between them, for networks too large for one.
        sync_batchnorm: with several devices, normalise by the statistics of the whole batch.
        precision: of the arithmetic; posteriors and losses are float32 at least. tf32 is for CUDA.
        compile: the model with torch.compile; auto: on CUDA only.
        logger: also log to tensorboard (in the run folder), wandb, mlflow or trackio; each needs the extra of its
            name, e.g. evae[tensorboard].
        log_every: also log every so many steps, beside every epoch.

    Returns:
        The run folder.

    Raises:
        DataError: the images cannot be used.
        ConfigError: a setting cannot work.
        RunError: the run folder cannot be created, written or resumed.
        InterruptedRun: SIGINT, SIGTERM or SIGUSR1 came, or the time limit; the state is saved.
        StoppedError: SIGTERM or SIGUSR1 came before the first step or after the last.
        DivergedError: the loss is not finite any more; the checkpoint before is kept.
    """
    settings = {k: v for k, v in locals().items() if k not in ("model", "resume", "overwrite")}
    recipe = Recipe(**{field.name: settings[field.name] for field in fields(Recipe)})
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other")
    out, first = Path(out), is_first_process()
    console.quiet = not first
    # What is easily found wrong without the images is, before hours of decoding.
    fabric = open_fabric(accelerator, devices, num_nodes, strategy, precision)
    if batch_size % (devices * num_nodes):
        raise ConfigError(f"batch_size {batch_size} cannot be shared out equally to {devices * num_nodes} devices")
    if strategy == "fsdp" and ema is not None:
        raise ConfigError("--ema is not for --strategy fsdp: an average needs all weights in every step")
    if logger is not None:
        check_logger(logger)
    if first:
        _check_out(out, resume, overwrite, epochs)
    check_transform(image_size, crop)
    if image_size is not None:
        _check_size(model, image_size, batch_size)
    store = open_store(data, image_size, crop, on_bad_image)
    settings["data"] = absolute(data)
    if batch_size > len(store.train):
        raise ConfigError(f"batch_size {batch_size} is larger than the {len(store.train)} training images of {data}")
    torch.manual_seed(seed)
    network = _build(model, store.image_shape, batch_size)
    if strategy == "fsdp":
        check_shardable(network)
    network.initialise(partial(_drawn, store.train, seed))
    config = _resolved(settings, network, store)
    # What only one process may do comes before the others are started: what stops it stops all.
    with RunFolder(out).locked() if first else nullcontext():
        opened = open_logger(logger, out, config) if first else None
        if first:
            _claim(out, config, resume, overwrite)
        fabric.launch()
        if sync_batchnorm and fabric.world_size > 1:
            synchronise_batch_norm(network)
        try:
            state = fit(fabric, network, store, out, recipe, compiles(compile, fabric.device), opened)
        except (InterruptedRun, StoppedElsewhereError, DataError):
            if first:
                raise
            return out  # the first process says it; any other's exit code would kill that one before it has
    trained = state.step // (len(store.train) // batch_size)
    early = f", {patience} of them without a lower hold-out loss," if trained < epochs else ""
    console.print(f"{out}: trained for {trained} epochs{early}; evae evaluate {out} measures it", soft_wrap=True)
    return out


def _claim(out: Path, config: dict[str, Any], resume: Literal["auto"] | None, overwrite: bool) -> None:
    """Make the run folder this run's, new or to be gone on with."""
    if _goes_on(out, resume):
        RunFolder(out).check_resumable(config)
        RunFolder(out).write_config(config)
    else:
        RunFolder(out).create(config, overwrite)


def _goes_on(out: Path, resume: Literal["auto"] | None) -> bool:
    """Whether there is a run to go on with."""
    return resume is not None and RunFolder(out).is_run


def _check_out(out: Path, resume: Literal["auto"] | None, overwrite: bool, epochs: int) -> None:
    if _goes_on(out, resume):
        RunFolder(out).check_not_shorter(epochs)
    else:
        RunFolder(out).check_free(overwrite)


def _check_size(model: Callable[..., VAE], size: int, batch_size: int) -> None:
    """Raise what the model does where it cannot be built for images of this size, be they in colour or grey."""
    try:
        _build(model, (3, size, size), batch_size)
    except Exception:  # anyone's model
        _build(model, (1, size, size), batch_size)


def _build(model: Callable[..., VAE], image_shape: ImageShape, batch_size: int) -> VAE:
    """The model, with the global batch size as eq. (10)'s M where it has one and leaves it open."""
    n = signature(model).parameters.get("n")
    with hints(batch_size):
        return model(image_shape, n=float(batch_size)) if n is not None and n.default is None else model(image_shape)


def _drawn(images: Images, seed: int, count: int) -> Tensor:
    """So many different images, chosen by the seed."""
    if count > len(images):
        raise ConfigError(f"the model starts from {count} training images; there are only {len(images)}")
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return to_float(images.read(np.sort(chosen)), torch.device("cpu"))


def _resolved(settings: dict[str, Any], model: VAE, store: Store) -> dict[str, Any]:
    """The settings as plain values, enough to run the command again."""
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    family = type(model)
    arguments = {k: v for k, v in model.hyperparameters.items() if k != "image_shape"}
    module = "evae" if family.__module__.startswith("evae.") else family.__module__
    described = {"class_path": f"{module}.{family.__qualname__}", "init_args": arguments}
    transform = {"image_size": store.transform["size"], "crop": store.transform["crop"]}
    first = {k: plain.pop(k) for k in ("data", "out")}
    return {**first, "model": described, **plain, **transform}
