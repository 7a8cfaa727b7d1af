"""Settings as dataclasses: their fields are keywords of a function and options of its command."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

T = TypeVar("T")


def groups(function: Callable[..., object]) -> dict[str, type]:
    """The parameters of a function that are dataclasses of settings, by name."""
    annotations = {name: parameter.annotation for name, parameter in signature(function).parameters.items()}
    return {name: cls for name, cls in annotations.items() if isinstance(cls, type) and is_dataclass(cls)}


def flat(function: Callable[..., T]) -> Callable[..., T]:
    """Let callers give the fields of a function's dataclass parameters as keywords of the function itself.

    ``train(data, out, epochs=3)`` means ``train(data, out, recipe=Recipe(epochs=3))``.
    """
    own = {name: {field.name for field in fields(cls)} for name, cls in groups(function).items()}
    defaults = {name: signature(function).parameters[name].default for name in own}

    @wraps(function)
    def flattened(*args: Any, **kwargs: Any) -> T:
        for group, names in own.items():
            given = {name: kwargs.pop(name) for name in names & kwargs.keys()}
            if given:
                kwargs[group] = replace(kwargs.get(group, defaults[group]), **given)
        return function(*args, **kwargs)

    return flattened
