"""The run folder: what a run was asked and what it measured.

    config.yaml          the resolved command
    config.json, model.safetensors, README.md    the model, for from_pretrained
    metrics.jsonl        one line an epoch, and one every ``log_every`` steps
    checkpoints/last     the newest state; checkpoints/previous the one before
    figures/             losses and reconstructions

What it needs to go on is for ``checkpoints.py`` to write.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from evae.console import warn
from evae.errors import RunError
from evae.files import write_atomically
from evae.models import VAE

CONFIG, METRICS, CHECKPOINTS, NONFINITE = "config.yaml", "metrics.jsonl", "checkpoints", "nonfinite.json"
_LOCK = ".lock"


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
        best_loss: the least hold-out loss of an epoch so far; None before there is one.
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

    def start_epoch(self) -> None:
        """Forget what was noted of the epoch before."""
        self.sums, self.training_seconds, self.skipped_in_epoch = [], 0.0, 0


# What training and evaluation write; --overwrite removes nothing else.
_MODEL_FILES = ("config.json", "model.safetensors", "README.md")
_MADE_OF_IT = ("evaluation.json", "report.html", "figures", "tensorboard", NONFINITE)
_OURS = (METRICS, CHECKPOINTS, *_MODEL_FILES, *_MADE_OF_IT, CONFIG)


# Starting a run ----------------------------------------------------------------------------------------------

# Settings that may change between the parts of a run: how long, where and how fast, not what.
_FREE = frozenset({"out", "epochs", "patience", "time_limit", "on_nonfinite", "logger", "log_every"}) | frozenset(
    {"accelerator", "devices", "num_nodes", "strategy", "compile"}
)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise RunError unless a new run can have the folder: it is empty or can be made, or a run is to be replaced."""
    try:
        taken = folder.exists() and (not folder.is_dir() or any(map(_is_content, folder.iterdir())))
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be read ({error.strerror})") from error
    if there != folder and not there.is_dir():
        raise RunError(f"the run folder {folder} cannot be made: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise RunError(f"the run folder {folder} cannot be written: {there} is read-only")
    if taken and not (folder / CONFIG).exists():
        raise RunError(f"{folder} exists and is no run folder; choose another --out")
    if taken and not overwrite:
        raise RunError(f"{folder} exists: --resume auto continues it, --overwrite replaces it; or choose another")


def create(folder: Path, config: dict[str, Any], overwrite: bool) -> None:
    """Give a folder, which exists and is ``locked``, to a new run: its resolved command.

    Raises:
        RunError: it is not free, see ``check_free``; or it cannot be written.
    """
    check_free(folder, overwrite)
    if (folder / CONFIG).exists():
        for path in (folder / name for name in _OURS):  # the configuration last: until then it is a run
            remove(path)
    write_config(folder, config)


def remove(path: Path) -> None:
    """A file, a link or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_content(path: Path) -> bool:
    """Anything but the lock and what a process left that was killed while it wrote."""
    return path.name != _LOCK and not (path.name.startswith(".") and path.name.endswith(".tmp"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the run folder where there is none, and keep other processes from writing to it.

    Raises:
        RunError: another process has it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RunError(f"{folder} exists and is no run folder; choose another --out") from error
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be made ({error.strerror})") from error
    try:
        lock = FileLock(folder / _LOCK, timeout=0).acquire()
    except Timeout as error:
        raise RunError(f"another evae train is writing to {folder}") from error
    with lock:
        yield


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.yaml."""
    write_atomically(folder / CONFIG, yaml.safe_dump(_plain(config), sort_keys=False))


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """As it is read again: tuples become lists."""
    return dict(json.loads(json.dumps(config)))


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved command of a run.

    Raises:
        RunError: the folder is no run, or its config.yaml is damaged.
    """
    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
    except OSError as error:
        raise RunError(f"{folder} is no run folder: it has no {CONFIG}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(f"{folder / CONFIG} is damaged") from error
    if not isinstance(config, dict) or not isinstance(config.get("data"), str):
        raise RunError(f"{folder / CONFIG} is not the resolved command of a run")
    return config


def check_same_settings(folder: Path, config: dict[str, Any]) -> None:
    """Raise RunError, saying which differ, unless the run was started with the settings it is to be resumed with."""
    old, new = _flat(read_config(folder)), _flat(_plain(config))
    free = _FREE - {"epochs"} if config.get("decay") == "cosine" else _FREE
    differing = sorted(k for k in old.keys() | new.keys() if k.split(".")[0] not in free and old.get(k) != new.get(k))
    if differing:
        listed = "; ".join(f"{key}: {old.get(key)} in the run, {new.get(key)} now" for key in differing)
        raise RunError(f"{folder} was started with other settings ({listed}); use the same, or another --out")


def check_not_shorter(folder: Path, epochs: int) -> None:
    """Raise RunError where a run has more epochs behind it than it is to have."""
    lines = read_metrics(folder) if (folder / METRICS).exists() else []
    trained = max((line["epoch"] for line in lines if "epoch" in line), default=0)
    if trained > epochs:
        raise RunError(f"{folder} has been trained for {trained} epochs; --epochs {epochs} cannot go on with it")


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for key, value in config.items():
        items |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def load_model(folder: Path) -> VAE:
    """The model of a run, in evaluation mode on the CPU.

    Raises:
        RunError: the folder is no run, has no weights yet, or they are damaged.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no run folder: it does not exist")
    model: VAE = VAE.from_pretrained(folder)
    return model


# Metrics -----------------------------------------------------------------------------------------------------


def append_metrics(folder: Path, line: dict[str, Any], progress: Progress) -> None:
    """Add a line to metrics.jsonl and note its new length in ``progress``."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(line) + "\n")
        progress.metrics_bytes = file.tell()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, but for damaged ones."""
    lines = []
    for text in (folder / METRICS).read_text(errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and all(isinstance(value, int | float) for value in line.values()):
                lines.append(line)
    return lines


def truncate_metrics(folder: Path, progress: Progress) -> None:
    """Forget the lines written after the checkpoint was."""
    path = folder / METRICS
    path.touch()
    if path.stat().st_size < progress.metrics_bytes:
        warn(f"{path} has lost lines that were in it when the checkpoint was written")
        path.write_text("".join(json.dumps(line) + "\n" for line in read_metrics(folder)))
    else:
        os.truncate(path, progress.metrics_bytes)
