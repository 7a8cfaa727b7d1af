"""Fraction of an evaluation's time in the networks' forward passes: metrics of 10,000 reconstructions.

python benchmarks/evaluation.py [--images 10000] [--rounds 3] [--device cuda]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evae import EVAE
from evae.data import Store, open_store
from evae.metrics.reconstructions import RECONSTRUCTIONS
from evae.metrics.sections import Context, Options


def generated(folder: Path, count: int) -> Store:
    """Random grey images of 32x32 pixels, one to train on and the others to hold out."""
    images = np.random.default_rng(0).integers(0, 256, (count + 1, 32, 32), np.uint8)
    np.savez(folder / "images.npz", x_train=images[:1], x_test=images[1:])
    os.environ["EVAE_CACHE"] = str(folder / "cache")
    return open_store(str(folder / "images.npz"))


def timed(network: nn.Module, device: str, spent: list[float]) -> None:
    """Add the seconds of every call of the network to ``spent``."""
    forward = network.forward

    def clocked(*inputs: torch.Tensor) -> object:
        synchronise(device)
        start = time.perf_counter()
        outputs = forward(*inputs)
        synchronise(device)
        spent.append(time.perf_counter() - start)
        return outputs

    network.forward = clocked  # type: ignore[method-assign]


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the fractions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = EVAE((1, 32, 32)).eval().to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        store = generated(Path(folder), options.images)
        RECONSTRUCTIONS(Context(model, store), Options())
        spent: list[float] = []
        for network in (model.encoder, model.decoder):
            timed(network, options.device, spent)
        fractions = []
        for _ in range(options.rounds):
            spent.clear()
            start = time.perf_counter()
            RECONSTRUCTIONS(Context(model, store), Options())
            fractions.append(sum(spent) / (time.perf_counter() - start))
    print(f"{options.images} images, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}")
    middle, low, high = statistics.median(fractions), min(fractions), max(fractions)
    print(f"{middle:.1%} of the time in encoder and decoder ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
