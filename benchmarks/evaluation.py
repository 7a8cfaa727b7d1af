"""How much of an evaluation's time the networks' forward passes take: `measure` on 10,000 images.

python benchmarks/evaluation.py [--images 10000] [--rounds 3] [--device cuda]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evae import EVAE
from evae.data import ImageSet
from evae.metrics.reconstructions import measure


def generated(folder: Path, count: int) -> ImageSet:
    """Random images of MNIST's shape."""
    shape = (count, 1, 32, 32)
    np.random.default_rng(0).integers(0, 256, shape, np.uint8).tofile(folder / "holdout.u8")
    return ImageSet(folder, "holdout", shape)


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
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = EVAE((1, 32, 32)).eval().to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        images = generated(Path(folder), options.images)
        measure(model, images)
        spent: list[float] = []
        for network in (model.encoder, model.decoder):
            timed(network, options.device, spent)
        shares = []
        for _ in range(options.rounds):
            spent.clear()
            start = time.perf_counter()
            measure(model, images)
            shares.append(sum(spent) / (time.perf_counter() - start))
    print(f"{options.images} images, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}")
    print(
        f"{statistics.median(shares):.1%} of the time in encoder and decoder ({min(shares):.1%} to {max(shares):.1%})"
    )


if __name__ == "__main__":
    main()
