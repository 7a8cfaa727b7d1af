"""Training: model and batches to a run folder. Reads from top to bottom: ``train``, ``fit``, one epoch, one step."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger
from torch import Tensor
from torch.optim import Adam, Optimizer

from evae import figures
from evae.console import console, progress
from evae.data import ImageSet, Store, batch_indices, open_store, to_float
from evae.data.batches import usable_seed
from evae.data.sources import BUILT_IN
from evae.data.store import OnBadImage
from evae.errors import ConfigError, EvaeError
from evae.models import EVAE, VAE
from evae.training import run
from evae.training.run import Progress

ImageShape = tuple[int, int, int]
Precision = Literal["32-true", "bf16-mixed", "64-true"]

_FIGURE_SECONDS = 30.0  # at most one set of figures in so much time, besides the last


class InterruptedRun(EvaeError):
    """Training was asked to stop and has saved its state."""

    def __init__(self, signum: int, folder: Path, step: int) -> None:
        self.exit_code = 128 + signum
        name = signal.Signals(signum).name
        super().__init__(
            f"stopped by {name} at step {step} of {folder}; to go on, give it --resume auto, no --overwrite"
        )


class DivergedError(EvaeError):
    """The loss is not finite any more."""


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
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    precision: Precision = "32-true",
    logger: Literal["tensorboard"] | None = None,
    log_every: int | None = None,
) -> Path:
    """Train a model on images and leave all of it in a run folder.

    Args:
        data: mnist5k, mnist, fashion_mnist, cifar10, celeba, a dataset id of the Hugging Face hub, a folder of
            images, parquet or arrow files, or an .npz or .npy file.
        out: the run folder to write.
        model: the family and its hyperparameters, e.g. --model EVAE --model.latent_dim 64.
        epochs: passes over the training images (those of the last incomplete batch wait for another epoch).
        batch_size: images in a step; also eq. (10)'s M of an EVAE, unless --model.n is given.
        learning_rate: of Adam.
        seed: of the weights, the order of the images and the posterior's samples.
        image_size: height and width to resize to; default: 64 for folders and images above 32 pixels, else 32.
        crop: side of the centre crop in the images' own pixels; default: the largest square (celeba: 140).
        on_bad_image: skip images that cannot be decoded with a warning, or stop with an error.
        resume: auto continues the run in --out from its last checkpoint, if there is one.
        overwrite: replace the run in --out.
        accelerator: where to compute.
        precision: of the arithmetic; posteriors and losses are float32 at least.
        logger: also log to TensorBoard, in the run folder (needs evae[tensorboard]).
        log_every: also log every so many steps, beside every epoch.

    Returns:
        The run folder.

    Raises:
        DataError: the images cannot be used.
        ConfigError: a setting cannot work.
        RunError: the run folder cannot be created, written or resumed.
        InterruptedRun: SIGINT or SIGTERM came; the state is saved.
        DivergedError: the loss is not finite any more; the checkpoint before is kept.
    """
    settings = {k: v for k, v in locals().items() if k not in ("model", "resume", "overwrite")}
    _check_settings(epochs, batch_size, learning_rate, seed, log_every)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other")
    out = Path(out)
    store = open_store(data, image_size, crop, on_bad_image)
    if data not in BUILT_IN and Path(data).expanduser().exists():  # to be found again from elsewhere
        settings["data"] = str(Path(data).expanduser().resolve())
    if batch_size > len(store.train):
        raise ConfigError(f"batch_size {batch_size} is larger than the {len(store.train)} training images of {data}")

    fabric = _fabric(accelerator, precision, logger, out)
    torch.manual_seed(seed)
    network = _build(model, store.image_shape, batch_size)
    network.initialise(partial(_drawn, store.train, seed))
    config = _resolved(settings, network, store)
    with run.locked(out):
        if resume and (out / run.CONFIG).exists():
            run.check_same_settings(out, config)
            run.write_config(out, config)
        else:
            run.create(out, config, overwrite)
        fit(fabric, network, store, out, epochs, batch_size, learning_rate, seed, log_every)
    console.print(f"{out}: trained for {epochs} epochs; evae evaluate {out} measures it", soft_wrap=True)
    return out


def _check_settings(epochs: int, batch_size: int, learning_rate: float, seed: int, log_every: int | None) -> None:
    for name, value in {"epochs": epochs, "batch_size": batch_size, "log_every": log_every}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if not 0 < learning_rate <= 1e3:
        raise ConfigError(f"learning_rate must be positive and at most 1000, not {learning_rate}")
    usable_seed(seed)


def _fabric(accelerator: str, precision: Precision, logger: str | None, out: Path) -> Fabric:
    loggers: list[Logger] = []
    if logger == "tensorboard":
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        try:
            loggers.append(TensorBoardLogger(out, name="tensorboard", version=""))
        except ModuleNotFoundError as error:
            raise ConfigError("--logger tensorboard needs the extra: pip install 'evae[tensorboard]'") from error
    try:
        return Fabric(accelerator=accelerator, devices=1, precision=precision, loggers=loggers)
    except RuntimeError as error:
        raise ConfigError(f"--accelerator {accelerator}: {error}") from error


def _build(model: Callable[..., VAE], image_shape: ImageShape, batch_size: int) -> VAE:
    """The model, with the global batch size as eq. (10)'s M where it has one and leaves it open."""
    n = signature(model).parameters.get("n")
    return model(image_shape, n=float(batch_size)) if n is not None and n.default is None else model(image_shape)


