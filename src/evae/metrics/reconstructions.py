"""Hold-out images and their reconstructions to means over images."""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from evae.data import ImageSet
from evae.metrics.image import (
    SSIM_WINDOW,
    PerImageMean,
    binary_cross_entropy,
    mean_squared_error,
    sharpness,
    structural_similarity,
)
from evae.models import VAE
from evae.models.vae import Latents
from evae.runs.images import batches


class Means(NamedTuple):
    """Means over images, and their standard errors, by metric."""

    metrics: dict[str, float]
    standard_errors: dict[str, float]


@torch.no_grad()
def measure(model: VAE, images: ImageSet, latents: Latents = "sample", repeats: int = 1) -> Means:
    """The metrics of ``model``'s reconstructions of ``images``.

    Args:
        model: in evaluation mode.
        images: all of them are measured.
        latents: decode samples of each posterior, or its centre.
        repeats: samples for each image; an image's metrics are their means.
    """
    metrics: defaultdict[str, PerImageMean] = defaultdict(PerImageMean)
    for batch in batches(images, model.device, "evaluating"):
        drawn = [_per_image(model, batch, latents) for _ in range(repeats if latents == "sample" else 1)]
        for name in drawn[0]:
            mean = torch.stack([values[name] for values in drawn]).mean(0)
            metrics[name].update(mean)
    return Means(
        {name: metric.compute().item() for name, metric in metrics.items()},
        {name: metric.standard_error().item() for name, metric in metrics.items()},
    )


def _per_image(model: VAE, images: Tensor, latents: Latents) -> dict[str, Tensor]:
    q = model.posterior(images)
    p = model.likelihood(model.centre(q) if latents == "mean" else q.rsample())
    reconstruction = -p.log_prob(images)
    decoded, real = p.mean.cpu(), images.cpu()
    # of a Bernoulli likelihood they are one, and logits take a quarter of the time
    bernoulli = isinstance(p, Independent) and isinstance(p.base_dist, Bernoulli)
    mse = mean_squared_error(decoded, real)
    values = {
        "bce": reconstruction if bernoulli else binary_cross_entropy(decoded, real),
        "mse": mse,
        "psnr": -10 * mse.log10(),
    }
    if min(images.shape[2:]) >= SSIM_WINDOW:
        values["ssim"] = structural_similarity(decoded, real)
    values["reconstruction"] = reconstruction
    values[model.objective.divergence_name] = model.objective.divergence(model, q)
    values |= {"sharpness": sharpness(decoded), "sharpness_real": sharpness(real)}
    return {name: value.double().cpu() for name, value in values.items()}
