"""Fully sharded data parallelism (FSDP): parameters, gradients and optimizer state sharded over the ranks."""

from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from evae.errors import ConfigError


def fsdp(processes: int) -> ModelParallelStrategy:
    """The strategy for Fabric that shards a VAE when it is set up."""
    return ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1)


def is_sharded(fabric: Fabric) -> bool:
    """Whether it shards parameters."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def check_shardable(network: nn.Module) -> None:
    """Raise ConfigError unless FSDP can shard all parameters."""
    if scalars := [name for name, weight in network.named_parameters() if weight.ndim == 0]:
        raise ConfigError(f"FSDP cannot shard scalar parameters ({scalars[0]}); use --strategy ddp")


def _shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """In place. Layers of nn.Sequential are gathered only while they compute, all else during the whole step.

    (FSDP gathers a module's parameters for the backward pass through its output, if that is made of tensors; an
    encoder's is a distribution.)
    """
    for sequence in reversed([module for module in network.modules() if isinstance(module, nn.Sequential)]):
        for layer in sequence:
            if not isinstance(layer, FSDPModule) and any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh["data_parallel"])
    fully_shard(network, mesh=mesh["data_parallel"])
    return network
