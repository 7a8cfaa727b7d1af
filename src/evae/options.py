"""Commands as options: a function's parameters and the fields of its dataclass parameters, grouped and documented."""

import re
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from docstring_parser import parse
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from evae.errors import EvaeError, first_line
from evae.imports import import_object
from evae.settings import groups

# What jsonargparse reports, in plain words: applied one after the other.
_RULES = {
    r"\. Got value: Namespace.*": "",
    r"^Type .* expects a function or a callable class: ": "",
    r"^Expected a dot import path string: (.*)": r"unknown \1; known are FAMILIES",
    r"^Import path (\S+) does not correspond .*": r"unknown \1; known are FAMILIES",
    r"^Option '(.*)' is not accepted.*": r"the model has no option '\1'",
    r".*Subtypes: \[(.*?)(?:, NoneType)?\] Errors: .* Given value: (.*)": r"expected \1, not \2",
    r"^Expected an? (.*)\. Got value: (.*)": r"expected \1, not \2",
    r"typing\.Literal\[(.*?)\]": r"one of \1",
}


class UsageError(EvaeError):
    """Options that cannot be understood."""


class _Formatter(DefaultHelpFormatter):
    """Options with dashes, defaults where there are some, no Python types."""

    def _get_help_string(self, action: Any) -> str:
        text = action.help or ""
        default = None if action.default == SUPPRESS else action.default
        if not action.option_strings or isinstance(default, bool) or "help" in action.dest:
            return text
        if action.required:
            text = f"{text.rstrip('.')} (required)"
        elif default is not None and "default:" not in text:
            text = f"{text.rstrip('.')} (default: {_shown(default)})"
        return text.rstrip(".")

    def _format_action_invocation(self, action: Any) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = ", ".join(dashed(name) for name in action.option_strings)
        if getattr(action, "_typehint", None) is bool:
            return names
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}".rstrip()

    def _get_default_metavar_for_optional(self, action: Any) -> str:
        kinds = {int: "N", float: "X", Path: "PATH"}
        hint = getattr(action, "_typehint", action.type)
        found = [kinds[kind] for kind in (hint, *getattr(hint, "__args__", ())) if kind in kinds]
        return found[0] if found else super()._get_default_metavar_for_optional(action)


def _shown(default: Any) -> str:
    """A default as it would be typed."""
    path = default["class_path"] if isinstance(default, dict) else getattr(default, "class_path", "")
    number = f"{default:.6g}" if isinstance(default, float) else str(default)
    return str(path).removeprefix("evae.") if path else number


def dashed(option: str) -> str:
    """--batch-size for --batch_size; hyperparameters of a model, --model.latent_dim, keep their names."""
    return option if "." in option else option.replace("_", "-")


