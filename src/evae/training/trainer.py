"""One rank's model, optimizer and batches: takes steps and validates."""

import math
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel

from evae.data import Images, to_float
from evae.models import VAE
from evae.runs.checkpoints import full_tensor
from evae.training.batches import BatchLoader
from evae.training.ranks import all_reduce_max, on_all_ranks
from evae.training.settings import Recipe
from evae.training.sharding import is_sharded


class Trainer:
    """Trains a model, which it moves to the launched engine's device, on one split; every rank has one.

    Attributes:
        optimizer: Adam, as Fabric wraps it.
        average: the exponential moving average of the weights; None without ``recipe.ema``.
        full_copy: the model, or under FSDP a copy whose parameters are not sharded, see ``sync_full_copy``.
    """

    def __init__(self, fabric: Fabric, network: VAE, images: Images, recipe: Recipe, compiled: bool = False) -> None:
        self.fabric, self.network, self.recipe = fabric, network, recipe
        sharded = is_sharded(fabric)
        network.to(fabric.device)
        if not sharded:  # in this layout convolutions are fastest, 1.2 times on CPU; FSDP takes the usual one only
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.full_copy = deepcopy(network) if sharded else network
        module: nn.Module = network
        if compiled:
            graphs = fabric.device.type == "cuda" and not sharded  # gathered parameters have no fixed address
            module = torch.compile(network, mode="reduce-overhead" if graphs else None)  # type: ignore[assignment]
        self._module = fabric.setup_module(module)
        adam = Adam(network.parameters(), recipe.learning_rate, fused=fabric.device.type in ("cpu", "cuda"))
        self.optimizer: Any = fabric.setup_optimizers(adam)
        self.average = None
        if recipe.ema is not None:
            self.average = AveragedModel(network, multi_avg_fn=self._update_average, use_buffers=True)
        ranks = fabric.global_rank, fabric.world_size
        self.batches = BatchLoader(images, fabric.device, recipe.batch_size, recipe.seed, *ranks)

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in the training images."""
        return self.batches.steps_per_epoch

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the numbers that ``step`` returns."""
        return ("loss", "reconstruction", self.network.objective.divergence_name, "gradient_norm")

    @property
    def result(self) -> VAE:
        """The model that is evaluated and saved."""
        return self.full_copy if self.average is None else self.average.module  # type: ignore[return-value]

    def step(self, number: int) -> Tensor:
        """Optimizer step ``number``, counted from the start of training.

        Everything random in it is a function of (seed, epoch, step, rank).

        Returns:
            ``term_names``: loss, mean reconstruction, mean divergence, gradient norm; shape (4,), on the device.

        Raises:
            DataError, StoppedElsewhereError: the images cannot be read, here or on another rank.
        """
        recipe = self.recipe
        epoch, step = divmod(number, self.steps_per_epoch)
        at = epoch + (step + 0.5) / self.steps_per_epoch
        if not self.network.training:
            self._module.train()
        torch.manual_seed(noise_seed(recipe.seed, epoch, step, self.fabric.global_rank))
        batch = partial(self.batches, epoch, step)
        images = batch() if self.batches.images.is_local else on_all_ranks(self.fabric, batch)
        skips = recipe.on_nonfinite == "skip"
        buffers = [buffer.clone() for buffer in self.network.buffers()] if skips else []
        weight = []  # a tensor, so that compiled code takes every value; none where there is no warm-up
        if recipe.divergence_warmup:
            weight = [torch.full((), recipe.divergence_weight_at(at), device=self.fabric.device)]
        terms = self._module(images, *weight)
        self.optimizer.zero_grad()
        self.fabric.backward(terms.loss)
        norm = get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        means = (terms.loss, terms.reconstruction.mean(), terms.divergence.mean(), full_tensor(norm))
        shown = torch.stack(means).detach()
        if skips and all_reduce_max(self.fabric, not shown.isfinite().all()):
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
            return shown
        if recipe.gradient_clip is not None:
            clip_grads_with_norm_(self.network.parameters(), recipe.gradient_clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(at)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return shown

    @torch.no_grad()
    def _update_average(self, averages: Any, values: Any, steps: Any) -> None:
        """Tensors of one type, nearer to their current values; counts are copied."""
        assert self.average is not None
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, values)
            return
        decay = self.recipe.ema_at(int(self.average.n_averaged))  # on the CPU, unlike ``steps``
        torch._foreach_lerp_(averages, values, 1 - decay)

    @torch.no_grad()
    def validate(self, images: Images, prefix: str) -> dict[str, float]:
        """Means over ``images`` of the loss, its reconstruction and its divergence; names begin with ``prefix``.

        Each rank measures every ``world_size``-th batch. There are none of no images.
        """
        if not len(images):
            return {}
        self.sync_full_copy()
        network, fabric, size = self.result.eval(), self.fabric, self.recipe.batch_size
        if fabric.world_size > 1:  # the statistics of batch normalisation that will be saved
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
        dtype = torch.float32 if fabric.device.type == "mps" else torch.float64
        sums = torch.zeros(3, dtype=dtype, device=fabric.device)
        for number in range(fabric.global_rank, math.ceil(len(images) / size), fabric.world_size):
            torch.manual_seed(validation_seed(self.recipe.seed, number))
            batch = to_float(images.read(slice(number * size, (number + 1) * size)), fabric.device)
            batch = batch.to(next(self.network.parameters()).dtype)
            with fabric.autocast():
                terms = network(batch)
            sums += torch.stack([terms.loss * len(batch), terms.reconstruction.sum(), terms.divergence.sum()])
        means: Any = fabric.all_reduce(sums, reduce_op="sum") / len(images)  # type: ignore[operator]
        return {f"{prefix}_{name}": mean for name, mean in zip(self.term_names, means.tolist(), strict=False)}

    def sync_full_copy(self) -> None:
        """Gather sharded parameters into ``full_copy``, a collective call; nothing where they are not sharded."""
        if self.full_copy is not self.network:
            copies, sharded = self.full_copy.state_dict(), self.network.state_dict()
            for name, copy in copies.items():
                copy.copy_(full_tensor(sharded[name]))


def noise_seed(*numbers: int) -> int:
    """The seed of the posterior samples of one step, of (seed, epoch, step, rank)."""
    # SeedSequence takes missing numbers for zeros: rank 0 has the noise of a run with one process.
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def validation_seed(seed: int, batch: int) -> int:
    """The seed of the posterior samples of one validation batch, the same in every epoch, and that of no step."""
    return int(np.random.SeedSequence((seed, batch), spawn_key=(1,)).generate_state(1, np.uint64)[0])
