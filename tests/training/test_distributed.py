"""Several processes train together, and stop together."""

import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from evae import EVAE, VAE, open_store, train
from evae.errors import ConfigError, EvaeError
from evae.models.encoders import PointEncoder
from evae.models.likelihoods import BernoulliLikelihood
from evae.models.priors import NormalPrior
from evae.models.vae import Objective
from evae.reporting import training_figures
from evae.runs import RunFolder
from evae.runs.checkpoints import distributed_like, full_tensor
from evae.training.fabric import open_fabric
from evae.training.settings import Compute, Recipe
from evae.training.sharding import check_shardable
from evae.training.trainer import Trainer, noise_seed, validation_seed
from tests.data.test_streams import png
from tests.training.small import SETTINGS, SmallEVAE, weights

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["evae.training.command", "evae.reporting", "tests.training.small"])


def _process(work, rank, port, cache, arguments):
    """One of two processes, as torchrun would start it."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "EVAE_CACHE": str(cache),
    }  # fmt: skip
    torch.set_num_threads(1)
    training_figures.draw_training = lambda *_: None  # as in tests/conftest.py
    work(*arguments)


def in_two(work, cache, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [_CONTEXT.Process(target=_process, args=(work, r, port, cache, arguments)) for r in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]


class Deterministic(VAE):
    """Without noise and batch normalisation, whose draws and statistics are each rank's own."""

    def __init__(self, image_shape, latent_dim=2):
        body = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU())
        super().__init__(
            image_shape,
            PointEncoder(body, image_shape, latent_dim),
            NormalPrior(latent_dim),
            nn.Sequential(nn.Linear(latent_dim, 256), nn.Unflatten(1, image_shape)),
            BernoulliLikelihood(),
            KeepNear(),
        )


class KeepNear(Objective):
    """Squared codes."""

    divergence_name = "squares"

    def divergence(self, model, q):
        return q.mean.square().sum(-1)


def _train(data, out, options):
    train(data, out, resume="auto", devices=2, **SETTINGS | options)


MORE = {"ema": 0.9, "gradient_clip": 1.0, "divergence_warmup": 1}


@pytest.mark.parametrize("options", [{}, pytest.param(MORE, marks=pytest.mark.slow)])
def test_two_processes_have_the_curve_of_one(cache, blobs, tmp_path, options):
    """Of a deterministic objective."""
    options |= {"model": Deterministic, "precision": "64-true", "log_every": 1, "learning_rate": 3e-3}
    one = train(blobs, tmp_path / "one", **SETTINGS | options)
    in_two(_train, cache, blobs, tmp_path / "two", options | {"epochs": 2})
    in_two(_train, cache, blobs, tmp_path / "two", options)  # resumed
    ours, theirs = (RunFolder(folder).metrics() for folder in (one, tmp_path / "two"))
    assert len(ours) == len(theirs) == 21
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "images_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-6), name  # losses are float32, here as there
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(tmp_path / "two")[name], rtol=1e-6, atol=1e-8)


def _noise(path):
    fabric = open_fabric(Compute("cpu", 2))
    fabric.launch()
    drawn = []

    class Recorder(Deterministic):
        def forward(self, images):
            drawn.append(torch.rand(3))
            return super().forward(images)

    store = open_store(path, 16)
    trainer = Trainer(fabric, Recorder((1, 16, 16)), store.train, Recipe(batch_size=8))
    for number in (0, 1, 6):
        trainer.step(number)
    torch.save(torch.stack(drawn), f"{path}-{fabric.global_rank}")


@pytest.mark.slow
def test_each_rank_and_step_has_noise_of_its_own(cache, blobs, tmp_path):
    """The first rank's is that of a single process."""
    data = str(shutil.copy(blobs, tmp_path / "blobs.npz"))
    in_two(_noise, cache, data)
    first, second = (torch.load(f"{data}-{rank}", weights_only=True) for rank in (0, 1))
    assert len(torch.cat([first, second]).unique()) == 18
    for number, drawn in zip(((0, 0), (0, 1), (1, 0)), first, strict=True):
        torch.manual_seed(noise_seed(0, *number))
        assert torch.equal(drawn, torch.rand(3))


def test_noise_of_a_step_is_never_that_of_a_validation_batch():
    numbers = range(20)
    steps = {noise_seed(0, epoch, step, rank) for epoch in numbers for step in numbers for rank in range(3)}
    assert len(steps) == 1200
    assert steps.isdisjoint({validation_seed(0, batch) for batch in numbers})


@pytest.mark.slow
def test_sharded_weights_train_as_full_ones(cache, blobs, tmp_path):
    """Resumed with the other strategy, and from it; in float32, where biases before batch normalisation are adrift."""
    options = {"model": Deterministic, "log_every": 1, "gradient_clip": 1.0, "on_nonfinite": "skip"}
    one = train(blobs, tmp_path / "one", **SETTINGS | options)
    for epochs, strategy in enumerate(("fsdp", "ddp", "fsdp"), 1):
        in_two(_train, cache, blobs, tmp_path / "two", options | {"epochs": epochs, "strategy": strategy})
    ours, theirs = (RunFolder(folder).metrics() for folder in (one, tmp_path / "two"))
    assert len(ours) == len(theirs) == 21
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "images_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3), name
    assert isinstance(RunFolder(tmp_path / "two").model(), Deterministic)


