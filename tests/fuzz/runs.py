"""A run folder with all its records, made without training."""

from pathlib import Path

import numpy as np
import torch

from evae import GaussianVAE, evaluate
from evae.models.fitted import FittedPrior, write_prior
from evae.runs import Progress, RunFolder, checkpoints

SHAPE = (1, 8, 8)


def network():
    """A model of 8x8 pixels with few weights."""
    return GaussianVAE(SHAPE, latent_dim=2, encoder="tests.fuzz.runs:body", decoder="tests.fuzz.runs:decoder")


def body(image_shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.ReLU())


def decoder(image_shape, latent_dim):
    return torch.nn.Sequential(torch.nn.Linear(latent_dim, 64), torch.nn.Unflatten(1, image_shape))


def stepped(model):
    """Its optimizer after a step."""
    optimizer = torch.optim.Adam(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    return optimizer


def make_run(folder: Path) -> None:
    """A run in ``folder``/run on images beside it, with checkpoints, an evaluation and a prior."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8), np.uint8)
    np.savez(folder / "images.npz", x_train=images[:16], x_test=images[16:])
    run, model, progress = RunFolder(folder / "run"), network(), Progress("ff", step=12, sums=[1.0, 2.0])
    config = {
        "data": str(folder / "images.npz"),
        "out": str(folder / "run"),
        "model": {"class_path": model.class_path, "init_args": model.hyperparameters},
        **{"epochs": 3, "image_size": 8, "crop": None, "image_column": None, "validation": 0.25, "seed": 0},
    }
    with run.locked():
        run.claim(config, {}, resume=False, overwrite=False)
        run.truncate_metrics(progress)
        for epoch in (1, 2):
            run.append_metrics({"epoch": epoch, "step": 6 * epoch, "loss": 3.5 / epoch, "val_loss": 4.0}, progress)
        checkpoints.save(run, model, checkpoints.optimizer_state(stepped(model)), progress)
    tensors = {"mean": torch.zeros(2), "scale_tril": torch.eye(2)}
    write_prior(FittedPrior("gaussian", tensors, {}, {"seed": 0}, run.model().weights_digest), run.path)
    evaluate(run.path, device="cpu", show=False)
