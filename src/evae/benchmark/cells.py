"""The cells of a benchmark: resolved configurations, each with a folder named by what it depends on."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from evae.benchmark.spec import Choice, Spec
from evae.cli import options_of
from evae.commandline.configuration import Configuration, check_trusted
from evae.commandline.families import find_family
from evae.commandline.parameters import UsageError
from evae.data import absolute
from evae.errors import EvaeError
from evae.rounding import counted

# Where and how fast a cell is computed; the rest of its options decide what is measured.
_FREE = {"out", "resume", "overwrite", "accelerator", "devices", "num_nodes", "strategy", "compile"}
_FREE |= {"logger", "log_every", "time_limit", "run_folder", "device", "features_weights"}
_SHOWN = 3  # different mistakes in one message


@dataclass(frozen=True)
class Cell:
    """One configuration to be trained and measured.

    Attributes:
        index: its place among the cells of the spec.
        name: of its folder: a readable stem, and digests of what is trained and of how it is measured.
        values: of the grids, by the setting's name.
        train: options of ``evae train``, resolved; "data" is the place of the images.
        fit_prior: options of ``evae fit-prior``, resolved; None: it is not run.
        evaluate: options of ``evae evaluate``, resolved.
    """

    index: int
    name: str
    values: dict[str, str]
    train: dict[str, Any]
    fit_prior: dict[str, Any] | None
    evaluate: dict[str, Any]

    def value(self, setting: str) -> str:
        """A setting as the table shows it: as the grid has it, or as it was resolved; "" where the model has none."""
        if setting in self.values:
            return self.values[setting]
        if setting == "model":
            return str(self.train["model"]["class_path"]).removeprefix("evae.")
        where = self.train["model"]["init_args"] if setting.startswith("model.") else self.train
        value = where.get(setting.removeprefix("model."), "")
        return value if isinstance(value, str) else json.dumps(value)


def cells_of(spec: Spec, trusted: bool = False) -> list[Cell]:
    """The cells of a spec, all of them resolved as ``evae train`` would.

    Args:
        spec: the spec.
        trusted: whether it may name code of the user's own, which is imported.

    Raises:
        UsageError: options that cannot be understood, of all cells at once, or code of one's own that is not trusted.
    """
    parts = [choice.train for choice in spec.choices] + [spec.evaluate] + ([spec.fit_prior] if spec.fit_prior else [])
    for part in () if trusted else parts:
        check_trusted(part, "--trust-spec")
    fit_prior = None if spec.fit_prior is None else _measuring("fit-prior", spec.fit_prior)
    evaluate = _measuring("evaluate", spec.evaluate)
    resolved = _resolved(spec)
    return [
        _cell(i, spec, choice, train, fit_prior, evaluate)
        for i, (choice, train) in enumerate(zip(spec.choices, resolved, strict=True))
    ]


_options = cache(options_of)


def _measuring(command: str, file: Configuration) -> dict[str, Any]:
    resolved = _options(command).resolved(file, ".")
    return {name: value for name, value in resolved.items() if name not in ("run_folder", "data")}


def _resolved(spec: Spec) -> list[dict[str, Any]]:
    """The options of all cells: of those with the same names each value is parsed once, for there may be thousands."""
    found: dict[int, dict[str, Any]] = {}
    mistakes: dict[str, list[int]] = {}
    for group in _alike(spec.choices):
        first = spec.choices[group[0]].train
        parsed: dict[tuple[str, str | None], Any] = {}
        for i in group:
            try:
                found[i] = _combined(first, spec.choices[i].train, parsed)
            except EvaeError as error:
                mistakes.setdefault(str(error), []).append(i)
    if mistakes:
        raise UsageError(mistaken(spec, mistakes))
    return [found[i] for i in range(len(spec.choices))]


def _alike(choices: Sequence[Choice]) -> list[list[int]]:
    """The indices of choices that give the same model and the same options, whatever their values."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, choice in enumerate(choices):
        train = choice.train
        groups.setdefault((train.model, frozenset(train.options), frozenset(train.hyperparameters)), []).append(i)
    return list(groups.values())


def _combined(first: Configuration, own: Configuration, parsed: dict[tuple[str, str | None], Any]) -> dict[str, Any]:
    """The options of ``own``: those of ``first``, which has the same names, with each differing value parsed alone."""
    if not parsed:
        parsed[("", None)] = _options("train").resolved(first, "--out=.")
    base = parsed[("", None)]
    values, arguments = dict(base), dict(base["model"]["init_args"])
    for name, text in own.options.items():
        if text != first.options[name]:
            key = name.replace("-", "_")
            if (name, text) not in parsed:
                changed = replace(first, options=first.options | {name: text})
                like = _like(first.options[name], base[key], text)
                parsed[name, text] = like if like is not None else _options("train").resolved(changed, "--out=.")[key]
            values[key] = parsed[name, text]
    for name, text in own.hyperparameters.items():
        key = f"model.{name}"
        if text != first.hyperparameters[name]:
            if (key, text) not in parsed:
                changed = replace(first, hyperparameters=first.hyperparameters | {name: text})
                like = _like(first.hyperparameters[name], arguments[name], text)
                parsed[key, text] = like if like is not None else _model(changed)[name]
            arguments[name] = parsed[key, text]
    _options("train").check(values)
    return values | {"model": base["model"] | {"init_args": arguments}}


