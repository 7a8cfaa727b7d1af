"""Where and in which arithmetic to compute: Lightning Fabric's devices, processes and precisions, and compilation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from lightning_fabric import Fabric

from evae.console import warn
from evae.errors import ConfigError, check_choice, first_line
from evae.training.sharding import fsdp

Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["32-true", "tf32", "bf16-mixed", "64-true"]
Strategy = Literal["auto", "ddp", "fsdp"]
Compile = Literal["auto", "on", "off"]


def open_fabric(
    accelerator: Accelerator, devices: int, num_nodes: int, strategy: Strategy, precision: Precision
) -> Fabric:
    """The engine, its processes not yet started.

    Raises:
        ConfigError: there is no such device, or it cannot do what is asked for.
    """
    if devices < 1 or num_nodes < 1:
        raise ConfigError(f"devices and num_nodes must be at least 1, not {devices} and {num_nodes}")
    _check_started(devices * num_nodes, num_nodes)
    check_choice("precision", precision, get_args(Precision))
    check_choice("strategy", strategy, get_args(Strategy))
    if strategy == "fsdp" and devices * num_nodes == 1:
        raise ConfigError("--strategy fsdp is for several devices; see --devices")
    if strategy == "fsdp" and precision == "64-true":
        raise ConfigError("--strategy fsdp is not for --precision 64-true")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=fsdp(devices * num_nodes) if strategy == "fsdp" else strategy,
            precision="32-true" if precision == "tf32" else precision,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--accelerator {accelerator} --devices {devices}: {error}") from error
    if fabric.device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    elif precision == "tf32":
        raise ConfigError(f"--precision tf32 is for CUDA devices, not for {fabric.device.type}")
    if precision == "bf16-mixed" and fabric.device.type == "cpu" and not _has_bf16():
        warn("this processor has no bf16 instructions: bf16-mixed is many times slower than 32-true here")
    return fabric


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices itself, as far as torch tells."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    known = [value for name, value in capabilities.items() if name in ("avx512_bf16", "amx_bf16")]
    return not known or any(known)


def _check_started(wanted: int, num_nodes: int) -> None:
    """Raise ConfigError where torchrun or srun has started another number of processes: each would train alone.

    Or where nothing tells several machines of each other: each would wait for the others for ever.
    """
    name = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_NTASKS"
    is_slurm = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if name == "SLURM_NTASKS" and not is_slurm:
        if num_nodes > 1 and "MASTER_ADDR" not in os.environ:
            raise ConfigError(f"--num_nodes {num_nodes}: start it on each machine with torchrun, or with srun")
        return
    started = os.environ.get(name, "1")
    if started != str(wanted):
        raise ConfigError(f"{started} processes were started ({name}); --devices times --num_nodes is {wanted}")


def is_first_process() -> bool:
    """Whether this is the process that writes; known before the others are started, from what started this one."""
    ranks = [os.environ.get(name, "0") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")]
    return all(rank == "0" for rank in ranks)


def compiles(choice: Compile, device: torch.device) -> bool:
    """Whether to compile: by default on CUDA, where starting each kernel by itself is what limits small networks.

    Raises:
        ConfigError: it is none of the choices.
    """
    check_choice("compile", choice, get_args(Compile))
    return choice == "on" or (choice == "auto" and device.type == "cuda")


@contextmanager
def hints(batch_size: int) -> Iterator[None]:
    """Say which option to change where memory runs out or the model cannot be compiled."""
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
            f"out of memory with batches of {batch_size} images: lower --batch_size, --image_size or what makes the "
            "network large (--model.latent_dim, ...); what was saved is kept"
        ) from error
