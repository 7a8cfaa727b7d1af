"""What a draw of each kernel costs, as a ratio to torch.randn and torch.rand.

    python benchmarks/sampling.py [--draws 10000000] [--rounds 5]

Draws of all kernels, randn and rand alternate; medians over rounds are printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from evae.distributions import KERNELS


def seconds(draw: Callable[[], torch.Tensor]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    draw()
    return time.perf_counter() - start


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    n = options.draws
    draws: dict[str, Callable[[], torch.Tensor]] = {"randn": lambda: torch.randn(n), "rand": lambda: torch.rand(n)}
    for name, kernel in KERNELS.items():
        draws[name] = lambda k=kernel: k(torch.tensor(0.0), torch.tensor(1.0)).sample((n,))  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(options.rounds + 1):
        for name, draw in draws.items():
            times[name].append(seconds(draw))
    medians = {name: statistics.median(t[1:]) for name, t in times.items()}  # the first round warms up
    print(f"{n} draws, float32, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| | ns a draw | ratio to randn | ratio to rand |\n| --- | --- | --- | --- |")
    for name, t in medians.items():
        print(f"| {name} | {1e9 * t / n:.2f} | {t / medians['randn']:.2f} | {t / medians['rand']:.2f} |")


if __name__ == "__main__":
    main()
