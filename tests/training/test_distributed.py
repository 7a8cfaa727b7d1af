"""Several processes train like one."""

import multiprocessing
import os
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from evae import EVAE, train
from evae.errors import ConfigError, EvaeError
from evae.runs import RunFolder
from evae.runs.checkpoints import distributed_like as laid_out_as
from evae.runs.checkpoints import full_tensor as whole
from evae.training.fabric import open_fabric
from evae.training.ranks import SharedNoise, synchronise_batch_norm
from evae.training.sharding import check_shardable
from tests.data.test_streams import png
from tests.training.small import SETTINGS, SmallEVAE, weights

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["evae.training.command", "tests.training.small"])


def _process(work, rank, port, cache, arguments):
    """One of two processes, as torchrun would start it."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "EVAE_CACHE": str(cache),
    }  # fmt: skip
    torch.set_num_threads(1)
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


class DoubleEVAE(SmallEVAE):
    """Of a name that the processes can import."""


def _train(data, out, options):
    train(data, out, resume="auto", devices=2, sync_batchnorm=True, **SETTINGS | options)


DOUBLE = {"model": DoubleEVAE, "precision": "64-true", "log_every": 1, "learning_rate": 3e-3}


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "gradient_clip": 1.0, "divergence_warmup": 1}])
def test_two_processes_have_the_curve_of_one(cache, blobs, tmp_path, options):
    options = DOUBLE | options
    one = train(blobs, tmp_path / "one", sync_batchnorm=True, **SETTINGS | options)
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


def test_shared_out_weights_train_as_whole_ones(cache, blobs, tmp_path):
    """Resumed with the other strategy, and from it; in float32, where biases before batch normalisation are adrift."""
    options = {"model": SmallEVAE, "log_every": 1, "gradient_clip": 1.0, "on_nonfinite": "skip"}
    one = train(blobs, tmp_path / "one", sync_batchnorm=True, **SETTINGS | options)
    for epochs, strategy in enumerate(("fsdp", "ddp", "fsdp"), 1):
        in_two(_train, cache, blobs, tmp_path / "two", options | {"epochs": epochs, "strategy": strategy})
    ours, theirs = (RunFolder(folder).metrics() for folder in (one, tmp_path / "two"))
    assert len(ours) == len(theirs) == 21
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "images_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3), name
    assert isinstance(RunFolder(tmp_path / "two").model(), SmallEVAE)


def _train_to_an_error(data, out, options):
    try:
        _train(data, out, options)
    except EvaeError as error:
        (out / f"{os.environ['RANK']}.txt").write_text(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
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


@pytest.mark.parametrize("options", [{"likelihood": "gaussian"}, {"prior": "gaussian", "objective": "elbo"}])
def test_weights_that_cannot_be_shared_out(options):
    learned = {"support_length": "learned"} if "prior" in options else {}
    with pytest.raises(ConfigError, match="cannot share out a single number"):
        check_shardable(EVAE((1, 16, 16), 2, **options, **learned))


def _share_out(weight, path):
    fabric = open_fabric("cpu", 2, 1, "fsdp", "32-true")
    fabric.launch()
    module = nn.Linear(5, 6, bias=False)
    module.load_state_dict({"weight": weight})
    fabric.setup_module(module)
    doubled = laid_out_as(2 * weight, module.weight)
    parts = (module.weight.detach().to_local(), whole(module.weight.detach()), doubled.to_local())
    torch.save(parts, f"{path}-{fabric.global_rank}")


def test_each_process_has_its_share_of_a_weight(cache, tmp_path):
    weight = torch.randn(6, 5)
    in_two(_share_out, cache, weight, tmp_path / "out")
    for rank, share in enumerate(weight.chunk(2)):
        own, gathered, doubled = torch.load(tmp_path / f"out-{rank}", weights_only=True)
        assert torch.equal(own, share)
        assert torch.equal(gathered, weight)
        assert torch.equal(doubled, 2 * share)


def _normalise(images, weight, path):
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3, dtype=torch.float64))
    synchronise_batch_norm(module)
    own = images.chunk(2)[rank].clone().requires_grad_()
    (module(own) * weight.chunk(2)[rank]).sum().backward()
    torch.save((own.grad, module.state_dict(), module[0].weight.grad), f"{path}-{rank}")
    dist.destroy_process_group()


def test_synchronised_batch_norm_is_that_of_the_whole_batch(cache, tmp_path):
    """Outputs weighted at random, so that gradients of statistics do not vanish."""
    images, weight = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64).unbind()
    whole = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3, dtype=torch.float64))
    inputs = images.clone().requires_grad_()
    (whole(inputs) * weight).sum().backward()
    in_two(_normalise, cache, images, weight, tmp_path / "out")
    parts = [torch.load(tmp_path / f"out-{rank}", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), inputs.grad)
    torch.testing.assert_close(parts[0][2] + parts[1][2], whole[0].weight.grad)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts[0][1][name], value)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(
    "draw",
    [
        lambda n: torch.rand(n, 5),
        lambda n: torch.randn(4, n, 5),
        lambda n: torch.empty(n, 2).uniform_(),
        lambda n: torch.normal(torch.zeros(n, 2), torch.ones(n, 2)),
        lambda n: torch.rand_like(torch.zeros(n)),
        lambda n: nn.functional.dropout(torch.ones(n, 9), 0.5),
    ],
)
def test_shared_noise_is_that_of_one_process(draw, rank):
    torch.manual_seed(3)
    whole = draw(21)
    torch.manual_seed(3)
    with SharedNoise(7, rank, 3):
        own = draw(7)
    at = 1 if whole.ndim == 3 else 0
    assert torch.equal(own, whole.narrow(at, 7 * rank, 7))


def test_shared_noise_keeps_shapes():
    """Where another dimension has the size of the batch, or of all of it."""
    with SharedNoise(5, 1, 2):
        for shape in [(10, 5), (5, 10), (5, 5), (10, 10), (10, 5, 3)]:
            assert torch.rand(shape).shape == torch.empty(shape).normal_().shape == shape


@pytest.mark.slow
def test_the_command_starts_its_processes(cache, blobs, tmp_path):
    """And the exit code of a run that was told to stop is that of one process."""
    import subprocess
    import sys

    options = "--model.latent_dim 2 --batch-size 8 --image-size 16 --accelerator cpu --devices 2 --sync-batchnorm"
    command = [sys.executable, "-m", "evae.cli", "train", "--data", blobs, "--out", str(tmp_path / "run")]
    command += [*options.split(), "--model", "EVAE", "--resume", "auto"]
    stopped = subprocess.run([*command, "--epochs", "9999", "--time-limit", "0.02"], capture_output=True, check=False)
    assert stopped.returncode == 75, stopped.stderr
    epochs = RunFolder(tmp_path / "run").metrics()[-1]["epoch"] + 1
    again = subprocess.run([*command, "--epochs", str(epochs)], capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
