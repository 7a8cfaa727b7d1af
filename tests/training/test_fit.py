"""Training: the same seed gives the same weights; interrupted runs end as uninterrupted ones; nothing saved is lost."""

import errno
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from evae import EVAE, VAE, WAE, GaussianVAE, open_store, train
from evae.cli import main
from evae.data import batch_indices
from evae.errors import ConfigError, DataError, RunError
from evae.runs import RunFolder, checkpoints
from evae.runs.images import own_images
from evae.training import DivergedError, InterruptedRun, StoppedError
from evae.training.batches import BatchLoader
from evae.training.fit import fit
from evae.training.preemption import signals_as_exceptions
from evae.training.settings import Recipe
from evae.training.trainer import Trainer
from tests.training.small import SETTINGS, SmallEVAE, same, same_run, timeless, weights


@pytest.fixture
def options(blobs):
    return {"data": blobs, **SETTINGS}


def interrupt_at(monkeypatch, step_number, signum=signal.SIGINT):
    """Raise a signal while the given step is taken, and let every step report."""
    original, calls = Trainer.step, []

    def step(*args):
        calls.append(1)
        if len(calls) == step_number:
            signal.raise_signal(signum)
        return original(*args)

    monkeypatch.setattr(Trainer, "step", step)
    return lambda: monkeypatch.setattr(Trainer, "step", original)


@pytest.mark.usefixtures("drawn")
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
        "data.json",
    }
    assert {p.name for p in (out / "figures").iterdir()} == {"losses.png", "reconstructions.png"}
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"last", "previous", "best"}
    assert {p.name for p in (out / "checkpoints" / "last").iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }
    lines = RunFolder(out).metrics()
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


