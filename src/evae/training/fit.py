"""The loop: model and batches to a run folder. Reads from top to bottom: ``fit``, one epoch, one step."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from evae import figures
from evae.allocator import kept_memory
from evae.console import console, progress, warn
from evae.data import ImageSet, Store, to_float
from evae.errors import DataError, EvaeError, RunError
from evae.files import write_atomically
from evae.models import VAE
from evae.runs import RunFolder, checkpoints
from evae.runs.checkpoints import full_tensor as whole
from evae.runs.folder import NONFINITE, Progress
from evae.training.batches import Feed
from evae.training.fabric import hints
from evae.training.loggers import Log
from evae.training.preemption import Stops, described, exit_code, noted_stops
from evae.training.ranks import SharedNoise, StoppedElsewhereError, first, largest, together
from evae.training.settings import Recipe
from evae.training.sharding import is_sharded

_READ_SECONDS = 0.2  # one process reads its losses so often; until then no step waits for the one before it
_READ_STEPS = 20  # several processes read theirs together
_FIGURE_SECONDS = 30.0  # at most one set of figures in so much time, besides the last


class InterruptedRun(EvaeError):
    """Training was asked to stop and has saved its state."""

    def __init__(self, reason: int, folder: Path, step: int) -> None:
        self.exit_code = exit_code(reason)
        super().__init__(
            f"stopped by {described(reason)} at step {step} of {folder}; "
            "to go on, give it --resume auto, no --overwrite"
        )


class DivergedError(EvaeError):
    """The loss is not finite any more."""


@dataclass
class _Loop:
    """What every step needs."""

    fabric: Fabric
    network: VAE
    unsharded: VAE  # the network, or a copy whose weights are not shared out between processes
    model: nn.Module  # the network as Fabric wraps it
    optimizer: Optimizer
    average: AveragedModel | None
    feed: Feed
    recipe: Recipe
    out: Path
    noise: AbstractContextManager[object]
    rank_seed: tuple[int, ...]  # for noise that is not shared between processes

    @property
    def steps_per_epoch(self) -> int:
        return self.feed.steps_per_epoch

    @property
    def term_names(self) -> tuple[str, ...]:
        return ("loss", "reconstruction", self.network.objective.divergence_name, "gradient_norm")

    @property
    def result(self) -> VAE:
        """What is evaluated and saved as the model."""
        return self.unsharded if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def sum_type(self) -> torch.dtype:
        return torch.float32 if self.fabric.device.type == "mps" else torch.float64


def fit(
    fabric: Fabric,
    network: VAE,
    store: Store,
    out: Path,
    recipe: Recipe,
    compiled: bool = False,
    logger: AbstractContextManager[Log] | None = None,
) -> Progress:
    """Train ``network`` to the end of the recipe, from the last checkpoint in ``out`` if there is one.

    Returns:
        How far it came: to the last epoch, or to where patience ended.

    Raises:
        InterruptedRun: a signal came or the time limit; the state is saved.
        DivergedError: the loss is not finite any more; the checkpoint before is kept.
        DataError: images that are streamed do not come any more; the state is saved.
        RunError: the run folder cannot be read or written.
        ConfigError: there is not enough memory.
    """
    with hints(recipe.batch_size), kept_memory():
        loop = _loop(fabric, network, store, out, recipe, compiled)
        state = _resumed(loop, store.fingerprint)
        with closing(loop.feed):
            _train(loop, state, store.holdout, logger)
        _draw(loop, store.holdout)
        fabric.barrier()
    return state


def _train(loop: _Loop, state: Progress, holdout: ImageSet, logger: AbstractContextManager[Log] | None) -> None:
    """Epoch by epoch, to the last or to the end of patience."""
    recipe, out = loop.recipe, loop.out
    total = recipe.epochs * loop.steps_per_epoch
    figures_at = time.monotonic()
    with (
        noted_stops(recipe.time_limit) as stops,
        logger or nullcontext(lambda line, step: None) as log,
        progress("{task.fields[terms]}", "{task.fields[speed]}") as bar,
    ):
        task = bar.add_task("training", total=total, completed=state.step, terms="", speed="")
        while state.step < total and not _out_of_patience(recipe, state):
            epoch = state.step // loop.steps_per_epoch
            for line, reason in _epoch(loop, state, stops):
                if line:
                    bar.update(task, completed=state.step, **_shown(line, epoch + 1, recipe.epochs))
                if line and recipe.log_every and state.step % recipe.log_every == 0:
                    _log(loop, log, {"step": state.step, **line}, state)
                if reason and state.step % loop.steps_per_epoch:  # a finished epoch is measured first
                    _save(loop, state)
                    raise InterruptedRun(reason, out, state.step)
            line |= _validate(loop, holdout)
            _check_finite(line, state.step)
            _log(loop, log, {"epoch": epoch + 1, "step": state.step, **line}, state)
            _print_epoch(epoch + 1, recipe.epochs, line)
            _keep_best(loop, state, epoch + 1, line["holdout_loss"])
            state.start_epoch()
            _save(loop, state)
            if time.monotonic() - figures_at > _FIGURE_SECONDS and state.step < total:
                _draw(loop, holdout)
                figures_at = time.monotonic()
            if reason and state.step < total:
                raise InterruptedRun(reason, out, state.step)


def _loop(fabric: Fabric, network: VAE, store: Store, out: Path, recipe: Recipe, compiled: bool) -> _Loop:
    network.to(fabric.device)
    if not is_sharded(fabric):  # in this layout convolutions are fastest, 1.2 times on CPU; FSDP takes the usual alone
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    unsharded = deepcopy(network) if is_sharded(fabric) else network
    module: nn.Module = network
    if compiled:
        graphs = fabric.device.type == "cuda" and not is_sharded(fabric)  # gathered weights have no fixed place
        mode = "reduce-overhead" if graphs else None
        module = torch.compile(network, mode=mode)  # type: ignore[assignment]
    model = fabric.setup_module(module)
    optimizer = Adam(network.parameters(), lr=recipe.learning_rate, fused=fabric.device.type in ("cpu", "cuda"))
    wrapped: Any = fabric.setup_optimizers(optimizer)
    average = None
    if recipe.ema is not None:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    rank, world_size = fabric.global_rank, fabric.world_size
    feed = Feed(store.train, fabric.device, recipe.batch_size, recipe.seed, rank, world_size)
    shared = world_size > 1 and not compiled  # compiled code draws its random numbers by itself
    noise = SharedNoise(recipe.batch_size // world_size, rank, world_size) if shared else nullcontext()
    rank_seed = (rank,) if world_size > 1 and compiled else ()
    return _Loop(fabric, network, unsharded, model, wrapped, average, feed, recipe, out, noise, rank_seed)


def _resumed(loop: _Loop, images: str) -> Progress:
    """The state of the last checkpoint, put into model, optimizer and average; of a start where there is none."""
    state = checkpoints.load(RunFolder(loop.out), loop.network, loop.optimizer, images, loop.average) or Progress(
        images
    )
    if largest(loop.fabric, state.step) != -largest(loop.fabric, -state.step):
        raise RunError(f"not all processes see the same checkpoints: {loop.out} must be on a disk that they share")
    _gather(loop)
    first(loop.fabric, partial(RunFolder(loop.out).truncate_metrics, state))
    if state.step:  # the process may have died after the checkpoint and before the model beside it
        first(loop.fabric, partial(checkpoints.save_model, RunFolder(loop.out), loop.result))
    return state


def _gather(loop: _Loop) -> None:
    """Bring the whole copy of a network that is shared out up to date."""
    if loop.unsharded is not loop.network:
        for own, shared in zip(loop.unsharded.state_dict().values(), loop.network.state_dict().values(), strict=True):
            own.copy_(whole(shared))


def _out_of_patience(recipe: Recipe, state: Progress) -> bool:
    return recipe.patience is not None and state.epochs_since_best >= recipe.patience


def _epoch(loop: _Loop, state: Progress, stops: Stops) -> Iterator[tuple[dict[str, float], int]]:
    """Take the (remaining) steps of one epoch; now and then, and after the last, yield its means and a reason to stop.

    The terms of each step stay on the device until they are read.
    """
    loop.model.train()
    log_every = loop.recipe.log_every
    epoch, done = divmod(state.step, loop.steps_per_epoch)
    unread: list[Tensor] = []
    read_at = time.monotonic()
    for step in range(done, loop.steps_per_epoch):
        try:
            unread.append(_step(loop, epoch, step))
        except (DataError, StoppedElsewhereError):  # no images for it: what was done before is saved
            _add(loop, state, _read(loop, unread, 0)[0] if unread else [], epoch)
            _save(loop, state)
            warn(f"training stops at step {state.step}, which is saved: --resume auto goes on from there")
            raise
        state.step += 1
        last = step + 1 == loop.steps_per_epoch
        logged = log_every is not None and state.step % log_every == 0
        if last or logged or _read_is_due(loop, state.step, read_at):
            rows, reason = _read(loop, unread, stops())
            _add(loop, state, rows, epoch)
            now = time.monotonic()
            state.training_seconds, read_at, unread = state.training_seconds + now - read_at, now, []
            counted = step + 1 - state.skipped_in_epoch
            if counted or not last:
                yield _means(loop, state, step + 1, counted) if counted else {}, reason
            else:
                raise DivergedError(f"no loss of epoch {epoch + 1} is finite; what was saved is kept")


def _read_is_due(loop: _Loop, step: int, read_at: float) -> bool:
    if loop.fabric.world_size > 1:  # at the same step in each process
        return step % _READ_STEPS == 0
    return time.monotonic() - read_at > _READ_SECONDS


def _read(loop: _Loop, unread: list[Tensor], reason: int) -> tuple[list[list[float]], int]:
    """The terms of each step and the reason to stop, the same in all processes."""
    terms: Any = loop.fabric.all_reduce(torch.stack(unread), reduce_op="mean")
    return terms.tolist(), largest(loop.fabric, reason)


def _add(loop: _Loop, state: Progress, rows: list[list[float]], epoch: int) -> None:
    """Add to the epoch's sums, step by step, so that they do not depend on when they were read."""
    state.sums = state.sums or [0.0] * len(loop.term_names)
    first = state.step - len(rows)
    for number, row in enumerate(rows, first):
        if all(map(math.isfinite, row)):
            state.sums = [a + b for a, b in zip(state.sums, row, strict=True)]
        elif loop.recipe.on_nonfinite == "skip":
            state.skipped += 1
            state.skipped_in_epoch += 1
        else:
            _diverged(loop, epoch, number, row)


