"""Kernels, kernel posteriors and divergences: torch only, no images, no files."""

from evae.distributions.aggregated import AggregatedPosterior
from evae.distributions.ball import SphericalEpanechnikov, SphericalPosterior
from evae.distributions.divergence import chi_square, kernel_penalty, maximum_mean_discrepancy, monte_carlo_kl
from evae.distributions.hypersphere import HypersphericalUniform, PowerSpherical, VonMisesFisher
from evae.distributions.kernel import Kernel
from evae.distributions.kernels import KERNELS, Epanechnikov, matched_scale
from evae.distributions.mixture import WithBackground
from evae.distributions.point import PointMass
from evae.distributions.posterior import KernelPosterior, coordinates, posterior_spread
from evae.distributions.stacking import parameters_of, select, widened, with_parameters
from evae.distributions.stereographic import Stereographic
from evae.distributions.student import MultivariateStudentT, StudentKernel

__all__ = [
    "KERNELS",
    "AggregatedPosterior",
    "Epanechnikov",
    "HypersphericalUniform",
    "Kernel",
    "KernelPosterior",
    "MultivariateStudentT",
    "PointMass",
    "PowerSpherical",
    "SphericalEpanechnikov",
    "SphericalPosterior",
    "Stereographic",
    "StudentKernel",
    "VonMisesFisher",
    "WithBackground",
    "chi_square",
    "coordinates",
    "kernel_penalty",
    "matched_scale",
    "maximum_mean_discrepancy",
    "monte_carlo_kl",
    "parameters_of",
    "posterior_spread",
    "select",
    "widened",
    "with_parameters",
]
