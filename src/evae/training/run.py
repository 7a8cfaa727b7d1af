"""The run folder: what a run was asked, what it measured, and what it needs to go on.

    config.yaml          the resolved command
    config.json, model.safetensors, README.md    the model, for from_pretrained
    metrics.jsonl        one line an epoch, and one every ``log_every`` steps
    checkpoints/last     the newest state; checkpoints/previous the one before
    figures/             losses and reconstructions

A checkpoint is a folder of safetensors and JSON, complete before it takes its name.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from evae.console import warn
from evae.errors import RunError, first_line
from evae.files import write_atomically
from evae.models import VAE
from evae.models.vae import state_tensors
from evae.training.sharding import laid_out_as, whole

CONFIG, METRICS, CHECKPOINTS, NONFINITE = "config.yaml", "metrics.jsonl", "checkpoints", "nonfinite.json"
_LOCK = ".lock"
_STATE, _MODEL, _OPTIMIZER, _AVERAGE = "state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors"


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
    """Raise RunError unless a new run can have the folder: it is empty, or a run and ``overwrite`` is set."""
    try:
        taken = folder.exists() and (not folder.is_dir() or any(map(_is_content, folder.iterdir())))
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be read ({error.strerror})") from error
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
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    write_config(folder, config)


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
    except (FileExistsError, NotADirectoryError) as error:
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
    for line in (folder / METRICS).read_text(errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
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


# Checkpoints -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OptimizerState:
    """Whole tensors on the CPU by parameter and name ("3.exp_avg"), and plain settings."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any]

    @classmethod
    def of(cls, optimizer: Optimizer) -> "OptimizerState":
        """What an optimizer has in mind; where that is shared out between processes, all of them have to ask."""
        state = optimizer.state_dict()
        tensors = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
        return cls(
            {name: whole(value).detach().cpu().contiguous() for name, value in tensors.items()},
            {"param_groups": state["param_groups"]},
        )


def save_checkpoint(
    folder: Path, model: VAE, optimizer: OptimizerState, progress: Progress, average: AveragedModel | None = None
) -> None:
    """Write checkpoints/last and the model itself; the checkpoint before stays until the new one is complete.

    Args:
        folder: the run.
        model, optimizer, progress: what training goes on from.
        average: of the model's weights, where there is one; it is the model that is saved then.

    Raises:
        RunError: it cannot be written, because the disk is full, say.
    """
    checkpoints = folder / CHECKPOINTS
    last, previous = checkpoints / "last", checkpoints / "previous"
    try:
        checkpoints.mkdir(exist_ok=True)
        for leftover in checkpoints.glob("*.tmp"):
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(suffix=".tmp", dir=checkpoints))
        _write_state(temporary, model, optimizer, progress, average)
        if last.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(last, previous)
        os.replace(temporary, last)
        _put_model(folder, model if average is None else average.module)
    except (OSError, RunError) as error:
        for leftover in checkpoints.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        kept = "; the checkpoint before it is kept and --resume auto starts from it" if last.exists() else ""
        raise RunError(f"no checkpoint of step {progress.step}: {_reason(error)}{kept}") from error


def _reason(error: OSError | RunError) -> str:
    if isinstance(error, RunError):
        return str(error)
    return f"{error.filename or 'it'} could not be written ({error.strerror or error})"


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, images: str, average: AveragedModel | None = None
) -> Progress | None:
    """Put the newest whole checkpoint into model, optimizer and average; None where there is none.

    Raises:
        RunError: there are checkpoints, but none is whole, or they are of other images than those with
            fingerprint ``images``.
    """
    errors = []
    for name in ("last", "previous"):
        checkpoint = folder / CHECKPOINTS / name
        if not checkpoint.is_dir():
            continue
        try:
            progress = _read_state(checkpoint, model, optimizer, average)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            errors.append(f"{checkpoint} is damaged ({first_line(error)})")
            continue
        for damage in errors:
            warn(f"{damage}; going on from the one before, at step {progress.step}")
        if progress.images != images:
            raise RunError(f"the images have changed since {folder} was started; start again with another --out")
        return progress
    if errors:
        raise RunError("; ".join(errors))
    return None


