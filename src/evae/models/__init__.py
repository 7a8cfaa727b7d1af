"""Encoders, priors, decoders, likelihoods and objectives, and the families put together from them."""

from evae.models.custom import check_buildable
from evae.models.families import (
    AE,
    ALIASES,
    EVAE,
    FAMILIES,
    HVAE,
    IWAE,
    RAE,
    T3VAE,
    WAE,
    BetaVAE,
    BoundedVAE,
    GaussianVAE,
    HypersphericalVAE,
    PowerSphericalVAE,
    VampVAE,
)
from evae.models.networks import ImageShape
from evae.models.objectives import Elbo, KernelPenalty
from evae.models.vae import VAE, Terms

__all__ = [
    "AE",
    "ALIASES",
    "EVAE",
    "FAMILIES",
    "HVAE",
    "IWAE",
    "RAE",
    "T3VAE",
    "VAE",
    "WAE",
    "BetaVAE",
    "BoundedVAE",
    "Elbo",
    "GaussianVAE",
    "HypersphericalVAE",
    "ImageShape",
    "KernelPenalty",
    "PowerSphericalVAE",
    "Terms",
    "VampVAE",
    "check_buildable",
]
