"""Checkpoints: what a run needs to continue, and the model itself, written whole or not at all.

A checkpoint is a folder of safetensors and JSON, complete before it takes its name.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from evae.console import warn
from evae.errors import RunError, first_line
from evae.files import digest, remove, replace, sync_folder, temporary_folder, write_atomically
from evae.models import VAE
from evae.models.pretrained import state_tensors
from evae.models.weights import read_weights
from evae.records import RecordError, as_type, parse_json, read_json
from evae.runs.folder import CHECKPOINTS, CONFIG, METRICS, RunFolder
from evae.runs.records import Progress, Sealed, State

_STATE, _MODEL, _OPTIMIZER, _AVERAGE = "state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors"

_MAX_STATE = 2**24  # bytes

OptimizerState = tuple[dict[str, Tensor], dict[str, Any]]  # full tensors by name ("3.exp_avg"), and plain settings


def optimizer_state(optimizer: Optimizer) -> OptimizerState:
    """The optimizer's full state on the CPU; a collective call under FSDP.

    Names are sorted so that all ranks gather in the same order: after loading, the state's order is arbitrary.
    """
    state = optimizer.state_dict()
    tensors = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
    full = {name: full_tensor(value).detach().cpu().contiguous() for name, value in sorted(tensors.items())}
    return full, {"param_groups": state["param_groups"]}


def save(
    run: RunFolder, model: VAE, optimizer: OptimizerState, progress: Progress, average: AveragedModel | None = None
) -> None:
    """Write checkpoints/last and the model itself; the checkpoint before stays until the new one is complete.

    Where there is an average of the model's weights, it is the model that is saved.

    Raises:
        RunError: it cannot be written, because the disk is full, say; or the folder is another run's by now.
    """
    run.check_held()
    run.check_inside()
    checkpoints = run.path / CHECKPOINTS
    last, previous = checkpoints / "last", checkpoints / "previous"
    try:
        checkpoints.mkdir(exist_ok=True)
        with temporary_folder(last) as temporary:
            _write_state(temporary, model, optimizer, progress, average)
            if last.exists():
                remove(previous)
                replace(last, previous)
            replace(temporary, last)
        _put_model(run, model if average is None else average.module)
    except (OSError, RunError) as error:
        kept = "; the checkpoint before it is kept and --resume auto continues from it" if last.exists() else ""
        raise RunError(f"no checkpoint of step {progress.step}: {_reason(error)}{kept}") from error


def remove_leftovers(run: RunFolder) -> None:
    """Delete what killed processes have left of checkpoints; the run is ``locked``."""
    for leftover in (run.path / CHECKPOINTS).glob("*.tmp"):
        with suppress(OSError):
            remove(leftover)


def _reason(error: OSError | RunError) -> str:
    if isinstance(error, RunError):
        return str(error)
    return f"{error.filename or 'it'} could not be written ({error.strerror or error})"


def load(
    run: RunFolder,
    model: nn.Module,
    optimizer: Optimizer,
    images: str,
    average: AveragedModel | None = None,
    terms: int | None = None,
) -> Progress | None:
    """Load the newest intact checkpoint into model, optimizer and average; None where there is none.

    ``terms`` is the number of terms that are logged, if it is known.

    Raises:
        RunError: there are checkpoints, but none is intact; or they are of another network, or of other images than
            those with fingerprint ``images``; or there are none of a run that had some.
    """
    errors = []
    for checkpoint in (run.path / CHECKPOINTS / name for name in ("last", "previous")):
        if not checkpoint.exists():
            continue
        try:
            state = _read_state(checkpoint)
            contents = {name: read_weights(checkpoint / name) for name in state.digests}
            for name, content in contents.items():
                _check(name, content, state.digests[name])
            progress = state.progress
            if terms and len(progress.sums) not in (0, terms):
                raise RecordError(f"{len(progress.sums)} sums, where {terms} terms are logged")
        except (OSError, RecordError) as error:
            errors.append(f"{checkpoint} is damaged ({first_line(error)})")
            continue
        if progress.images != images:
            raise RunError(f"the images have changed since {run} was started; start again with another --out")
        try:
            _load_state(state, contents, model, optimizer, average)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise RunError(
                f"{checkpoint} holds the state of another network ({first_line(error)}); use the network that {run} "
                "was started with, or another --out"
            ) from error
        for damage in errors:
            warn(f"{damage}; continuing from the one before, at step {progress.step}")
        return progress
    if errors:
        raise RunError("; ".join(errors))
    if (run.path / _MODEL).exists():  # written after the first checkpoint
        raise RunError(f"{run} contains a model but no checkpoint to resume from; use --overwrite to start over")
    return None


def _write_state(
    checkpoint: Path, model: nn.Module, optimizer: OptimizerState, progress: Progress, average: nn.Module | None
) -> None:
    contents = {_MODEL: save_tensors(state_tensors(model)), _OPTIMIZER: save_tensors(optimizer[0])}
    if average is not None:
        contents[_AVERAGE] = save_tensors(state_tensors(average))
    for name, content in contents.items():
        write_atomically(checkpoint / name, content)
    digests = {name: digest(content) for name, content in contents.items()}
    body = json.dumps({"version": 1, "progress": asdict(progress), "optimizer": optimizer[1], "digests": digests})
    write_atomically(checkpoint / _STATE, json.dumps({"state": body, "digest": digest(body.encode())}))


def _check(name: str, content: bytes, written: str) -> None:
    if digest(content) != written:
        raise RecordError(f"{name} is not what was written")


def _read_state(checkpoint: Path) -> State:
    sealed = read_json(checkpoint / _STATE, Sealed, _MAX_STATE)
    _check(_STATE, sealed.state.encode(errors="surrogateescape"), sealed.digest)
    state = as_type(parse_json(sealed.state), State)
    state.progress.check()
    if not {_MODEL, _OPTIMIZER} <= state.digests.keys() <= {_MODEL, _OPTIMIZER, _AVERAGE}:
        raise RecordError(f"{_STATE} names other files than {_MODEL}, {_OPTIMIZER} and {_AVERAGE}")
    return state


def _load_state(
    state: State, contents: dict[str, bytes], model: nn.Module, optimizer: Optimizer, average: nn.Module | None
) -> None:
    own = model.state_dict()
    weights = load_tensors(contents[_MODEL])
    model.load_state_dict({k: distributed_like(v, own[k]) if k in own else v for k, v in weights.items()})
    moments = _moments(load_tensors(contents[_OPTIMIZER]), optimizer)
    groups = _groups(state.optimizer.param_groups, optimizer.state_dict()["param_groups"])
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # Fused optimizers want moments in the order in memory of their weights.
            if name != "step" and value.shape == parameter.shape:
                values[name] = distributed_like(value, parameter)
    if average is not None:
        average.load_state_dict(load_tensors(contents[_AVERAGE]))


def _moments(tensors: dict[str, Tensor], optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """The tensors of an optimizer's state by its parameters' numbers, each of its parameter's shape or a number."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        index = int(number)
        if not name or not 0 <= index < len(parameters) or value.shape not in ((), parameters[index].shape):
            raise RecordError(f"{key} in {_OPTIMIZER} is of no parameter")
        moments.setdefault(index, {})[name] = value
    if any(values.keys() != next(iter(moments.values())).keys() for values in moments.values()):
        raise RecordError(f"{_OPTIMIZER} is not whole")
    return moments


