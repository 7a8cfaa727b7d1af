"""Objects named by import paths: models, networks and features of the user's; and packages that import when asked."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from evae.errors import ConfigError, first_line


def import_object(path: str, option: str) -> Any:
    """The object that ``path``, given as --``option``, names: "package.module:name", or "package.module.name".

    Python finds the module on ``sys.path``, to which the command line adds the current folder. ConfigError: it cannot
    be imported, or has no such name.
    """
    module, separator, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not separator or not name:
        raise ConfigError(f"--{option} {path}: not an import path of the form package.module:name")
    try:
        found: Any = import_module(module)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"--{option} {path}: {module!r} cannot be imported ({first_line(error)}); it must be in the current folder "
            "or on PYTHONPATH"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"--{option} {path}: {module} has no {name!r}")
        found = getattr(found, part)
    return found


def on_demand(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names, each with its module, are imported when they are first used."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find
