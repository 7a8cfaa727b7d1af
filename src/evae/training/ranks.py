"""What the ranks of a distributed run agree on, so that none waits for another that has failed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from evae.errors import EvaeError, first_line

T = TypeVar("T")

_FAILURE = "evae/failure"  # key in the store through which the processes found each other


class StoppedElsewhereError(EvaeError):
    """Another rank has failed."""


def on_rank_zero(fabric: Fabric, work: Callable[[], object]) -> None:
    """Run ``work`` on the first rank only; see ``on_all_ranks``."""
    on_all_ranks(fabric, work if fabric.is_global_zero else lambda: None)


def on_all_ranks(fabric: Fabric, work: Callable[[], T]) -> T:
    """Run ``work`` on every rank, a collective call: where it fails on one, all stop.

    Raises:
        StoppedElsewhereError: it has failed on another rank, for the reason that the message gives.
    """
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:  # whatever it is, the other ranks must not wait
        error = caught
    if fabric.world_size > 1 and all_reduce_max(fabric, error is not None):
        reasons: list[str | None] = [None] * fabric.world_size
        dist.all_gather_object(reasons, None if error is None else first_line(error))
        if error is None:
            raise StoppedElsewhereError(next(reason for reason in reasons if reason is not None))
    if error is not None:
        raise error
    return result


def all_reduce_max(fabric: Fabric, number: int) -> int:
    """The largest of the ranks' numbers."""
    if fabric.world_size == 1:
        return int(number)
    own = torch.tensor(int(number), device=fabric.device)
    return int(fabric.all_reduce(own, reduce_op="max"))  # type: ignore[arg-type]


@contextmanager
def shared_failures(fabric: Fabric) -> Iterator[None]:
    """Where one rank fails in the middle of a step, let the others stop with its reason.

    The failing rank leaves its reason in the processes' store and closes its connections when it exits, by which the
    collectives of the others fail.

    Raises:
        StoppedElsewhereError: another rank has failed.
    """
    try:
        yield
    except Exception as error:
        if fabric.world_size == 1 or isinstance(error, StoppedElsewhereError):
            raise
        # The store of the default process group, which torch has no public name for.
        find = getattr(dist.distributed_c10d, "_get_default_store", None)
        store = find() if find and dist.is_initialized() else None
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            reason = "a connection was lost"
            with suppress(RuntimeError):
                reason = store.get(_FAILURE).decode() if store and store.check([_FAILURE]) else reason
            raise StoppedElsewhereError(f"another process has failed: {reason}") from error
        with suppress(RuntimeError):
            if store:
                store.set(_FAILURE, f"rank {fabric.global_rank}: {first_line(error)}")
        raise