@pytest.mark.parametrize(
    ("at", "signum"),
    [
        (1, signal.SIGINT),
        (4, signal.SIGTERM),
        (6, signal.SIGINT),
        (6, signal.SIGUSR1),
        (7, signal.SIGTERM),
        (17, signal.SIGINT),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(options, tmp_path, monkeypatch, at, signum):
    whole = train(out=tmp_path / "whole", log_every=1, **options)
    restore = interrupt_at(monkeypatch, at, signum)
    with pytest.raises(
        InterruptedRun, match=rf"by {signal.Signals(signum).name}; step {at} is saved .*--resume auto"
    ) as stopped:
        train(out=tmp_path / "parts", log_every=1, **options)
    assert stopped.value.exit_code == (130 if signum == signal.SIGINT else 75)
    restore()
    parts = train(out=tmp_path / "parts", log_every=1, resume="auto", **options)
    assert same_run(whole, parts)


def test_a_time_limit_stops_as_a_signal_does(options, tmp_path):
    whole = train(out=tmp_path / "whole", **options)
    with pytest.raises(InterruptedRun, match="interrupted by the time limit; step 6 ") as stopped:
        train(out=tmp_path / "parts", time_limit=1e-9, **options)
    assert stopped.value.exit_code == 75
    assert same_run(whole, train(out=tmp_path / "parts", resume="auto", **options))


def test_signal_handlers_are_put_back(options, tmp_path):
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
    before = [signal.getsignal(signum) for signum in signals]
    train(out=tmp_path / "run", **options | {"epochs": 1})
    assert [signal.getsignal(signum) for signum in signals] == before


def test_resuming_goes_on_for_more_epochs(options, tmp_path):
    whole = train(out=tmp_path / "whole", **options)
    train(out=tmp_path / "parts", **options | {"epochs": 1})
    parts = train(out=tmp_path / "parts", resume="auto", **options)
    assert same(weights(whole), weights(parts))
    assert yaml.safe_load((parts / "config.yaml").read_text())["epochs"] == 3


def test_resuming_convolutions(options, tmp_path):
    """Weights of several channels are not contiguous in memory, and fused Adam goes by memory."""
    options |= {"model": partial(EVAE, latent_dim=2)}
    whole = train(out=tmp_path / "whole", **options)
    train(out=tmp_path / "parts", **options | {"epochs": 1})
    assert same_run(whole, train(out=tmp_path / "parts", resume="auto", **options))


def test_resuming_a_model_with_a_tuple(options, tmp_path):
    options |= {"model": partial(WAE, latent_dim=2), "epochs": 1}
    out = train(out=tmp_path / "run", **options)
    before = timeless(out)
    train(out=out, resume="auto", **options)  # the configuration's list is no other setting
    assert timeless(out) == before


def test_a_run_that_was_killed_as_it_began_can_begin(options, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.123.tmp").write_text("data: x")
    out = train(out=tmp_path / "run", **options | {"epochs": 1})
    assert [line["epoch"] for line in RunFolder(out).metrics()] == [1]


def test_more_processes_than_devices(options, tmp_path, monkeypatch):
    """Each would train alone, and all write to the same folder."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 processes were started \(WORLD_SIZE\); --devices .* is 1"):
        train(out=tmp_path / "run", **options)


def test_a_model_that_cannot_be_compiled(options, tmp_path, monkeypatch):
    from torch._dynamo.exc import Unsupported

    def step(*args):
        raise Unsupported("no compiler")

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(ConfigError, match="cannot be compiled here .*--compile off trains without"):
        train(out=tmp_path / "run", **options)


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
    assert "continuing from the one before, at step 6" in " ".join(capsys.readouterr().err.split())
    assert same(weights(whole), weights(parts))


def test_no_whole_checkpoint(options, tmp_path):
    out = train(out=tmp_path / "run", **options | {"epochs": 2})
    for name in ("last", "previous"):
        (out / "checkpoints" / name / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"last is damaged .*previous is damaged"):
        train(out=out, resume="auto", **options)


def test_a_file_in_the_place_of_a_checkpoint(options, tmp_path, capsys):
    whole, parts = train(out=tmp_path / "whole", **options), tmp_path / "parts"
    train(out=parts, **options | {"epochs": 2})
    shutil.rmtree(parts / "checkpoints" / "last")
    (parts / "checkpoints" / "last").write_text("")
    train(out=parts, resume="auto", **options)
    assert "continuing from the one before, at step 6" in " ".join(capsys.readouterr().err.split())
    assert same(weights(whole), weights(parts))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_has_its_usual_effect(signum):
    """It ends the process at once, whatever the first one is waiting for."""
    before, second = signal.getsignal(signum), []

    @signals_as_exceptions()
    def answer():
        try:
            signal.raise_signal(signum)
        finally:
            second.append(signal.getsignal(signum))

    with pytest.raises(StoppedError):
        answer()
    assert second == [before]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_the_first_step(options, tmp_path, monkeypatch, signum):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    monkeypatch.setattr("evae.training.command.open_store", lambda *_, **__: signal.raise_signal(signum))
    with pytest.raises(StoppedError, match=f"received {signum.name} outside the training loop") as stop:
        train(out=tmp_path / "run", **options)
    assert stop.value.exit_code == 75
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    monkeypatch.setattr("evae.training.command.open_store", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "run", **options)


@pytest.mark.parametrize("instead", [None, "file"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(options, tmp_path, instead):
    out = train(out=tmp_path / "run", **options)
    before = (out / "metrics.jsonl").read_text(), weights(out)
    shutil.rmtree(out / "checkpoints")
    if instead:
        (out / "checkpoints").write_text("")
    with pytest.raises(RunError, match="contains a model but no checkpoint to resume from; use --overwrite"):
        train(out=out, resume="auto", **options)
    assert before[0] == (out / "metrics.jsonl").read_text()
    assert same(before[1], weights(out))


def test_a_run_is_not_made_shorter(options, tmp_path):
    out = train(out=tmp_path / "run", **options)
    before = (out / "config.yaml").read_text()
    with pytest.raises(RunError, match="has been trained for 3 epochs; --epochs 2 cannot resume it"):
        train(out=out, resume="auto", **options | {"epochs": 2})
    assert (out / "config.yaml").read_text() == before


@pytest.mark.usefixtures("drawn")
def test_lines_of_metrics_that_are_none(options, tmp_path):
    out = train(out=tmp_path / "run", **options | {"epochs": 2})
    lines = (out / "metrics.jsonl").read_text()
    (out / "metrics.jsonl").write_text("3\nnull\n" + lines + '{"epoch": 7}\n{"epoch": "x"}\n{"epo')
    assert [line["epoch"] for line in RunFolder(out).metrics()] == [1, 2, 7]
    (out / "metrics.jsonl").write_text("3\nnull\n" + lines)
    train(out=out, resume="auto", **options)
    assert (out / "figures" / "losses.png").exists()


def test_a_run_of_a_version_without_an_option_can_be_resumed(options, tmp_path):
    """Settings that its config.yaml does not have were the defaults."""
    out = train(out=tmp_path / "run", **options | {"epochs": 1})
    config = yaml.safe_load((out / "config.yaml").read_text())
    del config["validation"], config["gradient_clip"]
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RunError, match=r"validation: 0.0 in the run, 0.25 now"):
        train(out=out, resume="auto", validation=0.25, **options)
    train(out=out, resume="auto", **options)
    assert len(RunFolder(out).epochs()) == 3


class Wider(SmallEVAE):
    """Another network under the same settings."""

    def __init__(self, image_shape, latent_dim=2, n=None):
        super().__init__(image_shape, latent_dim + 1, n)


def test_a_checkpoint_of_another_network(options, tmp_path):
    out = train(out=tmp_path / "run", **options | {"epochs": 1})
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("training.small.SmallEVAE", "training.test_fit.Wider"))
    with pytest.raises(RunError, match="last holds the state of another network .*another --out"):
        train(out=out, resume="auto", **options | {"model": Wider})


def test_figures_that_cannot_be_drawn_do_not_end_a_run(options, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("evae.reporting.training_figures.draw_training", fail)
    out = train(out=tmp_path / "run", **options | {"epochs": 1})
    assert "could not be drawn" in capsys.readouterr().err
    assert len(RunFolder(out).epochs()) == 1


def test_the_time_limit_counts_from_the_start_of_the_command(options, tmp_path, monkeypatch):
    """A scheduler's clock does not wait for images to be decoded."""
    deadlines = []

    def open_slowly(*arguments, **options):
        time.sleep(0.5)
        return open_store(*arguments, **options)

    def record(*arguments, deadline, **settings):
        deadlines.append(deadline)
        return fit(*arguments, deadline=deadline, **settings)

    monkeypatch.setattr("evae.training.command.open_store", open_slowly)
    monkeypatch.setattr("evae.training.command.fit", record)
    start = time.monotonic()
    train(out=tmp_path / "run", time_limit=10, **options | {"epochs": 1})
    assert deadlines[0] == pytest.approx(start + 600, abs=0.4)


def test_handlers_that_were_not_installed_from_python_are_left_alone(options, tmp_path, monkeypatch):
    find = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGUSR1 else find(number))
    train(out=tmp_path / "run", **options | {"epochs": 1})
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_validation_images_choose_the_best_epoch(options, tmp_path):
    """They come from the training images, and the hold-out images are not looked at."""
    out = train(out=tmp_path / "run", validation=0.25, patience=5, **options)
    lines = RunFolder(out).epochs()
    assert [line["step"] for line in lines] == [4, 8, 12]  # 36 images are left to train on
    assert "validation_loss" in lines[0]
    assert not any(name.startswith("holdout") for name in lines[0])
    assert (out / "checkpoints" / "best" / "model.safetensors").exists()
    store = own_images(RunFolder(out))
    assert (len(store.train), len(store.validation), len(store.holdout)) == (36, 12, 16)
    whole = train(out=tmp_path / "whole", validation=0.25, **options)
    parts = train(out=tmp_path / "parts", validation=0.25, **options | {"epochs": 2})
    assert same_run(whole, train(out=parts, validation=0.25, resume="auto", **options))


def test_choosing_by_the_hold_out_images_is_said_once(options, tmp_path, capsys):
    train(out=tmp_path / "a", **options | {"epochs": 2})
    assert capsys.readouterr().err.count("is chosen by the hold-out images") == 1
    train(out=tmp_path / "b", validation=0.25, **options | {"epochs": 2})
    assert "chosen by the hold-out images" not in capsys.readouterr().err


def test_an_optimizer_is_saved_in_the_same_order_whatever_order_it_was_read_in():
    """Processes that share out its state gather it together: one after the other, the same one each."""
    network = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(6)])
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    names = list(checkpoints.optimizer_state(optimizer)[0])
    state = optimizer.state_dict()
    for order in ([5, 3, 1, 0, 2, 4, *range(6, 12)], range(11, -1, -1)):
        optimizer.load_state_dict(state | {"state": {i: dict(reversed(state["state"][i].items())) for i in order}})
        assert list(checkpoints.optimizer_state(optimizer)[0]) == names