def _drawn(images: ImageSet, seed: int, count: int) -> Tensor:
    """So many different images, chosen by the seed."""
    if count > len(images):
        raise ConfigError(f"the model starts from {count} training images; there are only {len(images)}")
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return to_float(images.images[np.sort(chosen)], torch.device("cpu"))


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


# The loop ----------------------------------------------------------------------------------------------------


@dataclass
class _Loop:
    """What every step needs."""

    fabric: Fabric
    model: Any  # the VAE as Fabric wraps it
    optimizer: Optimizer
    images: ImageSet
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    @property
    def sum_type(self) -> torch.dtype:
        return torch.float32 if self.fabric.device.type == "mps" else torch.float64


def fit(
    fabric: Fabric,
    network: VAE,
    store: Store,
    out: Path,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    log_every: int | None = None,
) -> None:
    """Train ``network`` to the end of ``epochs``, from the last checkpoint in ``out`` if there is one."""
    # The layout in which convolutions are fastest: 1.2 times on CPU for Appendix C.1's networks.
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, optimizer = fabric.setup(network, Adam(network.parameters(), lr=learning_rate))
    loop = _Loop(fabric, model, optimizer, store.train, batch_size, seed)
    state = run.load_checkpoint(out, network, optimizer, store.fingerprint) or Progress(store.fingerprint)
    run.truncate_metrics(out, state)
    checkpoint = partial(run.save_checkpoint, out, network, optimizer, state)
    figures_at = time.monotonic()

    with _signals() as received, progress("{task.fields[terms]}", "{task.fields[speed]}") as bar:
        total = epochs * loop.steps_per_epoch
        task = bar.add_task("training", total=total, completed=state.step, terms="", speed="")
        while state.step < total:
            epoch = state.step // loop.steps_per_epoch
            for line in _epoch(loop, state, log_every):
                bar.update(task, completed=state.step, **_shown(line, epoch + 1, epochs))
                if log_every and state.step % log_every == 0:
                    _log(fabric, out, {"step": state.step, **line}, state)
                if received and state.step % loop.steps_per_epoch:  # a finished epoch is measured first
                    checkpoint()
                    raise InterruptedRun(received[0], out, state.step)
            line |= _validate(loop, network, store.holdout)
            _finite(list(line.values()), state.step)
            _log(fabric, out, {"epoch": epoch + 1, "step": state.step, **line}, state)
            _print_epoch(epoch + 1, epochs, line)
            state.sums, state.training_seconds = [], 0.0
            checkpoint()
            if state.step == total or time.monotonic() - figures_at > _FIGURE_SECONDS:
                _draw(fabric, network, store.holdout, out)
                figures_at = time.monotonic()
            if received and state.step < total:
                raise InterruptedRun(received[0], out, state.step)


def _epoch(loop: _Loop, state: Progress, log_every: int | None) -> Iterator[dict[str, float]]:
    """Take the (remaining) steps of one epoch; now and then, and after the last, yield its means so far."""
    loop.model.train()
    names = ("loss", "reconstruction", loop.model.objective.divergence_name)
    # On the device, so that no step waits for the one before it to be read.
    sums = torch.tensor(state.sums or [0.0] * len(names), dtype=loop.sum_type, device=loop.fabric.device)
    epoch, done = divmod(state.step, loop.steps_per_epoch)
    shown = started = time.monotonic()
    for step in range(done, loop.steps_per_epoch):
        sums += _step(loop, epoch, step)
        state.step += 1
        now = time.monotonic()
        last = step + 1 == loop.steps_per_epoch
        if last or now - shown > 0.2 or (log_every and state.step % log_every == 0):
            state.training_seconds, started, shown = state.training_seconds + now - started, now, now
            state.sums = _finite(sums.tolist(), state.step)
            speed = (step + 1) * loop.batch_size / state.training_seconds
            means = {name: value / (step + 1) for name, value in zip(names, state.sums, strict=True)}
            yield means | {"images_per_second": speed, "seconds": state.training_seconds}


