"""What the records of a run hold: its configuration, the lines of metrics.jsonl, and the state of a checkpoint."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evae.checks import not_negative, whole_number
from evae.errors import ConfigError
from evae.records import MAX_WHOLE, RecordError, as_type, conform, opened, parse_json, read_bytes
from evae.yaml_files import MAX_BYTES, compose, construct

_MAX_LINE, _MAX_METRICS = 2**16, 2**30
_MAX_SUMS = 1000


@dataclass
class Progress:
    """How far a run is; all that a resumed run needs besides weights, optimizer and the resolved command.

    Attributes:
        images: fingerprint of the images trained on.
        step: optimizer steps taken since the start.
        sums: sums of each logged term over the current epoch's steps so far.
        metrics_bytes: length of metrics.jsonl; what was written after it is written again.
        training_seconds: time spent on steps in the current epoch.
        skipped: steps whose loss or gradient was not finite, since the start.
        skipped_in_epoch: those of the current epoch.
        best_loss: the least validation loss of an epoch so far; None before there is one.
        epochs_since_best: epochs that were no better.
    """

    images: str
    step: int = 0
    sums: list[float] = field(default_factory=list)
    metrics_bytes: int = 0
    training_seconds: float = 0.0
    skipped: int = 0
    skipped_in_epoch: int = 0
    best_loss: float | None = None
    epochs_since_best: int = 0

    def check(self) -> None:
        """Raise RecordError where a count cannot be."""
        try:
            not_negative("training_seconds", self.training_seconds)
            for name in ("step", "metrics_bytes", "epochs_since_best"):
                whole_number(name, getattr(self, name), 0, 2**53)
            whole_number("skipped", self.skipped, 0, self.step)
            whole_number("skipped_in_epoch", self.skipped_in_epoch, 0, self.skipped)
            whole_number("the number of sums", len(self.sums), 0, _MAX_SUMS)
        except ConfigError as error:
            raise RecordError(str(error)) from error


@dataclass(frozen=True)
class Sealed:
    """state.json: the state as a text, and its digest."""

    state: str
    digest: str


@dataclass(frozen=True)
class OptimizerSettings:
    """What an optimizer holds besides tensors."""

    param_groups: list[dict[str, Any]]


@dataclass(frozen=True)
class State:
    """The state of a checkpoint; ``digests`` are of its files, by name."""

    version: Literal[1]
    progress: Progress
    optimizer: OptimizerSettings
    digests: dict[str, str]


@dataclass(frozen=True)
class _Settings:
    """What is used of config.yaml besides the comparison with another."""

    data: str
    image_size: int | None = None
    crop: int | None = None
    image_column: str | None = None
    validation: float | None = None
    seed: int | None = None


def read_config(path: Path) -> dict[str, Any]:
    """The resolved command in a config.yaml.

    Raises:
        YamlError: it is no YAML, or YAML with more than evae writes.
        RecordError: it is not the resolved command of a run.
        OSError: it cannot be read.
    """
    content = read_bytes(path, MAX_BYTES)
    try:
        node = compose(content.decode())
    except UnicodeDecodeError as error:
        raise RecordError("no UTF-8 text") from error
    config: dict[str, Any] = conform(None if node is None else construct(node), dict[str, Any])
    known = as_type({name: config[name] for name in _Settings.__annotations__ if name in config}, _Settings)
    try:
        for name, value, most in (("image_size", known.image_size, 2**16), ("crop", known.crop, 2**16)):
            whole_number(name, 1 if value is None else value, 1, most)
        whole_number("seed", known.seed or 0, 0, MAX_WHOLE)
        not_negative("validation", known.validation or 0.0, 1.0)
    except ConfigError as error:
        raise RecordError(str(error)) from error
    return config


def read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a metrics.jsonl, None for each that is damaged.

    Raises:
        RecordError: it is not a regular file, or too large.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > _MAX_METRICS:
            raise RecordError(f"larger than {_MAX_METRICS:,} bytes")
        whole = True
        while line := file.readline(_MAX_LINE):
            before, whole = whole, line.endswith(b"\n")
            yield _metrics(line) if before else None


def _metrics(line: bytes) -> dict[str, Any] | None:
    """Finite numbers by name; "epoch" and "step" are counts."""
    try:
        numbers: dict[str, Any] = conform(parse_json(line), dict[str, int | float])
        for name in {"epoch", "step"} & numbers.keys():
            whole_number(name, numbers[name], 0, 2**53)
    except (RecordError, ConfigError):
        return None
    return numbers
