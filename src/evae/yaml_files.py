"""YAML, read with limits and without running anything: for files of options and the configurations of runs."""

from typing import Any

import yaml

from evae.errors import first_line

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_EVENTS = 20_000  # scalars, lists and mappings
_MAX_DIGITS = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class YamlError(ValueError):
    """What is wrong with a YAML text; whoever reads it adds the file and what it should be."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)
        self.problem, self.line = problem, line


class YamlLimitError(YamlError):
    """A text that would take too much memory or time."""


class YamlFeatureError(YamlError):
    """A part of YAML that is not taken: aliases, anchors and tags."""


def compose(text: str) -> yaml.Node | None:
    """The nodes of a text, None where it is empty.

    Raises:
        YamlError: it is no YAML, too deep or too long, or has aliases or tags.
    """
    try:
        _check(text)
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or first_line(error)
        raise YamlError(problem, mark.line + 1 if mark else None) from error


def construct(node: yaml.Node) -> Any:
    """The value of a node.

    Raises:
        YamlError: a date or a number that is none.
    """
    _check_numbers(node)
    try:
        return yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, IndexError, RecursionError) as error:
        raise YamlError(first_line(error)) from error


def _check(text: str) -> None:
    """Refuse, before anything is built, what would take memory or time."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or count > MAX_EVENTS:
            raise YamlLimitError("is nested too deeply or too long")
        for kind in ("anchor", "tag"):  # an alias has the name of its anchor
            if getattr(event, kind, None):
                line = event.start_mark.line + 1 if event.start_mark else None
                raise YamlFeatureError("aliases, anchors and tags of YAML are not taken", line)


def _check_numbers(node: yaml.Node) -> None:
    """Refuse numbers whose digits would take long to read."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and len(node.value) > _MAX_DIGITS:
            raise YamlError(f"a number of {len(node.value)} digits", node.start_mark.line + 1)
        return
    for part in node.value:
        for item in part if isinstance(part, tuple) else (part,):
            _check_numbers(item)
