"""A package outside evae defines a family and networks; every command works on them in fresh processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

NETS = """
from torch import nn
from evae import GaussianVAE

class MyVAE(GaussianVAE):
    \"\"\"A VAE with a body of its own.

    Args:
        image_shape: (C, S, S).
        width: of the body.
        networks: as for GaussianVAE.
    \"\"\"

    def __init__(self, image_shape, width: int = 8, **networks):
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU())
        super().__init__(image_shape, encoder=body, **networks)

def body(image_shape):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU())

def decoder(image_shape, latent_dim):
    channels, height, width = image_shape
    return nn.Sequential(nn.Linear(latent_dim, channels * height * width), nn.Unflatten(1, image_shape))
"""

# Several commands in one fresh process, which has imported nothing of the package.
COMMANDS = "import json, sys; from evae.cli import main; sys.exit(max(main(c) for c in json.loads(sys.argv[1])))"


@pytest.fixture
def place(tmp_path, blobs, cache):
    """A folder with the package, and functions that run commands and train there."""
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "nets.py").write_text(NETS)
    env = os.environ | {"EVAE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}

    def run(*commands, wait=True):
        command = [sys.executable, "-c", COMMANDS, json.dumps([list(map(str, c)) for c in commands])]
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        if not wait:
            return process
        _, said = process.communicate()
        assert process.returncode == 0, said
        return said

    def training(out, model, epochs):
        options = ["--image-size", "16", "--batch-size", "8", "--accelerator", "cpu", "--resume", "auto"]
        return ["train", "--data", blobs, "--out", out, "--epochs", epochs, *options, *model.split()]

    return run, training


@pytest.mark.slow
def test_a_family_of_ones_own(place, tmp_path):
    run, training = place
    own = "--model mypackage.nets.MyVAE --model.width 6 --model.latent_dim 3"
    run(training("a", own, 1), training("a", own, 2), [*training("b", own, 2), "--seed", "1"])
    said = run(
        ["evaluate", "a"], ["evaluate", "b"], ["encode", "a", "--out", "codes.parquet"], ["sample", "a"],
        ["report", "a"], ["compare", "a", "b"],
        ["train", "--config", "a/config.yaml", "--trust-config", "--out", "again"],
    )  # fmt: skip
    assert "Traceback" not in said
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["model"] == "mypackage.nets.MyVAE"
    assert (config["width"], config["latent_dim"], config["likelihood"]) == (6, 3, "bernoulli")
    assert list(pd.read_parquet(tmp_path / "codes.parquet"))[-1] == "vector"
    assert "MyVAE" in (tmp_path / "a" / "report.html").read_text()
    assert (tmp_path / "comparison" / "comparison.html").exists()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "a" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_networks_of_ones_own_from_the_command_line_and_yaml(place, tmp_path):
    run, training = place
    init_args = {"latent_dim": 3, "encoder": "mypackage.nets:body", "decoder": "mypackage.nets:decoder"}
    model = {"class_path": "evae.EVAE", "init_args": init_args}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"model": model}))
    paths = (
        "--model EVAE --model.latent_dim 3 --model.encoder mypackage.nets:body --model.decoder mypackage.nets:decoder"
    )
    file = "--config own.yaml --trust-config"
    run(training("line", paths, 1), training("yaml", file, 1))
    run(["evaluate", "line"], ["report", "line"], training("line", paths, 2), training("yaml", file, 2))
    config = json.loads((tmp_path / "line" / "config.json").read_text())
    assert (config["model"], config["encoder"]) == ("evae.EVAE", "mypackage.nets:body")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("line", "yaml")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_killed_run_of_ones_own_family_goes_on(place, tmp_path):
    run, training = place
    own = "--model mypackage.nets.MyVAE"
    process = run(training("a", own, 10_000), wait=False)
    while not (tmp_path / "a" / "checkpoints" / "last").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    trained = len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines())
    run(training("a", own, trained + 2), training("whole", own, trained + 2))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "whole")]
    assert weights[0] == weights[1]
