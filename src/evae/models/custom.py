"""Networks of the user's: an import path, a function or a module; and how JSON records them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from evae.errors import ConfigError, EvaeError, first_line
from evae.imports import import_object

# "package.module:function", a function, a module, or None for Appendix C's network. Modules are callable, too; a more
# exact type would make the command line list every class of torch.nn.
OwnNetwork = str | Callable[..., Any] | None

T = TypeVar("T")

_OBJECT = "object:"
_copies: ContextVar[bool] = ContextVar("_copies", default=False)


class NotCopiedError(Exception):
    """A module that cannot be copied, so that nothing can be tried without changing it."""


@contextmanager
def copies_of_modules() -> Iterator[None]:
    """``resolve_network`` returns copies of modules, on the default device."""
    token = _copies.set(True)
    try:
        yield
    finally:
        _copies.reset(token)


def copied(value: T) -> T:
    """A deep copy of a module, or of a functools.partial with its modules.

    Raises:
        NotCopiedError: a part cannot be copied.
    """
    held = [value, *value.args, *value.keywords.values()] if isinstance(value, partial) else [value]
    buffers = [buffer for module in held if isinstance(module, nn.Module) for buffer in module.buffers()]
    # torch cannot copy buffers without a shape
    memo = {id(b): UninitializedBuffer(device=b.device, dtype=b.dtype) for b in buffers if is_lazy(b)}  # type: ignore[call-arg]
    try:
        return deepcopy(value, memo)
    except Exception as error:  # whatever the modules hold
        raise NotCopiedError from error


def resolve_network(option: str, own: OwnNetwork, default: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """A network of the user's, or the default one.

    Args:
        option: the hyperparameter, "encoder" or "decoder".
        own: an import path of a function, a function, a module, or None. Functions are called for each model, so that
            no two models share weights; a module is used as it is.
        default: makes the network where ``own`` is None.
        arguments: of the function: (image_shape) for an encoder, (image_shape, latent_dim) for a decoder.

    Raises:
        ConfigError: the function cannot be imported, fails or does not return a module.
    """
    if own is None:
        return default(*arguments)
    if isinstance(own, nn.Module):
        return copied(own).to(torch.get_default_device()) if _copies.get() else own
    if isinstance(own, str):
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


def check_named(name: str, value: Any) -> None:
    """Raise ConfigError if a hyperparameter was an object that a file cannot hold."""
    if isinstance(value, str) and value.startswith(_OBJECT):
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
    if name in ("encoder", "decoder") and named is value and _is_importable(path, value):
        return path
    return _OBJECT + path.replace(":", ".")


def _is_importable(path: str, value: Any) -> bool:
    """Whether another process finds the same object by its import path."""
    try:
        return not path.startswith("__main__:") and import_object(path, "model") is value
    except ConfigError:
        return False
