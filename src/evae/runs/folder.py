"""The run folder: what a run was asked, what it measured, and the model it made.

    config.yaml          the resolved command
    data.json            the account of the images: what was read, what was left out, and every choice made
    config.json, model.safetensors, README.md    the model, for from_pretrained
    columns.json         names, means and deviations of the columns, of a model of rows
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from evae.console import warn
from evae.data import Account
from evae.errors import RunError
from evae.files import remove, remove_leftovers, write_atomically
from evae.models import ALIASES, VAE
from evae.records import RecordError, read_bytes, write_json
from evae.rounding import counted
from evae.runs.records import Progress, read_config, read_lines
from evae.yaml_files import YamlError

CONFIG, METRICS, CHECKPOINTS, NONFINITE = "config.yaml", "metrics.jsonl", "checkpoints", "nonfinite.json"
ACCOUNT = "data.json"
_LOCK = ".lock"

# What evae writes; --overwrite removes nothing else, and config.yaml last: until then the folder is a run.
_MODEL_FILES = ("config.json", "model.safetensors", "columns.json", "README.md")
_FOLDERS = (CHECKPOINTS, "prior", "figures")
_DERIVED = ("report.html", "prior", "figures", "tensorboard", NONFINITE)
_OURS = (METRICS, ACCOUNT, CHECKPOINTS, *_MODEL_FILES, *_DERIVED, "evaluation.json", "evaluation.safetensors")

# Settings that may change when a run is resumed: how long, where and how fast, not what.
_FREE = {"out", "epochs", "patience", "time_limit", "on_nonfinite", "logger", "log_every", "fit_prior"}
_FREE |= {"accelerator", "devices", "num_nodes", "strategy", "compile"}
_PLACE = {"data", "image_column"}  # where the images are


@dataclass(frozen=True)
class RunFolder:
    """A run folder: methods read and write its files.

    Args:
        path: the folder; it need not exist yet.
    """

    path: Path
    _held: tuple[int, int] | None = field(default=None, init=False, repr=False, compare=False)

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
        path = self.path / CONFIG
        again = "put back the file that evae train wrote, or train again"
        try:
            return read_config(path)
        except OSError as error:
            raise RunError(f"{self} is not a run folder: it has no {CONFIG}") from error
        except YamlError as error:
            raise RunError(f"{path} is damaged ({error}); {again}") from error
        except RecordError as error:
            raise RunError(f"{path} is not the resolved command of a run ({error}); {again}") from error

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
        """The lines of metrics.jsonl; a warning tells of damaged ones. None where there is no such file.

        Raises:
            RunError: it is not a regular file, too large, or cannot be read.
        """
        path = self.path / METRICS
        try:
            lines = list(read_lines(path))
        except FileNotFoundError:
            return []
        except (OSError, RecordError) as error:
            raise _unreadable(path, error) from error
        if damaged := lines.count(None):
            warn(f"{path}: {damaged} damaged lines are left out")
        return [line for line in lines if line is not None]

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

    def claim(
        self,
        config: dict[str, Any],
        defaults: dict[str, Any],
        resume: bool,
        overwrite: bool,
        has_same_images: bool = False,
    ) -> None:
        """Make the folder, which exists and is ``locked``, that of a run with this config: new, or to be continued.

        Args:
            config: the resolved command.
            defaults: the values of settings that the run's config.yaml does not have, because it is older.
            resume: continue a run.
            overwrite: replace a run.
            has_same_images: the images are those that the run was trained on, which may lie elsewhere by now.

        Raises:
            RunError: the folder is not free, or the run in it was started with other settings; or it cannot be written.
        """
        if resume and self.is_run:
            self.check_inside()
            self._check_resumable(config, defaults, _PLACE if has_same_images else set())
        else:
            self.check_free(overwrite)
            if self.is_run:
                others = [(p, p.with_suffix(".json")) for p in self.path.glob("evaluation-*.safetensors")]
                for path in (*(self.path / name for name in _OURS), *chain(*others), self.path / CONFIG):
                    remove(path)
        for folder in (self.path, self.path / "figures"):
            remove_leftovers(folder)
        write_atomically(self.path / CONFIG, yaml.safe_dump(_plain(config), sort_keys=False))

    def write_account(self, account: Account) -> None:
        """Write data.json.

        Raises:
            RunError: it cannot be written.
        """
        write_json(self.path / ACCOUNT, account)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder where there is none, and keep other processes from training into it.

        Raises:
            RunError: another process has it, or it cannot be made.
        """
        path = self.path / _LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                path.unlink()
            lock = FileLock(path, timeout=0).acquire()
            object.__setattr__(self, "_held", _identity(path))
        except Timeout as error:
            raise RunError(f"another evae train is writing to {self}") from error
        except FileExistsError as error:
            raise RunError(f"{self} exists but is not an evae run; choose another --out") from error
        except OSError as error:
            raise RunError(f"the run folder {self} cannot be made or written ({error.strerror})") from error
        try:
            with lock:
                yield
        finally:
            object.__setattr__(self, "_held", None)

    def check_held(self) -> None:
        """Raise RunError where the folder was ``locked`` and has been deleted, moved or made again since."""
        if self._held is None:
            return
        try:
            same = _identity(self.path / _LOCK) == self._held
        except OSError:
            same = False
        if not same:
            raise RunError(f"{self} was deleted or replaced while it was trained; nothing more is written to it")

    def check_inside(self) -> None:
        """Raise RunError where one of the run's folders is a link: what is written would be outside."""
        for name in _FOLDERS:
            if (self.path / name).is_symlink():
                raise RunError(f"{self.path / name} is a link; put the folder itself there, or delete the link")

    def _check_resumable(self, config: dict[str, Any], defaults: dict[str, Any], free: set[str]) -> None:
        """Raise RunError, naming the settings that differ, but for those that are ``free``."""
        old, new = _flat(_plain(defaults) | self.config()), _flat(_plain(config))
        free = free | (_FREE - {"epochs"} if config.get("decay") == "cosine" else _FREE)
        if (alias := str(old.get("model.class_path")).removeprefix("evae.")) in ALIASES:
            old["model.class_path"] = f"evae.{ALIASES[alias]}"
        differing = [k for k in sorted(old) if k.split(".")[0] not in free and old[k] != new.get(k)]
        if differing:
            listed = "; ".join(f"{key}: {old[key]} in the run, {new.get(key)} now" for key in differing)
            raise RunError(f"{self} was started with other settings ({listed}); use the same, or another --out")

    def check_not_shorter(self, epochs: int) -> None:
        """Raise RunError where the run has been trained for more than ``epochs``."""
        trained = max((line["epoch"] for line in self.epochs()), default=0)
        if trained > epochs:
            raise RunError(
                f"{self} has been trained for {counted(trained, 'epoch')}; --epochs {epochs} cannot resume it"
            )

    def append_metrics(self, line: dict[str, Any], progress: Progress) -> None:
        """Add a line to metrics.jsonl and record its new length in ``progress``.

        Raises:
            RunError: another process has the folder, or a link was put in the place of the file.
        """
        self.check_held()
        path = self.path / METRICS
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            with open(os.open(path, flags, 0o666), "a") as file:  # noqa: PTH123
                file.write(json.dumps(line) + "\n")
                progress.metrics_bytes = file.tell()
        except OSError as error:
            raise RunError(f"{path} could not be written ({error.strerror or error})") from error

    def truncate_metrics(self, progress: Progress) -> None:
        """Drop the lines written after the checkpoint was; a new file takes the place of the old one, or of a link.

        Raises:
            RunError: it is not a regular file, or it cannot be read or written.
        """
        path = self.path / METRICS
        try:
            content = read_bytes(path, 2**30) if path.exists() else b""
        except (OSError, RecordError) as error:
            raise _unreadable(path, error) from error
        if len(content) < progress.metrics_bytes:
            warn(f"{path} has lost lines that were in it when the checkpoint was written")
            content = "".join(json.dumps(line) + "\n" for line in self.metrics()).encode()
        else:
            content = content[: progress.metrics_bytes]
        write_atomically(path, content)


def _unreadable(path: Path, error: OSError | RecordError) -> RunError:
    reason = error.strerror or error if isinstance(error, OSError) else error
    return RunError(f"{path} cannot be read ({reason}); put back the file that evae train wrote, or delete it")


def _identity(path: Path) -> tuple[int, int]:
    """What tells a file from another that was put in its place."""
    status = path.stat(follow_symlinks=False)
    return status.st_dev, status.st_ino


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
