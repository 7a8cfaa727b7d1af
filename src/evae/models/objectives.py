"""Objectives: from a model and images to the per-image loss terms of a batch."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler at once: two seconds
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from evae.distributions import (
    KernelPosterior,
    MultivariateStudentT,
    SphericalPosterior,
    coordinates,
    kernel_penalty,
    maximum_mean_discrepancy,
    monte_carlo_kl,
)
from evae.distributions.student import log_constant
from evae.models.priors import VampPrior
from evae.models.vae import VAE, Objective, Terms

IwaeGradient = Literal["standard", "doubly-reparameterised"]
Regularisation = Literal["l2", "gradient-penalty"]


@dataclass
class KernelPenalty(Objective):
    """-ln p(x|z) + Σ_k B·I(K_k)/n (paper, eq. 8-10), for the Epanechnikov kernel 3B/(5n) Σ_k 1/r_k.

    It is no bound on -ln p(x). n is eq. (10)'s M, kept here so that the penalty does not depend on the batch evaluated.
    """

    n: float = 100
    divergence_name: ClassVar[str] = "penalty"

    def divergence(self, model: VAE, q: Distribution) -> Tensor:
        return self.per_dimension(model, q).sum(-1)

    def per_dimension(self, model: VAE, q: Distribution) -> Tensor:
        posterior = coordinates(q)
        assert isinstance(posterior, KernelPosterior | SphericalPosterior)
        return kernel_penalty(posterior.kernel, posterior.support_length, self.n)


@dataclass
class Elbo(Objective):
    """-ln p(x|z) + KL(q(z|x)‖p(z)), the negative evidence lower bound (Kingma and Welling 2014).

    With another ``weight`` β than 1 it is a BetaVAE's objective (Higgins et al., ICLR 2017), no bound below 1.
    """

    divergence_name: ClassVar[str] = "kl"

    def divergence(self, model: VAE, q: Distribution) -> Tensor:
        return kl_divergence(q, model.prior())

    def per_dimension(self, model: VAE, q: Distribution) -> Tensor | None:
        p = model.prior()
        is_sum = isinstance(q, Independent) and isinstance(p, Independent)
        return kl_divergence(coordinates(q), coordinates(p)) if is_sum else None


@dataclass
class VampElbo(Objective):
    """The negative ELBO of a model with a ``VampPrior``, its KL estimated from one draw (Tomczak and Welling 2018).

    Images and pseudo-inputs go through the encoder together, so that batch normalisation treats them alike.
    """

    divergence_name: ClassVar[str] = "monte_carlo_kl"

    def divergence(self, model: VAE, q: Distribution) -> Tensor:
        return monte_carlo_kl(q, model.prior())

    def __call__(self, model: VAE, images: Tensor, divergence_weight: float | Tensor = 1.0) -> Terms:
        model.check_images(images)
        assert isinstance(model.prior, VampPrior)
        q, prior = model.prior.encode_jointly(images)
        reconstruction = -model.likelihood(q.rsample()).log_prob(images)
        divergence = monte_carlo_kl(q, prior)
        return Terms(reconstruction, divergence, (reconstruction + divergence_weight * self.weight * divergence).mean())


@dataclass
class ImportanceWeighted(Elbo):
    r"""-E ln (1/k) Σ_j p(x|z_j) p(z_j)/q(z_j|x), the k-sample bound (Burda, Grosse and Salakhutdinov, ICLR 2016).

    The loss is the negative bound. The other terms are the mean of -ln p(x|z_j) and the exact KL, whose sum is the
    negative ELBO. With a weight w other than 1 the importance weights are p(x|z)·(p(z)/q(z|x))^w: no bound then.

    ``samples`` is k. The "doubly-reparameterised" ``gradient`` (Tucker et al., ICLR 2019), for Gaussian posteriors, has
    the same mean in the encoder and a signal-to-noise ratio that does not fall with k.
    """

    samples: int = 5
    gradient: IwaeGradient = "standard"

    def __call__(self, model: VAE, images: Tensor, divergence_weight: float | Tensor = 1.0) -> Terms:
        weight = divergence_weight * self.weight
        q = model.posterior(images)
        z = q.rsample((self.samples,))  # (k, N, d)
        doubly = self.gradient == "doubly-reparameterised"
        likelihood = model.likelihood(z.flatten(0, 1))
        repeated = images.repeat(self.samples, *[1] * (images.ndim - 1))
        log_likelihood = likelihood.log_prob(repeated).unflatten(0, (self.samples, len(images)))  # (k, N)
        log_prior = model.prior().log_prob(z)
        if doubly:  # no gradient through the posterior's parameters
            normal = cast(Normal, coordinates(q))
            log_q = Normal(normal.loc.detach(), normal.scale.detach(), validate_args=False).log_prob(z).sum(-1)
        else:
            log_q = q.log_prob(z)
        log_weights = log_likelihood + weight * (log_prior - log_q)
        if doubly and z.requires_grad:  # the gradient passes with the weights squared
            normalised = log_weights.detach().softmax(0).unsqueeze(-1)
            z.register_hook(lambda gradient: (1 - weight + weight * normalised) * gradient)
        bound = torch.logsumexp(log_weights, 0) - math.log(self.samples)
        return Terms(-log_likelihood.mean(0), self.divergence(model, q), -bound.mean())


@dataclass
class MmdPenalty(Objective):
    """-ln p(x|z) + weight · MMD² between the codes of the batch and as many draws of the prior, at least 100.

    The Wasserstein autoencoder's (Tolstikhin et al., ICLR 2018), with inverse multiquadratic kernels of C = 2d·scale,
    2d being the mean squared distance of two draws of a standard normal prior. For a batch of one image it is 0.
    """

    scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    _: KW_ONLY
    weight: float = 10.0
    divergence_name: ClassVar[str] = "mmd"

    def divergence(self, model: VAE, q: Distribution) -> Tensor:
        z = q.rsample()
        draws = model.prior().sample((max(100, len(z)),))
        return maximum_mean_discrepancy(z, draws, [2 * z.shape[1] * scale for scale in self.scales])


@dataclass
class GammaPower(Objective):
    r"""½‖x - m(z)‖²/σ² + ½R(q), the γ-loss of t³VAE (Kim et al., ICLR 2024, eq. 13 and appendix B).

    R(q) = ‖μ‖² + ν/(ν + n - 2) tr Σ - ν (1 + d/(ν + n - 2)) τ^{1-κ} |Σ|^{κ/d} + ντ ≥ 0, with d latents, n pixels or
    columns, κ = d/(ν + n + d - 2), τ = (σ^{-n} C_{ν,n} (ν - 2)/(ν + n - 2))^{2/(ν + n - 2)} and C_{ν,n} the constant of
    Student's density. It is 0 at μ = 0, Σ = τI. Up to constants and terms of second order in γ = -2/(ν + n + d) the
    loss is the γ-power divergence between q(x, z) and p(x, z), which is not a KL; ½R is called "penalty". The term
    reconstruction is -ln p(x|z) of Student's likelihood, which the loss does not have.

    Args:
        df: ν > 2 of the prior.
        sigma: σ.
        size: n.
    """

    df: float
    sigma: float
    size: int
    divergence_name: ClassVar[str] = "penalty"

    def divergence(self, model: VAE, q: Distribution) -> Tensor:
        assert isinstance(q, MultivariateStudentT)
        nu, n, d = self.df, self.size, q.size
        variances = q.scale.square() * (q.df / nu)  # Σ
        kappa = d / (nu + n + d - 2)
        log_tau = self.log_tau
        determinant = (variances.log().sum(-1) * (kappa / d) + (1 - kappa) * log_tau).exp()
        trace = nu / (nu + n - 2) * variances.sum(-1)
        gain = nu * (1 + d / (nu + n - 2)) * determinant
        return (q.loc.square().sum(-1) + trace - gain + nu * math.exp(log_tau)) / 2

    @property
    def log_tau(self) -> float:
        """ln τ."""
        nu, n = self.df, self.size
        base = log_constant(nu, n) - n * math.log(self.sigma) + math.log((nu - 2) / (nu + n - 2))
        return 2 / (nu + n - 2) * base

    def __call__(self, model: VAE, images: Tensor, divergence_weight: float | Tensor = 1.0) -> Terms:
        q = model.posterior(images)
        p = model.likelihood(q.rsample())
        squared = ((images - p.mean) / self.sigma).square().flatten(1).sum(1) / 2
        divergence = self.divergence(model, q)
        loss = (squared + divergence_weight * self.weight * divergence).mean()
        return Terms(-p.log_prob(images), divergence, loss)


@dataclass
class NoPenalty(Objective):
    """-ln p(x|z) alone, an autoencoder's. The divergence, called "penalty", is 0 for every image."""

    divergence_name: ClassVar[str] = "penalty"

    def divergence(self, model: VAE, q: Distribution) -> Tensor:
        return q.mean.new_zeros(q.batch_shape)


