"""What a run needs to go on, and the model itself, written whole or not at all.

A checkpoint is a folder of safetensors and JSON, complete before it takes its name.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from evae.console import warn
from evae.errors import RunError, first_line
from evae.files import write_atomically
from evae.models import VAE
from evae.models.vae import state_tensors
from evae.training.run import CHECKPOINTS, CONFIG, METRICS, Progress, remove
from evae.training.sharding import laid_out_as, whole

_STATE, _MODEL, _OPTIMIZER, _AVERAGE = "state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors"


@dataclass(frozen=True)
class OptimizerState:
    """Whole tensors on the CPU by parameter and name ("3.exp_avg"), and plain settings."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any]

    @classmethod
    def of(cls, optimizer: Optimizer) -> "OptimizerState":
        """What an optimizer has in mind; where that is shared out between processes, all of them have to ask.

        They ask in the same order, which after loading is not that of the state: safetensors reads in any order.
        """
        state = optimizer.state_dict()
        tensors = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
        return cls(
            {name: whole(value).detach().cpu().contiguous() for name, value in sorted(tensors.items())},
            {"param_groups": state["param_groups"]},
        )


def save(
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
            remove(previous)
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


def load(
    folder: Path, model: nn.Module, optimizer: Optimizer, images: str, average: AveragedModel | None = None
) -> Progress | None:
    """Put the newest whole checkpoint into model, optimizer and average; None where there is none.

    Raises:
        RunError: there are checkpoints, but none is whole, or they are of other images than those with
            fingerprint ``images``; or there are none of a run that had some.
    """
    errors = []
    for name in ("last", "previous"):
        checkpoint = folder / CHECKPOINTS / name
        if not checkpoint.exists():
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
    if (folder / _MODEL).exists():  # written after the first checkpoint
        raise RunError(f"{folder} holds a model, but its checkpoints are gone; --overwrite starts anew")
    return None


def _write_state(
    checkpoint: Path, model: nn.Module, optimizer: OptimizerState, progress: Progress, average: nn.Module | None
) -> None:
    contents = {_MODEL: save_tensors(state_tensors(model)), _OPTIMIZER: save_tensors(optimizer.tensors)}
    if average is not None:
        contents[_AVERAGE] = save_tensors(state_tensors(average))
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
    weights = load_tensors(contents[_MODEL])
    model.load_state_dict({k: laid_out_as(v, own[k]) if k in own else v for k, v in weights.items()})
    optimizer.load_state_dict(_unflatten_optimizer(load_tensors(contents[_OPTIMIZER]), state["optimizer"]))
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            # Fused optimizers want moments in the order in memory of their weights.
            if name != "step" and value.shape == parameter.shape:
                moments[name] = laid_out_as(value, parameter)
    if average is not None:
        average.load_state_dict(load_tensors(contents[_AVERAGE]))
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
    """Write the model itself, as ``save`` does.

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
            remove(best)
            os.replace(complete, best)


def _save_pretrained(model: nn.Module, folder: Path) -> None:
    assert isinstance(model, VAE)
    model.save_pretrained(folder)
