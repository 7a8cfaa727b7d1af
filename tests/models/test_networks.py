"""The bodies of Appendix C, layer by layer, and the same pattern at other sizes."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from evae.errors import ConfigError
from evae.models.networks import SIZES, ConvDecoder, ConvEncoder, count_features


def convolutions(network):
    return [
        (type(m).__name__, m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0])
        for m in network
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]


def feature_sizes(network, inputs):
    sizes = []
    for layer in network:
        inputs = layer(inputs)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            sizes.append(inputs.shape[-1])
    return sizes


def test_32_pixel_networks_are_appendix_c1():
    encoder, decoder = ConvEncoder((3, 32, 32)), ConvDecoder((3, 32, 32), 64)
    widths = [3, 32, 64, 128, 256]
    assert convolutions(encoder) == [("Conv2d", i, o, 4, 2) for i, o in pairwise(widths)]
    assert feature_sizes(encoder, torch.zeros(2, 3, 32, 32)) == [16, 8, 4, 2]
    assert isinstance(decoder[2], nn.ConvTranspose2d)
    assert convolutions(decoder) == [
        ("_FromPoint", 256, 128, 4, 1),
        ("ConvTranspose2d", 128, 64, 4, 2),
        ("ConvTranspose2d", 64, 32, 4, 2),
        ("ConvTranspose2d", 32, 3, 4, 2),
    ]
    assert feature_sizes(decoder, torch.zeros(2, 64)) == [4, 8, 16, 32]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_decoders_start_is_a_transposed_convolution(memory_format):
    layer = ConvDecoder((1, 16, 16), 3).double().to(memory_format=memory_format)[2]
    points = torch.randn(5, layer.in_channels, 1, 1, dtype=torch.float64, requires_grad=True)
    maps = nn.functional.conv_transpose2d(points, layer.weight)
    torch.testing.assert_close(layer(points), maps)
    weights = torch.randn_like(maps)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), [points, layer.weight]) for out in (layer(points), maps))
    torch.testing.assert_close(ours, theirs)


def test_64_pixel_networks_are_appendix_c2():
    encoder, decoder = ConvEncoder((3, 64, 64)), ConvDecoder((3, 64, 64), 64)
    widths = [3, 64, 128, 256, 512]
    assert convolutions(encoder) == [("Conv2d", i, o, 5, 2) for i, o in pairwise(widths)]
    assert feature_sizes(encoder, torch.zeros(2, 3, 64, 64)) == [32, 16, 8, 4]
    assert decoder[0].out_features == 8 * 8 * 512
    assert convolutions(decoder) == [
        ("ConvTranspose2d", 512, 256, 5, 1),
        ("ConvTranspose2d", 256, 128, 5, 2),
        ("ConvTranspose2d", 128, 64, 5, 2),
        ("ConvTranspose2d", 64, 3, 5, 2),
    ]
    assert feature_sizes(decoder, torch.zeros(2, 64)) == [8, 16, 32, 64]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_maps_images_to_features_and_latents_to_images(size, channels):
    shape = (channels, size, size)
    encoder, decoder = ConvEncoder(shape), ConvDecoder(shape, 5)
    assert encoder(torch.rand(2, *shape)).shape == (2, 256 if size < 64 else 512)
    assert decoder(torch.rand(2, 5)).shape == (2, *shape)


@pytest.mark.parametrize("network", [ConvEncoder, ConvDecoder])
def test_batch_norm_and_relu_follow_every_convolution_but_the_last_decoding_one(network):
    layers = list(network((1, 32, 32)) if network is ConvEncoder else network((1, 32, 32), 8))
    for i, layer in enumerate(layers[:-1]):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert [type(x) for x in layers[i + 1 : i + 3]] == [nn.BatchNorm2d, nn.ReLU]
    if network is ConvDecoder:
        assert isinstance(layers[-1], nn.ConvTranspose2d)
        assert layers[-1].bias is not None


@pytest.mark.parametrize("shape", [(1, 48, 48), (1, 32, 16), (3, 512, 512)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ConfigError, match="16, 32, 64, 128, 256"):
        ConvEncoder(shape)


def test_features_of_a_body_are_counted_without_training_it():
    body = ConvEncoder((1, 16, 16))
    before = body[1].running_mean.clone()
    assert count_features(body, (1, 16, 16)) == 256
    assert body.training
    torch.testing.assert_close(body[1].running_mean, before)
    with pytest.raises(ConfigError, match=r"\(N, F\)"):
        count_features(nn.Identity(), (1, 16, 16))
