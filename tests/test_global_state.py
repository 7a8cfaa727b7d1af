"""The library gives back what it changes of its process: random numbers, arithmetic, messages, paths."""

import logging
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from evae import compare, encode, evaluate, reconstruct, report, sample, train
from evae.console import console
from evae.figures import to_image
from tests.training.small import SETTINGS


def state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "tf32": (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "validation": Distribution._validate_args,
        "quiet": console.quiet,
        "path": list(sys.path),
        "warnings": list(warnings.filters),
        "hub": logging.getLogger("huggingface_hub").level,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory, blobs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folders = [tmp_path_factory.mktemp("runs") / name for name in "ab"]
        for seed, folder in enumerate(folders):
            train(blobs, folder, seed=seed, **SETTINGS | {"epochs": 1})
            evaluate(folder, show=False)
    return folders


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("call", ["train", "evaluate", "sample", "reconstruct", "encode", "report", "compare"])
def test_it_is_given_back(call, runs, blobs, tmp_path):
    to_image(np.zeros((16, 16, 1), np.uint8)).save(tmp_path / "image.png")
    calls = {
        "train": lambda: train(blobs, tmp_path / "run", seed=3, **SETTINGS | {"epochs": 1}),
        "evaluate": lambda: evaluate(runs[0], seed=3, likelihood=None, show=False),
        "sample": lambda: sample(runs[0], 4, tmp_path / "samples.png", seed=3),
        "reconstruct": lambda: reconstruct(runs[0], [tmp_path / "image.png"], tmp_path / "out", "sample", seed=3),
        "encode": lambda: encode(runs[0], tmp_path / "codes.parquet"),
        "report": lambda: report(runs[0], tmp_path / "report.html", seed=3),
        "compare": lambda: compare(runs, tmp_path / "comparison", seed=3),
    }
    torch.manual_seed(7)
    before = state()
    calls[call]()
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()
