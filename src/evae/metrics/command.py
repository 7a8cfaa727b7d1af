"""evae evaluate: measure a run on hold-out images, write its evaluation and print a table."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from evae import checks
from evae.console import Console
from evae.data import ImageOptions, Store
from evae.data.factors import read_factors
from evae.data.memory import Data, named
from evae.errors import ConfigError, DataError, RunError
from evae.files import digest, remove_leftovers
from evae.metrics.factors import FACTORS
from evae.metrics.features import load_extractor
from evae.metrics.fid import DISTANCES, FITTED_DISTANCES
from evae.metrics.latents import LATENTS
from evae.metrics.legend import legend
from evae.metrics.likelihood import FITTED_LIKELIHOOD, LIKELIHOOD
from evae.metrics.probes import PROBES
from evae.metrics.reconstructions import RECONSTRUCTIONS
from evae.metrics.rows import FITTED_ROW_DISTANCES, ROW_DISTANCES
from evae.metrics.sections import Context, Options
from evae.metrics.tails import FITTED_TAILS, TAILS, check_enough
from evae.models import VAE
from evae.models.vae import Latents
from evae.numerics import resolve_device
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.checkpoints import trained_images
from evae.runs.evaluation import RESULTS, Evaluation, Section, read_evaluation, write_evaluation
from evae.runs.images import images_for, own_images
from evae.settings import flat

MEASUREMENTS = (
    *(RECONSTRUCTIONS, LATENTS, LIKELIHOOD, FITTED_LIKELIHOOD, DISTANCES, FITTED_DISTANCES),
    *(ROW_DISTANCES, FITTED_ROW_DISTANCES, TAILS, FITTED_TAILS, PROBES, FACTORS),
)


@flat
def evaluate(
    run_folder: Path,
    data: Data | None = None,
    images: ImageOptions = ImageOptions(),
    latents: Latents = "sample",
    seed: int = 0,
    repeats: int = 1,
    likelihood: int | None = None,
    features: str | None = None,
    features_weights: Path | None = None,
    samples: int | None = None,
    tails: float | None = None,
    probes: bool = False,
    factors: Path | None = None,
    device: str = "auto",
    show: bool = True,
) -> dict[str, Any]:
    """Measure a run on its hold-out images; write evaluation.json and print a table.

    Sections whose weights, images and options have not changed are read from the file, not computed again.

    Args:
        run_folder: the folder of a trained run.
        data: evaluate on these images instead of the run's own, as in evae train; the results go to a file of their
            own, evaluation-DATA.json.
        images: how other images are read.
        latents: decode samples of each posterior, as in the paper, or its mean.
        seed: random seed of all samples.
        repeats: posterior samples per image, over which its metrics are averaged.
        likelihood: estimate an importance-weighted lower bound on log p(x) with this many posterior samples per image,
            under the model's own prior and under the one of evae fit-prior, where there is one.
        features: compute FID/KID-type distances and precision/recall/density/coverage with features from: inception,
            efficientnet-lite0 or module:callable; of reconstructions and of samples of both priors.
        features_weights: file of Inception weights (pt_inception-2015-12-05-6726825d.pth); default: download them.
        samples: number of generated images per prior for these distances; default: the number of hold-out images.
        tails: of rows of numbers, also compare the tails of samples of both priors with those of the hold-out rows:
            this fraction of them on each side of a column, e.g. 0.01.
        probes: linear and k-NN probes of the latent codes (labelled data only).
        factors: CSV or Parquet file with a column for each known factor, and a column file or index that names the
            images: mutual information gap, disentanglement, completeness and informativeness of the codes; default:
            the factors of the data, where they are generated (shapes).
        device: device to compute on, e.g. cpu or cuda; auto: CUDA or MPS where there is one.
        show: print the table.

    Returns:
        What evaluation.json holds: what was measured, metrics of the reconstructions with their standard_errors, and
        all sections. bce and the divergence are nats per image.

    Raises:
        RunError: the folder is no run, or its weights are damaged.
        DataError: the images or the features cannot be used.
        ConfigError: a setting cannot work.
    """
    table = None if factors is None else read_factors(Path(factors))
    for option, value in {"repeats": repeats, "samples": samples, "likelihood": likelihood}.items():
        if value is not None:
            checks.whole_number(option, value)
    checks.one_of("latents", latents, get_args(Latents))
    if tails is not None and checks.fraction("tails", tails) >= 0.5:
        raise ConfigError(f"tails is the fraction of rows in each tail, below 0.5, not {tails}")
    run, where, data = RunFolder(run_folder), resolve_device(device), None if data is None else named(data)
    model = run.model().to(where)
    if features and model.is_row:
        raise ConfigError("--features is for images; the distances of rows of numbers are measured without it")
    if tails is not None and not model.is_row:
        raise ConfigError(f"--tails is for rows of numbers, and {run} is of images")
    extractor = load_extractor(features, features_weights, where) if features else None
    store = images_for(run, model, data, images)
    fitted = _fitted_prior(model, is_needed=bool(likelihood or features or model.is_row))
    count = samples or len(store.holdout)
    if tails is not None:
        check_enough(tails, len(store.holdout), count)
    known = store.factors if table is None else table
    options = Options(latents, repeats, likelihood, extractor, count, probes, fitted, model.is_row, tails, known)
    name = RESULTS if data is None else _file_name(run, store)
    remove_leftovers(run.path)
    sections, values = _measure(Context(model, store, seed), options, _earlier(run, name))
    evaluation = Evaluation(
        model=type(model).__name__,
        data=store.source,
        split="holdout",
        count=len(store.holdout),
        images=store.fingerprint,
        transform=store.transform,
        latents=latents,
        repeats=repeats,
        seed=seed,
        sections=sections,
        weights=model.weights_digest,
    )
    path = write_evaluation(run, evaluation, values, name)
    if show:
        results = Console()
        results.print(results_table({str(run): evaluation}))
        if told := legend(evaluation.numbers):
            results.print(told, soft_wrap=True, highlight=False, markup=False)
        results.print(f"evaluation in {path}", soft_wrap=True, highlight=False, markup=False)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _measure(
    context: Context, options: Options, earlier: Evaluation | None
) -> tuple[dict[str, Section], dict[str, NDArray[np.float64]]]:
    """All sections, and their values per image: taken from an earlier evaluation where their keys agree.

    A section that is not asked for stays as it was measured of the same weights and images, with whatever options.
    """
    store = context.store
    old, old_values = (earlier.sections, earlier.values) if earlier else ({}, {})
    model = context.model
    files = [
        digest(json.dumps([model.class_path, model.hyperparameters], sort_keys=True).encode()),
        model.weights_digest,
    ]
    basis = digest(repr((*files, store.fingerprint, store.transform, context.seed, version("evae"))).encode())
    sections: dict[str, Section] = {}
    values: dict[str, NDArray[np.float64]] = {}
    for measurement in MEASUREMENTS:
        name, depends_on = measurement.name, measurement.asked(options)
        key = f"{basis}-{digest(json.dumps(depends_on, sort_keys=True).encode())}"
        stays = depends_on is None and name in old and old[name].key.startswith(basis)
        if measurement.is_of_fitted_prior and name in old:
            stays = stays and old[name].details.get("prior_digest") == options.fitted
        if name in old and (old[name].key == key or stays):
            sections[name] = old[name]
            values |= {n.name: old_values[n.name] for n in old[name].numbers if n.name in old_values}
        elif depends_on is not None:
            now = measurement(context, options)
            prior = {"prior_digest": options.fitted} if measurement.is_of_fitted_prior else {}
            sections[name] = Section(name, key, tuple(now.numbers), now.settings, now.details | prior)
            values |= {metric: of_images.double().cpu().numpy() for metric, of_images in now.per_image.items()}
    return sections, values


def _fitted_prior(model: VAE, is_needed: bool) -> str:
    """What identifies the fitted prior; "" where there is none, or none that can be used and is needed."""
    try:
        prior = model.read_prior()
    except RunError:
        if is_needed:
            raise
        return ""
    return "" if prior is None else prior.identity


def _earlier(run: RunFolder, name: str) -> Evaluation | None:
    """An earlier evaluation; None where it is missing, damaged, of another version or without its values per image."""
    try:
        earlier = read_evaluation(run, name)
    except RunError:
        return None
    return earlier if earlier and earlier.values else None


def _file_name(run: RunFolder, store: Store) -> str:
    """evaluation.json for the run's own images; others are named, by their fingerprint too where the name is taken."""
    with suppress(DataError):
        if trained_images(run) in (None, store.fingerprint):
            own = own_images(run)
            if (own.fingerprint, own.transform) == (store.fingerprint, store.transform):
                return RESULTS
    stem = re.sub(r"[^\w.-]+", "-", Path(store.source).stem)[:60].strip("-.") or "data"
    earlier = _earlier(run, f"evaluation-{stem}.json")
    if earlier and earlier.images != store.fingerprint:
        stem += f"-{store.fingerprint[:8]}"
    return f"evaluation-{stem}.json"


def results_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """A row for each number with its standard error, a column for each run."""
    runs = list(evaluations.values())
    about = [runs[0].data, counted(runs[0].count, f"hold-out {runs[0].noun}"), f"latents: {runs[0].latents}"]
    features = {str(run.sections["distances"].settings.get("features")) for run in runs if "distances" in run.sections}
    columns = [{number.title: str(number) for number in run.numbers} for run in runs]
    table = Table()
    table.add_column(Text("\n".join([*about, *(f"features: {name}" for name in sorted(features))])), overflow="fold")
    for (name, run), column in zip(evaluations.items(), columns, strict=True):
        width = max(map(len, column.values()), default=1)  # numbers stay on one line
        table.add_column(Text(f"{run.model}\n{name}"), justify="right", overflow="fold", min_width=width)
    for metric in dict.fromkeys(metric for column in columns for metric in column):
        table.add_row(Text(metric), *(column.get(metric, "") for column in columns))
    return table
