"""The command line: ``evae COMMAND``, each command a typed function whose docstring is its help."""

import os
import re
import sys
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

from evae.errors import EvaeError


@dataclass(frozen=True)
class _Command:
    """Where a command's function lives, found only when it is called for; the rest is for the overview."""

    module: str
    summary: str
    positional: tuple[str, ...] = ()


COMMANDS = {
    "train": _Command("evae.training", "train a model on images, into a run folder"),
    "evaluate": _Command("evae.metrics", "measure a run's reconstructions of hold-out images", ("run_folder",)),
    "report": _Command("evae.report", "write a page about a run, to look at", ("run_folder",)),
    "compare": _Command("evae.report", "put runs side by side", ("run_folders",)),
    "sample": _Command("evae.inference", "decode draws from a run's prior", ("run_folder",)),
    "reconstruct": _Command("evae.inference", "reconstruct your own image files", ("run_folder", "images")),
    "models": _Command("evae.models.catalogue", "list the models and their hyperparameters"),
    "kernels": _Command("evae.kernel_study", "compare the kernels: a table and two figures"),
    "encode": _Command("evae.inference", "write latent codes to a parquet file", ("run_folder",)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for bad input (one sentence on standard error)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"evae {version('evae')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}; the commands are {', '.join(COMMANDS)}")
    if not sys.warnoptions:  # what libraries warn of is not for users; python -W shows it
        warnings.filterwarnings("ignore", module=r"joblib|PIL|torch\.distributed")
    try:
        _run(name, rest)
        sys.stdout.flush()
    except EvaeError as error:
        return _fail(str(error), getattr(error, "exit_code", 2))
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(f"{error.filename or 'the output'} cannot be used ({error.strerror or error})")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _overview() -> str:
    lines = [f"  {name:<12} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: evae COMMAND [options]",
            "",
            "Kernel-based variational autoencoders: train, evaluate, sample.",
            "",
            *lines,
            "",
            "evae COMMAND --help tells a command's options; evae --version the version.",
        ]
    )


def _fail(message: str, code: int = 2) -> int:
    print(f"evae: {message}", file=sys.stderr)
    return code


class _UsageError(EvaeError):
    """Options that cannot be understood."""


def _run(name: str, arguments: list[str]) -> None:
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise _UsageError(f"{_sentence(message, parameters)} (evae {name} --help tells the options)")

    command = COMMANDS[name]
    function = getattr(import_module(command.module), name)
    parameters = signature(function).parameters
    parser = Parser(prog=f"evae {name}", description=_first_paragraph(function), allow_abbrev=False)
    parser.add_argument("--config", action="config", help="read options from a YAML file")
    for argument in command.positional:
        _add_positional(parser, argument)
    parser.add_function_arguments(function, as_positional=False, skip=set(command.positional))
    flags = {f"--{key}" for key, parameter in parameters.items() if parameter.annotation is bool}
    try:
        options = vars(parser.parse_args(_spelled(arguments, flags)))
    except (RecursionError, UnicodeDecodeError) as error:
        raise _UsageError(f"--config: not a YAML file of options ({type(error).__name__})") from error
    del options["config"]
    if "model" in parameters:
        options["model"] = _factory(options["model"])
    function(**options)


def _add_positional(parser: Any, argument: str) -> None:
    if argument == "images":
        parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    elif argument == "run_folders":
        parser.add_argument("run_folders", type=Path, nargs="+", metavar="RUN", help="folders of trained runs")
    else:
        parser.add_argument(argument, type=Path, metavar="RUN", help="the folder of a trained run")


def _spelled(arguments: list[str], flags: set[str]) -> list[str]:
    """--on-bad-image is --on_bad_image; --overwrite is --overwrite=true, but for one before true or false."""
    spelled = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = argument.partition("=")
        if argument.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        alone = option in flags and not equals and following not in ("true", "false")
        spelled.append(f"{option}=true" if alone else option + equals + value)
    return spelled


def _factory(model: Any) -> Any:
    """The chosen family with its hyperparameters, waiting for the images' shape."""
    if model is None:
        raise _UsageError(f"--model: one of {', '.join(_families())} is needed")
    arguments = vars(model.get("init_args", {}))
    for name, value in arguments.items():
        numbers = isinstance(value, list | tuple) and all(isinstance(number, int | float) for number in value)
        if value is not None and not numbers and not isinstance(value, str | int | float):
            raise _UsageError(f"--model.{name}: networks of your own are passed from Python")
    module, _, family = model.class_path.rpartition(".")
    return partial(getattr(import_module(module), family), **arguments)


def _first_paragraph(function: Any) -> str:
    return " ".join((function.__doc__ or "").split("\n\n")[0].split())


def _sentence(report: str, parameters: Collection[str]) -> str:
    """What jsonargparse reports over several nested lines, as one sentence of the innermost."""
    text = " ".join(re.sub(r"<class '([\w.]+)'>", r"\1", report).split())
    parts = re.split(r'Parser key "([^"]+)":', text)
    option, statement = ".".join(parts[1::2]), parts[-1].strip()
    statement = re.split(r"\. Got value: Namespace", statement)[0]
    statement = re.sub(r"^Type .* expects a function or a callable class: ", "", statement)
    rules = {
        r"^Expected a dot import path string: (.*)": rf"unknown \1; known are {', '.join(_families())}",
        r"^Import path (\S+) does not correspond .*": rf"unknown \1; known are {', '.join(_families())}",
        r"^Option '(.*)' is not accepted.*": r"the model has no option '\1'",
        r".*Subtypes: \[(.*?)(?:, NoneType)?\] Errors: .* Given value: (.*)": r"expected \1, not \2",
        r"^Expected an? (.*)\. Got value: (.*)": r"expected \1, not \2",
    }
    for pattern, replacement in rules.items():
        statement = re.sub(pattern, replacement, statement)
    statement = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", statement).rstrip(".")
    if option and option.split(".")[0] not in {*parameters, "config"}:
        option = f"model.{option}"
    return f"--{option}: {statement}" if option else statement


def _families() -> list[str]:
    from evae.models.catalogue import families

    return list(families())


if __name__ == "__main__":
    sys.exit(main())
