"""Images a second of training: this engine, a bare PyTorch loop and pythae, the same networks and batches.

    python benchmarks/throughput.py [--rounds 30] [--device cuda] [--precision bf16-mixed] [--compile] 2>/dev/null

Appendix C.1's networks, d = 64, Adam, epochs of ten batches of 100 images of mnist5k. Each trains in a process of its
own, one epoch at a time in turn with the others, so that what else the machine does meets all alike; medians and the
medians of the ratios within a round are printed, and what share of the machine's rate of multiplying matrices that is.
pythae 0.1.2 (pip install 'evae[benchmark]') gets the same encoder and decoder through its interface for custom
networks, once as they are here and once with the layers that torch has for them; it is left out where it is not
installed.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.flop_counter import FlopCounterMode

from evae import EVAE, VAE, GaussianVAE, open_store
from evae.allocator import keep_memory
from evae.data import ImageOptions, Store, to_float
from evae.models.networks import ConvDecoder, ConvEncoder
from evae.runs import RunFolder
from evae.training.fabric import open_fabric
from evae.training.fit import fit
from evae.training.settings import Compute, Logging, Recipe, RunOptions, Settings

BATCH = 100
WARMUP = 2  # rounds that are not counted
Turn = Callable[[float | None], None]  # tells the images a second of one's epoch, and waits until it is one's turn
Engine = Callable[[Turn], None]  # trains epoch after epoch, with turns between them


def few() -> Store:
    """Of mnist5k ten batches to train on and one held out."""
    store = open_store("mnist5k")
    train, holdout = (
        replace(images, shape=(count, *images.shape[1:]))
        for images, count in ((store.train, 10 * BATCH), (store.holdout, BATCH))
    )
    return replace(store, train=train, holdout=holdout)


def ours(options: argparse.Namespace, family: type[VAE], precision: str, compiled: bool, turn: Turn) -> None:
    """One call of ``fit``; speeds by its own clock, which leaves out validation and checkpoints."""
    keep_memory()  # as evae train does
    compute = Compute(options.device, precision=precision, compile="on" if compiled else "off")  # type: ignore[arg-type]
    recipe = Recipe(epochs=options.rounds + WARMUP, batch_size=BATCH)
    settings = Settings(ImageOptions(), recipe, RunOptions(), compute, Logging())
    fabric, store = open_fabric(compute), few()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        (run.path / "config.yaml").touch()
        turn(None)
        fit(
            fabric,
            family(store.image_shape),
            store,
            run,
            settings,
            lambda line, step: turn(line["images_per_second"]),
            None,
        )


def bare(options: argparse.Namespace, turn: Turn) -> None:
    """The shortest loop there is, with its batches ready as numbers on the device, in the layout that fit uses."""
    store = few()
    model: Any = GaussianVAE(store.image_shape).to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(model.parameters(), lr=3e-4, fused=True)
    batches = list(to_float(store.train.images[:], options.device).split(BATCH))[: len(store.train) // BATCH]
    model.train()
    turn(None)
    while True:
        start = time.monotonic()
        for images in batches:
            loss = model(images).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        turn(BATCH * len(batches) / (time.monotonic() - start))


def pythae(options: argparse.Namespace, plain: bool, turn: Turn) -> None:
    """Its trainer's epochs, without its evaluations and checkpoints; loss and prior are those of GaussianVAE."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PYTHAE_VAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    store = few()

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
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            model=PYTHAE_VAE(VAEConfig(store.image_shape, 64, reconstruction_loss="bce"), Encoder(), Decoder()),
            train_dataset=BaseDataset(to_float(store.train.images[:count]), torch.zeros(count)),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                learning_rate=3e-4,
                no_cuda=options.device == "cpu",
            ),
            callbacks=[],
        )
        trainer.prepare_training()
        turn(None)
        for epoch in range(1, options.rounds + WARMUP + 1):
            start = time.monotonic()
            trainer.train_step(epoch)
            turn(count / (time.monotonic() - start))


class InTurn:
    """An engine in a process of its own."""

    def __init__(self, engine: Engine) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        context.Process(target=_take_turns, args=(engine, theirs), daemon=True).start()
        theirs.close()  # so that there is an end of file where the process ends
        self.pipe.recv()

    def epoch(self) -> float:
        """Have it train one epoch; images a second."""
        self.pipe.send(None)
        speed: float = self.pipe.recv()
        return speed


def _take_turns(engine: Engine, pipe: Connection) -> None:
    def turn(speed: float | None) -> None:
        pipe.send(speed)
        try:
            pipe.recv()
        except EOFError:  # there are no more turns
            raise SystemExit from None

    engine(turn)


def measure(engines: dict[str, Engine], rounds: int) -> list[dict[str, float]]:
    """Images a second of each engine in each round; each round begins with another one."""
    started = {name: InTurn(engine) for name, engine in engines.items()}
    order = deque(started)
    speeds = []
    for _ in range(rounds + WARMUP):
        speeds.append({name: started[name].epoch() for name in order})
        order.rotate()
    for engine in started.values():
        engine.pipe.close()
    return speeds[WARMUP:]


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of the product of two square float32 matrices, the best of some."""
    a, b = torch.randn(2, 2048, 2048, device=device).unbind()
    best = 0.0
    for _ in range(12):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
    return best


def operations(family: type[VAE]) -> float:
    """Floating-point operations an image of one training step, forward and backward."""
    store = few()
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
    compiled = options.device == "cuda"  # as evae train does by default
    trained = partial(ours, options)
    engines: dict[str, Engine] = {
        "evae, GaussianVAE": partial(trained, GaussianVAE, "32-true", compiled),
        "evae, EVAE": partial(trained, EVAE, "32-true", compiled),
        "bare loop, GaussianVAE": partial(bare, options),
    }
    if find_spec("pythae"):
        engines["pythae 0.1.2, VAE"] = partial(pythae, options, False)
        engines["pythae 0.1.2, VAE, torch's layers"] = partial(pythae, options, True)
    if options.precision:
        engines[f"evae, EVAE, {options.precision}"] = partial(trained, EVAE, options.precision, compiled)
    if options.compile:
        engines["evae, EVAE, compiled"] = partial(trained, EVAE, "32-true", True)
    rounds = measure(engines, options.rounds)
    rate = max(matrix_rate(options.device) for _ in range(3))
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {where}, {options.rounds} rounds; matrices {rate / 1e9:.0f} GFLOP/s")
    baseline = "evae, GaussianVAE"
    print("| | images/s, median (range) | ratio to evae's GaussianVAE, median of rounds | of the matrix rate |")
    print("| --- | --- | --- | --- |")
    work = operations(GaussianVAE)
    for name in engines:
        speeds = [line[name] for line in rounds]
        ratio = statistics.median(line[name] / line[baseline] for line in rounds)
        median = statistics.median(speeds)
        share = median * work / rate
        print(f"| {name} | {median:.0f} ({min(speeds):.0f} to {max(speeds):.0f}) | {ratio:.3f} | {share:.0%} |")
    print(f"one image costs {work / 1e6:.1f} million floating-point operations, forward and backward")


if __name__ == "__main__":
    main()
