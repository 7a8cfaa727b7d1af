"""Metrics of the reconstructions of hold-out images: values of each image, and their means."""

from collections import defaultdict

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from evae.metrics.image import METRICS, STATISTICS
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.models import VAE
from evae.models.vae import Latents
from evae.runs.evaluation import Better


def _measure(context: Context, options: Options) -> Measured:
    """-ln p(x|z), the divergence and the metrics of images; an image's values are means over its posterior samples."""
    batches: defaultdict[str, list[Tensor]] = defaultdict(list)
    for images, q in context.batches("reconstructions"):
        repeats = options.repeats if options.latents == "sample" else 1
        drawn = [_values(context.model, images, q, options.latents) for _ in range(repeats)]
        for name in drawn[0]:
            batches[name].append(torch.stack([values[name] for values in drawn]).mean(0))
    values = {name: torch.cat(parts) for name, parts in batches.items()}
    better: dict[str, Better] = {"reconstruction": "lower", **{name: better for name, better, _ in METRICS}}
    better.update((name, "reference") for name, _ in STATISTICS)
    references = {name: values[f"{name}_real"].mean().item() for name, _ in STATISTICS}
    return Measured(
        [mean_of(name, of_images, better.get(name), references.get(name)) for name, of_images in values.items()],
        settings={"latents": options.latents, "repeats": options.repeats},
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
    for name, _, metric in METRICS:
        if name not in values and (value := metric(decoded, real)) is not None:
            values[name] = value
    values["reconstruction"] = reconstruction
    values[model.objective.divergence_name] = model.objective.divergence(model, q)
    for name, statistic in STATISTICS:
        values |= {name: statistic(decoded), f"{name}_real": statistic(real)}
    return {name: value.cpu().double() for name, value in values.items()}


RECONSTRUCTIONS = Measurement("reconstructions", _measure, lambda o: {"latents": o.latents, "repeats": o.repeats})
