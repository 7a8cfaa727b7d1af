"""The figure of docs/objective.md: the paper's penalty beside what it stands for, against the spread r.

python examples/divergence_figure.py docs/divergences.png
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.distributions import Normal, kl_divergence

from evae.distributions import Epanechnikov, KernelPosterior, chi_square, kernel_penalty

BANDWIDTH = 100 ** (-2 / 9)


def main() -> None:
    """Draw for priors of standard deviation 0.1 and 1."""
    r = torch.logspace(-2, 1.5, 300, dtype=torch.float64)
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, sigma in zip(figure.subplots(1, 2), (0.1, 1.0), strict=True):
        prior = Normal(torch.zeros_like(r), sigma)
        kernel = Epanechnikov(torch.zeros_like(r), r)
        q = KernelPosterior(kernel, prior, BANDWIDTH)
        chi = chi_square(q, prior)
        curves = {
            "χ²": chi,
            "ln(1 + χ²)": torch.log1p(chi),
            "KL(q‖p), exact": kl_divergence(q, prior),
            "penalty, eq. 8, n = 100": kernel_penalty(kernel, sigma),
        }
        for name, values in curves.items():
            axis.loglog(r, values.clamp(max=1e9), label=name, linestyle="--" if name.startswith("penalty") else "-")
        axis.set(title=f"Gaussian prior, B = {sigma:g}, μ = 0", xlabel="r", ylabel="nats per latent", ylim=(1e-8, 1e4))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(Path(sys.argv[1]), dpi=110)


if __name__ == "__main__":
    main()
