"""What the aggregated posterior costs: draws, and exact log-densities of its own draws, for posteriors of many images.

    python benchmarks/aggregated.py [--posteriors 60000] [--values 1000] [--latents 64] [--only epanechnikov,uniform]

A markdown table is printed: seconds for 10,000 draws, for the bounds (once for a distribution) and for the values, and
the processor's for the values; the largest difference from the sum over all posteriors at three of the values; the
largest memory of the process so far.
"""

import argparse
import itertools
import math
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, Uniform
from torch.nn import functional

from evae.distributions import (
    KERNELS,
    AggregatedPosterior,
    KernelPosterior,
    PowerSpherical,
    VonMisesFisher,
    select,
    with_parameters,
)
from evae.distributions.stacking import parameters_of

BANDWIDTH = 100 ** (-2 / 9)  # the paper's b
SPREAD = 0.1  # length of the uniform prior, or standard deviation of the Gaussian one


def kernel_posteriors(kernel: str, prior: str, r: float, shape: tuple[int, int]) -> Distribution:
    """Centres standard normal, r log-normal around ``r``."""
    loc, scale = torch.randn(shape).div_(BANDWIDTH), log_normal(r, shape)
    p = Uniform(-SPREAD / 2, SPREAD / 2) if prior == "uniform" else Normal(0.0, SPREAD)
    posterior = KernelPosterior(KERNELS[kernel](loc, scale, validate_args=False), p, BANDWIDTH, validate_args=False)
    return Independent(posterior, 1, validate_args=False)


def normal_posteriors(sd: float, shape: tuple[int, int]) -> Distribution:
    """Centres standard normal, standard deviations log-normal around ``sd``."""
    return Independent(Normal(torch.randn(shape), log_normal(sd, shape), validate_args=False), 1, validate_args=False)


def spherical_posteriors(
    posterior: type[VonMisesFisher | PowerSpherical], kappa: float, shape: tuple[int, int]
) -> Distribution:
    """Centres uniform on the sphere, concentrations log-normal around ``kappa``."""
    return posterior(functional.normalize(torch.randn(shape), dim=1), log_normal(kappa, shape[:1]), validate_args=False)


def log_normal(median: float, shape: tuple[int, ...]) -> Tensor:
    """With a standard deviation of 0.3 of the logarithm."""
    return torch.randn(shape).mul_(0.3).add_(math.log(median)).exp_()


def cases(shape: tuple[int, int]) -> dict[str, Callable[[], Distribution]]:
    """Posteriors by name."""
    kernels = {
        f"{kernel}, {prior} prior, r = {r:g}": lambda k=kernel, p=prior, r=r: kernel_posteriors(k, p, r, shape)
        for kernel, prior in (("epanechnikov", "uniform"), ("epanechnikov", "normal"), ("laplace", "uniform"))
        for r in (0.05, 2.0)
    }
    normals = {f"normal, σ = {sd:g}": lambda sd=sd: normal_posteriors(sd, shape) for sd in (0.1, 0.5, 1.0)}
    spheres = {
        f"{cls.__name__}, κ = {kappa:g}": lambda c=cls, k=kappa: spherical_posteriors(c, k, shape)
        for cls in (VonMisesFisher, PowerSpherical)
        for kappa in (100.0, 1000.0)
    }
    return kernels | normals | spheres


def brute_force(q: AggregatedPosterior, value: Tensor, rows: int = 128) -> Tensor:
    """The log-density of one value by the sum over all posteriors, in float64."""
    count, log_densities = q.components.batch_shape[0], []
    for start in range(0, count, rows):
        some = select(q.components, slice(start, start + rows))
        if not isinstance(some, Independent) or isinstance(some.base_dist, Normal):
            some = with_parameters(some, {name: x.double() for name, x in parameters_of(some).items()})
        log_densities.append(some.log_prob(value.double()))
    return torch.logsumexp(torch.cat(log_densities), 0) - math.log(count)


def measure(make: Callable[[], Distribution], values: int) -> list[float]:
    """Seconds of draws, bounds and log-densities, of the processor for these, and the largest error of three."""
    q = AggregatedPosterior(make(), validate_args=False)
    times = [time.perf_counter()]
    draws = q.sample((10_000,))
    times.append(time.perf_counter())
    _ = q._screen
    times.append(time.perf_counter())
    start = time.process_time()
    log_density = q.log_prob(draws[:values].double())
    processor = time.process_time() - start
    times.append(time.perf_counter())
    errors = [(brute_force(q, draws[i]) - log_density[i]).abs().item() for i in range(min(3, values))]
    return [b - a for a, b in itertools.pairwise(times)] + [processor, max(errors)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posteriors", type=int, default=60_000)
    parser.add_argument("--values", type=int, default=1000)
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"N = {options.posteriors}, d = {options.latents}, float32, {torch.get_num_threads()} threads\n")
    columns = ("posteriors", "10,000 draws, s", "bounds, s", f"{options.values} log-densities, s", "processor, s")
    print("|", " | ".join((*columns, "error", "memory, GB")), "|\n|", " | ".join(["---"] * 7), "|")
    for name, make in cases((options.posteriors, options.latents)).items():
        if options.only in name:
            *seconds, error = measure(make, options.values)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print("|", name, *(f"| {x:.2f}" for x in seconds), f"| {error:.0e} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
