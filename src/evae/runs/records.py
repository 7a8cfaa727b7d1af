"""What the records of a run hold: its configuration, the lines of metrics.jsonl, and the state of a checkpoint."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from evae.data.decode import Channels
from evae.records import MAX_WHOLE, Count, Finite, RecordError, Share, as_type, opened, parse_json, read_bytes
from evae.yaml_files import MAX_BYTES, compose, construct

_MAX_LINE, _MAX_METRICS = 2**16, 2**30

_Length = Annotated[int, Meta(ge=1, le=2**16)]


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
    step: Count = 0
    sums: Annotated[list[Finite], Meta(max_length=1000)] = field(default_factory=list)
    metrics_bytes: Count = 0
    training_seconds: Annotated[float, Meta(ge=0, le=1e100)] = 0.0
    skipped: Count = 0
    skipped_in_epoch: Count = 0
    best_loss: Finite | None = None
    epochs_since_best: Count = 0

    def check(self) -> None:
        """Raise RecordError where more steps were skipped than taken."""
        if not self.skipped_in_epoch <= self.skipped <= self.step:
            raise RecordError(f"{self.skipped} of {self.step} steps skipped, {self.skipped_in_epoch} in an epoch")


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
    image_size: _Length | None = None
    crop: _Length | None = None
    image_column: str | None = None
    channels: Channels | None = None
    validation: Share | None = None
    seed: Annotated[int, Meta(ge=0, le=MAX_WHOLE)] | None = None


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
    config = as_type(None if node is None else construct(node), dict[str, Any])
    as_type(config, _Settings)
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
        numbers = as_type(parse_json(line), dict[str, int | Finite])
        as_type({name: numbers[name] for name in ("epoch", "step") if name in numbers}, dict[str, Count])
    except RecordError:
        return None
    return numbers
