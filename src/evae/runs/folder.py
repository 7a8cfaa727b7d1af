"""The run folder: what a run was asked, what it measured, and the model it made.

    config.yaml          the resolved command
    config.json, model.safetensors, README.md    the model, for from_pretrained
    metrics.jsonl        one line per epoch, and one every ``log_every`` steps
    checkpoints/last     the newest state; checkpoints/previous the one before; checkpoints/best the best model
    prior/               what evae fit-prior fitted
    evaluation.json      what evae evaluate measured
    figures/             training curves, reconstructions, samples

``checkpoints.py`` writes what is in checkpoints/ and the model.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from evae.console import warn
from evae.errors import RunError
from evae.files import remove, write_atomically
from evae.models import VAE

CONFIG, METRICS, CHECKPOINTS, NONFINITE = "config.yaml", "metrics.jsonl", "checkpoints", "nonfinite.json"
_LOCK = ".lock"

# What evae writes; --overwrite removes nothing else, and config.yaml last: until then the folder is a run.
_MODEL_FILES = ("config.json", "model.safetensors", "README.md")
_DERIVED = ("report.html", "prior", "figures", "tensorboard", NONFINITE)
_OURS = (METRICS, CHECKPOINTS, *_MODEL_FILES, *_DERIVED, "evaluation.json", "evaluation.safetensors")

# Settings that may change when a run is resumed: how long, where and how fast, not what.
_FREE = {"out", "epochs", "patience", "time_limit", "on_nonfinite", "logger", "log_every", "fit_prior"}
_FREE |= {"accelerator", "devices", "num_nodes", "strategy", "compile"}


@dataclass
class Progress:
    """How far a run is; all that a resumed run needs besides weights, optimizer and the resolved command.

    Attributes:
        images: fingerprint of the images trained on.
        step: optimizer steps taken since the start.
        sums: sums of each logged term over the current epoch's steps so far.
        metrics_bytes: length of metrics.jsonl; what was written after it is written again.
        training_seconds: time spent on steps in the current epoch.
        skipped: steps whose loss or gradient was not finite, since the start.
        skipped_in_epoch: those of the current epoch.
        best_loss: the least validation loss of an epoch so far; None before there is one.
        epochs_since_best: epochs that were no better.
    """

    images: str
    step: int = 0
    sums: list[float] = field(default_factory=list)
    metrics_bytes: int = 0
    training_seconds: float = 0.0
    skipped: int = 0
    skipped_in_epoch: int = 0
    best_loss: float | None = None
    epochs_since_best: int = 0


@dataclass(frozen=True)
class RunFolder:
    """A run folder: methods read and write its files.

    Args:
        path: the folder; it need not exist yet.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return (self.path / CONFIG).exists()

    def config(self) -> dict[str, Any]:
        """The resolved command of the run.

        Raises:
            RunError: the folder is not a run, or its config.yaml is damaged.
        """
        try:
            config = yaml.safe_load((self.path / CONFIG).read_text())
            json.dumps(config)  # no dates, no loops
        except OSError as error:
            raise RunError(f"{self} is not a run folder: it has no {CONFIG}") from error
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{self.path / CONFIG} is damaged") from error
        if not isinstance(config, dict) or not isinstance(config.get("data"), str):
            raise RunError(f"{self.path / CONFIG} is not the resolved command of a run")
        return config

    def model(self, device: str = "cpu", **overrides: Any) -> VAE:
        """The trained model, in evaluation mode.

        ``overrides`` are arguments of its constructor that replace the saved ones.

        Raises:
            RunError: the folder is not a run, has no weights yet, or they are damaged.
        """
        if not self.path.is_dir():
            raise RunError(f"{self} is not a run folder: it does not exist")
        model: VAE = VAE.from_pretrained(self.path, map_location=device, **overrides)
        return model

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without damaged ones; none where there is no such file."""
        lines, path = [], self.path / METRICS
        for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and all(isinstance(value, int | float) for value in line.values()):
                    lines.append(line)
        return lines

    def epochs(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that close an epoch."""
        return [line for line in self.metrics() if "epoch" in line]

    def check_free(self, overwrite: bool) -> None:
        """Raise RunError unless a new run can have the folder: it is empty, can be made, or holds a run to replace."""
        folder = self.path
        try:
            taken = folder.exists() and (not folder.is_dir() or any(map(_is_content, folder.iterdir())))
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        except OSError as error:
            raise RunError(f"the run folder {folder} cannot be read ({error.strerror})") from error
        if there != folder and not there.is_dir():
            raise RunError(f"the run folder {folder} cannot be made: {there} is not a folder")
        if not os.access(there, os.W_OK):
            raise RunError(f"the run folder {folder} cannot be written: {there} is read-only")
        if taken and not self.is_run:
            raise RunError(f"{folder} exists but is not an evae run; choose another --out")
        if taken and not overwrite:
            raise RunError(f"{folder} exists: --resume auto continues it, --overwrite replaces it; or choose another")

    def claim(self, config: dict[str, Any], defaults: dict[str, Any], resume: bool, overwrite: bool) -> None:
        """Make the folder, which exists and is ``locked``, that of a run with this config: new, or to be continued.

        ``defaults`` are the values of settings that the run's config.yaml does not have, because it is older.

        Raises:
            RunError: the folder is not free, or the run in it was started with other settings; or it cannot be written.
        """
        if resume and self.is_run:
            self._check_resumable(config, defaults)
        else:
            self.check_free(overwrite)
            if self.is_run:
                others = [(p, p.with_suffix(".json")) for p in self.path.glob("evaluation-*.safetensors")]
                for path in (*(self.path / name for name in _OURS), *chain(*others), self.path / CONFIG):
                    remove(path)
        write_atomically(self.path / CONFIG, yaml.safe_dump(_plain(config), sort_keys=False))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder where there is none, and keep other processes from training into it.

        Raises:
            RunError: another process has it, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / _LOCK, timeout=0).acquire()
        except Timeout as error:
            raise RunError(f"another evae train is writing to {self}") from error
        except FileExistsError as error:
            raise RunError(f"{self} exists but is not an evae run; choose another --out") from error
        except OSError as error:
            raise RunError(f"the run folder {self} cannot be made or written ({error.strerror})") from error
        with lock:
            yield

    def _check_resumable(self, config: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Raise RunError, naming the settings that differ."""
        old, new = _flat(_plain(defaults) | self.config()), _flat(_plain(config))
        free = _FREE - {"epochs"} if config.get("decay") == "cosine" else _FREE
        differing = [k for k in sorted(old) if k.split(".")[0] not in free and old[k] != new.get(k)]
        if differing:
            listed = "; ".join(f"{key}: {old[key]} in the run, {new.get(key)} now" for key in differing)
            raise RunError(f"{self} was started with other settings ({listed}); use the same, or another --out")

    def check_not_shorter(self, epochs: int) -> None:
        """Raise RunError where the run has been trained for more than ``epochs``."""
        trained = max((line["epoch"] for line in self.epochs()), default=0)
        if trained > epochs:
            raise RunError(f"{self} has been trained for {trained} epochs; --epochs {epochs} cannot resume it")

    def append_metrics(self, line: dict[str, Any], progress: Progress) -> None:
        """Add a line to metrics.jsonl and record its new length in ``progress``."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")
            progress.metrics_bytes = file.tell()

    def truncate_metrics(self, progress: Progress) -> None:
        """Drop the lines written after the checkpoint was."""
        path = self.path / METRICS
        path.touch()
        if path.stat().st_size < progress.metrics_bytes:
            warn(f"{path} has lost lines that were in it when the checkpoint was written")
            path.write_text("".join(json.dumps(line) + "\n" for line in self.metrics()))
        else:
            os.truncate(path, progress.metrics_bytes)


def _is_content(path: Path) -> bool:
    """Anything but the lock and temporary files of a process that was killed."""
    return path.name != _LOCK and not (path.name.startswith(".") and path.name.endswith(".tmp"))


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """As it is read again: tuples become lists."""
    return dict(json.loads(json.dumps(config)))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for key, value in config.items():
        items |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items
