"""What is minimised. An objective turns a model and images into Terms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from evae.distributions import KernelPosterior, kernel_penalty

if TYPE_CHECKING:
    from evae.models.vae import VAE


class Terms(NamedTuple):
    """The objective of a batch, in nats.

    Attributes:
        reconstruction: -ln p(x|z) of each image, shape (N,).
        divergence: what stands between posterior and prior for each image, shape (N,), before any weight.
        loss: the scalar to minimise.
    """

    reconstruction: Tensor
    divergence: Tensor
    loss: Tensor


class Objective(ABC):
    """Makes Terms of a model and images. ``divergence_name`` says whether they hold a "penalty" or an exact "kl"."""

    divergence_name: ClassVar[str]

    @abstractmethod
    def divergence(self, model: "VAE", q: Distribution) -> Tensor:
        """What stands between the posterior ``q`` of a batch and the prior, nats, shape (N,)."""

    def __call__(self, model: "VAE", images: Tensor) -> Terms:
        """The terms of images (N, C, H, W), with one posterior sample an image."""
        q = model.posterior(images)
        reconstruction = -model.likelihood(q.rsample()).log_prob(images)
        divergence = self.divergence(model, q)
        return Terms(reconstruction, divergence, (reconstruction + divergence).mean())


@dataclass
class KernelPenalty(Objective):
    """-ln p(x|z) + Σ_k B·I(K_k)/n (paper, eq. 8-10).

    For the Epanechnikov kernel the second term is 3B/(5n) Σ_k 1/r_k. It is not a bound on -ln p(x).

    Args:
        n: eq. (10)'s M, kept here so that the penalty does not depend on the batch a model is evaluated in.
    """

    n: float = 100
    divergence_name: ClassVar[str] = "penalty"

    def divergence(self, model: "VAE", q: Distribution) -> Tensor:
        """Σ_k B·I(K_k)/n."""
        posterior: KernelPosterior = q.base_dist  # type: ignore[attr-defined]
        return kernel_penalty(posterior.kernel, posterior.support_length, self.n).sum(-1)


@dataclass
class Elbo(Objective):
    """-ln p(x|z) + KL(q(z|x)‖p(z)), the negative evidence lower bound (Kingma and Welling 2014)."""

    divergence_name: ClassVar[str] = "kl"

    def divergence(self, model: "VAE", q: Distribution) -> Tensor:
        """KL(q‖p), exact."""
        return kl_divergence(q, model.prior())
