"""Where torch computes, and its global state: changed for a while, then put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evae import checks
from evae.errors import ConfigError, first_line


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch has no such module, too
        raise ConfigError(f"--device {name} cannot be used ({first_line(error)})") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of all devices from ``seed``; the caller's generators continue afterwards as if unused."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(checks.seed(seed))
        yield
