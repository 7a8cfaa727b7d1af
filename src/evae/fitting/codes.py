"""The codes of a run's training images, a tenth of them held out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.data import Images
from evae.distributions import HypersphericalUniform, Stereographic, parameters_of, select, with_parameters
from evae.errors import DataError
from evae.models import VAE
from evae.models.vae import Latents
from evae.numerics import seeded
from evae.runs.images import batches

_HELD_OUT, _LEAST = 0.1, 5  # fraction held out, and images needed
_CHUNK = 2**15  # codes drawn at a time


@dataclass(frozen=True)
class Codes:
    """Posteriors of N images on the CPU, and which of them a prior is fitted to.

    Attributes:
        model: whose posteriors they are.
        posterior: q(z|x_i), batch shape (N,), event shape (d,).
        latents: whether a code is one sample of its posterior, or its mean (on a sphere its mean direction).
        seed: of the samples.
        fitted: indices of the posteriors to fit to.
        held_out: indices of those that choose between priors.
        centre: (d,), the mean direction of codes on the unit sphere; else None.
    """

    model: VAE
    posterior: Distribution
    latents: Latents
    seed: int
    fitted: Tensor
    held_out: Tensor
    centre: Tensor | None

    @property
    def dim(self) -> int:
        """Number of coordinates that a density has: d, on a sphere d - 1."""
        return self.posterior.event_shape[0] - (self.centre is not None)

    def drawn(self, rows: Tensor, draw: int = 0) -> Tensor:
        """Codes (M, d) by index, one sample of each posterior or its mean; ``draw`` numbers independent samples."""
        with seeded(self.seed + 1 + draw):
            parts = (select(self.posterior, part) for part in rows.split(_CHUNK))
            return torch.cat([self.model.code(q) if self.latents == "mean" else q.sample() for q in parts])

    def flattened(self, codes: Tensor) -> Tensor:
        """Coordinates (M, dim) of codes (M, d): of those on a sphere the stereographic ones about the centre."""
        return codes if self.centre is None else Stereographic(self.centre).inv(codes)


@torch.no_grad()
def encode_all(model: VAE, images: Images, latents: Latents, seed: int) -> Codes:
    """Encode all images that can be read; afterwards the model is on the CPU, as the codes are.

    Raises:
        DataError: there are fewer than five.
    """
    stored: dict[str, Tensor] = {}
    start = 0
    for batch in batches(images, model.device, "encoding"):
        for name, values in parameters_of(model.posterior(batch)).items():
            if name not in stored:  # allocated once: parts to be joined would take twice the memory
                stored[name] = torch.empty(len(images), *values.shape[1:], dtype=values.dtype)
            stored[name][start : start + len(values)] = values.cpu()
        start += len(batch)
    if images.bad:
        good = torch.from_numpy(np.setdiff1d(np.arange(len(images)), list(images.bad)))
        stored = {name: values[good] for name, values in stored.items()}
    count = len(next(iter(stored.values()), ()))
    if count < _LEAST:
        raise DataError(f"a prior needs at least {_LEAST} training images to be fitted, not {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = max(2, round(_HELD_OUT * count))
    posterior = with_parameters(model.cpu().example_posterior(), stored)
    centre = None
    if isinstance(model.prior(), HypersphericalUniform):
        centre = torch.nn.functional.normalize(model.code(posterior).double().mean(0), dim=0)
    return Codes(model, posterior, latents, seed, order[held_out:], order[:held_out].sort().values, centre)
