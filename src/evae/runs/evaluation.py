"""The record of an evaluation: evaluation.json, and the values of each image in evaluation.safetensors beside it."""

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from evae.console import warn
from evae.errors import RunError
from evae.files import digest, write_atomically
from evae.models.pretrained import WEIGHTS
from evae.models.weights import read_weights
from evae.records import Finite, RecordError, as_type, read_json
from evae.rounding import rounded, with_error
from evae.runs.folder import RunFolder

VERSION = 3
_MAX_BYTES = 2**25
RESULTS = "evaluation.json"

Better = Literal["lower", "higher", "reference"]
ARROWS: dict[Better, str] = {"lower": "↓", "higher": "↑", "reference": "≈"}


@dataclass(frozen=True)
class Number:
    """A measured number, NaN where it is not finite, with its standard error if it has one.

    ``better`` is lower, higher, or closer to ``reference``; None where no direction is better.
    """

    name: str
    value: float
    error: float | None = None
    better: Better | None = None
    reference: float | None = None

    def __str__(self) -> str:
        if self.error is None or math.isnan(self.error):
            return rounded(self.value)
        return with_error(self.value, self.error)

    @property
    def title(self) -> str:
        """The name, with an arrow in the direction that is better."""
        return f"{self.name} {ARROWS[self.better]}" if self.better else self.name


@dataclass(frozen=True)
class Section:
    """Numbers that were measured together: "reconstructions", "latents", ..., or a user's own.

    ``key`` is a digest of all they depend on: weights, images, transform, seed, version and options. Numbers of two
    runs are comparable where ``settings`` are equal; a key "model prior: count" concerns the numbers whose names
    begin with "model prior: ". ``details`` are what is no number, such as the rate of each latent dimension.
    """

    name: str
    key: str
    numbers: tuple[Number, ...]
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _About:
    """What was measured, in Evaluation and in evaluation.json.

    ``data``, ``images`` and ``transform`` are the data as the user named them, their fingerprint, and their crop and
    size, or their number of columns; ``latents``, ``repeats`` and ``seed`` tell how posteriors were sampled.
    """

    model: str
    data: str
    split: str
    count: int
    images: str
    transform: dict[str, int | None]
    latents: str
    repeats: int
    seed: int


@dataclass(frozen=True)
class Evaluation(_About):
    """All that was measured of a run on some images, in sections by name.

    ``weights`` is a digest of the model's, ``values`` are (count,) by metric; see ``_About`` for the rest.
    """

    sections: dict[str, Section]
    weights: str = ""
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def noun(self) -> str:
        """What was evaluated, in the singular: image or row."""
        return "row" if "columns" in self.transform else "image"

    @property
    def numbers(self) -> list[Number]:
        """The numbers of all sections, in order."""
        return [number for section in self.sections.values() for number in section.numbers]

    def number(self, name: str) -> Number | None:
        """The number of a name; None where it was not measured."""
        return next((number for number in self.numbers if number.name == name), None)

    def per_image(self, name: str) -> NDArray[np.float64] | None:
        """The values (count,) whose mean is the number of a name, in the order of the images; None: there are none."""
        return self.values.get(name)

    def to_dict(self) -> dict[str, Any]:
        """As in evaluation.json. Numbers that are not finite become None."""
        own = self.sections["reconstructions"].numbers if "reconstructions" in self.sections else ()
        result = {
            "version": VERSION,
            **{name: getattr(self, name) for name in _ABOUT},
            "metrics": {number.name: number.value for number in own},
            "standard_errors": {number.name: number.error for number in own},
            "sections": {
                name: {k: v for k, v in asdict(s).items() if k != "name"} for name, s in self.sections.items()
            },
        }
        plain: dict[str, Any] = json.loads(json.dumps(result), parse_constant=lambda _: None)
        return plain

    @classmethod
    def from_dict(cls, result: dict[str, Any]) -> "Evaluation":
        """From what ``to_dict`` returned; RecordError, a ValueError, if it is damaged."""
        stored = as_type(result, _Stored)
        sections = {name: section.as_section(name) for name, section in stored.sections.items()}
        return cls(**{name: getattr(stored, name) for name in _ABOUT}, sections=sections)


