"""Networks of the user's: an import path, a function or a module; how JSON records them; building without images."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from evae.errors import ConfigError, EvaeError, first_line
from evae.imports import import_object
from evae.models.networks import ImageShape

# "package.module:function", a function, a module, or None for evae's network. Modules are callable, too; a more
# exact type would make the command line list every class of torch.nn.
OwnNetwork = str | Callable[..., Any] | None

T = TypeVar("T")

_OBJECT = "object:"
_is_dry: ContextVar[bool] = ContextVar("_is_dry", default=False)


def resolve_network(option: str, own: OwnNetwork, default: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """``default(*arguments)``, or the user's ``own`` network for the hyperparameter ``option``, "encoder" or "decoder".

    A function, or the import path of one, is called for each model, so that no two models share weights; a module is
    used as it is. ConfigError if the function cannot be imported, fails or does not return a module.
    """
    if own is None:
        return default(*arguments)
    if isinstance(own, nn.Module):
        return _copied(own).to(torch.get_default_device()) if _is_dry.get() else own
    check_named(option, own)
    make = import_object(own, f"model.{option}") if isinstance(own, str) else own
    name = own if isinstance(own, str) else getattr(own, "__qualname__", type(own).__name__)
    if isinstance(make, nn.Module) or not callable(make):
        raise ConfigError(f"--model.{option} {name}: must name a function that returns a torch.nn.Module")
    try:
        network = make(*arguments)
    except EvaeError:
        raise
    except Exception as error:  # whatever the function does
        failure = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"--model.{option} {name}{arguments}: cannot make the network ({failure})") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"--model.{option} {name}: must return a torch.nn.Module, not {type(network).__name__}")
    return network


def is_object(value: Any) -> bool:
    """Whether a recorded hyperparameter was an object that a file cannot hold."""
    return isinstance(value, str) and value.startswith(_OBJECT)


def check_named(name: str, value: Any) -> None:
    """Raise ConfigError if a hyperparameter was an object that a file cannot hold."""
    if is_object(value):
        raise ConfigError(
            f"this {name} was an object of a Python program ({value.removeprefix(_OBJECT)}); pass it again, "
            f"from_pretrained(folder, {name}=...), or train with an import path, --model.{name} package.module:function"
        )


def as_json(name: str, value: Any) -> Any:
    """A hyperparameter as JSON holds it: functions for networks by import path, other objects as "object:CLASS"."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [as_json(name, item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_json(name, item) for key, item in value.items()}
    named = value if hasattr(value, "__qualname__") else type(value)
    path = f"{named.__module__}:{named.__qualname__}"
    if name in ("encoder", "decoder") and named is value and not path.startswith("__main__:"):
        with suppress(ConfigError):  # another process finds the same object by its import path
            if import_object(path, "model") is value:
                return path
    return _OBJECT + path.replace(":", ".")


def check_buildable(
    model: Callable[[ImageShape], nn.Module], image_size: int | None, channels: Sequence[int] = (3, 1)
) -> None:
    """Build the model for images of one of these numbers of channels, and discard it.

    The caller's modules and random numbers stay as they are.

    ``image_size`` None tries 64, then 32, then rows of 8 numbers. ConfigError if it can be built for none; nothing is
    checked where it holds a module that cannot be copied.
    """
    if isinstance(model, nn.Module) or not callable(model):
        what = f"an instance of {type(model).__name__}" if isinstance(model, nn.Module) else repr(model)
        raise ConfigError(f"model must be a class, or a function of the images' shape that makes a model, not {what}")
    sizes = (64, 32) if image_size is None else (image_size,)
    shapes: list[ImageShape] = [(number, size, size) for size in sizes for number in channels]
    errors = []
    for shape in [*shapes, *([] if image_size else [(8,)])]:
        try:
            return _build_dry(model, shape)
        except _NotCopiedError:
            return None
        except Exception as error:  # anyone's model
            errors.append(error)
    first = next((error for error in errors if isinstance(error, EvaeError)), errors[0])
    if isinstance(first, EvaeError):
        raise first
    raise ConfigError(f"--model cannot be built ({type(first).__name__}: {first_line(first)})") from first


def _build_dry(model: Callable[[ImageShape], nn.Module], shape: ImageShape) -> None:
    """Build with copies of all modules: without memory, or, as not every network can be built so, with it."""
    token = _is_dry.set(True)
    try:
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    _built_twice(_copied(model)(shape))
            except _NotCopiedError:
                raise
            except Exception:
                _built_twice(_copied(model)(shape))
    finally:
        _is_dry.reset(token)


def _built_twice(model: Any) -> None:
    """Build a model again from its hyperparameters, as evae evaluate will, unless they are objects."""
    if not any(map(is_object, recorded := getattr(model, "hyperparameters", {}).values())) and recorded:
        type(model)(**model.hyperparameters)


class _NotCopiedError(Exception):
    """A module that cannot be copied, so that nothing can be tried without changing it."""


def _copied(value: T) -> T:
    """A deep copy of a module, or of a functools.partial with its modules; raises _NotCopiedError."""
    held = [value, *value.args, *value.keywords.values()] if isinstance(value, partial) else [value]
    buffers = [buffer for module in held if isinstance(module, nn.Module) for buffer in module.buffers()]
    # torch cannot copy buffers without a shape
    memo = {id(b): UninitializedBuffer(device=b.device, dtype=b.dtype) for b in buffers if is_lazy(b)}  # type: ignore[call-arg]
    try:
        return deepcopy(value, memo)
    except Exception as error:  # whatever the modules hold
        raise _NotCopiedError from error
