"""What a model says of each image: code, reconstruction error, rate and a bound on ln p(x)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from evae.console import warn
from evae.data import Images
from evae.errors import DataError, RunError
from evae.metrics.image import mean_squared_error
from evae.metrics.likelihood import importance_weighted_bound, share_outside
from evae.models import VAE
from evae.runs import RunFolder
from evae.runs.images import batches, own_images


@dataclass(frozen=True)
class Description:
    """What a model says of N images.

    Attributes:
        codes: (N, d).
        rebuilt: the images decoded from the codes, (N, C, H, W) in [0, 1].
        errors: squared error of these, mean over pixels, (N,).
        rates: the divergence between posterior and prior in nats (N,): a KL, or an EVAE's penalty; None where the
            divergence is one of a batch (WAE).
        bounds: of ln p(x) in nats (N,), -∞ where a posterior leaves the prior's support; None for no bound.
    """

    codes: Tensor
    rebuilt: Tensor
    errors: Tensor
    rates: Tensor | None
    bounds: Tensor | None


class Describer:
    """Describes images (N, C, H, W) by a model in evaluation mode.

    Args:
        model: the model.
        samples: posterior samples of the bound on ln p(x) of an image; 0: no bound.
    """

    def __init__(self, model: VAE, samples: int = 0) -> None:
        self.model, self.samples = model, samples
        self.prior_name = ""  # of the bound; known after the first images
        self._prior: Distribution | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Description:
        """The description of a batch."""
        q = self.model.posterior(images)
        codes = self.model.code(q)
        rebuilt = self.model.decode(codes).cpu()
        objective = self.model.objective
        rates = None if objective.divergence_name == "mmd" else objective.divergence(self.model, q).cpu()
        if self.samples and not self.prior_name:
            self._choose_prior(images, q)
        bounds = None
        if self._prior is not None:
            bounds = importance_weighted_bound(self.model, images, self.samples, q, self._prior)
        return Description(codes.cpu(), rebuilt, mean_squared_error(rebuilt, images.cpu()), rates, bounds)

    def _choose_prior(self, images: Tensor, q: Distribution) -> None:
        """The fitted prior or else the model's: the first with a density wherever samples of the posteriors are."""
        self.prior_name = "none"
        for name, prior in (("fitted", self.model.fitted_prior), ("model", self.model.prior())):
            try:
                if prior is None or share_outside(prior, q, samples=10):
                    continue
                importance_weighted_bound(self.model, images[:1], 1, self.model.posterior(images[:1]), prior)
            except NotImplementedError:  # of a density
                continue
            self.prior_name, self._prior = name, prior
            return


def reference_errors(run: RunFolder, describer: Describer) -> NDArray[np.float64] | None:
    """The errors of the run's hold-out images in order; None, with a warning, where these are not there any more."""
    if not run.is_run:  # a model alone
        return None
    try:
        holdout = own_images(run).holdout
    except (DataError, RunError) as error:
        warn(f"{error}; errors have no percentiles among its hold-out images")
        return None
    return np.sort(errors_of(describer.model, holdout))


@torch.no_grad()
def errors_of(model: VAE, images: Images) -> NDArray[np.float64]:
    """The reconstruction errors (N,) of all images."""
    found = []
    for batch in batches(images, model.device, f"errors of {images.split}"):
        found.append(mean_squared_error(model.decode(model.encode(batch)).cpu(), batch.cpu()))
    errors: NDArray[np.float64] = torch.cat(found).double().numpy()
    return errors


def percentiles(errors: NDArray[np.floating], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The percentage of reference errors (M,), in order, that are at most each error (N,); half of equal ones."""
    below, upto = (np.searchsorted(reference, errors, side) for side in ("left", "right"))
    found: NDArray[np.float64] = 50.0 * (below + upto) / len(reference)
    return found
