"""Two sets of convolutional networks, each with one pattern for all sizes, and an MLP for rows of numbers or images.

"paper" is Appendix C's, "rae" that of the regularised autoencoder (Ghosh et al., ICLR 2020), with 18 times
the weights at 32 pixels, 4 times at 64.

Sizes 16 and 32 have 4x4 filters (MNIST, Fashion-MNIST, CIFAR-10), sizes 64, 128 and 256 have 5x5 filters (CelebA).
Every encoder halves the image until 2x2 (4x4 from 64 pixels on); channels double at each step up to 256 (512 from 64
pixels on; "rae" 1024). "paper" then takes means over pixels, "rae" all of them. Decoders go the other way. Batch
normalisation and ReLU follow every convolution but the last. "mlp" has linear layers, each followed by a leaky ReLU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import pairwise
from math import prod
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from evae.checks import one_of, whole_number
from evae.errors import ConfigError

M = TypeVar("M", bound=nn.Module)

ImageShape = tuple[int, ...]  # (channels, height, width) of an image, (columns,) of a row of numbers
SIZES = (16, 32, 64, 128, 256)


DEFAULT_WIDTHS = (256, 256)


def check_shape(image_shape: ImageShape) -> ImageShape:
    """``image_shape`` as a tuple; ConfigError unless it is one or three positive whole numbers."""
    sizes = image_shape if isinstance(image_shape, tuple | list) else ()
    if len(sizes) not in (1, 3) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(
            f"image_shape must be (channels, height, width), or (columns,) for rows of numbers, not {image_shape!r}"
        )
    return tuple(sizes)


def is_row(image_shape: ImageShape) -> bool:
    """Whether it is the shape of a row of numbers, (columns,), not of an image."""
    return len(image_shape) == 1


def _channels_and_size(image_shape: ImageShape) -> tuple[int, int]:
    """ConfigError unless ``image_shape`` is (channels, size, size) with a size the networks are made for."""
    if is_row(check_shape(image_shape)):
        raise ConfigError("these networks are for images; rows of numbers take --model.networks mlp")
    channels, height, width = image_shape
    if height != width or height not in SIZES:
        raise ConfigError(
            f"no network for images of shape {tuple(image_shape)}: square images of {', '.join(map(str, SIZES))} "
            "pixels are supported (or pass your own encoder and decoder)"
        )
    return channels, height


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


def _halved(channels: int, size: int, last: int, widest: int, kernel_size: int) -> list[nn.Module]:
    """Convolutions of stride 2 from ``size`` to ``last`` pixels; channels double at each, up to ``widest``."""
    halve = partial(nn.Conv2d, kernel_size=kernel_size, stride=2, padding=(kernel_size - 1) // 2, bias=False)
    steps = (size // last).bit_length() - 1
    widths = [channels, *(widest >> i for i in reversed(range(steps)))]
    return [module for i, o in pairwise(widths) for module in _normalised(halve(i, o))]


def _doubling(kernel_size: int) -> Callable[..., nn.ConvTranspose2d]:
    """Transposed convolutions that double the size exactly."""
    pad, out = (kernel_size - 1) // 2, kernel_size % 2
    return partial(nn.ConvTranspose2d, kernel_size=kernel_size, stride=2, padding=pad, output_padding=out)


class _FromPoint(nn.ConvTranspose2d):
    """A transposed convolution of 1x1 images, (N, I, 1, 1) to (N, O, K, K), without padding.

    It is one product of matrices, (N, I) by (I, K·K·O), five times as fast on CPU as the general algorithm, which took
    an eighth of the time of training (benchmarks/results/throughput.md). Only ``weight`` is used.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The images (N, O, K, K), channels last."""
        _, outputs, height, width = self.weight.shape
        product = input.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)
        return product.view(-1, height, width, outputs).permute(0, 3, 1, 2)


class ConvEncoder(nn.Sequential):
    """Images (N, C, H, W) to features (N, 256), or (N, 512) from 64 pixels on (Appendix C).

    ``image_shape`` is (C, H, W), H = W one of 16, 32, 64, 128, 256; ConfigError for any other.
    """

    def __init__(self, image_shape: ImageShape) -> None:
        channels, size = _channels_and_size(image_shape)
        kernel_size, widest, last = (4, 256, 2) if size < 64 else (5, 512, 4)
        super().__init__(*_halved(channels, size, last, widest, kernel_size), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ConvDecoder(nn.Sequential):
    """Latents (N, d) to the likelihood's parameter map (N, C, H, W), before its sigmoid (Appendix C).

    ``image_shape`` is (C, H, W), H = W one of 16, 32, 64, 128, 256; ConfigError for any other. ``latent_dim`` is d.
    """

    def __init__(self, image_shape: ImageShape, latent_dim: int) -> None:
        channels, size = _channels_and_size(image_shape)
        small = size < 64
        kernel_size, widest, first, reached = (4, 256, 1, 4) if small else (5, 512, 8, 8)
        double = _doubling(kernel_size)
        # One step of stride 1 (from 1x1 to 4x4, or at 8x8), then doublings.
        start = _FromPoint if small else partial(nn.ConvTranspose2d, padding=2)
        layers: list[nn.Module] = [nn.Linear(latent_dim, widest * first**2), nn.Unflatten(1, (widest, first, first))]
        width = widest // 2
        layers += _normalised(start(widest, width, kernel_size, bias=False))
        while reached < size // 2:
            layers += _normalised(double(width, width // 2, bias=False))
            width, reached = width // 2, reached * 2
        super().__init__(*layers, double(width, channels))


class RaeEncoder(nn.Sequential):
    """Images (N, C, H, W) to features (N, 4096), or (N, 16384) from 64 pixels on (Ghosh et al., ICLR 2020).

    At 32 and 64 pixels, convolutions of stride 2 to 128, 256, 512 and 1024 channels, all of whose pixels are features.
    ``image_shape`` is (C, H, W), H = W one of 16, 32, 64, 128, 256; ConfigError for any other.
    """

    def __init__(self, image_shape: ImageShape) -> None:
        channels, size = _channels_and_size(image_shape)
        kernel_size, last = (4, 2) if size < 64 else (5, 4)
        super().__init__(*_halved(channels, size, last, 1024, kernel_size), nn.Flatten())


class RaeDecoder(nn.Sequential):
    """Latents (N, d) to the likelihood's parameter map (N, C, H, W), before its sigmoid (Ghosh et al., ICLR 2020).

    A linear layer to 1024 maps of 8x8; transposed convolutions of stride 2 to 512, 256, ... channels until the image's
    size, 256 at 32 pixels, 128 at 64; and one of stride 1 to C channels. Their "same" padding of that one, for 4x4
    filters, is one pixel more at the start. ``image_shape`` is (C, H, W), H = W one of 16, 32, 64, 128, 256;
    ConfigError for any other. ``latent_dim`` is d.
    """

    def __init__(self, image_shape: ImageShape, latent_dim: int) -> None:
        channels, size = _channels_and_size(image_shape)
        width, reached, kernel_size = 1024, 8, 4 if size < 64 else 5
        double = _doubling(kernel_size)
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, width * reached**2),
            nn.Unflatten(1, (width, reached, reached)),
        ]
        while reached < size:
            layers += _normalised(double(width, width // 2, bias=False))
            width, reached = width // 2, reached * 2
        # A transposed convolution of stride 1 is a convolution with turned filters; torch's own cannot pad unevenly.
        before, after = kernel_size // 2, (kernel_size - 1) // 2
        same = nn.ZeroPad2d((before, after, before, after))
        super().__init__(*layers, same, nn.Conv2d(width, channels, kernel_size))


def _hidden(inputs: int, widths: Sequence[int]) -> list[nn.Module]:
    """Linear layers of these widths, each followed by a leaky ReLU, max(x, 0.01 x)."""
    return [module for i, o in pairwise([inputs, *widths]) for module in (nn.Linear(i, o), nn.LeakyReLU())]


class MlpEncoder(nn.Sequential):
    """Rows (N, F) or images (N, C, H, W) to features (N, width of the last layer)."""

    def __init__(self, image_shape: ImageShape, widths: Sequence[int] = DEFAULT_WIDTHS) -> None:
        super().__init__(nn.Flatten(), *_hidden(prod(image_shape), widths))


class MlpDecoder(nn.Sequential):
    """Latents (N, d) to maps of the images' or rows' shape, through the encoder's widths in reverse order."""

    def __init__(self, image_shape: ImageShape, latent_dim: int, widths: Sequence[int] = DEFAULT_WIDTHS) -> None:
        back = [*reversed(widths)]
        last = nn.Linear(back[-1], prod(image_shape))
        super().__init__(*_hidden(latent_dim, back), last, nn.Unflatten(1, image_shape))


