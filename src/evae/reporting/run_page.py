"""The page of a run: configuration, measurements, training curves, reconstructions, samples and latents."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from evae import figures
from evae.console import console
from evae.data import ImageSet, Store, to_float
from evae.files import write_atomically
from evae.metrics.fid import nearest_training_images
from evae.metrics.legend import legend
from evae.metrics.sections import priors
from evae.models import VAE
from evae.models.networks import evaluated
from evae.models.vae import Prior
from evae.numerics import resolve_device, seeded
from evae.outputs import check_output, data_of, page_mark
from evae.reporting import charts, pages, row_charts
from evae.reporting.exploration import Survey, by_error, interpolations, originals, survey, traversals
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, current_evaluation, read_evaluation
from evae.runs.images import own_images

_SHOWN = 8  # images of a kind; pairs of them; latents
_ROWS = 2_000  # hold-out rows, and samples, of charts
_STEPS = 9  # images of an interpolation or a traversal, including both ends


def report(
    run_folder: Path,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    model: VAE | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an HTML report of a run: configuration, measurements, losses, reconstructions, samples and latents.

    The page is one file, which needs neither the network nor the run. Measurements are those of evae evaluate. Of the
    path of the data it has the last part alone. A folder that holds a model alone gives a page without its images.

    Args:
        run_folder: the folder of a trained run, or of a model.
        out: the page; default: report.html in the run folder.
        seed: seed of the samples, and of the choice of images for interpolations.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        model: the run's model, where it cannot be loaded because its class or networks cannot be imported.
        overwrite: replace the file that out names also where it is not a report by evae.

    Returns:
        The page.

    Raises:
        RunError: the folder is no run, what is in it is damaged, or the page cannot be written or would replace another
            file.
        DataError: the run's images are not there any more.
    """
    run = RunFolder(run_folder)
    default = run.path / "report.html"
    path = default if out is None else Path(out)
    check_output(path, "report", overwrite, default, data_of(run))
    with seeded(seed):
        model = evaluated((run.model() if model is None else model).to(resolve_device(device)))
    evaluation = current_evaluation(run)
    if run.is_run:
        config = run.config()
        config["data"] = pages.data_name(config["data"])
    else:
        config = {"model": model.class_path, **model.hyperparameters}
    others = [read_evaluation(run, path.name) for path in sorted(run.path.glob("evaluation-*.json"))]
    sections = evaluation.sections.values() if evaluation else ()
    rates = [rate for s in sections for rate in s.details.get("rate_per_dimension") or () if rate is not None]
    store = own_images(run) if run.is_run else None  # a model alone, as it is shared
    found = survey(model, store.holdout) if store else None
    shares = _shares(evaluation, found)
    page = pages.render(
        "run.html",
        generator=page_mark("report"),
        title=type(model).__name__ + (f" on {config['data']}" if store else ""),
        run=run,
        model=model,
        kind=figures.kind(model.image_shape[0]),
        weights=sum(p.numel() for p in model.parameters()),
        store=store,
        account=replace(store.account, source=pages.data_name(store.account.source)) if store else None,
        found=found,
        trust=_is_own_code(config),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True).rstrip(),
        evaluation=evaluation,
        others=others,
        panels=charts.training_panels(run, model),
        fitted=model.read_prior(),
        **_NOTHING | (_of_rows if model.is_row else _of_images)(model, store, found, seed, shares),
        tells=[_told(latent) for latent in shares] if shares else (),
        rates=sorted(rates, reverse=True),
        legend=legend,
    )
    write_atomically(path, page)
    console.print(f"report in {path}", soft_wrap=True)
    return path


_NOTHING = {"reconstructions": (), "samples": (), "interpolations": (), "traversals": (), "charts_of_rows": None}


def _shares(evaluation: Evaluation | None, found: Survey | None) -> list[dict[str, float]] | None:
    """Of each latent, what it tells of each factor by name, the most first: I(z; v)/H(v); None: it was not measured."""
    if evaluation is None or found is None or "factors" not in evaluation.sections:
        return None
    details = evaluation.sections["factors"].details
    names, rows = details.get("factors", ()), details.get("information", ())
    if len(rows) != found.codes.shape[1] or {len(row) for row in rows} != {len(names)}:
        return None
    latents = (dict(zip(names, row, strict=True)) for row in rows)
    return [dict(sorted(latent.items(), key=lambda item: -item[1])) for latent in latents]


