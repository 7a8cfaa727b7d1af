"""Kernels, kernel posteriors and divergences: torch only, no images, no files."""

from evae.distributions.divergence import kernel_penalty
from evae.distributions.kernel import Kernel
from evae.distributions.kernels import KERNELS, Epanechnikov, matched_scale
from evae.distributions.posterior import KernelPosterior

__all__ = ["KERNELS", "Epanechnikov", "Kernel", "KernelPosterior", "kernel_penalty", "matched_scale"]
