"""Weights, gradients and the optimizer's state shared out between processes (FSDP), and made whole to be saved."""

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def fsdp(processes: int) -> ModelParallelStrategy:
    """The strategy for Fabric that shares out a VAE's weights when it is set up."""
    return ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1)


def is_sharded(fabric: Fabric) -> bool:
    """Whether it shares out weights."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def _shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """In place, as one part: FSDP frees no part's weights in mid-step if it returns, as encoders do, a distribution."""
    fully_shard(network, mesh=mesh["data_parallel"])
    return network


def whole(value: Tensor) -> Tensor:
    """All of a tensor that is shared out, which every process has to ask for; any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def laid_out_as(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, on the device, in the order in memory and shared out as ``like`` is."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return torch.empty_like(like).copy_(value)