def test_a_full_disk_keeps_the_checkpoint_before(options, tmp_path, monkeypatch):
    whole = train(out=tmp_path / "whole", **options)
    original = checkpoints._write_state
    saved = []

    def full(*args):
        saved.append(1)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*args)

    monkeypatch.setattr(checkpoints, "_write_state", full)
    with pytest.raises(RunError, match=r"step 12: .*could not be written \(No space left on device\); the .* before"):
        train(out=tmp_path / "parts", **options)
    assert not list((tmp_path / "parts" / "checkpoints").glob("*.tmp"))
    monkeypatch.setattr(checkpoints, "_write_state", original)
    parts = train(out=tmp_path / "parts", resume="auto", **options)
    assert same(weights(whole), weights(parts))


def command(blobs, out, epochs):
    """evae train of a real network on the smallest images."""
    options = f"--model.latent_dim 2 --epochs {epochs} --batch-size 8 --image-size 16 --accelerator cpu"
    return [sys.executable, "-m", "evae.cli", "train", "--data", blobs, "--out", str(out), *options.split()]


ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as in these tests' own process


@pytest.mark.slow
def test_a_file_size_limit_while_a_checkpoint_is_written(blobs, tmp_path):
    """The same, by the operating system's hand: exit code 2, one sentence, the old checkpoint whole."""
    assert main(command(blobs, tmp_path / "run", 1)[3:]) == 0
    before = weights(tmp_path / "run" / "checkpoints" / "last")
    again = [*command(blobs, tmp_path / "run", 2), "--resume", "auto"]
    limited = subprocess.run(
        again,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ONE_THREAD,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert limited.returncode == 2
    assert "could not be written (File too large)" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert same(before, weights(tmp_path / "run" / "checkpoints" / "last"))


def test_sigterm_from_outside(blobs, tmp_path):
    """A process that is told to stop saves its state, says so and exits with the code that asks for another try."""
    started = command(blobs, tmp_path / "run", 100_000)
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD) as process:
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 75
    assert "interrupted by SIGTERM; step" in rest
    state = checkpoints._read_state(tmp_path / "run" / "checkpoints" / "last")
    assert state.progress.step >= 12


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
        with pytest.raises(RunError, match="exists but is not an evae run; choose another --out"):
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

    def test_resuming_with_the_same_images_in_another_place(self, options, tmp_path, blobs):
        here, there = tmp_path / "blobs.npz", tmp_path / "there.npz"
        shutil.copy(blobs, here)
        out = train(out=tmp_path / "run", **options | {"data": str(here), "epochs": 1})
        here.rename(there)
        moved = options | {"data": str(there)}
        assert RunFolder(train(out=out, resume="auto", **moved)).config()["data"] == str(there)
        assert same_run(out, train(out=tmp_path / "whole", **moved))
        arrays = dict(np.load(there))
        np.savez(here, **arrays | {"x_train": 255 - arrays["x_train"]})
        with pytest.raises(RunError, match="data: .* in the run"):
            train(out=out, resume="auto", **options | {"data": str(here)})
        assert RunFolder(out).config()["data"] == str(there)

    def test_resuming_with_other_images(self, options, tmp_path, blobs):
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
            ({"model": EVAE, "image_size": 20}, "no network for images of shape"),
            ({"image_size": 32}, "the encoder|the network"),  # of a model that takes 16 pixels, grey
            ({"devices": 3}, "is not divisible by 3 devices"),
            ({"strategy": "fsdp", "devices": 2, "ema": 0.9}, "ema is not for"),
            ({"crop": 0}, "the crop must be positive"),
            ({"out": "taken"}, "taken exists but is not an evae run"),
            ({"out": "taken/letter.txt/run"}, "run cannot be made: .*letter.txt is not a folder"),
            ({"num_nodes": 2}, "start it on each machine with torchrun"),
            ({"logger": "notebook"}, "logger must be one of"),
        ],
    )
    def test_found_wrong_before_images_are_decoded(self, options, tmp_path, monkeypatch, settings, message):
        monkeypatch.setattr("evae.training.command.open_store", lambda *_, **__: pytest.fail("images were opened"))
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "letter.txt").write_text("mine")
        out = tmp_path / settings.get("out", "run")
        with pytest.raises((ConfigError, DataError, RunError), match=message):
            train(**options | settings | {"out": out})
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch_size": 49}, "batch_size 49 is larger than the 48 training images"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"epochs": 0}, "epochs"),
            ({"learning_rate": 0.0}, "learning_rate"),
            ({"seed": -1}, "seed"),
            ({"log_every": 0}, "log_every"),
            ({"warmup": -1.0}, "warmup must be 0 or positive"),
            ({"warmup": 3.0, "decay": "cosine"}, "leaves nothing of 3 to decay in"),
            ({"divergence_warmup": math.inf}, "divergence_warmup"),
            ({"gradient_clip": 0.0}, "gradient_clip must be positive"),
            ({"ema": 1.0}, "ema"),
            ({"patience": 0}, "patience"),
            ({"time_limit": 0.0}, "time_limit"),
            ({"devices": 0}, "devices"),
            ({"devices": 3}, "batch_size 8 is not divisible by 3 devices"),
            ({"decay": "linear"}, "decay must be one of none, cosine, not 'linear'"),
            ({"on_nonfinite": "Skip"}, "on_nonfinite must be one of stop, skip"),
            ({"precision": "float16"}, "precision must be one of 32-true"),
            ({"precision": "tf32"}, "tf32 is for CUDA devices"),
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
    lines = RunFolder(out).metrics()
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("bf16", [True, False])
def test_a_processor_without_bf16_is_warned_of(options, tmp_path, monkeypatch, capsys, bf16):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": bf16, "amx_bf16": False})
    train(out=tmp_path / "run", precision="bf16-mixed", **options | {"epochs": 1})
    assert ("has no bf16 instructions" in capsys.readouterr().err) != bf16


