"""Training: the same seed gives the same weights; interrupted runs end as uninterrupted ones; nothing saved is lost."""

import errno
import os
import resource
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from evae import EVAE, VAE, GaussianVAE, train
from evae.errors import ConfigError, RunError
from evae.training import InterruptedRun, fit, run


class SmallEVAE(EVAE):
    """An EVAE that trains in milliseconds, as someone might define it outside the package."""

    def __init__(self, image_shape, latent_dim=2, n=None):
        body = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.BatchNorm1d(32), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(latent_dim, 256), nn.Unflatten(1, image_shape))
        super().__init__(image_shape, latent_dim, n=n, encoder=body, decoder=decoder)


SETTINGS = {"model": SmallEVAE, "epochs": 3, "batch_size": 8, "image_size": 16, "accelerator": "cpu"}


@pytest.fixture
def options(blobs):
    return {"data": blobs, **SETTINGS}


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def timeless(folder):
    """metrics.jsonl without what a clock measures."""
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")}
        for line in run.read_metrics(folder)
    ]


def interrupt_at(monkeypatch, step_number, signum=signal.SIGINT):
    """Raise a signal while the given step is taken, and let every step report."""
    original, calls = fit._step, []

    def step(*args):
        calls.append(1)
        if len(calls) == step_number:
            signal.raise_signal(signum)
        return original(*args)

    monkeypatch.setattr(fit, "_step", step)
    return lambda: monkeypatch.setattr(fit, "_step", original)


def test_a_run_folder_is_complete(options, tmp_path):
    out = train(out=tmp_path / "run", log_every=4, **options)
    files = {p.name for p in out.iterdir()}
    assert files == {
        "config.yaml",
        "config.json",
        "model.safetensors",
        "README.md",
        "metrics.jsonl",
        "checkpoints",
        "figures",
        ".lock",
    }
    assert {p.name for p in (out / "figures").iterdir()} == {"losses.png", "reconstructions.png"}
    assert {p.name for p in (out / "checkpoints" / "last").iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }
    lines = run.read_metrics(out)
    assert [(line.get("epoch"), line["step"]) for line in lines] == [
        (None, 4), (1, 6), (None, 8), (None, 12), (2, 12), (None, 16), (3, 18)
    ]  # fmt: skip
    epoch = lines[-1]
    assert epoch["loss"] == pytest.approx(epoch["reconstruction"] + epoch["penalty"])
    assert {"holdout_reconstruction", "holdout_penalty", "images_per_second", "seconds"} <= epoch.keys()
    assert lines[-1]["loss"] < lines[1]["loss"]
    assert isinstance(VAE.from_pretrained(out), EVAE)


def test_penalty_has_the_batch_size_as_n_unless_told_otherwise(options, tmp_path):
    assert VAE.from_pretrained(train(out=tmp_path / "a", **options | {"epochs": 1})).objective.n == 8
    told = options | {"epochs": 1, "model": partial(SmallEVAE, n=1000)}
    assert VAE.from_pretrained(train(out=tmp_path / "b", **told)).objective.n == 1000


def test_same_seed_same_weights(options, tmp_path):
    first, second = train(out=tmp_path / "a", **options), train(out=tmp_path / "b", **options)
    assert same(weights(first), weights(second))
    assert timeless(first) == timeless(second)
    other = train(out=tmp_path / "c", seed=1, **options)
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("at", [1, 4, 6, 7, 17])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(options, tmp_path, monkeypatch, at, signum):
    whole = train(out=tmp_path / "whole", log_every=1, **options)
    restore = interrupt_at(monkeypatch, at, signum)
    with pytest.raises(InterruptedRun, match=rf"{signal.Signals(signum).name} at step {at} .*--resume auto") as stopped:
        train(out=tmp_path / "parts", log_every=1, **options)
    assert stopped.value.exit_code == 128 + signum
    restore()
    parts = train(out=tmp_path / "parts", log_every=1, resume="auto", **options)
    assert same(weights(whole), weights(parts))
    optimizers = [load_file(f / "checkpoints" / "last" / "optimizer.safetensors") for f in (whole, parts)]
    assert same(*optimizers)
    assert timeless(whole) == timeless(parts)