def _step(loop: _Loop, epoch: int, step: int) -> Tensor:
    """One optimizer step on one batch; everything random in it is a function of (seed, epoch, step)."""
    torch.manual_seed(_noise_seed(loop.seed, epoch, step))
    indices = batch_indices(loop.seed, epoch, step, len(loop.images), loop.batch_size)
    images = to_float(loop.images.images[indices], loop.fabric.device)  # (N, C, H, W)
    terms = loop.model(images)
    loop.optimizer.zero_grad()
    loop.fabric.backward(terms.loss)
    loop.optimizer.step()
    return torch.stack([terms.loss, terms.reconstruction.mean(), terms.divergence.mean()]).detach()


def _finite(terms: list[float], step: int) -> list[float]:
    """The terms, if all are numbers; before they are written or a checkpoint is made of what led to them."""
    if not all(map(math.isfinite, terms)):
        raise DivergedError(
            f"the loss is not finite at step {step}; what was saved is kept; try a lower --learning_rate"
        )
    return terms


def _noise_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


@torch.no_grad()
def _validate(loop: _Loop, network: VAE, holdout: ImageSet) -> dict[str, float]:
    """Means over the hold-out images of the loss and its terms."""
    loop.model.eval()
    torch.manual_seed(_noise_seed(loop.seed))
    sums = torch.zeros(3, dtype=loop.sum_type, device=loop.fabric.device)
    for start in range(0, len(holdout), loop.batch_size):
        images = to_float(holdout.images[start : start + loop.batch_size], loop.fabric.device)
        terms = loop.model(images)
        sums += torch.stack([terms.loss * len(images), terms.reconstruction.sum(), terms.divergence.sum()])
    names = ("loss", "reconstruction", network.objective.divergence_name)
    return {f"holdout_{name}": mean for name, mean in zip(names, (sums / len(holdout)).tolist(), strict=True)}


# What is shown and written -----------------------------------------------------------------------------------


def _log(fabric: Fabric, out: Path, line: dict[str, float], state: Progress) -> None:
    run.append_metrics(out, line, state)
    fabric.log_dict({k: v for k, v in line.items() if k not in ("epoch", "step")}, step=int(line["step"]))


def _terms(line: dict[str, float]) -> str:
    return "  ".join(f"{k} {v:.4g}" for k, v in line.items() if k not in ("images_per_second", "seconds"))


def _shown(line: dict[str, float], epoch: int, epochs: int) -> dict[str, Any]:
    speed = f"{line['images_per_second']:.0f} images/s"
    return {"description": f"epoch {epoch}/{epochs}", "terms": f"loss {line['loss']:.4g}", "speed": speed}


def _print_epoch(epoch: int, epochs: int, line: dict[str, float]) -> None:
    console.print(f"epoch {epoch}/{epochs}  {_terms(line)}  {line['images_per_second']:.0f} images/s", soft_wrap=True)


def _draw(fabric: Fabric, network: VAE, holdout: ImageSet, out: Path) -> None:
    """The run's figures so far: curves of every term, and hold-out images above their reconstructions."""
    epochs = [line for line in run.read_metrics(out) if "epoch" in line]
    divergence = network.objective.divergence_name
    panels = {
        "loss": {"train": "loss", "hold-out": "holdout_loss"},
        "reconstruction, nats": {"train": "reconstruction", "hold-out": "holdout_reconstruction"},
        divergence: {"train": divergence, "hold-out": f"holdout_{divergence}"},
    }
    curves = {
        title: {name: [(line["epoch"], line[key]) for line in epochs] for name, key in panel.items()}
        for title, panel in panels.items()
    }
    figures.save_curves(curves, "epoch", out / "figures" / "losses.png")
    network.eval()
    shown = np.linspace(0, len(holdout) - 1, min(12, len(holdout))).astype(int)
    images = to_float(holdout.images[shown], fabric.device).to(next(network.parameters()).dtype)
    with fabric.autocast():
        rows = {"original": images, "reconstruction": network.reconstruct(images)}
    figures.save_rows(rows, out / "figures" / "reconstructions.png")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one has its usual effect."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before: dict[int, Any] = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signum, before[signum])
        console.print("stopping after this step; once more to stop at once")

    for signum in before:
        signal.signal(signum, note)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
