"""The command line: ``evae COMMAND``, each command a typed function whose docstring is its help."""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evae.errors import EvaeError


@dataclass(frozen=True)
class _Command:
    """Where a command's function lives, imported only when it is called, and what its help shows."""

    module: str
    summary: str
    positional: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


# To add a command: a typed function whose docstring is its help, and a line here.
COMMANDS = {
    "train": _Command(
        "evae.training",
        "train a model on images, into a run folder",
        first=(
            *("model", "data", "image_size", "epochs", "batch_size"),
            *("learning_rate", "out", "seed", "resume", "accelerator"),
        ),
    ),
    "evaluate": _Command("evae.metrics", "measure a run on its hold-out images", ("run_folder",), hidden=("show",)),
    "report": _Command("evae.reporting", "write an HTML report of a run", ("run_folder",), hidden=("model",)),
    "compare": _Command("evae.reporting", "compare runs in a table and a page", ("run_folders",)),
    "sample": _Command("evae.inference", "decode draws from a run's prior", ("run_folder",)),
    "reconstruct": _Command("evae.inference", "reconstruct your own image files", ("run_folder", "images")),
    "encode": _Command("evae.inference", "write latent codes to a Parquet file", ("run_folder",)),
    "models": _Command("evae.models.catalogue", "list the models and their hyperparameters"),
    "kernels": _Command("evae.kernel_study", "compare the kernels in a table and two figures"),
    "cache": _Command("evae.data.cache", "list and prune the cache of decoded images"),
}

_OVERVIEW = """usage: evae COMMAND [options]

Kernel-based variational autoencoders: train, evaluate, sample.

{}

Run 'evae COMMAND --help' for its options, 'evae --version' for the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for bad input (one sentence on standard error)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_OVERVIEW.format("\n".join(f"  {name:<12} {command.summary}" for name, command in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"evae {version('evae')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}; the commands are {', '.join(COMMANDS)}")
    _prepare_process()
    try:
        _run(name, rest)
        sys.stdout.flush()
    except EvaeError as error:
        return _fail(str(error), getattr(error, "exit_code", 2))
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ConnectionError as error:
        return _fail(f"a network connection failed ({error.strerror or error})")
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} cannot be used ({error.strerror or error})")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _prepare_process() -> None:
    """What a command may change for its own process; functions of the library change none of it."""
    from evae.allocator import keep_memory

    if str(Path.cwd()) not in sys.path:  # where python -m would look for the user's modules
        sys.path.insert(0, str(Path.cwd()))
    if not sys.warnoptions:  # what libraries warn of is not for users; python -W shows it
        warnings.filterwarnings("ignore", module=r"joblib|PIL|torch\.distributed")
    keep_memory()


def _fail(message: str, code: int = 2) -> int:
    print(f"evae: {message}", file=sys.stderr)
    return code


def _run(name: str, arguments: list[str]) -> None:
    from evae.options import Options

    command = COMMANDS[name]
    function = getattr(import_module(command.module), name)
    options = Options(function, command.positional, command.first, command.hidden).parse(arguments)
    if "model" in options:
        options["model"] = _factory(options["model"])
    function(**options)


def _factory(model: Any) -> Any:
    """The chosen family with its hyperparameters, waiting for the images' shape."""
    from evae.models.catalogue import families
    from evae.options import UsageError

    if not hasattr(model, "class_path"):
        raise UsageError(f"--model: one of {', '.join(families())} is needed, or a class of your own")
    arguments = vars(model.get("init_args", {}))
    for name, value in arguments.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if not all(part is None or isinstance(part, str | int | float) for part in parts):
            form = "an import path, package.module:factory"
            raise UsageError(f"--model.{name}: networks of your own are given by {form}")
    module, _, family = model.class_path.rpartition(".")
    return partial(getattr(import_module(module), family), **arguments)


if __name__ == "__main__":
    sys.exit(main())
