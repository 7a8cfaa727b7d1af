"""What the tests of training share: a model that trains in milliseconds, and views of run folders."""

import torch
from safetensors.torch import load_file
from torch import nn

from evae import EVAE
from evae.runs import RunFolder


class SmallEVAE(EVAE):
    """An EVAE that trains in milliseconds, as someone might define it outside the package."""

    def __init__(self, image_shape, latent_dim=2, n=None):
        body = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.BatchNorm1d(32), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(latent_dim, 256), nn.Unflatten(1, image_shape))
        super().__init__(image_shape, latent_dim, n=n, encoder=body, decoder=decoder)


SETTINGS = {"model": SmallEVAE, "epochs": 3, "batch_size": 8, "image_size": 16, "accelerator": "cpu"}


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def timeless(folder):
    """metrics.jsonl without what a clock measures."""
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")}
        for line in RunFolder(folder).metrics()
    ]


def same_run(a, b):
    """Whether two runs have the same weights, optimizer state, average and metrics, bit for bit."""
    files = {path.name for path in (a / "checkpoints" / "last").glob("*.safetensors")}
    states = (same(*[load_file(f / "checkpoints" / "last" / name) for f in (a, b)]) for name in files)
    bests = same(*[weights(f / "checkpoints" / "best") for f in (a, b)])
    return same(weights(a), weights(b)) and all(states) and bests and timeless(a) == timeless(b)
