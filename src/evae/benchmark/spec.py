"""The file of a benchmark: an ``evae train`` configuration with grids, what to measure, and the table."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from msgspec import Struct, field

from evae.commandline.configuration import NULL, Configuration, configuration, pairs, read_nodes, text
from evae.commandline.parameters import UsageError, did_you_mean
from evae.errors import ConfigError
from evae.records import Finite, RecordError, as_type
from evae.yaml_files import YamlError, construct

MAX_CELLS = 10_000
SAME = ("data", "networks", "epochs", "features", "metric")  # what a figure must share with ours to be comparable
_PARTS = ("data", "train", "fit_prior", "evaluate", "table", "published", "claims")
_OURS = ("out", "resume", "overwrite")  # options of evae train that the benchmark sets
_TEXT = "tag:yaml.org,2002:str"

T = TypeVar("T")


class Layout(Struct, frozen=True, forbid_unknown_fields=True):
    """The part ``table``: where each cell goes.

    Attributes:
        rows: the settings that name a row; default: those with a grid that are in neither of the others.
        by: the settings for whose values columns are repeated.
        over: the settings over whose values means are taken.
        compare: the settings among whose values the best is looked for; default: the rows'.
        columns: metrics, by their names in evaluation.json or what follows ": " in these.
    """

    rows: str | list[str] | None = None
    by: str | list[str] = []
    over: str | list[str] = "seed"
    compare: str | list[str] | None = None
    columns: list[str] = field(default_factory=lambda: ["bce", "mse", "sharpness"])


class Published(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of ``published``: figures of one metric, from one source, by one protocol.

    Attributes:
        metric: as in the table's columns.
        source: the publication and its table.
        protocol: how it was measured.
        figures: by row, and by the value of ``by`` where the table has it: a mean, or [mean, standard deviation].
        same: what the cells share with the published measurement; all of ``SAME`` make figures comparable.
        runs: the number of runs of each mean.
        tolerance: the relative difference up to which a figure without a standard deviation counts as reproduced.
    """

    metric: str
    source: str
    protocol: str
    figures: dict[str, Any]
    same: list[Literal["data", "networks", "epochs", "features", "metric"]] = []
    runs: int = 1
    tolerance: Finite | None = None

    def figure(self, row: str, by: str) -> tuple[float, float | None] | None:
        """Mean and standard deviation (None: not published) of a row and a value of ``by``; None: there is none."""
        value = self.figures.get(row)
        if by:
            value = value.get(by) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            return float(value), None
        return (float(value[0]), float(value[1])) if isinstance(value, list) else None