def _told(latent: dict[str, float]) -> str:
    """The three factors that a latent tells most of."""
    return ", ".join(f"{name} {share:.2f}" for name, share in list(latent.items())[:3])


def _of_images(
    model: VAE, store: Store | None, found: Survey | None, seed: int, shares: list[dict[str, float]] | None
) -> dict[str, Any]:
    """The pictures of a model of images."""
    most = [max(latent.values(), default=0.0) for latent in shares] if shares else None
    return {
        "reconstructions": _reconstructions(model, store.holdout, found) if store and found else (),
        "samples": [_samples(model, store, prior, seed) for prior in priors(model)],
        "interpolations": _interpolations(model, store.holdout, found, seed) if store and found else (),
        "traversals": traversals(model, found, _SHOWN, _STEPS, most) if found else (),
    }


def _of_rows(model: VAE, store: Store | None, _found: object, seed: int, _shares: object) -> dict[str, Any]:
    """The charts of a model of rows, in the units of the data: reconstructions, and samples of each prior."""
    if store is None or store.columns is None:
        return {}
    columns = store.columns
    real = to_float(store.holdout.read(slice(0, _ROWS)))
    rebuilt = model.reconstruct(real.to(model.device)).cpu()
    values = columns.restore(real.numpy())
    samples = {}
    for prior in priors(model):
        with seeded(seed):
            drawn = columns.restore(model.sample(_ROWS, prior).cpu().numpy())
        samples[prior] = row_charts.distributions({"hold-out rows": values, "samples": drawn}, columns)
    against = row_charts.against_originals(values, columns.restore(rebuilt.numpy()), columns)
    return {"charts_of_rows": {"reconstructions": against, "samples": samples, "count": len(values), "drawn": _ROWS}}


def _is_own_code(config: dict[str, Any]) -> bool:
    """Whether it names a class or networks that are not evae's."""
    model = config["model"]
    named = model.get("init_args") or {} if isinstance(model, dict) else config
    path = model["class_path"] if isinstance(model, dict) else model
    return not path.startswith("evae.") or any(named.get(network) for network in ("encoder", "decoder"))


def _samples(
    model: VAE, store: Store | None, prior: Prior, seed: int
) -> tuple[Prior, Tensor, Tensor | None, list[float]]:
    """A prior, 64 samples of it, the first of these above their nearest training images, and their distances."""
    with seeded(seed):
        samples = model.sample(64, prior).cpu()
    if store is None:
        return prior, samples, None, []
    distances, rows = nearest_training_images(samples[:_SHOWN], store)
    nearest = to_float(store.train.read(rows.numpy()))
    return prior, samples, torch.cat([samples[:_SHOWN], nearest]), distances.tolist()


def _reconstructions(model: VAE, holdout: ImageSet, found: Survey) -> Iterator[tuple[Any, ...]]:
    """Of the best, the median and the worst: name, (least, largest) error, count, originals and reconstructions."""
    for name, rows in by_error(found.errors, _SHOWN).items():
        real = originals(model, holdout, rows)
        yield name, found.errors[rows].aminmax(), len(rows), torch.cat([real, model.reconstruct(real)])


def _interpolations(model: VAE, holdout: ImageSet, found: Survey, seed: int) -> list[tuple[int, int, Tensor]]:
    """Of random pairs of images: their indices, and the images from the first to the second."""
    if (pairs := min(_SHOWN, len(holdout) // 2)) == 0:
        return []
    chosen = np.random.default_rng(seed).choice(len(holdout), (2, pairs), replace=False)
    starts, ends = map(torch.from_numpy, chosen)
    between = interpolations(model, found.codes[starts], found.codes[ends], _STEPS - 2, found.on_sphere)
    first, last = (originals(model, holdout, rows).cpu()[:, None] for rows in (starts, ends))
    return list(zip(starts.tolist(), ends.tolist(), torch.cat([first, between, last], 1), strict=True))
