"""Encoders, priors, decoders, likelihoods and objectives, and the families put together from them."""

from evae.models.families import EVAE, HVAE, IWAE, WAE, BetaVAE, GaussianVAE, PowerSphericalVAE, VampVAE
from evae.models.objectives import Elbo, KernelPenalty, Terms
from evae.models.vae import VAE

__all__ = [
    "EVAE",
    "HVAE",
    "IWAE",
    "VAE",
    "WAE",
    "BetaVAE",
    "Elbo",
    "GaussianVAE",
    "KernelPenalty",
    "PowerSphericalVAE",
    "Terms",
    "VampVAE",
]
