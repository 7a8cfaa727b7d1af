"""What latent dimensions up to 2,048 cost and change: draws, training steps, norms of kernels, reconstruction and rate.

    python benchmarks/high_dimension.py cost [--rounds 30]
    python benchmarks/high_dimension.py norms [--draws 20000]
    python benchmarks/high_dimension.py train [--epochs 5] [--dimensions 8 32]

Each part prints a markdown table. Calls alternate within a round, and ratios are medians over rounds of those of a
round. Networks are MLPs with hidden layers of 256 and 128.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor
from torch.distributions import Independent, Normal, Uniform
from torch.optim import Adam

from evae import EVAE, VAE, GaussianVAE, open_store
from evae.data import batch_indices, to_float
from evae.distributions import (
    Epanechnikov,
    KernelPosterior,
    SphericalEpanechnikov,
    SphericalPosterior,
    coordinates,
)

DIMENSIONS = (8, 32, 128, 512, 2048)
BATCH, BANDWIDTH, LENGTH = 100, 100 ** (-2 / 9), 0.1
FAMILIES: dict[str, Callable[[int], VAE]] = {
    "EVAE": lambda d: EVAE((1, 32, 32), d, networks="mlp", widths=[256, 128]),
    "EVAE, spherical kernel": lambda d: EVAE(
        (1, 32, 32), d, kernel="spherical_epanechnikov", networks="mlp", widths=[256, 128]
    ),
    "GaussianVAE": lambda d: GaussianVAE((1, 32, 32), d, networks="mlp", widths=[256, 128]),
}


# Cost ----------------------------------------------------------------------------------------------------------


def draws(d: int) -> dict[str, Callable[[], object]]:
    """One draw of each of 100 posteriors, forward and backward, for each kernel."""
    loc, scale = torch.randn(BATCH, d).requires_grad_(), torch.rand(BATCH, d).add(0.5).requires_grad_()
    uniform = Uniform(torch.full((d,), -LENGTH / 2), LENGTH / 2, validate_args=False)
    prior = Independent(uniform, 1, validate_args=False)

    def product() -> Tensor:
        kernel = Epanechnikov(loc, scale, validate_args=False)
        return KernelPosterior(kernel, uniform, BANDWIDTH, validate_args=False).rsample()

    def spherical() -> Tensor:
        kernel = SphericalEpanechnikov(loc, scale, validate_args=False)
        return SphericalPosterior(kernel, prior, BANDWIDTH, validate_args=False).rsample()

    def gaussian() -> Tensor:
        return Normal(loc, scale, validate_args=False).rsample()

    samplers = {"product": product, "spherical": spherical, "gaussian": gaussian}
    return {name: lambda f=f: f().sum().backward() for name, f in samplers.items()}  # type: ignore[misc]


def steps(d: int) -> dict[str, Callable[[], object]]:
    """A training step of each family on 100 random images."""
    images = torch.rand(BATCH, 1, 32, 32)

    def stepper(model: VAE) -> Callable[[], object]:
        optimizer = Adam(model.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            model(images).loss.backward()
            optimizer.step()

        return step

    return {name: stepper(build(d)) for name, build in FAMILIES.items()}


def ratios(calls: dict[str, Callable[[], object]], to: str, rounds: int) -> tuple[dict[str, float], float]:
    """Medians of each call's time relative to that of one of them in the same round, and of the latter's seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 3):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    warm = {name: of[3:] for name, of in times.items()}
    relative = {name: statistics.median(a / b for a, b in zip(of, warm[to], strict=True)) for name, of in warm.items()}
    return relative, statistics.median(warm[to])


