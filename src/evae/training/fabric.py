"""Where and in which arithmetic to compute: Lightning Fabric's devices, processes and precisions."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch.distributions import Distribution

from evae.console import warn
from evae.errors import ConfigError, first_line
from evae.training.settings import Compute, Precision
from evae.training.sharding import fsdp


def open_fabric(compute: Compute) -> Fabric:
    """The engine, its processes not yet started.

    Raises:
        ConfigError: there is no such device, or it cannot do what is asked for.
    """
    _check_started(compute.processes, compute.num_nodes)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The `srun` command is available")  # a single process needs none
            fabric = Fabric(
                accelerator=compute.accelerator,
                devices=compute.devices,
                num_nodes=compute.num_nodes,
                strategy=fsdp(compute.processes) if compute.strategy == "fsdp" else compute.strategy,
                precision="32-true" if compute.precision == "tf32" else compute.precision,
            )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--accelerator {compute.accelerator} --devices {compute.devices}: {error}") from error
    device = fabric.device.type
    if device != "cuda" and compute.precision == "tf32":
        raise ConfigError(f"--precision tf32 is for CUDA devices, not for {device}")
    if device != "cuda" and compute.sync_batchnorm and compute.processes > 1:
        raise ConfigError(f"--sync-batchnorm is for CUDA devices, not for several processes on {device}")
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    bf16 = [has for name, has in capabilities.items() if name in ("avx512_bf16", "amx_bf16")]  # torch may tell nothing
    if device == "cpu" and compute.precision == "bf16-mixed" and bf16 and not any(bf16):
        warn("this processor has no bf16 instructions: bf16-mixed is many times slower than 32-true here")
    return fabric


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """TF32 on or off, as ``precision`` says; torch's global settings are put back afterwards."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    validates = Distribution._validate_args  # which torch.compile turns off
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
        Distribution.set_default_validate_args(validates)


def _check_started(wanted: int, num_nodes: int) -> None:
    """Raise ConfigError where torchrun or srun started another number of processes, or nothing connects the nodes."""
    name = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_NTASKS"
    is_slurm = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if name == "SLURM_NTASKS" and not is_slurm:
        if num_nodes > 1 and "MASTER_ADDR" not in os.environ:
            raise ConfigError(f"--num-nodes {num_nodes}: start it on each machine with torchrun, or with srun")
        return
    started = os.environ.get(name, "1")
    if started != str(wanted):
        raise ConfigError(f"{started} processes were started ({name}); --devices times --num-nodes is {wanted}")


@contextmanager
def explain_memory_errors(batch_size: int) -> Iterator[None]:
    """Name the option to change where memory runs out or the model cannot be compiled."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise ConfigError(
                f"the model cannot be compiled here ({first_line(error)}); --compile off trains without"
            ) from error
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ConfigError(
            f"out of memory with batches of {batch_size} images: lower --batch-size, --image-size or what makes the "
            "network large (--model.latent_dim, ...); what was saved is kept"
        ) from error