@dataclass
class RegularisedDecoder(Objective):
    """-ln p(x|z) + weight · ½‖z‖² + λ · R(D), a regularised autoencoder's (Ghosh et al., ICLR 2020).

    The divergence, called "penalty", is ½‖z‖². R(D), of the decoder D, has no value per image: it is in the loss alone,
    and a warm-up of the divergence does not change it. λ is ``decoder_decay``; by ``regularisation`` R(D) is

    - "l2": Σ w² over the decoder's matrices and filters, without biases and batch normalisation;
    - "gradient-penalty": the mean over images of ‖∂D(z)/∂z‖², the squared Frobenius norm of the Jacobian of the mean
      image, from one projection vᵀ ∂D(z)/∂z with random signs v: unbiased (Hutchinson 1990), also without gradients,
      as in validation. In training mode batch normalisation makes an image depend on the other codes of the batch;
      these derivatives are included.
    """

    regularisation: Regularisation = "l2"
    decoder_decay: float = 1e-4
    _: KW_ONLY
    weight: float = 0.01
    divergence_name: ClassVar[str] = "penalty"

    def divergence(self, model: VAE, q: Distribution) -> Tensor:
        return self.per_dimension(model, q).sum(-1)

    def per_dimension(self, model: VAE, q: Distribution) -> Tensor:
        return q.mean.square() / 2

    def __call__(self, model: VAE, images: Tensor, divergence_weight: float | Tensor = 1.0) -> Terms:
        q = model.posterior(images)
        z = q.rsample()
        if self.regularisation == "l2":
            likelihood, regulariser = model.likelihood(z), squared_weights(model.decoder)
        else:
            likelihood, regulariser = decode_with_gradient(model, z)
        reconstruction = -likelihood.log_prob(images)
        divergence = self.divergence(model, q)
        loss = (reconstruction + divergence_weight * self.weight * divergence).mean() + self.decoder_decay * regulariser
        return Terms(reconstruction, divergence, loss)


def squared_weights(network: nn.Module) -> Tensor | int:
    """Σ w² over the matrices and filters of a network, not its biases and normalisation: a scalar, 0 if it has none."""
    return sum(weight.square().sum() for weight in network.parameters() if weight.ndim > 1)


@_disable_dynamo  # it cannot differentiate twice
def decode_with_gradient(model: VAE, z: Tensor) -> tuple[Distribution, Tensor]:
    """p(x|z) of codes (N, d), and an unbiased estimate of the mean over images of ‖∂E[x|z]/∂z‖², a scalar.

    Without gradients the estimate is the same number, and has none itself.
    """
    is_trained = torch.is_grad_enabled()
    with torch.enable_grad():
        if not z.requires_grad:
            z = z.detach().requires_grad_()
        likelihood = model.likelihood(z)
        mean = likelihood.mean
        signs = torch.randint_like(mean, 2) * 2 - 1
        (gradient,) = torch.autograd.grad((signs * mean).sum(), z, create_graph=is_trained)
    return likelihood, gradient.square().sum() / len(z)
