"""The command line: ``evae COMMAND``, each command a typed function whose docstring is its help."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from evae.commandline.streams import usable_streams
from evae.errors import EvaeError, printable

if TYPE_CHECKING:
    from evae.commandline.options import Options

_INTERRUPTED = 128 + signal.SIGINT  # the exit code, as shells report it


class _Command(NamedTuple):
    """Where a command's function lives, imported only when it is called, and what its help shows.

    ``file`` is the option that names a file to write, where a folder cannot be meant; ``passed_on`` are options whose
    values are options of another program.
    """

    module: str
    summary: str
    positional: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    file: str | None = None
    passed_on: tuple[str, ...] = ()


# To add a command: a typed function whose docstring is its help, and a line here; its name has _ for -.
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
    "report": _Command(
        "evae.reporting", "write an HTML report of a run", ("run_folder",), hidden=("model",), file="out"
    ),
    "compare": _Command("evae.reporting", "compare runs in a table and a page", ("run_folders",)),
    "sample": _Command("evae.inference", "decode draws from a run's prior", ("run_folder",)),
    "reconstruct": _Command("evae.inference", "reconstruct your own image files", ("run_folder", "images")),
    "encode": _Command("evae.collection", "write latent codes to a Parquet file", ("run_folder",), file="out"),
    "map": _Command("evae.collection", "write a page that shows all images on a plane", ("run_folder",), file="out"),
    "audit": _Command("evae.collection", "find duplicates, leaks, outliers and unreadable files", ("data",)),
    "fit-prior": _Command("evae.fitting", "fit a prior to a run's codes, for samples", ("run_folder",)),
    "export": _Command(
        "evae.exporting", "write a run's networks as ONNX files, and a page that runs them", ("run_folder",)
    ),
    "models": _Command("evae.models.catalogue", "list the models and their hyperparameters"),
    "kernels": _Command("evae.kernel_study", "compare the kernels in a table and two figures"),
    "inspect": _Command("evae.inspection", "show what evae train would find in your images", ("data",), file="out"),
    "benchmark": _Command(
        "evae.benchmark", "fill the table of a spec: train and evaluate its grid", ("spec",), passed_on=("slurm",)
    ),
    "tradeoff": _Command("evae.tradeoff", "show what sharp reconstructions cost: rate, distortion, sharpness"),
    "push": _Command("evae.hub", "publish a run on the Hugging Face hub", ("run_folder", "repository")),
    "pull": _Command("evae.hub", "load a published run into a run folder", ("repository",)),
    "cache": _Command("evae.data.cache", "list and prune the cache of decoded images"),
}

_OVERVIEW = """usage: evae COMMAND [options]

Kernel-based variational autoencoders: train, evaluate, sample.

{}

Run 'evae COMMAND --help' for its options, 'evae --version' for the version, 'evae --print-completion SHELL' for a
script that completes commands and options in bash, zsh or fish."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for bad input (one sentence on standard error).

    Without ``arguments`` those of the process are run, whose streams and signals are the command's then.
    """
    if arguments is not None:
        return _main(list(arguments))
    with usable_streams(), _quiet_interrupts():
        return _main(sys.argv[1:])


def _main(arguments: list[str]) -> int:
    try:
        code = _answer(arguments)
        sys.stdout.flush()
        return code
    except EvaeError as error:
        return _fail(str(error), getattr(error, "exit_code", 2))
    except BrokenPipeError:  # whoever read the output has read enough
        return 0
    except ConnectionError as error:
        return _fail(f"a network connection failed ({error.strerror or error})")
    except OSError as error:
        return _fail(f"{error.filename or 'a file or the output'} cannot be used ({error.strerror or error})")
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)


def _answer(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_OVERVIEW.format("\n".join(f"  {name:<12} {command.summary}" for name, command in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from evae import __version__

        print(f"evae {__version__}")
        return 0
    option, _, value = arguments[0].partition("=")
    if option.replace("_", "-") == "--print-completion":
        print(_completion([*filter(None, [value]), *arguments[1:]]), end="")
        return 0
    _run(arguments[0].replace("_", "-"), arguments[1:])
    return 0


def _completion(shell: list[str]) -> str:
    """The script of --print-completion."""
    from evae.commandline.completion import script
    from evae.commandline.parameters import UsageError

    if len(shell) != 1:
        raise UsageError("--print-completion takes the name of a shell: bash, zsh or fish")
    return script(shell[0], {name: options_of(name).completions() for name in COMMANDS})


def options_of(name: str) -> "Options":
    """The options of a command, read from the source of its function."""
    from evae.commandline.declarations import declared
    from evae.commandline.options import Options

    command = COMMANDS[name]
    function = declared(command.module, name.replace("-", "_"))
    return Options(function, command.positional, command.first, command.hidden, command.passed_on)


def _run(name: str, arguments: list[str]) -> None:
    """Parse the options, which is quick, then import the function and call it."""
    from evae.commandline.parameters import UsageError, did_you_mean

    if name not in COMMANDS:
        known = f"the commands are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}{did_you_mean(name, COMMANDS)}; {known}")
    command, function = COMMANDS[name], name.replace("-", "_")
    if str(Path.cwd()) not in sys.path:  # where python -m would look for the user's modules
        sys.path.insert(0, str(Path.cwd()))
    options = options_of(name).parse(arguments)
    if command.file is not None and (path := options[command.file]) is not None and path.is_dir():
        raise UsageError(f"--{command.file} {path} is a folder; name the file to write")
    _prepare_process()
    called = getattr(import_module(command.module), function)
    with _interrupts():
        called(**options)


def _prepare_process() -> None:
    """What a command may change for its own process; functions of the library change none of it."""
    from evae.allocator import keep_memory

    if not sys.warnoptions:  # what libraries warn of is not for users; python -W shows it
        warnings.filterwarnings("ignore", module=r"joblib|PIL|torch\.distributed")
    keep_memory()


@contextmanager
def _quiet_interrupts() -> Iterator[None]:
    """End the process at Ctrl-C, but for ``_interrupts``: there is nothing to put in order yet, or any more."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the parent has it ignored
        signal.signal(signal.SIGINT, _quit)
    yield


@contextmanager
def _interrupts() -> Iterator[None]:
    """KeyboardInterrupt at the first Ctrl-C, where ``_quiet_interrupts`` would end the process; the second ends it."""
    is_quiet = signal.getsignal(signal.SIGINT) is _quit
    if is_quiet:
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        yield
    finally:
        if is_quiet:
            signal.signal(signal.SIGINT, _quit)


def _interrupt_once(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, _quit)
    raise KeyboardInterrupt


def _quit(signum: int, frame: FrameType | None) -> NoReturn:
    _fail("interrupted")
    os._exit(_INTERRUPTED)


def _fail(message: str, code: int = 2) -> int:
    with suppress(OSError, ValueError):  # nobody reads it
        print(f"evae: {_short(printable(message))}", file=sys.stderr, flush=True)
    return code


def _short(message: str) -> str:
    """A message without the middle of words that nobody would read to their end."""
    return re.sub(r"(\S{100})\S{300,}(\S{100})", r"\1...\2", message)


if __name__ == "__main__":
    sys.exit(main())