def _groups(saved: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An optimizer's settings with the saved ones in place of its own; another version's may have others besides."""
    if len(saved) != len(own):
        raise RecordError("the optimizer has other parameters")
    groups = [mine | {k: v for k, v in old.items() if k in mine} for old, mine in zip(saved, own, strict=True)]
    for group, mine in zip(groups, own, strict=True):
        if wrong := [name for name in mine if not _is_like(group[name], mine[name])]:
            raise RecordError(f"{wrong[0]} of the optimizer is of another type")
    return groups


def _is_like(value: Any, own: Any) -> bool:
    """Whether a setting from a file has the structure of an optimizer's own: the same lengths and types."""
    if isinstance(own, list | tuple):
        is_long = isinstance(value, list | tuple) and len(value) == len(own)
        return is_long and all(map(_is_like, value, own))
    kinds: tuple[tuple[type, ...], ...] = ((int, float), (bool, NoneType), (str,))
    return any(type(value) in kind and type(own) in kind for kind in kinds)


def trained_images(run: RunFolder) -> str | None:
    """Fingerprint of the images a run was trained on; None where no checkpoint tells."""
    with suppress(OSError, RecordError):
        return _read_state(run.path / CHECKPOINTS / "last").progress.images
    return None


def full_tensor(value: Tensor) -> Tensor:
    """All of a sharded tensor, a collective call; any other tensor as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def distributed_like(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a full tensor with the device, memory order and sharding of ``like``."""
    if isinstance(like, DTensor):
        # Each rank takes its shard from its own copy: none waits for another that may have failed before.
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(value)


def save_model(run: RunFolder, model: nn.Module) -> None:
    """Write the model itself, as ``save`` does; RunError where the disk is full, say."""
    run.check_held()
    with _named_failure():
        _put_model(run, model)


def save_best(run: RunFolder, model: nn.Module) -> None:
    """Write checkpoints/best, a run folder in its own right; RunError where the disk is full, say."""
    run.check_held()
    run.check_inside()
    best = run.path / CHECKPOINTS / "best"
    with _named_failure():
        best.parent.mkdir(exist_ok=True)
        with _saved(model, best.parent) as complete:
            for name in (CONFIG, METRICS):
                shutil.copyfile(run.path / name, complete / name)
            remove(best)
            replace(complete, best)


def _put_model(run: RunFolder, model: nn.Module) -> None:
    """save_pretrained, each file moved to its place when complete."""
    with _saved(model, run.path / CHECKPOINTS) as complete:
        for file in complete.iterdir():
            os.replace(file, run.path / file.name)
    sync_folder(run.path)


@contextmanager
def _saved(model: nn.Module, folder: Path) -> Iterator[Path]:
    """A temporary folder in ``folder`` with the model in it."""
    assert isinstance(model, VAE)
    with temporary_folder(folder / "model") as temporary:
        model.save_pretrained(temporary)
        yield temporary


@contextmanager
def _named_failure() -> Iterator[None]:
    try:
        yield
    except (OSError, RunError) as error:
        raise RunError(f"{_reason(error)}; what was saved before it is kept") from error
