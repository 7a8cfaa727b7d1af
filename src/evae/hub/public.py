"""What of a run may be published: records without paths, names of files and labels."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from evae.data.builtin import BUILT_IN
from evae.data.cache import cache_folder
from evae.data.hub import is_dataset_id
from evae.data.streams import PREFIX
from evae.errors import RunError
from evae.metrics.factors import OF_FACTOR
from evae.models.fitted import FittedPrior
from evae.outputs import data_of
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, Section
from evae.runs.images import UNPUBLISHED

_OF_DATA = ("image_column",)  # settings that name a part of the data
_DETAILS = (  # of evaluation.json: numbers, and the kind of a prior; those of measurements of one's own are unknown
    *("prior", "prior_digest", "latent_dim", "rate_per_dimension", "spread", "spread_quantiles"),
    *("share_outside", "bound_per_dimension", "standard_error_per_dimension"),
)


def public_data(run: RunFolder) -> str:
    """The name of the run's data where it is built in or on the hub; "" for files of this machine."""
    name = str(run.config()["data"])  # an absolute path where it is one
    plain = name.removeprefix(PREFIX)
    return name if plain in BUILT_IN or is_dataset_id(plain) else ""


def public_config(run: RunFolder, name: str) -> dict[str, Any]:
    """The resolved command, without the places of its data and of the run."""
    data = public_data(run)
    config = run.config() | {"data": data or UNPUBLISHED, "out": f"runs/{name}"}
    return config if data else config | {key: None for key in _OF_DATA if key in config}


def public_evaluation(evaluation: Evaluation, data: str) -> Evaluation:
    """The evaluation with the public name of its data, without the user's own details and names of factors."""
    kept = {name: _public_section(section) for name, section in evaluation.sections.items()}
    return replace(evaluation, data=data or UNPUBLISHED, sections=kept)


def _public_section(section: Section) -> Section:
    numbers = tuple(number for number in section.numbers if not number.name.startswith(OF_FACTOR))
    return replace(section, numbers=numbers, details={k: v for k, v in section.details.items() if k in _DETAILS})


def public_prior(prior: FittedPrior, data: str) -> FittedPrior:
    """The fitted prior with the public name of its data."""
    return replace(prior, about=prior.about | {"data": data or UNPUBLISHED})


def as_yaml(config: Mapping[str, Any]) -> bytes:
    """A configuration as config.yaml holds it."""
    return yaml.safe_dump(dict(config), sort_keys=False).encode()


def as_json(record: Mapping[str, Any]) -> bytes:
    """A record as a JSON file."""
    return (json.dumps(record, indent=2) + "\n").encode()


def check_no_paths(files: Mapping[str, bytes], run: RunFolder) -> None:
    """Raise RunError where a file holds a path of this machine: of the home, the run, the data, or the current folder.

    Records are made without them; a model of one's own may have one among its hyperparameters.
    """
    for path in _private_paths(run):
        pattern = re.compile(b"|".join(re.escape(form) for form in _written(path)))
        for name, content in files.items():
            if pattern.search(content):
                raise RunError(
                    f"{name} would publish the path {path}, so nothing was uploaded; train with hyperparameters that "
                    "name no file of this machine"
                )


def _private_paths(run: RunFolder) -> list[str]:
    data = [] if public_data(run) else [Path(str(run.config()["data"]).removeprefix(PREFIX)), *data_of(run)]
    folders = [Path.home(), run.path.absolute(), run.path.resolve(), Path.cwd(), cache_folder().absolute(), *data]
    return sorted({str(folder) for folder in folders if folder.is_absolute() and folder != Path(folder.anchor)})


def _written(path: str) -> Iterable[bytes]:
    """How files write a path: as it is, and escaped in JSON and YAML."""
    return {path.encode(errors="surrogateescape"), json.dumps(path)[1:-1].encode()}