def _train_to_an_error(data, out, options):
    try:
        _train(data, out, options)
    except EvaeError as error:
        (out / f"{os.environ['RANK']}.txt").write_text(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_images_of_one_process_that_do_not_come(cache, tmp_path, strategy):
    """Both stop, the first says why, and what was done before is saved."""
    for name, count in (("train", 40), ("test", 8)):
        images = [png(i) for i in range(count)]
        if name == "train":
            images[3] = b"no image"
        pq.write_table(pa.table({"image": images}), tmp_path / f"{name}.parquet")
    options = {"model": SmallEVAE, "strategy": strategy, "on_bad_image": "error"}
    in_two(_train_to_an_error, cache, f"hf-stream:{tmp_path}", tmp_path / "run", options)
    said = [path.read_text() for path in (tmp_path / "run").glob("?.txt")]
    assert len(said) == 1
    assert "training image 3 is not an image" in said[0]
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()


class Failing(Deterministic):
    """Fails on one rank, in the middle of its second epoch."""

    failing_rank, steps = 0, 0

    def forward(self, *arguments):
        self.steps += self.training
        if self.steps == 9 and int(os.environ["RANK"]) == self.failing_rank:
            raise MemoryError
        return super().forward(*arguments)


class FailingSecond(Failing):
    failing_rank = 1


@pytest.mark.parametrize("model", [Failing, FailingSecond])
def test_a_rank_that_fails_in_a_step_stops_the_others(cache, blobs, tmp_path, model):
    """Each says one sentence, and what was saved before is there."""
    in_two(_train_to_an_error, cache, blobs, tmp_path / "run", {"model": model})
    said = {path.stem: path.read_text() for path in (tmp_path / "run").glob("?.txt")}
    assert "out of memory with batches of 8 images" in said[str(model.failing_rank)]
    assert all("out of memory" in sentence or "another process has failed" in sentence for sentence in said.values())
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()


def _resume_elsewhere(data, out, options):
    if os.environ["RANK"] == "1":
        shutil.copytree(out, f"{out}-1")
        state = Path(f"{out}-1/checkpoints/last/state.json")
        state.write_text(state.read_text()[:-9])
        shutil.rmtree(f"{out}-1/checkpoints/previous")
        out = Path(f"{out}-1")
    _train_to_an_error(data, out, options)


@pytest.mark.slow
def test_a_rank_that_cannot_load_the_checkpoint_stops_the_others(cache, blobs, tmp_path):
    options = {"model": Deterministic}
    train(blobs, tmp_path / "run", **SETTINGS | options | {"epochs": 2})
    in_two(_resume_elsewhere, cache, blobs, tmp_path / "run", options)
    assert "is damaged" in (tmp_path / "run" / "0.txt").read_text()


def test_synchronised_batch_normalisation_needs_gpus():
    with pytest.raises(ConfigError, match="--sync-batchnorm is for CUDA devices"):
        open_fabric(Compute("cpu", 2, sync_batchnorm=True))


@pytest.mark.parametrize("options", [{"likelihood": "gaussian"}, {"prior": "gaussian", "objective": "elbo"}])
def test_weights_that_cannot_be_sharded(options):
    learned = {"support_length": "learned"} if "prior" in options else {}
    with pytest.raises(ConfigError, match="FSDP cannot shard scalar parameters"):
        check_shardable(EVAE((1, 16, 16), 2, **options, **learned))


def _shard(weight, path):
    fabric = open_fabric(Compute("cpu", 2, strategy="fsdp"))
    fabric.launch()
    module = nn.Linear(5, 6, bias=False)
    module.load_state_dict({"weight": weight})
    fabric.setup_module(module)
    doubled = distributed_like(2 * weight, module.weight)
    parts = (module.weight.detach().to_local(), full_tensor(module.weight.detach()), doubled.to_local())
    torch.save(parts, f"{path}-{fabric.global_rank}")


@pytest.mark.slow
def test_each_rank_has_its_shard_of_a_weight(cache, tmp_path):
    weight = torch.randn(6, 5)
    in_two(_shard, cache, weight, tmp_path / "out")
    for rank, shard in enumerate(weight.chunk(2)):
        own, gathered, doubled = torch.load(tmp_path / f"out-{rank}", weights_only=True)
        assert torch.equal(own, shard)
        assert torch.equal(gathered, weight)
        assert torch.equal(doubled, 2 * shard)


@pytest.mark.slow
def test_the_command_starts_its_processes(cache, blobs, tmp_path):
    """And the exit code of a run that was told to stop is that of one process."""
    import subprocess
    import sys

    options = "--model.latent_dim 2 --batch-size 8 --image-size 16 --accelerator cpu --devices 2"
    command = [sys.executable, "-m", "evae.cli", "train", "--data", blobs, "--out", str(tmp_path / "run")]
    command += [*options.split(), "--model", "EVAE", "--resume", "auto"]
    stopped = subprocess.run([*command, "--epochs", "9999", "--time-limit", "0.02"], capture_output=True, check=False)
    assert stopped.returncode == 75, stopped.stderr
    epochs = RunFolder(tmp_path / "run").metrics()[-1]["epoch"] + 1
    again = subprocess.run([*command, "--epochs", str(epochs)], capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
