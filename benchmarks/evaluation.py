"""Time of an evaluation: the networks' fraction in metrics of reconstructions, and features, against plain networks.

python benchmarks/evaluation.py reconstructions [--images 10000] [--rounds 3] [--device cuda]
python benchmarks/evaluation.py features [--images 200] [--rounds 3] [--network inception]

Features are of grey images of 32x32 pixels. "plain" is the published network in float32, with contiguous tensors, 50
images at a time, of images made colour ones before they are resized; "kept" is the same in a process that keeps its
memory, as the command line's does (evae.allocator); "evae" is the package's in such a process. Each has its own
process, and they take turns. Inception's weights are random, of one seed.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evae import EVAE
from evae.allocator import keep_memory
from evae.data import Store, open_store
from evae.metrics import features
from evae.metrics.inception import inception
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


def reconstructions(options: argparse.Namespace) -> None:
    """Print the networks' fraction of the time."""
    model = EVAE((1, 32, 32)).eval().to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        store = generated(Path(folder), options.images or 10_000)
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
    middle, low, high = statistics.median(fractions), min(fractions), max(fractions)
    print(f"{len(store.holdout)} images: {middle:.1%} of the time in encoder and decoder ({low:.1%} to {high:.1%})")


def extractor(name: str, plain: bool, device: torch.device) -> features.Extractor:
    """The published network as it is, or the package's."""
    torch.manual_seed(0)
    if name == "inception":
        network, resized = inception().eval(), features._for_inception
    else:
        network, resized = features._efficientnet(), features._for_efficientnet
    if not plain:
        return features._packaged(name, network, resized, "", device)

    def prepare(images: Tensor) -> Tensor:
        return resized(images.expand(-1, 3, -1, -1).contiguous())

    return features.Extractor(name, "", network.to(device), prepare, device)


made: features.Extractor  # of a worker's process


def start(name: str, variant: str, device: str, threads: int) -> None:
    """Prepare a worker's process."""
    global made  # noqa: PLW0603
    if variant != "plain":
        keep_memory()
    torch.set_num_threads(threads)
    made = extractor(name, variant != "evae", torch.device(device))


def extract(images: Tensor) -> tuple[Tensor, float, float]:
    """In a worker's process: features, seconds by the clock, and seconds of all of the processor's cores."""
    wall, processor = time.perf_counter(), time.process_time()
    result = made(images)
    return result, time.perf_counter() - wall, time.process_time() - processor


def extraction(options: argparse.Namespace) -> None:
    """Print the times per image, how many times faster the package's is, and the largest difference of features."""
    images = torch.randint(0, 256, (options.images or 200, 1, 32, 32), dtype=torch.uint8)
    settings = options.device, torch.get_num_threads()
    workers = {
        variant: ProcessPoolExecutor(1, get_context("spawn"), start, (options.network, variant, *settings))
        for variant in ("plain", "kept", "evae")
    }
    rounds = [{v: w.submit(extract, images).result() for v, w in workers.items()} for _ in range(options.rounds + 1)]
    expected, given = (rounds[0][variant][0] for variant in ("plain", "evae"))
    print(f"{options.network}, {len(images)} images")
    for place, title in ((1, "clock"), (2, "processor")):
        times = {v: [1000 * r[v][place] / len(images) for r in rounds[1:]] for v in workers}  # the first warms up
        ratios = sorted(before / after for before, after in zip(times["plain"], times["evae"], strict=True))
        each = ", ".join(f"{v} {statistics.median(values):.1f}" for v, values in times.items())
        middle = statistics.median(ratios)
        print(f"{title}: {each} ms per image; plain / evae {middle:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    print(f"largest difference / largest feature: {(given - expected).abs().max() / expected.abs().max():.1e}")
    for worker in workers.values():
        worker.shutdown()


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("reconstructions", "features"))
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", choices=("efficientnet-lite0", "inception"), default="efficientnet-lite0")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}")
    reconstructions(options) if options.what == "reconstructions" else extraction(options)


if __name__ == "__main__":
    main()
