"""Metrics of the reconstructions of hold-out images: values of each image, and their means."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from evae.metrics.image import METRICS, ROW_METRICS, STATISTICS
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.models import VAE
from evae.models.vae import Latents
from evae.runs.evaluation import Better


def _measure(context: Context, options: Options) -> Measured:
    """-ln p(x|z), the divergence and the metrics of images; an image's values are means over its posterior samples.

    Of rows also the root mean square error of each column, in the units of the data.
    """
    batches: defaultdict[str, list[Tensor]] = defaultdict(list)
    for images, q in context.batches("reconstructions"):
        repeats = options.repeats if options.latents == "sample" else 1
        drawn = [_values(context.model, images, q, options.latents) for _ in range(repeats)]
        for name in drawn[0]:
            batches[name].append(torch.stack([values[name] for values in drawn]).mean(0))
    values = {name: torch.cat(parts) for name, parts in batches.items()}
    better: dict[str, Better] = {"reconstruction": "lower", **{name: better for name, better, _ in METRICS}}
    better.update((name, "reference") for name, _ in STATISTICS)
    real = {name: f"{name}_real" for name, _ in STATISTICS}
    references = {name: values[own].mean().item() for name, own in real.items() if own in values}
    return Measured(
        [mean_of(name, of_images, better.get(name), references.get(name)) for name, of_images in values.items()],
        settings={"latents": options.latents, "repeats": options.repeats},
        details=_column_errors(context, options) if context.model.is_row else {},
        per_image=values,
    )


def _values(model: VAE, images: Tensor, q: Distribution, latents: Latents) -> dict[str, Tensor]:
    """Of each image (N, C, H, W), by metric: (N,) in double precision, on the CPU."""
    p = model.likelihood(model.code(q) if latents == "mean" else q.rsample())
    reconstruction = -p.log_prob(images)
    decoded, real = p.mean.cpu(), images.cpu()
    # of a Bernoulli likelihood they are one, and logits take a quarter of the time
    bernoulli = isinstance(p, Independent) and isinstance(p.base_dist, Bernoulli)
    values = {"bce": reconstruction} if bernoulli else {}
    for name, _, metric in ROW_METRICS if model.is_row else METRICS:
        if name not in values and (value := metric(decoded, real)) is not None:
            values[name] = value
    values["reconstruction"] = reconstruction
    values[model.objective.divergence_name] = model.objective.divergence(model, q)
    for name, statistic in [] if model.is_row else STATISTICS:
        values |= {name: statistic(decoded), f"{name}_real": statistic(real)}
    return {name: value.cpu().double() for name, value in values.items()}


def _column_errors(context: Context, options: Options) -> dict[str, Any]:
    """The root mean square error of each column over all rows, by name; of the posterior's code, or one sample."""
    model, total = context.model, torch.zeros(context.model.image_shape, dtype=torch.float64)
    for rows, q in context.batches("errors of columns"):
        code = model.code(q) if options.latents == "mean" else q.sample()
        total += (model.decode(code) - rows).cpu().double().square().sum(0)
    errors = (total / len(context.store.holdout)).sqrt()
    columns = context.store.columns
    assert columns is not None
    in_units = (errors * torch.tensor(columns.deviation)).tolist()
    return {"rmse_per_column": dict(zip(columns.names, in_units, strict=True))}


RECONSTRUCTIONS = Measurement("reconstructions", _measure, lambda o: {"latents": o.latents, "repeats": o.repeats})
