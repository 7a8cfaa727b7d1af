"""The networks of a model as ONNX graphs of any batch size, each compared with torch when it is made."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evae.errors import ConfigError, RunError, first_line
from evae.exporting.samplers import Sampler
from evae.models import VAE

TOLERANCE = 1e-5
OPSET = 20
_BATCHES = (1, 7, 100)  # sizes at which a graph is compared with torch


@dataclass(frozen=True)
class Graph:
    """A network as an ONNX file, with what it takes and returns.

    Attributes:
        name: of the network and of its file: encoder, decoder or prior.
        content: the file.
        inputs: their names, and the shape of one item.
        output: its name, and the shape of one item.
        difference: the largest found between onnxruntime and torch, relative to max(1, |value|).
    """

    name: str
    content: bytes
    inputs: dict[str, tuple[int, ...]]
    output: tuple[str, tuple[int, ...]]
    difference: float


class _Encoder(nn.Module):
    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.code(self.model.encoder(images))  # without the checks of ``encode``


class _Decoder(nn.Module):
    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes)


class _Prior(nn.Module):
    """A sampler with those of its inputs that it uses."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        if second is not None:
            return self.sampler(first, second)
        none = first[:, :0]
        return self.sampler(first, none) if self.sampler.uniforms else self.sampler(none, first)


@torch.no_grad()
def encoder_graph(model: VAE, images: Tensor) -> Graph:
    """From images (N, C, H, W), or rows (N, F), to codes (N, d): the posterior's mean, on a sphere its mean direction.

    Args:
        model: in evaluation mode, on the CPU.
        images: some to compare with, in [0, 1]; or standardised rows.

    Raises:
        ConfigError: torch cannot export the network, or onnxruntime cannot run it.
        RunError: onnxruntime computes something else.
    """
    return _graph("encoder", _Encoder(model), {_kind(model): images}, "codes")


@torch.no_grad()
def decoder_graph(model: VAE, codes: Tensor) -> Graph:
    """From codes (N, d) to mean images (N, C, H, W) in [0, 1], or standardised rows; errors as of ``encoder_graph``."""
    return _graph("decoder", _Decoder(model), {"codes": codes}, _kind(model))


def _kind(model: VAE) -> str:
    return "rows" if model.is_row else "images"


@torch.no_grad()
def prior_graph(sampler: Sampler, noise: dict[str, Tensor]) -> Graph:
    """From ``noise_for`` the sampler to codes (N, d); errors as of ``encoder_graph``."""
    return _graph("prior", _Prior(sampler), noise, "codes")


def noise_for(sampler: Sampler, count: int) -> dict[str, Tensor]:
    """Draws for a sampler: "uniform" (count, U) in [0, 1) and "normal" (count, M), without those that it does not use.

    They are drawn from torch's generator.
    """
    noise = {"uniform": torch.rand(count, sampler.uniforms), "normal": torch.randn(count, sampler.normals)}
    return {name: values for name, values in noise.items() if values.shape[1]}


def _graph(name: str, network: nn.Module, inputs: dict[str, Tensor], output: str) -> Graph:
    network.eval()
    content = _exported(name, network, inputs, output)
    difference, shape = _compared(name, content, network, inputs)
    if not difference <= TOLERANCE:  # also NaN
        raise RunError(
            f"{name}.onnx differs from torch by {difference:.2g}, more than {TOLERANCE:g}, and is not written; "
            "another version of onnxruntime or torch may compute it more exactly"
        )
    shapes = {key: tuple(values.shape[1:]) for key, values in inputs.items()}
    return Graph(name, content, shapes, (output, shape), difference)


def _exported(name: str, network: nn.Module, inputs: dict[str, Tensor], output: str) -> bytes:
    examples = tuple(_cycled(values, 2) for values in inputs.values())  # of one, torch would fix the batch size
    batch = torch.export.Dim("batch")
    try:
        with _quietly():
            program = torch.onnx.export(
                network,
                examples,
                dynamo=True,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=tuple({0: batch} for _ in examples),
                external_data=False,
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        proto: Any = program.model_proto
    except Exception as error:  # of many kinds, and of anyone's network
        raise ConfigError(
            f"the {name} of this model cannot be exported ({_reason(error)}); networks of your own must be of "
            "operations that torch.export and ONNX have, for any batch size"
        ) from error
    for node in proto.graph.node:  # the stack of calls, with names of files
        del node.metadata_props[:]
    content: bytes = proto.SerializeToString()
    return content


def _reason(error: BaseException) -> str:
    """The first line of the error that the exporter's own errors come from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's warnings and messages, which are about its own parts; its errors have all that matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compared(
    name: str, content: bytes, network: nn.Module, inputs: dict[str, Tensor]
) -> tuple[float, tuple[int, ...]]:
    """The largest difference at several batch sizes, and the shape of one item of the output."""
    largest, shape = 0.0, tuple[int, ...]()
    try:
        session = open_session(content)
        for size in _BATCHES:
            batch = {key: _cycled(values, size) for key, values in inputs.items()}
            found = session.run(None, {key: values.numpy() for key, values in batch.items()})[0]
            expected = network(*batch.values()).numpy()
            if found.shape != expected.shape:
                raise ValueError(f"a batch of {size} gives shape {found.shape}, not {expected.shape}")
            largest, shape = np.maximum(largest, _difference(found, expected)), expected.shape[1:]
    except Exception as error:  # of onnxruntime, which has one kind for each of its own failures
        raise ConfigError(f"{name}.onnx cannot be run by onnxruntime ({first_line(error)})") from error
    return float(largest), tuple(shape)


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max(initial=0))


def _cycled(values: Tensor, size: int) -> Tensor:
    """``size`` of the values, from the first again after the last."""
    return values[torch.arange(size) % len(values)].contiguous()


def open_session(content: bytes) -> Any:
    """An ONNX file in onnxruntime, on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def check_extra(packages: Sequence[str] = ("onnx", "onnxscript", "onnxruntime")) -> None:
    """Raise ConfigError unless the packages of the extra ``evae[export]`` can be imported."""
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ConfigError(f"evae export needs pip install 'evae[export]' ({error})") from error
