"""What draws cost: kernels against torch.randn and torch.rand, the spherical ones against dimension and concentration.

    python benchmarks/sampling.py [--draws 10000000] [--rounds 5] [--device cuda]

Calls alternate; medians over rounds are printed, as markdown tables.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.distributions import Independent, Normal
from torch.nn import functional

from evae.distributions import PowerSpherical, SphericalEpanechnikov, VonMisesFisher
from evae.distributions.hypersphere import propose_height
from evae.kernel_study import sampling_calls


def median_seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Wall-clock times of calls made in turn, medians over the rounds after a first one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def kernels(draws: int, rounds: int, device: str) -> None:
    """All kernels, one number a draw."""
    calls = sampling_calls(draws, device)
    seconds = median_seconds({name: synchronised(call, device) for name, call in calls.items()}, rounds)
    print("| | ns a draw | ratio to randn | ratio to rand |\n| --- | --- | --- | --- |")
    for name, t in seconds.items():
        print(f"| {name} | {1e9 * t / draws:.3g} | {t / seconds['randn']:.2f} | {t / seconds['rand']:.2f} |")


def spherical(draws: int, rounds: int, device: str) -> None:
    """SphericalEpanechnikov at d up to 4,096, about ``draws`` numbers in each call."""
    print("\n| d | SphericalEpanechnikov, µs a vector | ratio to randn(d) |\n| --- | --- | --- |")
    for d in (1, 2, 8, 64, 512, 4096):
        count = max(1, draws // d // 4)
        kernel = SphericalEpanechnikov(torch.zeros(d, device=device), 1.0)
        calls = {
            "kernel": lambda k=kernel, n=count: k.sample((n,)),
            "randn": lambda d=d, n=count: torch.randn(n, d, device=device),
        }
        t = median_seconds({name: synchronised(call, device) for name, call in calls.items()}, rounds)
        print(f"| {d} | {1e6 * t['kernel'] / count:.3g} | {t['kernel'] / t['randn']:.2f} |")


def hyperspheres(rounds: int, device: str, images: int = 100) -> None:
    """HVAE's sampler as a step uses it, forward and backward for one batch, beside the Gaussian's."""
    print(
        f"\n{images} posteriors, one draw each with its gradient\n\n"
        "| d | κ | acceptance | von Mises-Fisher, ms | power spherical, ms | Gaussian, ms |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for d in (3, 8, 64, 512):
        for kappa in (10.0, 1000.0):
            loc = functional.normalize(torch.randn(images, d, device=device), dim=-1).requires_grad_()
            kappas = torch.full((images,), kappa, device=device, requires_grad=True)
            posteriors = {
                "vmf": lambda m=loc, k=kappas: VonMisesFisher(m, k, validate_args=False),
                "power": lambda m=loc, k=kappas: PowerSpherical(m, k, validate_args=False),
                "normal": lambda m=loc, k=kappas: Independent(Normal(m, k.unsqueeze(-1).rsqrt()), 1),
            }
            calls = {
                name: synchronised(lambda q=q: q().rsample().sum().backward(), device) for name, q in posteriors.items()
            }
            t = {name: 1e3 * s for name, s in median_seconds(calls, 10 * rounds).items()}
            _, accepted = propose_height(torch.full((100_000,), kappa, dtype=torch.float64), d)
            rate = accepted.double().mean().item()
            print(f"| {d} | {kappa:g} | {rate:.2f} | {t['vmf']:.3g} | {t['power']:.3g} | {t['normal']:.3g} |")


def synchronised(call, device: str):  # type: ignore[no-untyped-def]
    """The call, ended when the device has ended."""

    def wait() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return wait


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"{options.draws} draws, float32, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    kernels(options.draws, options.rounds, options.device)
    spherical(options.draws, options.rounds, options.device)
    hyperspheres(options.rounds, options.device)


if __name__ == "__main__":
    main()