# What people expect of a trainer ------------------------------------------------------------------------------


def test_gradients_are_clipped_and_their_norm_is_logged_before(options, tmp_path):
    """Adam's first steps do not depend on the length of the gradient, so that the optimizer's state is looked at."""
    options |= {"epochs": 1, "batch_size": 48}
    out = train(out=tmp_path / "run", gradient_clip=0.01, **options)
    first_moment = load_file(out / "checkpoints" / "last" / "optimizer.safetensors")
    norm = sum(v.square().sum() for k, v in first_moment.items() if k.endswith("exp_avg")).sqrt()
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-4)  # Adam's 1 - 0.9
    assert RunFolder(out).metrics()[0]["gradient_norm"] > 1


def test_the_learning_rate_warms_up_and_decays(options, tmp_path):
    out = train(out=tmp_path / "run", warmup=1, decay="cosine", log_every=1, **options)
    rates = [line["learning_rate"] for line in RunFolder(out).metrics() if "epoch" not in line]
    rise = [3e-4 * (k + 0.5) / 6 for k in range(6)]
    fall = [3e-4 * (1 + math.cos(math.pi * (k + 0.5) / 12)) / 2 for k in range(12)]
    assert rates == pytest.approx(rise + fall)


def test_a_resumed_cosine_needs_the_same_end(options, tmp_path):
    out = train(out=tmp_path / "run", decay="cosine", **options | {"epochs": 2})
    with pytest.raises(RunError, match="epochs: 2 in the run, 3 now"):
        train(out=out, decay="cosine", resume="auto", **options)


