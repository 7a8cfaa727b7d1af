"""The words of a command line, before they are parsed."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from evae.commandline.parameters import UsageError

_WITH_VALUE = {"--config": "configs", "--model": "models"}
_MAX_VALUE = 2**12  # characters; no path is longer
_ALONE = {"--trust_config": "is_trusted", "--print_config": "is_printed"}


@dataclass
class Words:
    """A command line, apart from the options that decide how the others are read.

    Attributes:
        configs: values of --config.
        models: values of --model.
        is_trusted: whether --trust-config is among them.
        is_printed: whether --print-config is.
        rest: all others, options spelled with underscores.
    """

    configs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    is_trusted: bool = False
    is_printed: bool = False
    rest: list[str] = field(default_factory=list)


def split(arguments: Sequence[str], known: Collection[str]) -> Words:
    """The words of a command that has the options ``known``.

    Raises:
        UsageError: an option has no value, or one that it does not take.
    """
    words, remaining = Words(), iter(arguments)
    for word in remaining:
        option, equals, value = _spelled(word)
        if option == "--":
            words.rest += [word, *remaining]
        elif option in _WITH_VALUE and option in known:
            value = value if equals else next(remaining, "")
            if not value or (value.startswith("--") and not equals):
                raise UsageError(f"{option} needs a value")
            getattr(words, _WITH_VALUE[option]).append(value)
        elif option in _ALONE and option in known:
            if equals:
                raise UsageError(f"{option.replace('_', '-')} takes no value, not {value!r}")
            setattr(words, _ALONE[option], True)
        else:
            words.rest.append(option + equals + value)
    return words


def joined(arguments: Sequence[str], passed_on: Collection[str], known: Collection[str]) -> list[str]:
    """The words with each option of ``passed_on`` and its value as one word; the value may begin with dashes.

    Where another option of the command follows, which are ``known``, or none does, the value is empty.
    """
    words, remaining = list[str](), list(arguments)
    while remaining:
        word = remaining.pop(0)
        if word == "--":
            return [*words, word, *remaining]
        option, equals, _ = _spelled(word)
        if not equals and option.removeprefix("--") in passed_on:
            is_value = remaining and remaining[0][:1] in ("-", "") and _spelled(remaining[0])[0] not in known
            word = f"{word}={remaining.pop(0) if is_value else ''}"
        words.append(word)
    return words


def with_flags(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """The words with --overwrite as --overwrite=true, for all ``flags`` but those before true or false."""
    spelled = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        alone = word in flags and following not in ("true", "false")
        spelled.append(f"{word}=true" if alone else word)
    return spelled


def options_in(words: Sequence[str]) -> list[str]:
    """The names of the options among words, without values."""
    until = words.index("--") if "--" in words else len(words)
    return [word.partition("=")[0] for word in words[:until] if word.startswith("--")]


def unreadable_values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options whose value is a number that no type holds, or so long that reading it could exhaust the stack."""
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        value = value if equals else following
        if word.startswith("--") and (match := re.fullmatch(r"[+-]?(\d{300,})", value)):
            yield option, f"a number of {len(match[1])} digits is too large"
        elif word.startswith("--") and len(value) > _MAX_VALUE:
            yield option, f"a value of {len(value):,} characters is too long"


def _spelled(word: str) -> tuple[str, str, str]:
    """Option, "=" and value: --on-bad-image is --on_bad_image."""
    option, equals, value = word.partition("=")
    if word.startswith("--") and len(word) > 2:
        option = "--" + option[2:].replace("-", "_")
        return option, equals, value
    return word, "", ""