def _means(loop: _Loop, state: Progress, steps: int, counted: int) -> dict[str, float]:
    """The line of an epoch so far: ``steps`` were taken, of which ``counted`` were not skipped."""
    at = (state.step - 0.5) / loop.steps_per_epoch
    line = {name: value / counted for name, value in zip(loop.term_names, state.sums, strict=True)}
    line["learning_rate"] = loop.recipe.learning_rate_at(at)
    if loop.recipe.divergence_warmup:
        line["warmth"] = loop.recipe.warmth_at(at)
    if state.skipped:
        line["skipped_steps"] = state.skipped
    speed = steps * loop.recipe.batch_size / state.training_seconds
    return line | {"images_per_second": speed, "seconds": state.training_seconds}


def _step(loop: _Loop, epoch: int, step: int) -> Tensor:
    """One optimizer step on one batch; everything random in it is a function of (seed, epoch, step).

    Returns:
        Loss, reconstruction, divergence and the norm of the gradient, on the device.
    """
    recipe, optimizer = loop.recipe, loop.optimizer
    at = epoch + (step + 0.5) / loop.steps_per_epoch
    torch.manual_seed(_noise_seed(recipe.seed, epoch, step, *loop.rank_seed))
    batch = partial(loop.feed, epoch, step)
    images = together(loop.fabric, batch) if loop.feed.is_streamed else batch()
    cautious = recipe.on_nonfinite == "skip"
    buffers = [buffer.clone() for buffer in loop.network.buffers()] if cautious else []
    with loop.noise:
        terms = loop.model(images, *_warmth(recipe, at, images.device))
    optimizer.zero_grad()
    loop.fabric.backward(terms.loss)
    norm = get_total_norm([p.grad for p in loop.network.parameters() if p.grad is not None])
    shown = torch.stack([terms.loss, terms.reconstruction.mean(), terms.divergence.mean(), whole(norm)]).detach()
    if cautious and not _all_finite(loop, shown):
        for buffer, before in zip(loop.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return shown
    if recipe.gradient_clip is not None:
        clip_grads_with_norm_(loop.network.parameters(), recipe.gradient_clip, norm)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate_at(at)
    optimizer.step()
    if loop.average is not None:
        loop.average.update_parameters(loop.network)
    return shown


def _warmth(recipe: Recipe, epoch: float, device: torch.device) -> tuple[Tensor, ...]:
    """As a tensor, so that compiled code takes every value; nothing where there is no warm-up."""
    return (torch.full((), recipe.warmth_at(epoch), device=device),) if recipe.divergence_warmup else ()


def _all_finite(loop: _Loop, terms: Tensor) -> bool:
    """Whether the terms are finite in every process; waits for the device."""
    return not largest(loop.fabric, not terms.isfinite().all())


def _diverged(loop: _Loop, epoch: int, number: int, row: list[float]) -> None:
    """Say which step, term and images it was, before anything is saved of what it led to."""
    step = number % loop.steps_per_epoch
    values = dict(zip(loop.term_names, map(str, row), strict=True))
    broken = [name for name, value in zip(loop.term_names, row, strict=True) if not math.isfinite(value)]
    # The loss is the sum of the others: it is named where it alone is broken.
    term = next((name for name in broken if name not in ("loss", "gradient_norm")), broken[0])
    indices = loop.feed.indices(epoch, step)
    report = {"step": number + 1, "epoch": epoch + 1, "term": term, "terms": values, "images": indices.tolist()}
    if loop.fabric.is_global_zero:
        write_atomically(loop.out / NONFINITE, json.dumps(report, indent=2) + "\n")
    raise DivergedError(
        f"the loss is not finite at step {number + 1}: its {term.replace('_', ' ')} is {values[term]} for the batch of "
        f"training images {', '.join(map(str, indices[:3]))}, ... (all in {loop.out / NONFINITE}); what was saved "
        "is kept; try a lower --learning_rate, --gradient_clip 1 or --on_nonfinite skip"
    )


def _check_finite(line: dict[str, float], step: int) -> None:
    """Before a line is written or a checkpoint made of what led to it."""
    broken = [name for name, value in line.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(
            f"{broken[0]} is not finite at step {step}; what was saved is kept; try a lower --learning_rate"
        )


def _noise_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


@torch.no_grad()
def _validate(loop: _Loop, holdout: ImageSet) -> dict[str, float]:
    """Means over the hold-out images of the loss and its terms; processes take turns at the batches."""
    _gather(loop)
    network, fabric, size = loop.result.eval(), loop.fabric, loop.recipe.batch_size
    if fabric.world_size > 1:  # the statistics of batch normalisation that will be saved
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    sums = torch.zeros(3, dtype=loop.sum_type, device=fabric.device)
    for number in range(fabric.global_rank, math.ceil(len(holdout) / size), fabric.world_size):
        torch.manual_seed(_noise_seed(loop.recipe.seed, number))
        images = _evaluated(loop, holdout.read(slice(number * size, (number + 1) * size)))
        with fabric.autocast():
            terms = network(images)
        sums += torch.stack([terms.loss * len(images), terms.reconstruction.sum(), terms.divergence.sum()])
    means: Any = fabric.all_reduce(sums, reduce_op="sum") / len(holdout)  # type: ignore[operator]
    return {f"holdout_{name}": mean for name, mean in zip(loop.term_names, means.tolist(), strict=False)}


def _evaluated(loop: _Loop, images: Any) -> Tensor:
    """Images in the network's own arithmetic."""
    return to_float(images, loop.fabric.device).to(next(loop.network.parameters()).dtype)


# What is written and shown -----------------------------------------------------------------------------------


def _save(loop: _Loop, state: Progress) -> None:
    _gather(loop)
    optimizer = checkpoints.OptimizerState.of(loop.optimizer)
    first(loop.fabric, partial(checkpoints.save, RunFolder(loop.out), loop.unsharded, optimizer, state, loop.average))


def _keep_best(loop: _Loop, state: Progress, epoch: int, loss: float) -> None:
    """Note the least hold-out loss of the epochs after the warm-ups, and save its model."""
    if epoch <= loop.recipe.settled_epoch:
        return
    if state.best_loss is not None and loss >= state.best_loss:
        state.epochs_since_best += 1
        return
    state.best_loss, state.epochs_since_best = loss, 0
    first(loop.fabric, partial(checkpoints.save_best, RunFolder(loop.out), loop.result))


def _log(loop: _Loop, log: Log, line: dict[str, float], state: Progress) -> None:
    first(loop.fabric, partial(RunFolder(loop.out).append_metrics, line, state))
    if loop.fabric.is_global_zero:
        log({k: v for k, v in line.items() if k not in ("epoch", "step")}, int(line["step"]))


_UNPRINTED = ("gradient_norm", "learning_rate", "images_per_second", "seconds")


def _terms(line: dict[str, float]) -> str:
    return "  ".join(f"{k} {v:.4g}" for k, v in line.items() if k not in _UNPRINTED)


def _shown(line: dict[str, float], epoch: int, epochs: int) -> dict[str, Any]:
    speed = f"{line['images_per_second']:.0f} images/s"
    return {"description": f"epoch {epoch}/{epochs}", "terms": f"loss {line['loss']:.4g}", "speed": speed}


def _print_epoch(epoch: int, epochs: int, line: dict[str, float]) -> None:
    console.print(f"epoch {epoch}/{epochs}  {_terms(line)}  {line['images_per_second']:.0f} images/s", soft_wrap=True)


def _draw(loop: _Loop, holdout: ImageSet) -> None:
    """The run's figures so far: curves of every term, and hold-out images above their reconstructions."""
    if not loop.fabric.is_global_zero:
        return
    network, out = loop.result.eval(), loop.out
    epochs = RunFolder(out).epochs()
    divergence = network.objective.divergence_name
    panels = {
        "loss": {"train": "loss", "hold-out": "holdout_loss"},
        "reconstruction, nats": {"train": "reconstruction", "hold-out": "holdout_reconstruction"},
        divergence: {"train": divergence, "hold-out": f"holdout_{divergence}"},
    }
    curves = {
        title: {name: [(line["epoch"], line[key]) for line in epochs if key in line] for name, key in panel.items()}
        for title, panel in panels.items()
    }
    figures.save_curves(curves, "epoch", out / "figures" / "losses.png")
    shown = np.linspace(0, len(holdout) - 1, min(12, len(holdout))).astype(int)
    images = _evaluated(loop, holdout.images[shown])
    with loop.fabric.autocast():
        rows = {"original": images, "reconstruction": network.reconstruct(images)}
    figures.save_rows(rows, out / "figures" / "reconstructions.png")
