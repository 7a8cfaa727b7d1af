"""Files of options: YAML, read with limits and without running anything; values stay as they are written."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evae.commandline.families import Family
from evae.commandline.parameters import Parameter, UsageError, did_you_mean
from evae.console import warn
from evae.records import NotRegularRecordError, RecordError, read_bytes
from evae.yaml_files import MAX_BYTES, YamlError, YamlFeatureError, YamlLimitError, compose

_NETWORKS = ("encoder", "decoder")  # hyperparameters that name functions
NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Configuration:
    """A file of options.

    Attributes:
        label: what messages call it, "--config PATH" or a part of another file.
        options: values by name, None for null.
        model: the class path of the model, if there is one.
        hyperparameters: of the model.
    """

    label: str
    options: dict[str, str | None]
    model: str | None
    hyperparameters: dict[str, str | None]


def read_configuration(path: Path) -> Configuration:
    """Read a file of options: scalars as they are written, lists and mappings as JSON.

    Raises:
        UsageError: it is no such file: too large or too deep, with aliases or tags, or no mapping of names to values.
    """
    label = f"--config {path}"
    return configuration(label, read_nodes(label, path))


def configuration(label: str, root: yaml.Node | None) -> Configuration:
    """The options in the nodes of a file, or of a part of one.

    Raises:
        UsageError: they are no mapping of names to values.
    """
    options = {} if root is None else dict(pairs(label, root))
    model = options.pop("model", None)
    if model is None or isinstance(model, yaml.ScalarNode):
        return Configuration(label, _texts(options), text(model) if model else None, {})
    entries = dict(pairs(label, model))
    arguments = entries.pop("init_args", None)
    class_path = text(entries.pop("class_path")) if isinstance(entries.get("class_path"), yaml.ScalarNode) else None
    if entries or class_path is None:
        raise UsageError(f"{label}: model takes a class_path and its init_args, or a name alone")
    given = {} if arguments is None or arguments.tag == NULL else dict(pairs(label, arguments))
    return Configuration(label, _texts(options), class_path, _texts(given))


def read_nodes(label: str, path: Path) -> yaml.Node | None:
    """The nodes of a YAML file, None where it is empty.

    Raises:
        UsageError: it cannot be read, or is no YAML that is taken.
    """
    try:
        return compose(read_bytes(path, MAX_BYTES).decode())
    except NotRegularRecordError as error:
        raise UsageError(f"{label} is not a file") from error
    except RecordError as error:
        raise UsageError(f"{label} is {error}: not a file of options") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{label} is not UTF-8 text: not a file of options") from error
    except YamlLimitError as error:
        raise UsageError(f"{label} {error}: not a file of options") from error
    except YamlFeatureError as error:
        raise UsageError(f"{label}, {error}") from error
    except YamlError as error:
        raise UsageError(f"{label} is not a YAML file of options ({error})") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{label} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def pairs(label: str, node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """The names and values of a mapping; UsageError where it is none, or has a name twice."""
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{label}{_line(node)}: names and values, NAME: VALUE, are needed")
    seen = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if not name or name in seen:
            what = f"{name} is given twice" if name else "a name is needed"
            raise UsageError(f"{label}{_line(key)}: {what}")
        seen.add(name)
        yield name, value


def _line(part: yaml.Node | yaml.Event) -> str:
    return f", line {part.start_mark.line + 1}" if part.start_mark else ""


def _texts(nodes: dict[str, Any]) -> dict[str, str | None]:
    return {name: text(node) for name, node in nodes.items()}


def text(node: yaml.Node) -> str | None:
    """A scalar as it is written; lists and mappings as JSON."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == NULL else node.value
    return json.dumps(yaml.SafeLoader("").construct_document(node), default=str)


def check_trusted(file: Configuration, option: str = "--trust-config") -> None:
    """Check that a file names no code outside evae, which would be imported and run unless ``option`` is given.

    Raises:
        UsageError: it does.
    """
    model = file.model or ""
    named = [model] if re.search("[.:]", model) and re.split("[.:]", model)[0] != "evae" else []
    named += [value for name, value in file.hyperparameters.items() if name in _NETWORKS and value is not None]
    named += [
        value for name, value in file.options.items() if name == "features" and value is not None and ":" in value
    ]
    named += [name for name in file.options if name.replace("-", "_") == "trust_spec"]
    if named:
        raise UsageError(
            f"{file.label} names {named[0]}, code that is not evae's and would be run; add {option} if you trust the "
            "file"
        )


def words_of(file: Configuration, known: Mapping[str, Parameter], family: Family | None) -> Iterator[str]:
    """The options of a file as words of a command line: those of ``known``, and the hyperparameters of ``family``.

    Hyperparameters of another family are left out, with a warning.

    Raises:
        UsageError: there is no such option or hyperparameter.
    """
    for key, value in file.options.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"{file.label}: unknown option {key}{did_you_mean(key, known)}")
        yield from _word(f"--{name}", value, known[name])
    if file.model is None:
        return
    if family is None:
        raise UsageError(f"{file.label}: unknown option model")
    if not family.is_called(file.model):
        if file.hyperparameters:
            warn(f"{file.label}: the hyperparameters of {file.model} are not used with --model {family.path}")
        return
    names = {parameter.name: parameter for parameter in family.hyperparameters}
    for name, value in file.hyperparameters.items():
        if not family.is_own and name not in names:
            hint = did_you_mean(name, names)
            raise UsageError(f"{file.label}: {family.name} has no hyperparameter {name}{hint}")
        yield from _word(f"--model.{name}", value, names.get(name))


def _word(option: str, value: str | None, parameter: Parameter | None) -> Iterator[str]:
    """One option; null leaves a text at its default, and is None for other types."""
    if value is not None or parameter is None or parameter.text is None:
        yield f"{option}={'null' if value is None else value}"
