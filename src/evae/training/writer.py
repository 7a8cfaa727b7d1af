"""What training writes into the run folder: on rank 0, while the others learn whether it has worked."""

import json
import math
import time
from functools import partial

from lightning_fabric import Fabric

from evae.console import warn
from evae.data import ImageSet
from evae.errors import RunError, first_line
from evae.files import write_atomically
from evae.runs import Progress, RunFolder, checkpoints
from evae.runs.folder import NONFINITE
from evae.training.loggers import Log
from evae.training.meter import DivergedError, NonfiniteStepError
from evae.training.ranks import all_reduce_max, on_all_ranks, on_rank_zero
from evae.training.trainer import Trainer

_FIGURE_SECONDS = 30.0  # figures are drawn at most this often, and at the end


class Writer:
    """What training tells its caller; it keeps nothing itself.

    Args:
        fabric: the launched engine.
        place: where the run is, for messages.
    """

    def __init__(self, fabric: Fabric, place: object) -> None:
        self.fabric, self.run = fabric, place

    def restore(self, trainer: Trainer, images: str) -> Progress:
        """The progress to continue from, that of images with this fingerprint."""
        return Progress(images)

    def save(self, trainer: Trainer, progress: Progress) -> None:
        """Keep what a later run needs to continue."""

    def put_best(self, trainer: Trainer) -> None:
        """Keep the model, the best so far."""

    def put_line(self, line: dict[str, float], progress: Progress) -> None:
        """Keep a line of metrics."""

    def draw(self, trainer: Trainer, images: ImageSet, final: bool = False) -> None:
        """Show how far training is."""

    def keep_best(self, trainer: Trainer, progress: Progress, epoch: int, loss: float) -> None:
        """Keep the model where the validation loss is the least since the warm-ups; count epochs else."""
        if epoch <= trainer.recipe.settled_epoch:
            return
        if progress.best_loss is not None and loss >= progress.best_loss:
            progress.epochs_since_best += 1
            return
        progress.best_loss, progress.epochs_since_best = loss, 0
        self.put_best(trainer)

    def log(self, line: dict[str, float], progress: Progress) -> None:
        """Keep a line of metrics.

        Raises:
            DivergedError: a number in it is not finite; nothing is kept.
        """
        if broken := [name for name, value in line.items() if not math.isfinite(value)]:
            raise DivergedError(
                f"{broken[0]} is not finite at step {progress.step}; what was saved is kept; try a lower "
                "--learning-rate"
            )
        self.put_line(line, progress)

    def diverged(self, trainer: Trainer, bad: NonfiniteStepError) -> DivergedError:
        """The error of a step that is not finite."""
        return DivergedError(f"{bad}; try a lower learning rate")


class RunWriter(Writer):
    """Writes metrics, checkpoints and figures of a run."""

    run: RunFolder

    def __init__(self, fabric: Fabric, run: RunFolder, log: Log) -> None:
        super().__init__(fabric, run)
        self._log = log
        self._drawn = time.monotonic()

    def restore(self, trainer: Trainer, images: str) -> Progress:
        """The progress of the last checkpoint, loaded into the trainer; step 0 where there is none."""
        parts, terms = (trainer.network, trainer.optimizer, images, trainer.average), len(trainer.term_names)
        load = partial(checkpoints.load, self.run, *parts, terms)
        progress = on_all_ranks(self.fabric, load) or Progress(images)
        if all_reduce_max(self.fabric, progress.step) != -all_reduce_max(self.fabric, -progress.step):
            raise RunError("ranks found different checkpoints; --out must be on a shared file system")
        trainer.sync_full_copy()
        on_rank_zero(self.fabric, partial(self.run.truncate_metrics, progress))
        on_rank_zero(self.fabric, partial(checkpoints.remove_leftovers, self.run))
        if progress.step:  # the process may have died after the checkpoint and before the model beside it
            on_rank_zero(self.fabric, partial(checkpoints.save_model, self.run, trainer.result))
        return progress

    def save(self, trainer: Trainer, progress: Progress) -> None:
        """Write checkpoints/last and the model; a collective call."""
        trainer.sync_full_copy()
        optimizer = checkpoints.optimizer_state(trainer.optimizer)
        save = partial(checkpoints.save, self.run, trainer.full_copy, optimizer, progress, trainer.average)
        on_rank_zero(self.fabric, save)

    def put_best(self, trainer: Trainer) -> None:
        """Write checkpoints/best."""
        on_rank_zero(self.fabric, partial(checkpoints.save_best, self.run, trainer.result))

    def put_line(self, line: dict[str, float], progress: Progress) -> None:
        """Append a line to metrics.jsonl, and give it to the logger."""
        on_rank_zero(self.fabric, partial(self.run.append_metrics, line, progress))
        if self.fabric.is_global_zero:
            self._log({k: v for k, v in line.items() if k not in ("epoch", "step")}, int(line["step"]))

    def draw(self, trainer: Trainer, images: ImageSet, final: bool = False) -> None:
        """Draw the run's figures, now and then; one that cannot be written does not end the run."""
        if not self.fabric.is_global_zero or not (final or time.monotonic() - self._drawn > _FIGURE_SECONDS):
            return
        try:
            from evae.reporting.training_figures import draw_training

            self.run.check_held()
            with self.fabric.autocast():
                draw_training(self.run, trainer.result.eval(), images)
        except Exception as error:  # of the disk, of matplotlib: training is worth more than its pictures
            warn(f"the figures of {self.run} could not be drawn ({first_line(error)})")
        self._drawn = time.monotonic()

    def diverged(self, trainer: Trainer, bad: NonfiniteStepError) -> DivergedError:
        """The error of a step that is not finite; nonfinite.json says which step, term and images it was."""
        epoch, step = divmod(bad.number, trainer.steps_per_epoch)
        values = dict(zip(trainer.term_names, map(str, bad.terms), strict=True))
        broken = [name for name, value in zip(trainer.term_names, bad.terms, strict=True) if not math.isfinite(value)]
        # The loss is the sum of the others: it is named where it alone is broken.
        term = next((name for name in broken if name not in ("loss", "gradient_norm")), broken[0])
        images = trainer.batches.indices(epoch, step).tolist()
        report = {"step": bad.number + 1, "epoch": epoch + 1, "term": term, "terms": values, "images": images}
        path = self.run.path / NONFINITE
        if self.fabric.is_global_zero:
            self.run.check_held()
            write_atomically(path, json.dumps(report, indent=2) + "\n")
        return DivergedError(
            f"{bad}: its {term.replace('_', ' ')} is {values[term]} for the batch of training images "
            f"{', '.join(map(str, images[:3]))}, ... (all in {path}); what was saved is kept; try a lower "
            "--learning-rate, --gradient-clip 1 or --on-nonfinite skip"
        )