def test_signal_handlers_are_put_back(options, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(out=tmp_path / "run", **options | {"epochs": 1})
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_resuming_goes_on_for_more_epochs(options, tmp_path):
    whole = train(out=tmp_path / "whole", **options)
    train(out=tmp_path / "parts", **options | {"epochs": 1})
    parts = train(out=tmp_path / "parts", resume="auto", **options)
    assert same(weights(whole), weights(parts))
    assert yaml.safe_load((parts / "config.yaml").read_text())["epochs"] == 3


def test_resume_auto_without_a_run_starts_one(options, tmp_path):
    assert (train(out=tmp_path / "run", resume="auto", **options | {"epochs": 1}) / "model.safetensors").exists()


def test_lines_after_the_checkpoint_are_written_again(options, tmp_path):
    whole = train(out=tmp_path / "whole", **options)
    parts = train(out=tmp_path / "parts", **options | {"epochs": 2})
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss')
    train(out=parts, resume="auto", **options)
    assert timeless(whole) == timeless(parts)


@pytest.mark.parametrize("damage", ["truncated", "altered", "no state", "altered state"])
def test_a_corrupt_last_checkpoint_falls_back_to_the_one_before(options, tmp_path, capsys, damage):
    whole = train(out=tmp_path / "whole", **options)
    parts = train(out=tmp_path / "parts", **options | {"epochs": 2})
    last = parts / "checkpoints" / "last"
    content = (last / "model.safetensors").read_bytes()
    if damage == "truncated":
        (last / "model.safetensors").write_bytes(content[:-100])
    elif damage == "altered":
        (last / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no state":
        (last / "state.json").unlink()
    else:
        state = (last / "state.json").read_text()
        (last / "state.json").write_text(state.replace("12", "13", 1))
    train(out=parts, resume="auto", **options)
    assert "going on from the one before, at step 6" in " ".join(capsys.readouterr().err.split())
    assert same(weights(whole), weights(parts))


def test_no_whole_checkpoint(options, tmp_path):
    out = train(out=tmp_path / "run", **options | {"epochs": 2})
    for name in ("last", "previous"):
        (out / "checkpoints" / name / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"last is damaged .*previous is damaged"):
        train(out=out, resume="auto", **options)


def test_a_full_disk_keeps_the_checkpoint_before(options, tmp_path, monkeypatch):
    whole = train(out=tmp_path / "whole", **options)
    original = run._write_state
    saved = []

    def full(*args):
        saved.append(1)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*args)

    monkeypatch.setattr(run, "_write_state", full)
    with pytest.raises(RunError, match=r"step 12 .*could not be written \(No space left on device\); the .* before"):
        train(out=tmp_path / "parts", **options)
    assert not list((tmp_path / "parts" / "checkpoints").glob("*.tmp"))
    monkeypatch.setattr(run, "_write_state", original)
    parts = train(out=tmp_path / "parts", resume="auto", **options)
    assert same(weights(whole), weights(parts))


def command(blobs, out, epochs):
    """evae train of a real network on the smallest images."""
    options = f"--model.latent_dim 2 --epochs {epochs} --batch-size 8 --image-size 16 --accelerator cpu"
    return [sys.executable, "-m", "evae.cli", "train", "--data", blobs, "--out", str(out), *options.split()]


def test_a_file_size_limit_while_a_checkpoint_is_written(blobs, tmp_path):
    """The same, by the operating system's hand: exit code 2, one sentence, the old checkpoint whole."""
    first = subprocess.run(command(blobs, tmp_path / "run", 1), capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    before = weights(tmp_path / "run" / "checkpoints" / "last")
    again = [*command(blobs, tmp_path / "run", 2), "--resume", "auto"]
    limited = subprocess.run(
        again,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert limited.returncode == 2
    assert "could not be written (File too large)" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert same(before, weights(tmp_path / "run" / "checkpoints" / "last"))
    assert subprocess.run(again, capture_output=True, check=False).returncode == 0


def test_sigterm_from_outside(blobs, tmp_path):
    """A process that is told to stop saves its state, says so and exits as if killed by the signal."""
    with subprocess.Popen(command(blobs, tmp_path / "run", 100_000), stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step" in rest
    state = run._read_state_file(tmp_path / "run" / "checkpoints" / "last")
    assert state["progress"]["step"] >= 12


class TestRefusals:
    def test_existing_folder(self, options, tmp_path):
        out = train(out=tmp_path / "run", **options | {"epochs": 1})
        before = weights(out)
        with pytest.raises(RunError, match="--resume auto continues it, --overwrite replaces it"):
            train(out=out, **options)
        assert same(before, weights(out))
        train(out=out, overwrite=True, **options | {"epochs": 1, "seed": 5})
        assert not same(before, weights(out))

    def test_overwrite_replaces_runs_only(self, options, tmp_path):
        (tmp_path / "thesis.tex").write_text("my only copy")
        with pytest.raises(RunError, match="exists and is no run folder; choose another --out"):
            train(out=tmp_path, overwrite=True, **options)
        assert (tmp_path / "thesis.tex").exists()
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError):
            train(out=tmp_path / "file", overwrite=True, **options)

    def test_resuming_with_other_settings(self, options, tmp_path):
        out = train(out=tmp_path / "run", **options | {"epochs": 1})
        other = options | {"model": partial(SmallEVAE, latent_dim=3), "learning_rate": 1e-3}
        with pytest.raises(RunError, match=r"learning_rate: 0.0003 in the run, 0.001 now; .*latent_dim: 2 in"):
            train(out=out, resume="auto", **other)
        with pytest.raises(RunError, match=r"model.class_path: tests.*SmallEVAE in the run, evae.GaussianVAE"):
            train(out=out, resume="auto", **options | {"model": partial(GaussianVAE, latent_dim=2)})

    def test_resuming_with_other_images(self, options, tmp_path, blobs):
        import shutil

        import numpy as np

        data = tmp_path / "blobs.npz"
        shutil.copy(blobs, data)
        mine = options | {"data": str(data), "epochs": 1}
        out = train(out=tmp_path / "run", **mine)
        arrays = dict(np.load(data))
        arrays["x_train"][0] = 255 - arrays["x_train"][0]
        np.savez(data, **arrays)
        with pytest.raises(RunError, match="the images have changed"):
            train(out=out, resume="auto", **mine | {"epochs": 2})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch_size": 49}, "batch_size 49 is larger than the 48 training images"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"epochs": 0}, "epochs"),
            ({"learning_rate": 0.0}, "learning_rate"),
            ({"seed": -1}, "seed"),
            ({"log_every": 0}, "log_every"),
            ({"resume": "auto", "overwrite": True}, "contradict"),
            ({"accelerator": "cuda"}, "accelerator cuda"),
        ],
    )
    def test_settings_that_cannot_work(self, options, tmp_path, settings, message):
        if settings.get("accelerator") == "cuda" and torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
        with pytest.raises(ConfigError, match=message):
            train(out=tmp_path / "run", **options | settings)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions(options, tmp_path, precision):
    out = train(out=tmp_path / "run", precision=precision, **options)
    lines = run.read_metrics(out)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_tensorboard(options, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(out=tmp_path / "run", logger="tensorboard", **options)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [e.value for e in events.Scalars("holdout_reconstruction")]
    assert logged == pytest.approx([line["holdout_reconstruction"] for line in run.read_metrics(out)], rel=1e-6)


@pytest.mark.gpu
def test_cuda(options, tmp_path):
    out = train(out=tmp_path / "run", **options | {"accelerator": "cuda"})
    lines = run.read_metrics(out)
    assert lines[-1]["loss"] < lines[0]["loss"]