class Architecture(NamedTuple):
    """The networks of one name: from (C, H, W) or (F,), and from that and d."""

    encoder: Callable[[ImageShape], nn.Module]
    decoder: Callable[[ImageShape, int], nn.Module]


ARCHITECTURES = {
    "paper": Architecture(ConvEncoder, ConvDecoder),
    "rae": Architecture(RaeEncoder, RaeDecoder),
    "mlp": Architecture(MlpEncoder, MlpDecoder),
}


def architecture(name: str, widths: Sequence[int] | None = None) -> Architecture:
    """The networks of a name; ``widths`` are the hidden layers of "mlp", default ``DEFAULT_WIDTHS``.

    Raises:
        ConfigError: there are no networks of this name, or widths are given that are no positive whole numbers or that
            they do not have.
    """
    if one_of("networks", name, ARCHITECTURES) != "mlp" and widths is not None:
        raise ConfigError(f"widths are for networks 'mlp'; {name!r} has its own")
    if widths is None:
        return ARCHITECTURES[name]
    hidden = tuple(whole_number("widths", width) for width in widths)
    if not hidden:
        raise ConfigError("widths must hold at least one width of a hidden layer")
    return Architecture(partial(MlpEncoder, widths=hidden), partial(MlpDecoder, widths=hidden))


