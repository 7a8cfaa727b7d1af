"""The training loop."""

from contextlib import closing
from functools import partial
from typing import Any, Protocol

from lightning_fabric import Fabric

from evae.console import console, warn
from evae.console import progress as progress_bar
from evae.data import Images, Store
from evae.errors import DataError
from evae.models import VAE
from evae.runs import Progress, RunFolder
from evae.training.fabric import explain_memory_errors
from evae.training.loggers import Log
from evae.training.meter import EpochMeter, NonfiniteStepError
from evae.training.preemption import InterruptedRun, deferred_signals
from evae.training.ranks import StoppedElsewhereError, all_reduce_max, shared_failures
from evae.training.settings import Settings
from evae.training.trainer import Trainer
from evae.training.writer import RunWriter, Writer

_UNPRINTED = ("gradient_norm", "learning_rate", "images_per_second", "seconds")


class Splits(Protocol):
    """What training takes of a ``Store``.

    Attributes:
        train: what to train on.
        validation: what chooses the best epoch; None: the hold-out split does, or the training loss where it is empty.
        holdout: what is measured after every epoch, and drawn.
        fingerprint: digest of all.
    """

    @property
    def train(self) -> Images: ...
    @property
    def validation(self) -> Images | None: ...
    @property
    def holdout(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...


def fit(
    fabric: Fabric, network: VAE, store: Store, run: RunFolder, settings: Settings, log: Log, deadline: float | None
) -> Progress:
    """Train a freshly built model to the end of the recipe, from the last checkpoint of the run if there is one.

    Args:
        fabric: the launched engine.
        network: the model.
        store: the images.
        run: the folder to write to, which has its config.yaml.
        settings: optimisation, compilation and logging.
        log: takes each line of metrics.jsonl and its step.
        deadline: time.monotonic() at which to save and stop.

    Raises:
        InterruptedRun: a signal came, or the deadline; the state is saved.
        DivergedError: the loss is not finite any more; the checkpoint before is kept.
        DataError: streamed images cannot be read any more; the state is saved.
        StoppedElsewhereError: another rank has failed.
        RunError: the run folder cannot be read or written.
        ConfigError: there is not enough memory.
    """
    return fit_with(RunWriter(fabric, run, log), fabric, network, store, settings, deadline)


def fit_with(
    writer: Writer, fabric: Fabric, network: VAE, store: Splits, settings: Settings, deadline: float | None = None
) -> Progress:
    """As ``fit``, with any writer."""
    recipe, choice = settings.recipe, settings.compute.compile
    compiled = choice == "on" or (choice == "auto" and fabric.device.type == "cuda")
    with shared_failures(fabric), explain_memory_errors(recipe.batch_size):
        trainer = Trainer(fabric, network, store.train, recipe, compiled)
        progress = writer.restore(trainer, store.fingerprint)
        with closing(trainer.batches):
            try:
                _train(trainer, writer, progress, store, settings.logging.log_every, deadline)
            except NonfiniteStepError as bad:
                raise writer.diverged(trainer, bad) from None
        writer.draw(trainer, store.holdout, final=True)
        fabric.barrier()
    return progress


def _train(
    trainer: Trainer, writer: Writer, progress: Progress, store: Splits, log_every: int | None, deadline: float | None
) -> None:
    fabric, recipe, steps_per_epoch = trainer.fabric, trainer.recipe, trainer.steps_per_epoch
    selection, prefix = (store.holdout, "holdout") if store.validation is None else (store.validation, "validation")
    mean_over_ranks = partial(fabric.all_reduce, reduce_op="mean")
    meter = EpochMeter(trainer.term_names, progress, recipe, steps_per_epoch, fabric.world_size, mean_over_ranks)
    total = recipe.epochs * steps_per_epoch
    with deferred_signals(deadline) as stop, progress_bar("{task.fields[shown]}") as bar:
        task = bar.add_task("training", total=total, completed=progress.step, shown="")
        for step in range(progress.step, total):
            if recipe.patience is not None and progress.epochs_since_best >= recipe.patience:
                break
            try:
                meter.add(trainer.step(step))
            except (DataError, StoppedElsewhereError):  # streamed images cannot be read: keep the steps before
                meter.read()
                writer.save(trainer, progress)
                warn(f"checkpoint saved at step {progress.step}; continue with --resume auto")
                raise
            epoch, ends_epoch = step // steps_per_epoch + 1, (step + 1) % steps_per_epoch == 0
            logs = log_every is not None and (step + 1) % log_every == 0
            if not (ends_epoch or logs or meter.is_due()):
                continue
            means = meter.read()  # waits for the device; empty while all steps were skipped
            reason = all_reduce_max(fabric, stop.reason)
            if means:
                shown = f"loss {means['loss']:.4g}{_speed(means, trainer.network.is_row)}"
                bar.update(task, completed=step + 1, description=f"epoch {epoch}/{recipe.epochs}", shown=shown)
            if logs and means:
                writer.log({"step": step + 1, **means}, progress)
            if ends_epoch:
                line = means | trainer.validate(selection, prefix)
                writer.log({"epoch": epoch, "step": step + 1, **line}, progress)
                terms = "".join(f"  {name} {value:.4g}" for name, value in line.items() if name not in _UNPRINTED)
                console.print(
                    f"epoch {epoch}/{recipe.epochs}{terms}{_speed(line, trainer.network.is_row)}", soft_wrap=True
                )
                writer.keep_best(trainer, progress, epoch, line.get(f"{prefix}_loss", line["loss"]))
                meter.start_epoch()
            if ends_epoch or reason:
                writer.save(trainer, progress)
            if reason and step + 1 < total:
                raise InterruptedRun(reason, str(writer.run), step + 1)
            if ends_epoch and step + 1 < total:
                writer.draw(trainer, store.holdout)


def _speed(line: dict[str, float], is_row: bool) -> str:
    """The images, or rows, per second of a line, if it has them."""
    return (
        f"  {line['images_per_second']:.0f} {'rows' if is_row else 'images'}/s" if "images_per_second" in line else ""
    )
