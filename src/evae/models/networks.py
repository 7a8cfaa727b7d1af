"""The convolutional bodies of Appendix C, and the same pattern at other sizes.

Sizes 16 and 32 have 4x4 filters (MNIST, Fashion-MNIST, CIFAR-10), sizes 64, 128 and 256 have 5x5 filters (CelebA).
Every encoder halves the image until 2x2 (4x4 from 64 pixels on) and pools; channels double at each step up to 256
(512 from 64 pixels on). Decoders go the other way. Batch normalisation and ReLU follow every convolution but the last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from evae.errors import ConfigError

ImageShape = tuple[int, int, int]  # (channels, height, width)
SIZES = (16, 32, 64, 128, 256)


def check_three_sizes(image_shape: ImageShape) -> ImageShape:
    """``image_shape`` as a tuple; ConfigError unless it is three positive whole numbers."""
    sizes = image_shape if isinstance(image_shape, tuple | list) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(f"image_shape must be (channels, height, width), not {image_shape!r}")
    channels, height, width = sizes
    return channels, height, width


def _channels_and_size(image_shape: ImageShape) -> tuple[int, int]:
    """ConfigError unless ``image_shape`` is (channels, size, size) with a size the networks are made for."""
    channels, height, width = check_three_sizes(image_shape)
    if height != width or height not in SIZES:
        raise ConfigError(
            f"no network for images of shape {tuple(image_shape)}: square images of {', '.join(map(str, SIZES))} "
            "pixels are supported (or pass your own encoder and decoder)"
        )
    return channels, height


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


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
        halve = partial(nn.Conv2d, kernel_size=kernel_size, stride=2, padding=(kernel_size - 1) // 2, bias=False)
        steps = (size // last).bit_length() - 1
        widths = [channels, *(widest >> i for i in reversed(range(steps)))]
        layers = [module for i, o in pairwise(widths) for module in _normalised(halve(i, o))]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ConvDecoder(nn.Sequential):
    """Latents (N, d) to the likelihood's parameter map (N, C, H, W), before its sigmoid (Appendix C).

    ``image_shape`` is (C, H, W), H = W one of 16, 32, 64, 128, 256; ConfigError for any other. ``latent_dim`` is d.
    """

    def __init__(self, image_shape: ImageShape, latent_dim: int) -> None:
        channels, size = _channels_and_size(image_shape)
        small = size < 64
        kernel_size, widest, first, reached = (4, 256, 1, 4) if small else (5, 512, 8, 8)
        pad, out = (kernel_size - 1) // 2, kernel_size % 2
        double = partial(nn.ConvTranspose2d, kernel_size=kernel_size, stride=2, padding=pad, output_padding=out)
        # One step of stride 1 (from 1x1 to 4x4, or at 8x8), then doublings.
        start = _FromPoint if small else partial(nn.ConvTranspose2d, padding=2)
        layers: list[nn.Module] = [nn.Linear(latent_dim, widest * first**2), nn.Unflatten(1, (widest, first, first))]
        width = widest // 2
        layers += _normalised(start(widest, width, kernel_size, bias=False))
        while reached < size // 2:
            layers += _normalised(double(width, width // 2, bias=False))
            width, reached = width // 2, reached * 2
        super().__init__(*layers, double(width, channels))


def count_features(body: nn.Module, image_shape: ImageShape) -> int:
    """The F of the features (N, F) that ``body`` returns for a black image; ConfigError for any other outputs."""
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
