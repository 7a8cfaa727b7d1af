"""Datasets of the Hugging Face hub."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from evae.data.images import Split
from evae.data.rows import Source, split_names
from evae.data.tables import Table, arrow_source, in_memory
from evae.errors import DataError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub, its hold-out split ("": the one found by name) and centre crop."""

    id: str
    holdout: str = ""
    crop: int | None = None


def hub(data: str) -> Source | None:
    """The dataset of an id of the form owner/name, unless a folder has the owner's name."""
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", data) and not Path(data).parent.is_dir():
        return hub_source(data, HubDataset(data))
    return None


def hub_source(data: str, dataset: HubDataset) -> Source:
    """A dataset of the hub, which is asked every time: its images may have changed.

    Raises:
        DataError: it cannot be loaded, or has no images.
    """
    import datasets

    splits = from_hub(
        lambda: datasets.load_dataset(dataset.id),
        f"--data {data}: the dataset {dataset.id} cannot be loaded from the hub",
        "; without a network, download it elsewhere "
        f"(hf download --repo-type dataset {dataset.id} --local-dir FOLDER) and pass that folder",
    )
    train, holdout = split_names(set(splits))
    chosen: dict[str, Split | None] = {next(iter(splits)): None}
    if train:
        chosen = {train: "train", dataset.holdout or holdout: "holdout"}
    tables = [(_arrow_table(splits[name]), split) for name, split in chosen.items()]
    fingerprints = " ".join(splits[name]._fingerprint for name in chosen)
    source = arrow_source(data, f"hub {dataset.id} {fingerprints}", tables, dataset.crop)
    return replace(source, unused=() if dataset.holdout else tuple(sorted(set(splits) - set(chosen))))


def _arrow_table(dataset: "Dataset") -> Table:
    table: pa.Table = dataset.with_format("arrow")[:]
    return in_memory(table.replace_schema_metadata(dataset.features.arrow_schema.metadata))


def from_hub(load: Callable[[], T], failure: str, advice: str = "") -> T:
    """What ``load`` gets from the hub; the hub's log is silent meanwhile.

    Args:
        load: asks for it.
        failure, advice: what to say before and after the reason where that fails.

    Raises:
        DataError: it fails.
    """
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # one sentence at the end instead of a line for each attempt
    try:
        return load()
    except Exception as error:  # of the network, of the hub, of datasets, of what is written in the dataset
        raise DataError(f"{failure} ({first_line(error)}){advice}") from error
    finally:
        logging.set_verbosity(verbosity)