class Claim(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of ``claims``: one value of a setting has the better metric, tested by its sign over the table's cells.

    Attributes:
        metric: as in the table's columns.
        better: which values are better.
        winner: the value of ``of`` that is said to be better.
        loser: the one it is compared with.
        of: the setting.
        published: what the source reports.
    """

    metric: str
    better: Literal["lower", "higher"]
    winner: str
    loser: str
    of: str = "model"
    published: str = ""


@dataclass(frozen=True)
class Choice:
    """One combination of the grids: the value of each by the setting's name, and the options of ``evae train``."""

    values: dict[str, str]
    train: Configuration


@dataclass(frozen=True)
class Spec:
    """A file of a benchmark.

    Attributes:
        path: the file.
        content: its text.
        data: where named data are: paths or ids, by name.
        choices: the cells, before their options are resolved.
        axes: the settings with a grid, each with its values in order.
        fit_prior: options of ``evae fit-prior``; None: it is not run.
        evaluate: options of ``evae evaluate``.
        table: where each cell goes.
        published: figures to stand beside ours.
        claims: what is tested over cells.
    """

    path: Path
    content: str
    data: dict[str, str]
    choices: list[Choice]
    axes: dict[str, list[str]]
    fit_prior: Configuration | None
    evaluate: Configuration
    table: Layout
    published: list[Published]
    claims: list[Claim]

    @property
    def name(self) -> str:
        """What its tables are called."""
        return self.path.stem

    @property
    def rows(self) -> list[str]:
        """The settings that name a row."""
        if self.table.rows is not None:
            return listed(self.table.rows)
        return [axis for axis in self.axes if axis not in (*listed(self.table.by), *listed(self.table.over))]


def listed(names: str | list[str]) -> list[str]:
    """A name alone as a list of one."""
    return [names] if isinstance(names, str) else names


def read_spec(path: Path, data: Mapping[str, str] = {}) -> Spec:
    """Read the file of a benchmark; ``data`` are places of named data that replace the file's.

    Raises:
        UsageError: it is no such file, has a part that there is not, or a grid without a place in the table.
    """
    label = str(path)
    root = read_nodes(label, path)
    parts = {} if root is None else {name.replace("-", "_"): node for name, node in pairs(label, root)}
    for name in parts:
        if name not in _PARTS:
            raise UsageError(f"{label}: unknown part {name}{did_you_mean(name, _PARTS)}; there are {', '.join(_PARTS)}")
    if "train" not in parts:
        raise UsageError(f"{label} has no part train, the options of evae train")
    choices = list(_choices(label, parts["train"]))
    axes: dict[str, list[str]] = {}
    for choice in choices:
        for axis, value in choice.values.items():
            axes.setdefault(axis, [])
            axes[axis] += [value] if value not in axes[axis] else []
    spec = Spec(
        path,
        path.read_text(),
        _data(label, parts.get("data"), choices, data),
        choices,
        axes,
        _measures(label, "fit_prior", parts["fit_prior"]) if "fit_prior" in parts else None,
        _measures(label, "evaluate", parts.get("evaluate")),
        _typed(label, "table", parts.get("table"), Layout) if "table" in parts else Layout(),
        _typed(label, "published", parts["published"], list[Published]) if "published" in parts else [],
        _typed(label, "claims", parts["claims"], list[Claim]) if "claims" in parts else [],
    )
    _check_table(label, spec)
    return spec


def _choices(label: str, train: yaml.Node) -> Iterator[Choice]:
    options = dict(pairs(f"{label} (train)", train))
    for name in options:
        if name.replace("-", "_") in _OURS:
            raise UsageError(f"{label} (train): {name} is set by the benchmark; leave it out")
    if "data" not in options:
        raise UsageError(f"{label} (train): data is missing")
    expanded = _expanded(label, train, ())
    if (count := len(expanded)) > MAX_CELLS:
        raise UsageError(f"{label}: its grids make {count:,} cells; at most {MAX_CELLS:,} are taken")
    for values, node in expanded:
        yield Choice(values, configuration(f"{label} (train)", node))


def _expanded(label: str, node: yaml.Node, place: tuple[str, ...]) -> list[tuple[dict[str, str], yaml.Node]]:
    """The values of the grids in a node, and the node with each of their combinations."""
    if isinstance(node, yaml.MappingNode) and [key.value for key, _ in node.value] == ["grid"]:
        axis = ".".join(part.replace("-", "_") for part in place if part not in ("init_args", "class_path"))
        return _grid(label, node.value[0][1], axis, place)
    if not isinstance(node, yaml.MappingNode):
        return [({}, node)]
    parts = [(key, _expanded(label, value, (*place, str(key.value)))) for key, value in node.value]
    if math.prod(len(options) for _, options in parts) > MAX_CELLS:
        raise UsageError(f"{label}: its grids make more than {MAX_CELLS:,} cells")
    combined: list[tuple[dict[str, str], yaml.Node]] = []
    for combination in product(*(options for _, options in parts)):
        values = {axis: value for chosen, _ in combination for axis, value in chosen.items()}
        items = [(key, chosen) for (key, _), (_, chosen) in zip(parts, combination, strict=True)]
        combined.append((values, yaml.MappingNode(node.tag, items, node.start_mark, node.end_mark)))
    return combined


def _grid(label: str, grid: yaml.Node, axis: str, place: tuple[str, ...]) -> list[tuple[dict[str, str], yaml.Node]]:
    if not isinstance(grid, yaml.SequenceNode) or not grid.value:
        raise UsageError(f"{label} (train): the grid of {axis} must be a list of values, [A, B]")
    found, labels = [], []
    for item in grid.value:
        labels.append(_label(item))
        found += [({axis: labels[-1]} | nested, node) for nested, node in _expanded(label, item, place)]
    if twice := [value for i, value in enumerate(labels) if value in labels[:i]]:
        raise UsageError(f"{label} (train): the grid of {axis} has {twice[0]} twice")
    return found


def _label(node: yaml.Node) -> str:
    """How a table shows a value of a grid: of a model the class's name and its fixed hyperparameters."""
    if isinstance(node, yaml.ScalarNode):
        return node.value.removeprefix("evae.")
    value = _plain(node)
    if not isinstance(value, dict) or "class_path" not in value:
        return json.dumps(value)
    arguments = value["init_args"] if isinstance(value.get("init_args"), dict) else {}
    fixed = [f"{k} {v}" for k, v in arguments.items() if not (isinstance(v, dict) and list(v) == ["grid"])]
    return ", ".join([str(value["class_path"]).removeprefix("evae."), *fixed])


def _plain(node: yaml.Node) -> Any:
    """A node's value, numbers as they are written."""
    if isinstance(node, yaml.ScalarNode):
        return text(node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return {str(key.value): _plain(value) for key, value in node.value}


def _data(label: str, node: yaml.Node | None, choices: list[Choice], replaced: Mapping[str, str]) -> dict[str, str]:
    named = {} if node is None else {name: text(value) or "" for name, value in pairs(f"{label} (data)", node)}
    used = {str(choice.train.options["data"]) for choice in choices}
    for name in named.keys() | replaced.keys():
        if name not in used:
            known = ", ".join(sorted(used))
            raise UsageError(f"{label}: no cell has the data {name}{did_you_mean(name, used)}; the cells have {known}")
    places = named | dict(replaced)
    for name, place in places.items():
        if not place or (place.startswith(("/", ".", "~")) and not Path(place).expanduser().exists()):
            raise UsageError(f"the data {name}: there is no {place or 'path'!r}; correct {label} or --data {name}=PATH")
    return places


def _measures(label: str, part: str, node: yaml.Node | None) -> Configuration:
    """The options of a command that measures, or fits to, the cell's own run and images."""
    measures = configuration(f"{label} ({part})", None if node is None or node.tag == NULL else node)
    for name in measures.options:
        if name in ("data", "run_folder", "run-folder"):
            raise UsageError(f"{label} ({part}): {name} is set by the benchmark; leave it out")
    return measures


def _typed(label: str, part: str, node: yaml.Node | None, kind: type[T]) -> T:
    try:
        return as_type(None if node is None else construct(_with_text_keys(node)), kind)
    except (YamlError, RecordError) as error:
        raise UsageError(f"{label} ({part}): {error}") from error


def _with_text_keys(node: yaml.Node) -> yaml.Node:
    """Names stay texts where they look like numbers, as rows of latent dimensions do."""
    for item in node.value if not isinstance(node, yaml.ScalarNode) else ():
        if isinstance(item, tuple):
            item[0].tag = _TEXT
            _with_text_keys(item[1])
        else:
            _with_text_keys(item)
    return node


def _check_table(label: str, spec: Spec) -> None:
    """Check that every grid has one place in the table, and that figures are of the table's rows."""
    placed = [*spec.rows, *listed(spec.table.by), *listed(spec.table.over)]
    for axis in spec.axes:
        if placed.count(axis) != 1:
            what = "is in none" if axis not in placed else "is in two"
            raise UsageError(f"{label} (table): the grid of {axis} {what} of rows, by and over")
    for part in (*spec.rows, *listed(spec.table.by), *listed(spec.table.compare or [])):
        if part not in spec.axes and part not in _settings(spec):
            known = [*spec.axes, *_settings(spec)]
            raise UsageError(f"{label} (table): no setting {part}{did_you_mean(part, known)} is in the part train")
    for entry in spec.published:
        _check_figures(f"{label} (published)", entry, bool(listed(spec.table.by)))
    for claim in spec.claims:
        if claim.of not in [*spec.rows, *listed(spec.table.by)]:
            raise UsageError(f"{label} (claims): {claim.of} is neither in the rows nor in by")
        for value in (claim.winner, claim.loser):
            values = spec.axes.get(claim.of, [])
            if matching(value, values) is None:
                raise UsageError(
                    f"{label} (claims): {claim.of} has no one value {value}; there are {', '.join(values)}"
                )


def _check_figures(label: str, entry: Published, has_by: bool) -> None:
    if entry.runs < 1:
        raise UsageError(f"{label}: runs must be at least 1, not {entry.runs}")
    if entry.tolerance is not None and not 0 <= entry.tolerance <= 1:
        raise UsageError(f"{label}: tolerance is a fraction from 0 to 1, not {entry.tolerance}")
    for row, figure in entry.figures.items():
        for value in figure.values() if has_by and isinstance(figure, dict) else [figure]:
            try:
                as_type(value if isinstance(value, list) else [value, 0], tuple[Finite, Finite])
            except RecordError as error:
                raise UsageError(f"{label}: the figure of {row} must be a number or [mean, sd]") from error


def _settings(spec: Spec) -> list[str]:
    """The settings that the part ``train`` gives, with a grid or without."""
    train = spec.choices[0].train
    given = [*train.options, *(f"model.{name}" for name in train.hyperparameters), "model"]
    return [name.replace("-", "_") for name in given]


def matching(value: str, values: list[str]) -> str | None:
    """The one of ``values`` that is ``value``, or alone begins with that name; None: there is none, or several."""
    if value in values:
        return value
    found = [other for other in values if other.partition(",")[0] == value]
    return found[0] if len(found) == 1 else None


def places(data: list[str] | None) -> dict[str, str]:
    """The values of ``--data NAME=PATH`` by name.

    Raises:
        ConfigError: one has no name or no path.
    """
    found = {}
    for entry in data or []:
        name, _, place = entry.partition("=")
        if not name or not place:
            raise ConfigError(f"--data takes NAME=PATH, the name of data in the spec and where they are, not {entry}")
        found[name] = place
    return found