def count_features(body: nn.Module, image_shape: ImageShape) -> int:
    """The F of the features (N, F) that ``body`` returns for zeros; ConfigError for any other outputs."""
    features = _tried(body, torch.zeros(1, *image_shape))
    if features.ndim != 2 or len(features) != 1:
        raise ConfigError(
            f"the encoder must turn images of shape (N, {', '.join(map(str, image_shape))}) into features of "
            f"shape (N, F); for N = 1 it returned {tuple(features.shape)}"
        )
    return features.shape[1]


def check_decoder(decoder: nn.Module, image_shape: ImageShape, latent_dim: int) -> None:
    """Raise ConfigError unless the decoder turns a latent vector into maps of the images' shape."""
    maps = _tried(decoder, torch.zeros(1, latent_dim))
    if maps.shape != (1, *image_shape):
        raise ConfigError(
            f"the decoder must turn latents of shape (N, {latent_dim}) into maps of shape "
            f"(N, {', '.join(map(str, image_shape))}); for N = 1 it returned {tuple(maps.shape)}"
        )


def _tried(network: nn.Module, inputs: Tensor) -> Tensor:
    """The network's outputs in evaluation mode; its own mode is restored."""
    try:
        with torch.no_grad(), evaluation_mode(network):
            outputs: Tensor = network(inputs)
    except (RuntimeError, ValueError, TypeError) as error:
        shape = ", ".join(map(str, inputs.shape[1:]))
        raise ConfigError(f"the network cannot take inputs of shape (N, {shape}): {error}") from error
    return outputs


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module's own mode is restored afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def evaluated(network: M) -> M:
    """The network in evaluation mode: itself, or a copy with the same parameters and buffers.

    Its own mode stays, which another thread may depend on.
    """
    if not any(module.training for module in network.modules()):
        return network
    twins: dict[nn.Module, nn.Module] = {}

    def twin_of(module: nn.Module) -> nn.Module:
        if module not in twins:
            twins[module] = twin = copy(module)
            children = module._modules.items()
            twin.__dict__["_modules"] = {name: child and twin_of(child) for name, child in children}
            twin.training = False
        return twins[module]

    return cast(M, twin_of(network))