_ABOUT = tuple(f.name for f in fields(Evaluation) if f.name not in ("sections", "values"))  # the top of the file


@dataclass(frozen=True)
class _StoredNumber:
    """A Number in evaluation.json: its value is None where it is not finite."""

    name: str
    value: Finite | None
    error: Finite | None
    better: Better | None
    reference: Finite | None

    def as_number(self) -> Number:
        value = math.nan if self.value is None else self.value
        return Number(self.name, value, self.error, self.better, self.reference)


@dataclass(frozen=True)
class _Details:
    """What is used of a section's details."""

    rate_per_dimension: list[Finite | None] | None = None
    factors: list[str] | None = None
    information: list[list[Finite]] | None = None


@dataclass(frozen=True)
class _StoredSection:
    """A Section in evaluation.json, under its name."""

    key: str
    numbers: tuple[_StoredNumber, ...]
    settings: dict[str, str | int | Finite | bool]
    details: dict[str, Any]

    def as_section(self, name: str) -> Section:
        as_type(self.details, _Details)
        return Section(name, self.key, tuple(n.as_number() for n in self.numbers), self.settings, self.details)


@dataclass(frozen=True)
class _Stored(_About):
    """evaluation.json."""

    version: Literal[3]
    weights: str
    metrics: dict[str, Finite | None]
    standard_errors: dict[str, Finite | None]
    sections: dict[str, _StoredSection]
    per_image: str | None = None


def read_evaluation(run: RunFolder, name: str = RESULTS, per_image: bool = True) -> Evaluation | None:
    """A run's evaluation; None: there is none.

    ``per_image`` asks for the values of each image, too, where the file beside it belongs to it.

    Raises:
        RunError: it is damaged, or another version of evae wrote it.
    """
    path = run.path / name
    try:
        result = read_json(path, dict[str, Any], _MAX_BYTES)
        evaluation = Evaluation.from_dict(result)
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        data = "" if name == RESULTS else " --data DATA"
        raise RunError(f"{path} is damaged or of another version; evae evaluate {run}{data} writes it again") from error
    if not per_image:
        return evaluation
    with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
        content = read_weights(path.with_suffix(".safetensors"))
        if digest(content) == result.get("per_image"):
            evaluation.values.update(_values(load(content), evaluation.count))
    return evaluation


def _values(arrays: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[np.float64]]:
    """Those of one number per image."""
    return {name: array for name, array in arrays.items() if array.shape == (count,) and array.dtype == np.float64}


def write_evaluation(
    run: RunFolder, evaluation: Evaluation, per_image: dict[str, NDArray[np.float64]], name: str = RESULTS
) -> Path:
    """Write the values of each image, then the evaluation with their digest; the path of the latter."""
    path = run.path / name
    content = save({metric: np.asarray(values, np.float64) for metric, values in per_image.items()})
    write_atomically(path.with_suffix(".safetensors"), content)
    result = evaluation.to_dict() | {"per_image": digest(content)}
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    return path


def current_evaluation(run: RunFolder) -> Evaluation | None:
    """As ``read_evaluation``; a warning says where the model was trained further since."""
    if (evaluation := read_evaluation(run)) and evaluation.weights not in ("", weights_digest(run)):
        warn(f"{run} was trained further after it was evaluated; evae evaluate {run} measures it again")
    return evaluation


def weights_digest(run: RunFolder) -> str:
    """Of the file of the run's weights, as it is now; "" where it cannot be read."""
    with suppress(OSError, RecordError):
        return digest(read_weights(run.path / WEIGHTS))
    return ""