@pytest.mark.parametrize("family", [SmallEVAE, partial(GaussianVAE, latent_dim=2)])
def test_the_divergence_warms_up(options, tmp_path, family):
    out = train(out=tmp_path / "run", divergence_warmup=2, log_every=1, **options | {"model": family, "epochs": 4})
    lines = [line for line in RunFolder(out).metrics() if "epoch" not in line]
    divergence = "penalty" if family is SmallEVAE else "kl"
    warmth = [min(1.0, (k + 0.5) / 12) for k in range(24)]
    assert [line["divergence_weight"] for line in lines] == pytest.approx(warmth)
    # Lines hold means over the epoch so far: the first of each epoch is one step.
    for line, warm in list(zip(lines, warmth, strict=True))[::6]:
        assert line["loss"] == pytest.approx(line["reconstruction"] + warm * line[divergence], rel=1e-5)
    epochs = [line for line in RunFolder(out).metrics() if "epoch" in line]
    for line in epochs:  # held-out losses can be compared with one another
        assert line["holdout_loss"] == pytest.approx(line["holdout_reconstruction"] + line[f"holdout_{divergence}"])


def test_the_average_is_the_model_and_is_resumed(options, tmp_path, monkeypatch):
    out = train(out=tmp_path / "whole", ema=0.9, log_every=1, **options)
    raw = weights(out / "checkpoints" / "last")
    assert not same(weights(out), raw)
    restore = interrupt_at(monkeypatch, 8)
    with pytest.raises(InterruptedRun):
        train(out=tmp_path / "parts", ema=0.9, log_every=1, **options)
    restore()
    assert same_run(out, train(out=tmp_path / "parts", ema=0.9, log_every=1, resume="auto", **options))


