"""The codes of a run's training images, a tenth of them held out."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional

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
    """Posteriors of N images on the CPU, in random order, the first of them held out from the fit.

    Attributes:
        model: whose posteriors they are.
        posterior: q(z|x_i), batch shape (N,), event shape (d,).
        latents: whether a code is one sample of its posterior, or its mean (on a sphere its mean direction).
        seed: of the samples.
        held_out: the slice of posteriors that choose between priors.
        centre: (d,), the mean direction of codes on the unit sphere; else None.
    """

    model: VAE
    posterior: Distribution
    latents: Latents
    seed: int
    held_out: slice
    centre: Tensor | None

    @property
    def dim(self) -> int:
        """Number of coordinates that a density has: d, on a sphere d - 1."""
        return self.posterior.event_shape[0] - (self.centre is not None)

    @property
    def fitted(self) -> slice:
        """The slice of posteriors to fit to."""
        return slice(self.held_out.stop, self.posterior.batch_shape[0])

    def drawn(self, rows: slice, draw: int = 0) -> Tensor:
        """Coordinates (M, dim) of codes: one sample of each posterior, or its mean.

        Those of codes on a sphere are the stereographic ones about the centre. ``draw`` numbers independent samples.
        """
        codes = self.drawn_codes(rows, draw)
        return codes if self.centre is None else Stereographic(self.centre).inv(codes)

    def drawn_codes(self, rows: slice, draw: int = 0) -> Tensor:
        """The codes (M, d) themselves."""
        with seeded(self.seed + 1 + draw):
            parts = (select(self.posterior, part) for part in chunks(rows))
            return torch.cat([self.model.code(q) if self.latents == "mean" else q.sample() for q in parts])


def chunks(rows: slice) -> list[slice]:
    """Consecutive slices of at most 32,768 rows."""
    return [slice(i, min(i + _CHUNK, rows.stop)) for i in range(rows.start, rows.stop, _CHUNK)]


@torch.no_grad()
def encode_all(model: VAE, images: Images, latents: Latents, seed: int) -> Codes:
    """Encode all images that can be read; afterwards the model is on the CPU, as the codes are.

    Raises:
        DataError: there are fewer than five.
    """
    places = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    stored: dict[str, Tensor] = {}
    start = 0
    for batch in batches(images, model.device, "encoding"):
        for name, values in parameters_of(model.posterior(batch)).items():
            if name not in stored:  # allocated once: parts to be joined would take twice the memory
                stored[name] = torch.empty(len(images), *values.shape[1:], dtype=values.dtype)
            stored[name][places[start : start + len(values)]] = values.cpu()
        start += len(batch)
    if images.bad:
        good = torch.ones(len(images), dtype=torch.bool)
        good[places[list(images.bad)]] = False
        stored = {name: values[good] for name, values in stored.items()}
    count = len(next(iter(stored.values()), ()))
    if count < _LEAST:
        raise DataError(f"a prior needs at least {_LEAST} training images to be fitted, not {count}")
    posterior = with_parameters(model.cpu().example_posterior(), stored)
    return of_posteriors(model, posterior, latents, seed)


def of_posteriors(model: VAE, posterior: Distribution, latents: Latents, seed: int) -> Codes:
    """Codes of posteriors in random order."""
    centre = None
    if isinstance(model.prior(), HypersphericalUniform):
        centre = functional.normalize(model.code(posterior).double().mean(0), dim=0)
    held_out = max(2, round(_HELD_OUT * posterior.batch_shape[0]))
    return Codes(model, posterior, latents, seed, slice(0, held_out), centre)
