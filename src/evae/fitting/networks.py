"""Train a network that gives each code a loss: a flow's negative log-density, a VAE's negative bound."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam

from evae.console import progress
from evae.errors import RunError
from evae.fitting.settings import Density
from evae.numerics import seeded

_SCORED = 4_096  # codes at a time, without gradients


@dataclass(frozen=True)
class Fit:
    """What is trained: ``make`` returns the network, ``loss`` its loss of each code (N, d), shape (N,)."""

    make: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    title: str


def optimise(
    fit: Fit, fitted: Callable[[int], Tensor], held_out: Tensor, density: Density, seed: int
) -> dict[str, Tensor]:
    """The state, on the CPU, of the epoch with the least mean held-out loss.

    Args:
        fit: network and loss.
        fitted: the codes (N, d) of an epoch, by its number from 0.
        held_out: codes (M, d) that choose the epoch.
        density: epochs, batch size, learning rate and patience.
        seed: of the weights, the order of the codes, and the draws of the loss.

    Raises:
        RunError: the loss is not finite.
    """
    with seeded(seed), progress("{task.fields[loss]}") as bar:
        network = fit.make().to(held_out)
        optimizer = Adam(network.parameters(), density.fit_learning_rate)
        task = bar.add_task(f"fitting the {fit.title}", total=density.fit_epochs, loss="")
        best, waited, state = math.inf, 0, _state(network)
        for epoch in range(density.fit_epochs):
            if density.halve_every:
                halvings = epoch // density.halve_every
                optimizer.param_groups[0]["lr"] = density.fit_learning_rate / 2**halvings
            codes = fitted(epoch)
            for rows in torch.randperm(len(codes)).to(codes.device).split(density.fit_batch_size):
                optimizer.zero_grad()
                fit.loss(network, codes[rows]).mean().backward()
                optimizer.step()
            loss = _mean_loss(fit, network, held_out, seed)
            if not math.isfinite(loss):
                raise RunError(f"the {fit.title} diverged in epoch {epoch + 1}; lower --fit-learning-rate")
            bar.update(task, advance=1, loss=f"held-out loss {loss:.4g}")
            best, waited, state = (loss, 0, _state(network)) if loss < best else (best, waited + 1, state)
            if waited == density.patience:
                break
    return state


@torch.no_grad()
def _mean_loss(fit: Fit, network: nn.Module, codes: Tensor, seed: int) -> float:
    """With the same draws in each epoch."""
    with seeded(seed):
        losses = [fit.loss(network, part).double().sum() for part in codes.split(_SCORED)]
    return float(sum(losses)) / len(codes)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