def test_the_average_is_exponential(options, tmp_path):
    """Its decay rises, 2/11 at the second step and 3/12 at the third, to the one that was asked for."""
    options |= {"batch_size": 12, "epochs": 2}  # of four steps
    plain = train(out=tmp_path / "plain", **options)
    seen = []
    original = Trainer.step

    def step(trainer, *args):
        terms = original(trainer, *args)
        seen.append({k: v.clone() for k, v in trainer.network.state_dict().items()})
        return terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        out = train(out=tmp_path / "run", ema=0.3, **options)
    assert same(weights(plain), weights(out / "checkpoints" / "last"))
    for name, value in weights(out).items():
        expected = seen[0][name]
        for now, decay in zip(seen[1:], (2 / 11, 3 / 12, *[0.3] * 5), strict=True):
            expected = decay * expected + (1 - decay) * now[name] if value.is_floating_point() else now[name]
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(("steps", "decay"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (8990, 0.999), (10**6, 0.999)])
def test_the_decay_of_the_average_warms_up(steps, decay):
    assert Recipe(ema=0.999).ema_at(steps) == pytest.approx(decay, rel=1e-3)


def test_patience_waits_for_warm_ups_and_the_best_is_kept(options, tmp_path, monkeypatch, capsys):
    losses = iter([1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0])
    original = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda *args: original(*args) | {"holdout_loss": next(losses)})
    options |= {"epochs": 8}
    out = train(out=tmp_path / "run", patience=2, warmup=2, **options)
    epochs = [line["epoch"] for line in RunFolder(out).metrics()]
    assert epochs == [1, 2, 3, 4, 5, 6]  # the best after the warm-up is the fourth, and two follow it
    assert "trained for 6 epochs, 2 of them without a lower validation loss" in " ".join(
        capsys.readouterr().err.split()
    )
    best = out / "checkpoints" / "best"
    assert RunFolder(best).metrics()[-1]["epoch"] == 4
    assert isinstance(VAE.from_pretrained(best), SmallEVAE)
    train(out=out, patience=2, warmup=2, resume="auto", **options)  # is over, and stays so
    assert [line["epoch"] for line in RunFolder(out).metrics()] == epochs


def poisoned(monkeypatch, bad_step):
    """Not a number in the images of one step of the first epoch."""
    original = BatchLoader.__call__

    def call(self, epoch, step):
        images = original(self, epoch, step)
        return images * math.nan if (epoch, step) == (0, bad_step) else images

    monkeypatch.setattr(BatchLoader, "__call__", call)


def test_a_loss_that_is_not_finite_stops_and_says_where(options, tmp_path, monkeypatch):
    out = train(out=tmp_path / "run", **options | {"epochs": 1})
    before = weights(out / "checkpoints" / "last")
    original = BatchLoader.__call__
    monkeypatch.setattr(
        BatchLoader, "__call__", lambda self, epoch, step: original(self, epoch, step) * (math.nan if step == 3 else 1)
    )
    expected = batch_indices(0, 1, 3, 48, 8)
    message = rf"at step 10: its reconstruction is nan for the batch of training images {expected[0]}, .*nonfinite.json"
    with pytest.raises(DivergedError, match=message):
        train(out=out, resume="auto", **options)
    report = json.loads((out / "nonfinite.json").read_text())
    assert report["images"] == expected.tolist()
    assert (report["step"], report["epoch"], report["term"]) == (10, 2, "reconstruction")
    assert same(before, weights(out / "checkpoints" / "last"))
    assert len(RunFolder(out).metrics()) == 1


