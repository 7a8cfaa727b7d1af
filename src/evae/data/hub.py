"""Datasets of the Hugging Face hub."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from evae.data.images import Split
from evae.data.rows import BY_CONTENT, Findings, Source
from evae.data.splits import choose
from evae.data.tables import arrow_source, in_memory
from evae.errors import DataError, first_line

T = TypeVar("T")


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub, its hold-out split ("": the one found by name) and centre crop."""

    id: str
    holdout: str = ""
    crop: int | None = None


def hub(data: str) -> Source | None:
    """The dataset of an id of the form owner/name, unless a folder has the owner's name."""
    return hub_source(data, HubDataset(data)) if is_dataset_id(data) and not Path(data).parent.is_dir() else None


def is_dataset_id(data: str) -> bool:
    """Whether a name has the form owner/name of datasets on the hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", data) is not None


def hub_source(data: str, dataset: HubDataset) -> Source:
    """A dataset of the hub, which is asked every time: its images may have changed."""
    import datasets

    splits = from_hub(
        lambda: datasets.load_dataset(dataset.id),
        f"--data {data}: the dataset {dataset.id} cannot be loaded from the hub",
        "; without a network, download it elsewhere "
        f"(hf download --repo-type dataset {dataset.id} --local-dir FOLDER) and pass that folder",
    )
    chosen = hub_splits(list(splits), dataset)
    tables = []
    for name, split in chosen.items():
        metadata = splits[name].features.arrow_schema.metadata  # with the names of the labels
        table = splits[name].with_format("arrow")[:].replace_schema_metadata(metadata)
        tables.append((in_memory(table, f"the split {name}"), split))
    fingerprints = " ".join(splits[name]._fingerprint for name in chosen)
    unused = () if dataset.holdout else tuple(sorted(set(splits) - set(chosen)))
    divided = None not in chosen.values()
    found = Findings(unused=unused, splits_from=f"the splits {' and '.join(chosen)}" if divided else BY_CONTENT)
    roots = (str(datasets.config.HF_CACHE_HOME), str(datasets.config.HF_DATASETS_CACHE))
    return arrow_source(data, f"hub {dataset.id} {fingerprints}", tables, found, dataset.crop, roots)


def hub_splits(names: list[str], dataset: HubDataset) -> dict[str, Split | None]:
    """The splits to read; where there are not both, the first one alone."""
    chosen: dict[str, Split | None] = {**choose(names)}
    if dataset.holdout and chosen:
        chosen = {name: split for name, split in chosen.items() if split == "train"} | {dataset.holdout: "holdout"}
    return chosen or {names[0]: None}


def from_hub(load: Callable[[], T], failure: str, advice: str = "") -> T:
    """What ``load`` gets from the hub, whose log is silent meanwhile; DataError "failure (reason) advice" else."""
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # one sentence at the end instead of a line for each attempt
    try:
        return load()
    except Exception as error:  # of the network, of the hub, of datasets, of what is written in the dataset
        raise DataError(f"{failure} ({first_line(error)}){advice}") from error
    finally:
        logging.set_verbosity(verbosity)