def _model(changed: Configuration) -> dict[str, Any]:
    arguments: dict[str, Any] = _options("train").resolved(changed, "--out=.")["model"]["init_args"]
    return arguments


def _like(text: str | None, value: Any, other: str | None) -> int | float | None:
    """The number ``other``, of the type that the number ``text`` was parsed to; None where the parser has to be asked.

    It takes a hundredth of the time.
    """
    kind = type(value)
    for form in (r"\d{1,15}", r"\d{1,15}\.\d{1,15}"):
        if kind in (int, float) and re.fullmatch(form, text or "") and re.fullmatch(form, other or ""):
            number: int | float = kind(other)
            return number
    return None


def _cell(
    index: int,
    spec: Spec,
    choice: Choice,
    train: dict[str, Any],
    fit_prior: dict[str, Any] | None,
    evaluate: dict[str, Any],
) -> Cell:
    named = str(train["data"])
    train = train | {"data": absolute(spec.data.get(named, named))}
    # Images are known by the name that the spec has for them: where they are may differ from machine to machine.
    trained = _essential("train", train | {"data": named if named in spec.data else train["data"]})
    fitted = None if fit_prior is None else _essential("fit-prior", fit_prior)
    digests = f"{_digest(trained, 6)}-{_digest([fitted, _essential('evaluate', evaluate)], 3)}"
    arguments = train["model"]["init_args"]
    latents = f"d{arguments['latent_dim']}" if "latent_dim" in arguments else ""
    stem = [Path(named).stem, train["model"]["class_path"].rpartition(".")[2], latents, f"seed{train['seed']}"]
    readable = "-".join(re.sub(r"[^\w.]+", "_", part).strip("._")[:30] for part in stem if part)
    return Cell(index, f"{readable}-{digests}", choice.values, train, fit_prior, evaluate)


def _digest(value: Any, size: int) -> str:
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=size).hexdigest()


def _essential(command: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that decide what is measured, without those at their defaults: a new one renames no cell."""
    class_path = options["model"]["class_path"] if "model" in options else None
    defaults = _defaults(command, class_path)
    kept = {k: v for k, v in options.items() if k not in _FREE and (k == "data" or v != defaults.get(k))}
    if class_path is None:
        return kept
    usual = defaults["model"]["init_args"]
    arguments = {k: v for k, v in options["model"]["init_args"].items() if k not in usual or v != usual[k]}
    return kept | {"model": class_path, **{f"model.{name}": value for name, value in arguments.items()}}


@cache
def _defaults(command: str, class_path: str | None) -> dict[str, Any]:
    needed = ("--data=.", "--out=.") if command == "train" else (".",)
    return _options(command).resolved(Configuration("", {}, class_path, {}), *needed)


def check_models(spec: Spec, cells: Iterable[Cell]) -> None:
    """Build every model once, without memory.

    Raises:
        UsageError: some cannot be built, of all cells at once.
    """
    from evae.models import check_buildable

    outcomes: dict[str, str] = {}
    mistakes: dict[str, list[int]] = {}
    for cell in cells:
        key = json.dumps([cell.train["model"], cell.train["image_size"]], sort_keys=True)
        if key not in outcomes:
            try:
                family = find_family(cell.train["model"]["class_path"])
                check_buildable(family.factory(cell.train["model"]["init_args"]), cell.train["image_size"])
                outcomes[key] = ""
            except EvaeError as error:
                outcomes[key] = str(error)
        if outcomes[key]:
            mistakes.setdefault(outcomes[key], []).append(cell.index)
    if mistakes:
        raise UsageError(mistaken(spec, mistakes))


def mistaken(spec: Spec, mistakes: dict[str, list[int]]) -> str:
    """One sentence on all cells that cannot be run, by what is wrong."""
    count = sum(map(len, mistakes.values()))
    told = []
    for sentence, indices in list(mistakes.items())[:_SHOWN]:
        values = spec.choices[indices[0]].values
        cell = ", ".join(f"{name} {value}" for name, value in values.items())
        others = f" and {len(indices) - 1} more" if len(indices) > 1 else ""
        told.append(f"{sentence} (cell {cell}{others})" if cell else sentence)
    rest = f"; and {counted(len(mistakes) - _SHOWN, 'other mistake')}" if len(mistakes) > _SHOWN else ""
    total = f"{count} of {counted(len(spec.choices), 'cell')}"
    return f"{spec.path}: {total} cannot be run, and none was started: {'; '.join(told)}{rest}"