@pytest.mark.parametrize("bad_step", [0, 2])
def test_steps_that_are_not_finite_can_be_skipped(options, tmp_path, monkeypatch, bad_step):
    poisoned(monkeypatch, bad_step)
    out = train(out=tmp_path / "run", on_nonfinite="skip", log_every=1, **options)
    lines = [line for line in RunFolder(out).metrics() if "epoch" in line]
    assert [line["skipped_steps"] for line in lines] == [1, 1, 1]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert all(torch.isfinite(value).all() for value in weights(out).values())
    steps = load_file(out / "checkpoints" / "last" / "optimizer.safetensors")["0.step"]
    assert steps == 17


def test_every_step_of_an_epoch_is_skipped(options, tmp_path, monkeypatch):
    monkeypatch.setattr(BatchLoader, "__call__", lambda self, epoch, step: torch.full((8, 1, 16, 16), math.nan))
    with pytest.raises(DivergedError, match="no loss of epoch 1 is finite"):
        train(out=tmp_path / "run", on_nonfinite="skip", **options)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory(options, tmp_path, monkeypatch, error):
    def step(*args):
        raise error

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(ConfigError, match="out of memory with batches of 8 images: lower --batch-size"):
        train(out=tmp_path / "run", **options)


def test_images_larger_than_a_gpu_are_read_ahead(blobs):
    """The same batches as without."""
    images = open_store(blobs, 16).train
    plain, ahead = (BatchLoader(images, torch.device("cpu"), 8, seed=3) for _ in range(2))
    ahead._reader = ThreadPoolExecutor(1)
    for epoch, step in [(0, 0), (0, 1), (0, 5), (1, 0), (1, 1)]:
        assert torch.equal(plain(epoch, step), ahead(epoch, step))


def test_resident_images(blobs):
    images = open_store(blobs, 16).train
    plain, resident = (BatchLoader(images, torch.device("cpu"), 8, seed=3, rank=1, world_size=2) for _ in range(2))
    resident._resident = torch.from_numpy(images.images.copy())
    for epoch, step in [(0, 0), (0, 5), (1, 0)]:
        assert torch.equal(plain(epoch, step), resident(epoch, step))


@pytest.mark.slow
def test_compiled_training_is_resumed_exactly(options, tmp_path):
    whole = train(out=tmp_path / "whole", compile="on", divergence_warmup=1, **options)
    train(out=tmp_path / "parts", compile="on", divergence_warmup=1, **options | {"epochs": 2})
    parts = train(out=tmp_path / "parts", compile="on", divergence_warmup=1, resume="auto", **options)
    assert same_run(whole, parts)
    eager = train(out=tmp_path / "eager", divergence_warmup=1, **options)
    losses = [RunFolder(out).metrics()[-1]["holdout_loss"] for out in (whole, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # other random numbers


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "tf32", "bf16-mixed"])
@pytest.mark.parametrize("compiled", ["on", "off"])
def test_cuda(options, tmp_path, precision, compiled):
    options |= {"accelerator": "cuda", "precision": precision, "compile": compiled}
    whole = train(out=tmp_path / "whole", **options)
    lines = RunFolder(whole).metrics()
    assert lines[-1]["loss"] < lines[0]["loss"]
    train(out=tmp_path / "parts", **options | {"epochs": 2})
    parts = RunFolder(train(out=tmp_path / "parts", resume="auto", **options)).metrics()
    assert parts[-1]["loss"] == pytest.approx(lines[-1]["loss"], rel=1e-3)


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_on_a_cpu(blobs):
    images = open_store(blobs, 16).train
    here, there = (BatchLoader(images, torch.device(name), 8, seed=3) for name in ("cpu", "cuda"))
    ahead = BatchLoader(images, torch.device("cuda"), 8, seed=3)
    ahead._resident, ahead._reader = None, ThreadPoolExecutor(1)
    for epoch, step in [(0, 0), (0, 1), (0, 5), (1, 0)]:
        assert torch.equal(here(epoch, step), there(epoch, step).cpu())
        assert torch.equal(here(epoch, step), ahead(epoch, step).cpu())
