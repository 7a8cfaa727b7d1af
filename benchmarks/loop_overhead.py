"""What the training loop costs over a bare one: throughput of ``fit`` against a minimal PyTorch loop.

Both train the same network in the same memory layout on the same images; the bare loop has its batches ready as
float tensors in memory. Epochs of the two alternate, and the median of the ratios is printed.

    python benchmarks/loop_overhead.py [--epochs 9] [--model EVAE]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Adam

import evae
from evae.data import open_store, to_float
from evae.models import VAE
from evae.training.fit import fit
from evae.training.run import read_metrics

BATCH = 100


def bare_epoch(model: VAE, optimizer: Adam, batches: list[Tensor]) -> float:
    """Images a second."""
    start = time.monotonic()
    for images in batches:
        loss = model(images).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return BATCH * len(batches) / (time.monotonic() - start)


def main() -> None:
    """Print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--model", default="EVAE")
    options = parser.parse_args()
    family = getattr(evae, options.model)

    store = open_store("mnist5k")
    batches = list(to_float(store.train.images[:]).split(BATCH))
    bare = family(store.image_shape).to(memory_format=torch.channels_last).train()
    optimizer = Adam(bare.parameters(), lr=3e-4)
    network = family(store.image_shape)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(options.epochs + 1):
            fit(Fabric(accelerator="cpu"), network, store, Path(folder), epoch + 1, BATCH, 3e-4, seed=0)
            ours.append(read_metrics(Path(folder))[-1]["images_per_second"])
            theirs.append(bare_epoch(bare, optimizer, batches))
    ours, theirs = ours[1:], theirs[1:]  # the first epoch warms up
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{options.model}, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.epochs} epochs each"
    )
    for name, speeds in (("fit", ours), ("bare loop", theirs)):
        print(f"{name:<10} {statistics.median(speeds):8.0f} images/s ({min(speeds):.0f} to {max(speeds):.0f})")
    print(f"ratio      {ratio:8.3f} (median of pairs)")


if __name__ == "__main__":
    main()
