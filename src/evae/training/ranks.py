"""What makes several processes train as one would."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from evae.errors import EvaeError

_Result = TypeVar("_Result")


class StoppedElsewhereError(EvaeError):
    """Another process has failed."""


def first(fabric: Fabric, work: Callable[[], object]) -> None:
    """Let the first process do what only one may; see ``together``."""
    together(fabric, work if fabric.is_global_zero else lambda: None)


def together(fabric: Fabric, work: Callable[[], _Result]) -> _Result:
    """Let all processes do something; where one fails, all stop, and none waits for it for ever.

    Raises:
        StoppedElsewhereError: another process has failed, for the reason that it names.
    """
    error: EvaeError | OSError | None = None
    try:
        result = work()
    except (EvaeError, OSError) as caught:
        error = caught
    failed = largest(fabric, error is not None)
    if failed and fabric.world_size > 1:
        reasons: list[str | None] = [None] * fabric.world_size
        dist.all_gather_object(reasons, None if error is None else str(error))
        if error is None:
            raise StoppedElsewhereError(next(reason for reason in reasons if reason is not None))
    if error is not None:
        raise error
    return result


def largest(fabric: Fabric, number: int) -> int:
    """Of the numbers of all processes."""
    if fabric.world_size == 1:
        return int(number)
    own = torch.tensor(int(number), device=fabric.device)
    return int(fabric.all_reduce(own, reduce_op="max"))  # type: ignore[arg-type]


class SharedNoise(TorchDispatchMode):
    """Random numbers for the rows of a batch as one process would draw them for all of it.

    With the same seed in all processes each draws the noise of the whole batch and keeps that of its own rows, so
    that a run does not depend on the number of its processes. (Samplers that reject proposals draw more or fewer
    numbers for other rows: their draws are right, but not those of one process.)

    Args:
        rows: of the batch in each process; a random tensor's first dimension of this size is the batch.
        rank, world_size: which of how many processes this is.
    """

    def __init__(self, rows: int, rank: int, world_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.rank, self.world_size = rows, rank, world_size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        scaled: list[int] = []
        whole = partial(self._whole, scaled)
        drawn = func(*tree_map(whole, args, is_leaf=_is_shape), **tree_map(whole, kwargs))
        own = tree_map(partial(self._own, scaled[0]), drawn) if scaled else drawn
        if func._schema.is_mutable:  # an in-place sampler has filled a copy
            return args[0].copy_(own)
        return own

    def _whole(self, scaled: list[int], value: Any) -> Any:
        """A tensor, or the sizes of one, as they would be for the whole batch; notes which dimension that is."""
        sizes = value.shape if isinstance(value, Tensor) else value if _is_shape(value) else ()
        if self.rows not in sizes:
            return value
        at = list(sizes).index(self.rows)
        scaled.append(at)
        if isinstance(value, Tensor):
            return torch.cat([value] * self.world_size, at)
        return [*sizes[:at], self.rows * self.world_size, *sizes[at + 1 :]]

    def _own(self, at: int, value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim > at and value.shape[at] == self.rows * self.world_size:
            return value.narrow(at, self.rank * self.rows, self.rows).clone()
        return value


def _is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(size) is int for size in value)


class _Sum(torch.autograd.Function):
    """The sum over all processes, of values and of gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of all processes' rows, each having as many; on CPU, too.

    (torch.nn.SyncBatchNorm refuses tensors on a CPU.)
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.numel() // values.shape[1] * dist.get_world_size()
        mean = _total(values.sum(dims)) / count
        centred = values - mean.view(shape)
        variance = _total(centred.square().sum(dims)) / count
        self._note(mean.detach(), variance.detach() * count / max(1, count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _note(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


_total: Callable[[Tensor], Tensor] = _Sum.apply


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let every batch normalisation in the network use the statistics of all processes; names of weights stay."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SynchronisedBatchNorm):
                other = SynchronisedBatchNorm(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                state = child.state_dict()
                other.load_state_dict(state)
                like = next((value for value in state.values() if value.is_floating_point()), torch.empty(0))
                setattr(module, name, other.to(like.device, like.dtype))
