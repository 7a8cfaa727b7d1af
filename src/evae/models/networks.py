"""The convolutional bodies of Appendix C, and the same pattern at other sizes.

Sizes 16 and 32 have 4x4 filters (MNIST, Fashion-MNIST, CIFAR-10), sizes 64, 128 and 256 have 5x5 filters (CelebA).
Every encoder halves the image until 2x2 (4x4 from 64 pixels on) and pools; channels double at each step up to 256
(512 from 64 pixels on). Decoders go the other way. Batch normalisation and ReLU follow every convolution but the
last, whose output is one number per pixel and channel for the likelihood.
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


def check_image_shape(image_shape: ImageShape) -> None:
    """Raise ConfigError unless ``image_shape`` is (channels, size, size) with a size the networks are made for."""
    _, height, width = check_three_sizes(image_shape)
    if height != width or height not in SIZES:
        sizes = ", ".join(map(str, SIZES))
        raise ConfigError(
            f"no network for images of shape {tuple(image_shape)}: square images of {sizes} pixels are supported "
            "(or pass your own encoder and decoder)"
        )


def _convolution(inputs: int, outputs: int, kernel_size: int) -> list[nn.Module]:
    """Halve height and width."""
    padding = (kernel_size - 1) // 2
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride=2, padding=padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _upsampling(inputs: int, outputs: int, kernel_size: int, bias: bool = False) -> nn.ConvTranspose2d:
    """Double height and width."""
    return nn.ConvTranspose2d(
        inputs,
        outputs,
        kernel_size,
        stride=2,
        padding=(kernel_size - 1) // 2,
        output_padding=kernel_size % 2,
        bias=bias,
    )


class _FromPoint(nn.ConvTranspose2d):
    """A transposed convolution of 1x1 images, (N, I, 1, 1) to (N, O, K, K), without padding.

    It is computed as one product of matrices, (N, I) by (I, K·K·O), five times as fast on CPU as the general
    algorithm, which took an eighth of the time of training (benchmarks/results/throughput.md). Only ``weight`` is used.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The images (N, O, K, K), channels last."""
        _, outputs, height, width = self.weight.shape
        product = input.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)
        return product.view(-1, height, width, outputs).permute(0, 3, 1, 2)


class ConvEncoder(nn.Sequential):
    """Images (N, C, H, W) to features (N, 256), or (N, 512) from 64 pixels on (Appendix C).

    Args:
        image_shape: (C, H, W), H = W one of 16, 32, 64, 128, 256.

    Raises:
        ConfigError: there is no such network for this shape.
    """

    def __init__(self, image_shape: ImageShape) -> None:
        check_image_shape(image_shape)
        channels, size, _ = image_shape
        small = size < 64
        kernel_size, widest, last = (4, 256, 2) if small else (5, 512, 4)
        steps = (size // last).bit_length() - 1
        widths = [channels, *(widest >> i for i in reversed(range(steps)))]
        layers = [m for i, o in pairwise(widths) for m in _convolution(i, o, kernel_size)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ConvDecoder(nn.Sequential):
    """Latents (N, d) to the likelihood's parameter map (N, C, H, W), before its sigmoid (Appendix C).

    Args:
        image_shape: (C, H, W), H = W one of 16, 32, 64, 128, 256.
        latent_dim: d.

    Raises:
        ConfigError: there is no such network for this shape.
    """

    def __init__(self, image_shape: ImageShape, latent_dim: int) -> None:
        check_image_shape(image_shape)
        channels, size, _ = image_shape
        small = size < 64
        kernel_size, widest, first = (4, 256, 1) if small else (5, 512, 8)
        width = widest // 2
        # One step of stride 1 (from 1x1 to 4x4, or at 8x8), then doublings.
        start = _FromPoint if small else partial(nn.ConvTranspose2d, padding=2)
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widest * first * first),
            nn.Unflatten(1, (widest, first, first)),
            start(widest, width, kernel_size, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        reached = 4 if small else 8
        while reached < size // 2:
            layers += [_upsampling(width, width // 2, kernel_size), nn.BatchNorm2d(width // 2), nn.ReLU(inplace=True)]
            width, reached = width // 2, reached * 2
        super().__init__(*layers, _upsampling(width, channels, kernel_size, bias=True))


def count_features(body: nn.Module, image_shape: ImageShape) -> int:
    """The F of the features (N, F) that ``body`` returns, found by applying it to one black image.

    Raises:
        ConfigError: ``body`` does not return features of shape (N, F).
    """
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
        raise ConfigError(
            f"the network cannot take inputs of shape (N, {', '.join(map(str, inputs.shape[1:]))}): {error}"
        ) from error
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
