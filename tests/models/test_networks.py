"""The networks of Appendix C and of the RAE, layer by layer, and the same patterns at other sizes."""

import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from evae import EVAE, VAE, VampVAE
from evae.errors import ConfigError
from evae.models.networks import ARCHITECTURES, SIZES, ConvDecoder, ConvEncoder, count_features
from tests.models import nets


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


class TestRae:
    """Those of Ghosh et al.: 4x4 filters at 32 pixels, 5x5 at 64, twice as many channels at every step."""

    @pytest.mark.parametrize(("size", "kernel_size", "last"), [(32, 4, 2), (64, 5, 4)])
    def test_the_encoder(self, size, kernel_size, last):
        encoder = ARCHITECTURES["rae"].encoder((3, size, size))
        widths = [3, 128, 256, 512, 1024]
        assert convolutions(encoder) == [("Conv2d", i, o, kernel_size, 2) for i, o in pairwise(widths)]
        assert encoder(torch.zeros(2, 3, size, size)).shape == (2, 1024 * last**2)

    @pytest.mark.parametrize(("size", "kernel_size", "widths"), [(32, 4, [512, 256]), (64, 5, [512, 256, 128])])
    def test_the_decoder(self, size, kernel_size, widths):
        decoder = ARCHITECTURES["rae"].decoder((3, size, size), 64)
        doublings = [("ConvTranspose2d", i, o, kernel_size, 2) for i, o in pairwise([1024, *widths])]
        assert decoder[0].out_features == 8 * 8 * 1024
        assert convolutions(decoder) == [*doublings, ("Conv2d", widths[-1], 3, kernel_size, 1)]
        sizes = [16 << i for i in range(len(widths))]
        assert feature_sizes(decoder, torch.zeros(2, 64)) == [*sizes, size]

    def test_the_number_of_weights(self):
        encoder, decoder = (make((1, 32, 32), *d) for make, d in zip(ARCHITECTURES["rae"], [(), (16,)], strict=True))
        normalisation = 2 * (128 + 256 + 512 + 1024)
        filters = 16 * (1 * 128 + 128 * 256 + 256 * 512 + 512 * 1024)
        assert sum(p.numel() for p in encoder.parameters()) == filters + normalisation
        linear, filters, last = 17 * 65536, 16 * (1024 * 512 + 512 * 256), 16 * 256 + 1
        assert sum(p.numel() for p in decoder.parameters()) == linear + filters + 2 * (512 + 256) + last

    @pytest.mark.parametrize("kernel_size", [4, 5])
    def test_the_last_layer_is_a_transposed_convolution_with_same_padding(self, kernel_size):
        """TensorFlow's: of the (k - 1) pixels too many, the smaller half is cut off at the start."""
        size = {4: 32, 5: 64}[kernel_size]
        *_, padding, convolution = ARCHITECTURES["rae"].decoder((1, size, size), 2)
        x = torch.randn(2, convolution.in_channels, 7, 7)
        turned = convolution.weight.transpose(0, 1).flip(2, 3)
        start = (kernel_size - 1) // 2
        whole = nn.functional.conv_transpose2d(x, turned, convolution.bias)
        cut = whole[..., start : start + 7, start : start + 7]
        torch.testing.assert_close(convolution(padding(x)), cut, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("size", [16, 128])
    def test_other_sizes_have_the_same_pattern(self, size):
        shape = (1, size, size)
        encoder, decoder = ARCHITECTURES["rae"].encoder(shape).eval(), ARCHITECTURES["rae"].decoder(shape, 5).eval()
        with torch.no_grad():
            assert encoder(torch.rand(1, *shape)).shape == (1, 4096 if size == 16 else 16384)
            assert decoder(torch.rand(1, 5)).shape == (1, *shape)
        with pytest.raises(ConfigError, match="16, 32, 64, 128, 256"):
            ARCHITECTURES["rae"].encoder((1, 48, 48))


class TestNetworksByName:
    """The hyperparameter ``networks``."""

    def test_every_part_uses_them(self, tmp_path):
        model = VampVAE((1, 16, 16), latent_dim=2, pseudo_inputs=2, networks="rae").eval()
        assert [type(model.encoder.body), type(model.decoder)] == list(ARCHITECTURES["rae"])
        model.save_pretrained(tmp_path)
        loaded = VAE.from_pretrained(tmp_path)
        assert loaded.hyperparameters["networks"] == "rae"
        images = torch.rand(2, 1, 16, 16)
        assert torch.equal(loaded.reconstruct(images), model.reconstruct(images))

    def test_own_networks_replace_them(self):
        model = EVAE((1, 16, 16), latent_dim=2, networks="rae", encoder=nets.body)
        assert isinstance(model.encoder.body[0], nn.Flatten)
        assert type(model.decoder) is ARCHITECTURES["rae"].decoder

    def test_a_file_without_them_is_the_papers(self, tmp_path):
        EVAE((1, 16, 16), latent_dim=2).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config.pop("networks") == "paper"
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert type(VAE.from_pretrained(tmp_path).decoder) is ConvDecoder

    def test_an_unknown_name(self):
        with pytest.raises(ConfigError, match="networks must be one of auto, paper, rae, mlp, not 'nope'"):
            EVAE((1, 16, 16), networks="nope")
