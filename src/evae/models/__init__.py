"""Encoders, priors, decoders, likelihoods and objectives, and the families put together from them."""

from evae.models.families import EVAE, GaussianVAE
from evae.models.objectives import Elbo, KernelPenalty, Terms
from evae.models.vae import VAE

__all__ = ["EVAE", "VAE", "Elbo", "GaussianVAE", "KernelPenalty", "Terms"]