def cost(rounds: int, dimensions: Sequence[int]) -> None:
    """Draws and training steps, relative to those of the Gaussian."""
    print("| d | product | spherical | Gaussian draw, ms | EVAE | EVAE, spherical | GaussianVAE step, ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for d in dimensions:
        drawn, gaussian = ratios(draws(d), "gaussian", rounds)
        trained, vae = ratios(steps(d), "GaussianVAE", rounds)
        print(
            f"| {d:,} | {drawn['product']:.2f} | {drawn['spherical']:.2f} | {1e3 * gaussian:.3g} "
            f"| {trained['EVAE']:.2f} | {trained['EVAE, spherical kernel']:.2f} | {1e3 * vae:.3g} |",
            flush=True,
        )


# Norms ---------------------------------------------------------------------------------------------------------


def mean_norm_of_product(d: int) -> float:
    r"""E‖K‖ of d independent Epanechnikov variables of variance 1, by quadrature.

    E √S = 1/(2√π) ∫ (1 - E e^(-tS)) t^(-3/2) dt over t > 0, with S = 5 Σ K_j² for K_j on [-1, 1]; E e^(-tS) is φ(5t)^d,
    φ(t) = E e^(-t K²) = ¾ [√(π/t) erf(√t) (1 - 1/(2t)) + e^(-t)/t]. With t = e^s the trapezoidal rule converges
    exponentially.
    """
    s = np.arange(-70, 70, 1 / 32)
    integrand = -np.expm1(d * _log_laplace(5 * np.exp(s))) * np.exp(-s / 2)
    return float(integrand.sum() / 32 / (2 * math.sqrt(math.pi)))


def _log_laplace(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln φ(t), below t = ½ by the series Σ (-t)^n E K^(2n)/n!, E K^(2n) = 3/((2n + 1)(2n + 3))."""
    small, large = np.minimum(t, 0.5), np.maximum(t, 0.5)
    series = sum((-small) ** n / math.factorial(n) * 3 / ((2 * n + 1) * (2 * n + 3)) for n in range(1, 18))
    root = np.sqrt(large)
    closed = 0.75 * (np.sqrt(np.pi) / root * erf(root) * (1 - 0.5 / large) + np.exp(-large) / large)
    found: NDArray[np.float64] = np.where(t < 0.5, np.log1p(series), np.log(closed))
    return found


def mean_norms(d: int) -> dict[str, float]:
    """E‖K‖ of each kernel at variance 1 in every coordinate, where E‖K‖² = d.

    In the unit ball ‖u‖² is Beta(d/2, 2), so that E‖u‖ = d(d + 2)/((d + 1)(d + 3)).
    """
    return {
        "product": mean_norm_of_product(d),
        "spherical": math.sqrt(d + 4) * d * (d + 2) / ((d + 1) * (d + 3)),
        "gaussian": math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2)),
    }


def norms(count: int, dimensions: Sequence[int]) -> None:
    """Means and standard deviations of norms, measured and exact."""
    print("| d | kernel | mean of norm/√d | exact | sd of norm | exact |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for d in dimensions:
        zero = torch.zeros(d, dtype=torch.float64)
        kernels = {
            "product": Epanechnikov(zero, math.sqrt(5)),
            "spherical": SphericalEpanechnikov(zero, math.sqrt(d + 4)),
            "gaussian": Normal(zero, 1.0),
        }
        exact = mean_norms(d)
        for name, kernel in kernels.items():
            parts = [kernel.sample((count // 20,)).norm(dim=-1) for _ in range(20)]
            found = torch.cat(parts)
            spread = math.sqrt(d - exact[name] ** 2)
            print(
                f"| {d:,} | {name} | {found.mean().item() / math.sqrt(d):.5f} | {exact[name] / math.sqrt(d):.5f} "
                f"| {found.std().item():.4f} | {spread:.4f} |",
                flush=True,
            )


# Training ------------------------------------------------------------------------------------------------------


def rate(model: VAE, images: Tensor) -> tuple[float, int]:
    r"""E KL(q(z|x)‖p) for the product p of Gaussians with the moments of the aggregated posterior, in nats per image.

    Σ_k ½ ln(2πe s_k²) - E H(q(z_k|x)), s_k² the variance of latent k over images and noise; and the number of latents
    whose term is above 0.05. NaN where posteriors have no density.
    """
    q = coordinates(model.posterior(images))
    try:
        entropy = q.entropy().double().mean(0)
    except NotImplementedError:
        return math.nan, 0
    variance = q.variance.double().mean(0) + q.mean.double().var(0, correction=0)
    per_latent = 0.5 * (2 * math.pi * math.e * variance).log() - entropy
    return per_latent.sum().item(), int((per_latent > 0.05).sum())


def train(epochs: int, dimensions: Sequence[int], seed: int = 0) -> None:
    """Reconstruction and rate of hold-out digits after a few epochs."""
    store = open_store("mnist5k")
    data, holdout = to_float(store.train.read(slice(None))), to_float(store.holdout.read(slice(None)))
    print("| d | model | reconstruction, nats | rate, nats | latents in use |\n| ---: | --- | ---: | ---: | ---: |")
    for d in dimensions:
        for name, build in FAMILIES.items():
            torch.manual_seed(seed)
            model = build(d)
            optimizer = Adam(model.parameters(), lr=1e-3)
            for epoch in range(epochs):
                for step in range(len(data) // BATCH):
                    optimizer.zero_grad()
                    model(data[torch.tensor(batch_indices(seed, epoch, step, len(data), BATCH))]).loss.backward()
                    optimizer.step()
            with torch.no_grad():
                model.eval()
                lost = -model.likelihood(model.posterior(holdout).sample()).log_prob(holdout)
                error = (lost.std() / math.sqrt(len(lost))).item()
                nats, used = rate(model, holdout)
            shown = "| no density | |" if math.isnan(nats) else f"| {nats:.1f} | {used:,} |"
            print(f"| {d:,} | {name} | {lost.mean().item():.1f} ± {error:.1f} {shown}", flush=True)


def main() -> None:
    """Print one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("cost", "norms", "train"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dimensions", type=int, nargs="+", default=DIMENSIONS)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    torch.manual_seed(0)
    if options.part == "cost":
        cost(options.rounds, options.dimensions)
    elif options.part == "norms":
        norms(options.draws, options.dimensions)
    else:
        train(options.epochs, options.dimensions)


if __name__ == "__main__":
    main()
