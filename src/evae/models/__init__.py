"""Encoders, priors, decoders, likelihoods and objectives, and the families put together from them."""

from evae.models.custom import check_buildable
from evae.models.families import (
    AE,
    EVAE,
    FAMILIES,
    HVAE,
    IWAE,
    RAE,
    WAE,
    BetaVAE,
    GaussianVAE,
    PowerSphericalVAE,
    VampVAE,
)
from evae.models.networks import ImageShape
from evae.models.objectives import Elbo, KernelPenalty
from evae.models.vae import VAE, Terms

__all__ = [
    "AE",
    "EVAE",
    "FAMILIES",
    "HVAE",
    "IWAE",
    "RAE",
    "VAE",
    "WAE",
    "BetaVAE",
    "Elbo",
    "GaussianVAE",
    "ImageShape",
    "KernelPenalty",
    "PowerSphericalVAE",
    "Terms",
    "VampVAE",
    "check_buildable",
]
