"""Commands as options: a function's parameters and the fields of its dataclass parameters, grouped and documented."""

import re
import sys
from argparse import SUPPRESS
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from docstring_parser import parse
from jsonargparse import ArgumentParser, Namespace

from evae.commandline import syntax
from evae.commandline.configuration import Configuration, check_trusted, read_configuration, words_of
from evae.commandline.families import Family, families, families_with, find_family
from evae.commandline.help import OptionHelp, dashed
from evae.commandline.parameters import Parameter, UsageError, did_you_mean, parameters, title
from evae.errors import EvaeError, first_line
from evae.settings import groups

# What jsonargparse reports, in plain words: applied one after the other.
_RULES = {
    r"\. Got value: Namespace.*": "",
    r".*Subtypes: \[(.*?)(?:, NoneType)?\] Errors: .* Given value: (.*)": r"expected \1, not \2",
    r"^Expected an? (.*)\. Got value: (.*)": r"expected \1, not \2",
    r"^(invalid literal for int|could not convert string to float).*": "not a number",
    r"typing\.Literal\[(.*?)\]": r"one of \1",
}
_MOST_USED = "most used options"


class Options:
    """The command line of one function.

    Args:
        function: typed and documented; each dataclass parameter becomes a group of options, titled by the first words
            of the dataclass's docstring, up to a colon. Such a function is ``flat``: it takes their fields as keywords.
        positional: names of parameters that are given without a flag.
        first: options to show before all others.
        hidden: parameters that are for Python only.
        passed_on: parameters whose values are options of another program; each may be given without a value, as "".
    """

    def __init__(
        self,
        function: Callable[..., object],
        positional: tuple[str, ...] = (),
        first: tuple[str, ...] = (),
        hidden: tuple[str, ...] = (),
        passed_on: tuple[str, ...] = (),
    ) -> None:
        self.function, self.positional, self.passed_on = function, positional, passed_on
        self.groups = groups(function)
        own = [p for p in parameters(function) if p.name not in {*self.groups, *hidden}]
        self._by_name = {p.name: p for p in own}
        sections = {"options": own} | {title(cls): parameters(cls) for cls in self.groups.values()}
        self._by_name |= {p.name: p for section in sections.values() for p in section}
        apart = {*positional, *first}
        self._sections = {_MOST_USED: [self._by_name[name] for name in first]} | {
            heading: [p for p in section if p.name not in apart] for heading, section in sections.items()
        }
        self.has_model = "model" in self._by_name
        self._parsers: dict[Family | None, ArgumentParser] = {}

    @property
    def name(self) -> str:
        """How the command is called."""
        return f"evae {self.function.__name__.replace('_', '-')}"

    @cached_property
    def default_family(self) -> Family:
        """The family that is the default of the parameter ``model``."""
        return find_family(signature(self.function).parameters["model"].default.__name__)

    def parser(self, family: Family | None = None) -> ArgumentParser:
        """The parser, with the hyperparameters of a family; default: of the function's own."""
        options = self

        class Parser(ArgumentParser):
            def error(self, message: str, ex: Exception | None = None) -> NoReturn:
                raise options._error(_sentence(message))

        has_options = len(self._by_name) > len(self.positional)
        usage = [self.name, *(name.upper() for name in self.positional), *["[options]"] * has_options]
        about = parse(self.function.__doc__ or "").short_description
        parser = Parser(self.name, " ".join(usage), about, allow_abbrev=False, formatter_class=OptionHelp)
        for name in self.positional:
            _add_positional(parser, self._by_name[name])
        for heading, section in self._sections.items():
            group = parser.add_argument_group(heading)
            for parameter in section:
                _add(group, f"--{parameter.name}", parameter, parameter.name in self.passed_on)
        if self.has_model:
            self._add_model(parser, family or self.default_family)
        self._add_general(parser, has_options)
        return parser

    def _add_model(self, parser: ArgumentParser, family: Family) -> None:
        group = parser.add_argument_group(f"hyperparameters of {family.name}")
        if not family.is_own:
            for parameter in family.hyperparameters:
                _add(group, f"--model.{parameter.name}", parameter)
            return
        # A user's class may pass on parameters as it likes, or have some without a type: jsonargparse finds them.
        group.add_class_arguments(family.cls, "model", as_group=False, skip={"image_shape"}, fail_untyped=False)
        for action in parser._actions:
            if action.dest.endswith(".help"):
                action.help = SUPPRESS

    def _add_general(self, parser: ArgumentParser, has_options: bool) -> None:
        groups: list[Any] = parser._action_groups  # type: ignore[assignment]
        groups.append(groups.pop(1))  # --help and those below come last
        general, groups[-1].title = groups[-1], "general"
        if has_options:
            general.add_argument("--config", metavar="FILE", help="read options from a YAML file; others replace them")
            trust = "let --config name code of your own, which is imported and run"
            general.add_argument("--trust_config", action="store_true", help=trust)
            general.add_argument(
                "--print_config", action="store_true", help="print all options as such a file, and stop"
            )

    def completions(self) -> dict[str, tuple[str, ...]]:
        """The options as they are typed, each with its possible values; none where it takes others."""
        named = {dashed(f"--{name}"): p for name, p in self._by_name.items() if name not in self.positional}
        found = {option: parameter.choices for option, parameter in named.items()}
        if self.has_model:
            found["--model"] = tuple(families())
            every = (p for name in families() for p in find_family(name).hyperparameters)
            found |= {f"--model.{p.name}": p.choices for p in every}
        general = ["--help", "--config", "--trust-config", "--print-config"]
        return found | dict.fromkeys(general if len(self._by_name) > len(self.positional) else general[:1], ())

    def parse(self, arguments: list[str]) -> dict[str, Any]:
        """The function's arguments, those of its dataclasses by field; ``model`` is a factory of the chosen family.

        Raises:
            UsageError: an option is unknown or has a wrong value.
            ConfigError: a setting cannot work.
        """
        own = {f"--{name}" for name in self._by_name} | self._own_options | {"--help", "-h"}
        words = syntax.split(syntax.joined(arguments, self.passed_on, own), self._own_options)
        files = [read_configuration(Path(path)) for path in words.configs]
        for file in () if words.is_trusted else files:
            check_trusted(file)
        family = self._family([file.model for file in files if file.model is not None], words.models)
        values, hyperparameters = self._parsed(files, words.rest, family)
        if words.is_printed:
            sys.stdout.write(yaml.safe_dump(_resolved(values, hyperparameters, family), sort_keys=False))
            raise SystemExit(0)
        return values | ({"model": family.factory(hyperparameters)} if family else {})

    def resolved(self, file: Configuration, *words: str) -> dict[str, Any]:
        """The values of all options as YAML holds them: those of a file and of words, and the defaults of the others.

        Nothing is imported but classes of the user's own.

        Raises:
            UsageError: an option is unknown or has a wrong value.
            ConfigError: a setting cannot work.
        """
        family = self._family([file.model] if file.model is not None else [], [])
        return _resolved(*self._parsed([file], list(words), family), family)

    def _parsed(
        self, files: list[Configuration], words: list[str], family: Family | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of options and the hyperparameters of the family."""
        parser = self._parsers[family] = self._parsers.get(family) or self.parser(family)
        known = {name: p for name, p in self._by_name.items() if name not in (*self.positional, "model")}
        from_files = [word for file in files for word in words_of(file, known, family)]
        values = self._values(parser, [*from_files, *words], family)
        given = [name for file in files if family and family.is_called(file.model) for name in file.hyperparameters]
        return values, _hyperparameters(values.pop("model", None), given, parser)

    @property
    def _own_options(self) -> set[str]:
        """The options that are not left to the parser, of a command that has any."""
        if len(self._by_name) == len(self.positional):
            return set()
        return {"--config", "--trust_config", "--print_config", *(["--model"] if self.has_model else [])}

    def _family(self, in_files: list[str], on_line: list[str]) -> Family | None:
        """The family that the command line names last, else the files, else the default one."""
        if not self.has_model:
            return None
        named = [*in_files, *on_line]
        return find_family(named[-1]) if named else self.default_family

    def _values(self, parser: ArgumentParser, words: list[str], family: Family | None) -> dict[str, Any]:
        """The checked values of all options by name; those of the model in a dictionary of their own."""
        known = {option for action in parser._actions for option in action.option_strings}
        for option in syntax.options_in(words):
            if option not in known:
                raise self._error(_unknown(option, known, family))
        for option, reason in syntax.unreadable_values(words):
            raise UsageError(f"{dashed(option)}: {reason}")
        flags = {f"--{a.dest}" for a in parser._actions if getattr(a, "_typehint", None) is bool}
        try:
            values = vars(parser.parse_args(syntax.with_flags(words, flags)))
        except EvaeError:
            raise
        except Exception as error:  # of a user's class that jsonargparse cannot handle
            raise self._error(f"{type(error).__name__}: {first_line(error)}") from error
        self.check(values)
        return {name: value for name, value in values.items() if name in {*self._by_name, "model"}}

    def check(self, values: dict[str, Any]) -> None:
        """Check values together, before anything is imported; ConfigError where they cannot work."""
        for cls in self.groups.values():
            cls(**{name: values[name] for name in signature(cls).parameters})

    def _error(self, sentence: str) -> UsageError:
        return UsageError(f"{sentence}; {self.name} --help lists the options")


@dataclass(frozen=True)
class _Text:
    """The value of an option that is a text or a path: as it is written."""

    option: str
    kind: type
    may_be_empty: bool = False

    def __call__(self, value: Any) -> Any:
        """Of the kind.

        Raises:
            UsageError: it is empty, or holds what no path can hold.
        """
        if not isinstance(value, str):
            return value
        if not value and not self.may_be_empty:
            raise UsageError(
                f"{self.option} is empty; give a {'path' if self.kind is Path else 'value'} or leave it out"
            )
        if "\0" in value:
            raise UsageError(f"{self.option} holds the character NUL, which no path can hold")
        return self.kind(value)


def _resolved(values: dict[str, Any], hyperparameters: dict[str, Any], family: Family | None) -> dict[str, Any]:
    model = {"model": {"class_path": family.path, "init_args": hyperparameters}} if family else {}
    plain: dict[str, Any] = _plain(values | model)
    return plain


def _hyperparameters(values: Namespace | None, given: list[str], parser: ArgumentParser) -> dict[str, Any]:
    """The hyperparameters of a model, those ``given`` by files first, in their order, in which they are recorded.

    None where nothing else is the default stands for one that is not given, which a family need not take.
    """
    named = vars(values) if values else {}
    defaults = {action.dest: action.default for action in parser._actions}
    kept = [k for k, v in named.items() if v is not None or defaults.get(f"model.{k}") is not None]
    return {name: named[name] for name in dict.fromkeys([*given, *kept])}


def _add_positional(parser: ArgumentParser, parameter: Parameter) -> None:
    name = parameter.name.upper()
    nargs = "+" if list[Path] in (parameter.hint, *get_args(parameter.hint)) else None
    parser.add_argument(
        parameter.name,
        type=_Text(name, parameter.text or Path),
        metavar=name,
        help=_escaped(parameter.help),
        nargs=nargs,
    )


def _add(group: Any, option: str, parameter: Parameter, is_passed_on: bool = False) -> None:
    """Add a parameter to a group of options."""
    default = float(parameter.default) if parameter.hint is float and not parameter.is_required else parameter.default
    shown = {"required": True} if parameter.is_required else {"default": default}
    if parameter.name == "model":
        text = f"{parameter.help.rstrip('.')} (default: {parameter.default.__name__})"
        group.add_argument("--model", metavar="MODEL", help=_escaped(text))
    elif parameter.is_repeated:
        kind = _Text(dashed(option), str)
        metavar = f"{parameter.name.upper()} ..."
        group.add_argument(option, type=kind, action="append", metavar=metavar, help=_escaped(parameter.help))
    elif parameter.text is not None:
        metavar = "PATH" if parameter.text is Path else "[OPTIONS]" if is_passed_on else parameter.name.upper()
        kind = _Text(dashed(option), parameter.text, is_passed_on)
        group.add_argument(option, type=kind, metavar=metavar, help=_escaped(parameter.help), **shown)
    else:
        group.add_argument(option, type=parameter.hint, help=_escaped(parameter.help), **shown)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _unknown(option: str, known: set[str], family: Family | None) -> str:
    """What is said of an option that there is not."""
    prefix, _, name = option.partition(".")
    if family is None or prefix != "--model" or not name:
        hint = did_you_mean(option, map(dashed, sorted(known)))
        return f"unknown option {dashed(option)}{hint}"
    names = [other.partition(".")[2] for other in sorted(known) if other.startswith("--model.")]
    others = families_with(name)
    hint = did_you_mean(name, names) or (f" (that is one of {', '.join(others)})" if others else "")
    return f"{family.name} has no hyperparameter {name}{hint}"


def _sentence(report: str) -> str:
    """What jsonargparse reports over several nested lines, as one sentence: that of the innermost."""
    text = " ".join(re.sub(r"<class '([\w.]+)'>", r"\1", report).split())
    parts = re.split(r'Parser key "([^"]+)":', text)
    option, statement = ".".join(parts[1::2]), parts[-1].strip()
    for pattern, replacement in _RULES.items():
        statement = re.sub(pattern, replacement, statement)
    return f"{dashed('--' + option)}: {statement.rstrip('.')}" if option else statement.rstrip(".")


def _plain(value: Any) -> Any:
    """As YAML holds it."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