def _write_state(
    checkpoint: Path, model: nn.Module, optimizer: OptimizerState, progress: Progress, average: nn.Module | None
) -> None:
    contents = {_MODEL: save(state_tensors(model)), _OPTIMIZER: save(optimizer.tensors)}
    if average is not None:
        contents[_AVERAGE] = save(state_tensors(average))
    state = {
        "version": 1,
        "progress": asdict(progress),
        "optimizer": optimizer.settings,
        "digests": {name: _digest(content) for name, content in contents.items()},
    }
    for name, content in contents.items():
        write_atomically(checkpoint / name, content)
    body = json.dumps(state)
    write_atomically(checkpoint / _STATE, json.dumps({"state": body, "digest": _digest(body.encode())}))


def _read_state(checkpoint: Path, model: nn.Module, optimizer: Optimizer, average: nn.Module | None) -> Progress:
    state = _read_state_file(checkpoint)
    contents = {name: (checkpoint / name).read_bytes() for name in state["digests"]}
    for name, content in contents.items():
        if _digest(content) != state["digests"][name]:
            raise ValueError(f"{name} is not what was written")
    progress = Progress(**state["progress"])
    own = model.state_dict()
    weights = load(contents[_MODEL])
    model.load_state_dict({k: laid_out_as(v, own[k]) if k in own else v for k, v in weights.items()})
    optimizer.load_state_dict(_unflatten_optimizer(load(contents[_OPTIMIZER]), state["optimizer"]))
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            # Fused optimizers want moments in the order in memory of their weights.
            if name != "step" and value.shape == parameter.shape:
                moments[name] = laid_out_as(value, parameter)
    if average is not None:
        average.load_state_dict(load(contents[_AVERAGE]))
    return progress


def _read_state_file(checkpoint: Path) -> dict[str, Any]:
    sealed = json.loads((checkpoint / _STATE).read_text())
    if _digest(sealed["state"].encode()) != sealed["digest"]:
        raise ValueError(f"{_STATE} is not what was written")
    state: dict[str, Any] = json.loads(sealed["state"])
    if state["version"] != 1:
        raise ValueError(f"{_STATE} is of version {state['version']}")
    return state


def trained_images(folder: Path) -> str | None:
    """Fingerprint of the images a run was trained on; None where no checkpoint tells."""
    try:
        images: str = _read_state_file(folder / CHECKPOINTS / "last")["progress"]["images"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return images


def _unflatten_optimizer(tensors: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, **settings}


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


@contextmanager
def _nothing_lost() -> Iterator[None]:
    try:
        yield
    except (OSError, RunError) as error:
        raise RunError(f"{_reason(error)}; what was saved before it is kept") from error


def save_model(folder: Path, model: nn.Module) -> None:
    """Write the model itself, as ``save_checkpoint`` does.

    Raises:
        RunError: it cannot be written, because the disk is full, say.
    """
    with _nothing_lost():
        _put_model(folder, model)


def _put_model(folder: Path, model: nn.Module) -> None:
    """save_pretrained, each file moved to its place when complete."""
    with tempfile.TemporaryDirectory(suffix=".tmp", dir=folder / CHECKPOINTS) as temporary:
        _save_pretrained(model, Path(temporary))
        for file in Path(temporary).iterdir():
            os.replace(file, folder / file.name)


def save_best(folder: Path, model: nn.Module) -> None:
    """Write checkpoints/best: a run folder in its own right, to be loaded, evaluated and sampled from.

    Raises:
        RunError: it cannot be written, because the disk is full, say.
    """
    best = folder / CHECKPOINTS / "best"
    with _nothing_lost():
        best.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(suffix=".tmp", dir=best.parent) as temporary:
            complete = Path(temporary) / "best"
            complete.mkdir()
            _save_pretrained(model, complete)
            for name in (CONFIG, METRICS):
                shutil.copyfile(folder / name, complete / name)
            shutil.rmtree(best, ignore_errors=True)
            os.replace(complete, best)


def _save_pretrained(model: nn.Module, folder: Path) -> None:
    assert isinstance(model, VAE)
    model.save_pretrained(folder)
