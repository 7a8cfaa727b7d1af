"""Kernels, kernel posteriors and divergences: torch only, no images, no files."""

from evae.distributions.divergence import chi_square, kernel_penalty, monte_carlo_kl
from evae.distributions.hypersphere import SphericalEpanechnikov
from evae.distributions.kernel import Kernel
from evae.distributions.kernels import KERNELS, Epanechnikov, matched_scale
from evae.distributions.posterior import KernelPosterior

__all__ = [
    "KERNELS",
    "Epanechnikov",
    "Kernel",
    "KernelPosterior",
    "SphericalEpanechnikov",
    "chi_square",
    "kernel_penalty",
    "matched_scale",
    "monte_carlo_kl",
]
