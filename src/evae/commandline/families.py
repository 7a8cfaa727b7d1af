"""``--model``: a family of evae or a class of the user's, and its hyperparameters as options."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from evae.commandline.declarations import declared
from evae.commandline.parameters import Parameter, UsageError, did_you_mean, parameters
from evae.errors import ConfigError
from evae.imports import import_object

_SIZES = "image_shape"  # the parameter that the images give


def families() -> dict[str, type]:
    """evae's families by name, as their source declares them."""
    return dict(declared("evae.models", "FAMILIES"))


@dataclass(frozen=True)
class Family:
    """The class that --model names.

    Attributes:
        path: its import path; "evae.NAME" for evae's own.
        cls: the class; evae's own as declared.
        is_own: whether it is the user's.
    """

    path: str
    cls: type
    is_own: bool

    @property
    def name(self) -> str:
        """Its name without the module."""
        return self.cls.__name__

    @property
    def hyperparameters(self) -> list[Parameter]:
        """Of evae's own family; none of a user's class, whose constructor may pass on others."""
        return [] if self.is_own else [parameter for parameter in parameters(self.cls) if parameter.name != _SIZES]

    def is_called(self, path: str | None) -> bool:
        """Whether a name or class path is the family's."""
        names = (self.path, *([] if self.is_own else [self.name]))
        return path is not None and canonical(path.replace(":", ".")) in names

    def factory(self, arguments: dict[str, Any]) -> Any:
        """The family with its hyperparameters, waiting for the images' shape.

        Raises:
            UsageError: a network is given by something else than an import path.
        """
        for name, value in arguments.items():
            parts = value if isinstance(value, list | tuple) else [value]
            if not all(part is None or isinstance(part, str | int | float) for part in parts):
                form = "an import path, package.module:factory"
                raise UsageError(f"--model.{name}: networks of your own are given by {form}")
        return partial(import_object(self.path, "model"), **arguments)


def canonical(path: str) -> str:
    """A class path or name, an alias replaced by the name of the family."""
    prefix = "evae." if path.startswith("evae.") else ""
    return prefix + declared("evae.models", "ALIASES").get(path.removeprefix("evae."), path.removeprefix("evae."))


def is_evae(path: str) -> bool:
    """Whether a class path names one of evae's families."""
    return path.removeprefix("evae.") in families()


def find_family(path: str) -> Family:
    """The family of a name or class path; a class of the user's is imported.

    Raises:
        UsageError: there is no such family, or it is no class of models.
        ConfigError: the module cannot be imported.
    """
    known, path = families(), canonical(path)
    if is_evae(path):
        name = path.removeprefix("evae.")
        return Family(f"evae.{name}", known[name], is_own=False)
    if "." not in path and ":" not in path:
        raise UsageError(f"--model: unknown {path}{did_you_mean(path, known)}; known are {', '.join(known)}")
    try:
        cls = import_object(path, "model")
    except ConfigError as error:
        name = path.removeprefix("evae.")
        raise UsageError(f"{error}{did_you_mean(name, known) if path.startswith('evae.') else ''}") from error
    from evae.models.vae import VAE

    if not isinstance(cls, type) or not issubclass(cls, VAE):
        raise UsageError(f"--model {path} is not a class of models: {', '.join(known)} or a subclass of evae.VAE")
    return Family(path.replace(":", "."), cls, is_own=True)


def families_with(hyperparameter: str) -> list[str]:
    """The names of evae's families that have a hyperparameter."""
    return [name for name in families() if hyperparameter in {p.name for p in find_family(name).hyperparameters}]
