"""What a training step of each model costs, as a ratio to GaussianVAE's.

    python benchmarks/families.py [--rounds 15] [--device cuda]

Appendix C.1's networks, d = 64, batch 100 of random images; steps of all models alternate, the medians of the ratios
within a round are printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.optim import Adam

from evae import EVAE, HVAE, IWAE, VAE, WAE, BetaVAE, GaussianVAE, PowerSphericalVAE, VampVAE

MODELS: dict[str, Callable[..., VAE]] = {
    "GaussianVAE": GaussianVAE,
    "BetaVAE": BetaVAE,
    "EVAE": EVAE,
    "EVAE, exact ELBO": partial(EVAE, prior="gaussian", objective="elbo"),
    "EVAE, spherical kernel": partial(EVAE, kernel="spherical_epanechnikov"),
    "WAE": WAE,
    "HVAE": HVAE,
    "PowerSphericalVAE": PowerSphericalVAE,
    "VampVAE, 500 pseudo-inputs": VampVAE,
    "IWAE, 5 samples": IWAE,
}


def stepper(build: Callable[..., VAE], images: torch.Tensor, device: str) -> Callable[[], float]:
    """A function that takes one training step and returns its seconds."""
    model = build((1, 32, 32)).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(model.parameters(), lr=3e-4)

    def step() -> float:
        start = time.perf_counter()
        loss = model(images).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    images = torch.rand(100, 1, 32, 32, device=options.device)
    steps = {name: stepper(build, images, options.device) for name, build in MODELS.items()}
    rounds = [{name: step() for name, step in steps.items()} for _ in range(options.rounds + 3)][3:]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| model | ms a step | ratio to GaussianVAE |\n| --- | --- | --- |")
    for name in MODELS:
        milliseconds = 1e3 * statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r["GaussianVAE"] for r in rounds)
        print(f"| {name} | {milliseconds:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
