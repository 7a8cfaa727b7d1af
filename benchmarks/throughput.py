"""Images a second of training: this engine, a bare PyTorch loop and pythae, the same networks and batches.

    python benchmarks/throughput.py [--rounds 30] [--device cuda] [--precision bf16-mixed] [--compile]

Appendix C.1's networks, d = 64, Adam, epochs of ten batches of 100 images of mnist5k. Epochs of all alternate, so that
what else the machine does meets all alike; medians and the medians of the ratios within a round are printed, and what
share of the machine's rate of multiplying matrices that is. pythae 0.1.2 (pip install 'evae[benchmark]') gets the same
encoder and decoder through its interface for custom networks, once as they are here and once with the layers that
torch has for them; it is left out where it is not installed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.flop_counter import FlopCounterMode

from evae import EVAE, VAE, GaussianVAE, open_store
from evae.data import Store, to_float
from evae.models.networks import ConvDecoder, ConvEncoder
from evae.training.engine import open_fabric
from evae.training.fit import fit
from evae.training.recipe import Recipe
from evae.training.run import read_metrics

BATCH = 100
Epoch = Callable[[], float]  # trains for one and returns images a second


def few(store: Store) -> Store:
    """Ten batches to train on and one held out."""
    train, holdout = (
        replace(images, shape=(count, *images.shape[1:]))
        for images, count in ((store.train, 10 * BATCH), (store.holdout, BATCH))
    )
    return replace(store, train=train, holdout=holdout)


def ours(family: type[VAE], store: Store, folder: Path, options: argparse.Namespace, precision: str, on: bool) -> Epoch:
    """One more epoch of ``fit``, by its own clock, which leaves out validation and checkpoints."""
    fabric = open_fabric(options.device, 1, 1, "auto", precision)  # type: ignore[arg-type]
    network, epochs = family(store.image_shape), 0
    folder.mkdir()

    def epoch() -> float:
        nonlocal epochs
        epochs += 1
        (folder / "config.yaml").touch()
        fit(fabric, network, store, folder, Recipe(epochs=epochs, batch_size=BATCH), on)
        return float(read_metrics(folder)[-1]["images_per_second"])

    return epoch


def bare(store: Store, options: argparse.Namespace) -> Epoch:
    """The shortest loop there is, with its batches ready as numbers on the device, in the layout that fit uses."""
    model: Any = GaussianVAE(store.image_shape).to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(model.parameters(), lr=3e-4, fused=True)
    batches = list(to_float(store.train.images[:], options.device).split(BATCH))[: len(store.train) // BATCH]
    model.train()

    def epoch() -> float:
        start = time.monotonic()
        for images in batches:
            loss = model(images).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        return BATCH * len(batches) / (time.monotonic() - start)

    return epoch


def pythae(store: Store, folder: Path, device: str, plain: bool) -> Epoch:
    """Its trainer's epoch, without its evaluations and checkpoints; loss and prior are those of GaussianVAE."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PYTHAE_VAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = ConvEncoder(store.image_shape)
            self.mean, self.log_variance = nn.Linear(256, 64), nn.Linear(256, 64)

        def forward(self, images: Tensor) -> Any:
            features = self.body(images)
            return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            decoder = ConvDecoder(store.image_shape, 64)
            if plain:
                decoder[2] = nn.ConvTranspose2d(256, 128, 4, bias=False)
            self.body = nn.Sequential(decoder, nn.Sigmoid())

        def forward(self, latents: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(latents))

    count = len(store.train) // BATCH * BATCH
    images = to_float(store.train.images[:count])
    trainer = BaseTrainer(
        model=PYTHAE_VAE(VAEConfig(store.image_shape, 64, reconstruction_loss="bce"), Encoder(), Decoder()),
        train_dataset=BaseDataset(images, torch.zeros(count)),
        training_config=BaseTrainerConfig(
            output_dir=str(folder), per_device_train_batch_size=BATCH, learning_rate=3e-4, no_cuda=device == "cpu"
        ),
        callbacks=[],
    )
    trainer.prepare_training()
    epochs = 0

    def epoch() -> float:
        nonlocal epochs
        epochs += 1
        start = time.monotonic()
        trainer.train_step(epochs)
        return count / (time.monotonic() - start)

    return epoch


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of the product of two square float32 matrices, the best of some."""
    a, b = torch.randn(2, 2048, 2048, device=device).unbind()
    best = 0.0
    for _ in range(12):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
    return best


def operations(store: Store, family: type[VAE]) -> float:
    """Floating-point operations an image of one training step, forward and backward."""
    model = family(store.image_shape)
    with FlopCounterMode(display=False) as counter:
        model(to_float(store.train.images[:BATCH])).loss.backward()
    return counter.get_total_flops() / BATCH


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", help="also EVAE in this precision")
    parser.add_argument("--compile", action="store_true", help="also EVAE compiled")
    options = parser.parse_args()
    store = few(open_store("mnist5k"))
    compiled = options.device == "cuda"  # as evae train does by default
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        engines = {
            "evae, GaussianVAE": ours(GaussianVAE, store, root / "gaussian", options, "32-true", compiled),
            "evae, EVAE": ours(EVAE, store, root / "evae", options, "32-true", compiled),
            "bare loop, GaussianVAE": bare(store, options),
        }
        if find_spec("pythae"):
            engines["pythae 0.1.2, VAE"] = pythae(store, root / "pythae", options.device, plain=False)
            engines["pythae 0.1.2, VAE, torch's layers"] = pythae(store, root / "plain", options.device, plain=True)
        if options.precision:
            name = f"evae, EVAE, {options.precision}"
            engines[name] = ours(EVAE, store, root / "precision", options, options.precision, compiled)
        if options.compile:
            engines["evae, EVAE, compiled"] = ours(EVAE, store, root / "compiled", options, "32-true", True)
        rounds = [{name: epoch() for name, epoch in engines.items()} for _ in range(options.rounds + 2)][2:]
    rate = max(matrix_rate(options.device) for _ in range(3))
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {where}, {options.rounds} rounds; matrices {rate / 1e9:.0f} GFLOP/s")
    baseline = "evae, GaussianVAE"
    print("| | images/s, median (range) | ratio to evae's GaussianVAE, median of rounds | of the matrix rate |")
    print("| --- | --- | --- | --- |")
    work = operations(store, GaussianVAE)
    for name in engines:
        speeds = [line[name] for line in rounds]
        ratio = statistics.median(line[name] / line[baseline] for line in rounds)
        median = statistics.median(speeds)
        share = median * work / rate
        print(f"| {name} | {median:.0f} ({min(speeds):.0f} to {max(speeds):.0f}) | {ratio:.3f} | {share:.0%} |")
    print(f"one image costs {work / 1e6:.1f} million floating-point operations, forward and backward")


if __name__ == "__main__":
    main()