class Options:
    """The command line of one function.

    Args:
        function: typed and documented; each dataclass parameter becomes a group of options, titled by the first words
            of the dataclass's docstring, up to a colon.
        positional: names of parameters that are given without a flag.
        first: options to show before all others.
        hidden: parameters that are for Python only.
    """

    def __init__(
        self,
        function: Callable[..., object],
        positional: tuple[str, ...] = (),
        first: tuple[str, ...] = (),
        hidden: tuple[str, ...] = (),
    ) -> None:
        self.function, self.groups = function, groups(function)
        self._arguments: list[str] = []
        options, prog = self, f"evae {function.__name__}"
        described = parse(function.__doc__ or "")

        class Parser(ArgumentParser):
            def error(self, message: str, ex: Exception | None = None) -> NoReturn:
                raise UsageError(f"{options._sentence(message)} ({prog} --help lists the options)")

            def format_help(self, formatter: Any = None) -> str:
                return "".join([super().format_help(formatter), *options._hyperparameters()])

        usage = " ".join([prog, *(name.upper() for name in positional), "[options]"])
        about = described.short_description
        self.parser = Parser(prog, usage, about, allow_abbrev=False, formatter_class=_Formatter)
        self.parser.add_argument("--config", action="config", help="read options from a YAML file")
        helps = {parameter.arg_name: parameter.description for parameter in described.params}
        for name in positional:
            annotation = signature(function).parameters[name].annotation
            many = "+" if annotation == list[Path] else None
            self.parser.add_argument(name, type=Path, metavar=name.upper(), help=helps.get(name), nargs=many)
        most_used = self.parser.add_argument_group("most used options")
        for name in first:
            self._add(most_used, {name})
        skip = {*positional, *hidden, *first}
        self._add(self.parser.add_argument_group("options"), set(signature(function).parameters) - skip)
        for cls in self.groups.values():
            heading = (parse(cls.__doc__ or "").short_description or cls.__name__).partition(":")[0].lower()
            self._add(self.parser.add_argument_group(heading), set(signature(cls).parameters) - skip)
        general: list[Any] = self.parser._action_groups  # type: ignore[assignment]
        general.append(general.pop(1))  # --help and --config come last
        general[-1].title = "general"
        for action in self.parser._actions:
            if action.dest.endswith(".help"):  # of --model; hyperparameters are listed below
                action.help = SUPPRESS

    def _add(self, group: Any, wanted: set[str]) -> None:
        """Add the function's parameters and the dataclasses' fields of these names to a group of options."""
        names = set(signature(self.function).parameters)
        if own := wanted & (names - self.groups.keys()):  # a user's family may have parameters without a type
            group.add_function_arguments(self.function, as_group=False, skip=names - own, fail_untyped=False)
        for cls in self.groups.values():
            fields = set(signature(cls).parameters)
            if wanted & fields:
                group.add_class_arguments(cls, None, as_group=False, skip=fields - wanted)

    def parse(self, arguments: list[str]) -> dict[str, Any]:
        """The function's arguments.

        Raises:
            UsageError: an option is unknown or has a wrong value.
            ConfigError: a setting cannot work.
        """
        flags = {f"--{a.dest}" for a in self.parser._actions if getattr(a, "_typehint", None) is bool}
        self._arguments = _spelled(arguments, flags)
        try:
            options = vars(self.parser.parse_args(self._arguments))
        except (RecursionError, UnicodeDecodeError) as error:
            raise UsageError(f"--config: not a YAML file of options ({type(error).__name__})") from error
        except EvaeError:
            raise
        except Exception as error:  # of a module of the user's, or a class that jsonargparse cannot handle
            raise UsageError(f"{self.parser.prog}: {type(error).__name__}: {first_line(error)}") from error
        del options["config"]
        for name, cls in self.groups.items():
            options[name] = cls(**{field: options.pop(field) for field in signature(cls).parameters})
        return options

    def _hyperparameters(self) -> Iterator[str]:
        """Help for the hyperparameters of the family that --model names, else of the default one."""
        default = signature(self.function).parameters.get("model")
        if default is None or "model" not in {action.dest for action in self.parser._actions}:
            return
        words = [word for argument in self._arguments for word in argument.split("=", 1)]
        given = [value for name, value in pairwise(words) if name == "--model"]
        name = given[-1].removeprefix("evae.") if given else default.default.__name__
        family = import_object(name, "model") if "." in name else _families().get(name)
        if family is not None:
            parser = ArgumentParser(usage=SUPPRESS, formatter_class=_Formatter, add_help=False)
            group = parser.add_argument_group(f"hyperparameters of {family.__name__}")
            group.add_class_arguments(family, "model", as_group=False, skip={"image_shape"})
            yield "\n" + parser.format_help().lstrip()

    def _sentence(self, report: str) -> str:
        """What jsonargparse reports over several nested lines, as one sentence: that of the innermost."""
        text = " ".join(re.sub(r"<class '([\w.]+)'>", r"\1", report).split())
        parts = re.split(r'Parser key "([^"]+)":', text)
        option, statement = ".".join(parts[1::2]), parts[-1].strip()
        for pattern, replacement in _RULES.items():
            statement = re.sub(pattern, replacement, statement)
        statement = statement.replace("FAMILIES", ", ".join(_families())).rstrip(".")
        known = {action.dest for action in self.parser._actions}
        if option and option.split(".")[0] not in known:
            option = f"model.{option}"
        return f"{dashed('--' + option)}: {statement}" if option else statement


def _families() -> dict[str, Any]:
    from evae.models.catalogue import families

    return dict(families())


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
