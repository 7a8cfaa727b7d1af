"""Folded networks give the outputs of the networks that they come from."""

import torch
from torch import nn

from evae.metrics.folding import fold


class Padded(nn.Conv2d):
    """A convolution after a padding module, as EfficientNet's."""

    def __init__(self, *sizes, padding):
        super().__init__(*sizes, bias=False)
        self.static_padding = nn.ZeroPad2d(padding)

    def forward(self, x):
        return super().forward(self.static_padding(x))


def network():
    """Every case: with and without a bias, grouped, strided, with equal and unequal paddings, without normalisation."""
    block = nn.Sequential(Padded(6, 6, 3, padding=(1, 1, 1, 1)), nn.BatchNorm2d(6), nn.ReLU6())
    strided = nn.Sequential(Padded(6, 4, 5, 2, padding=(1, 2, 3, 0)), nn.BatchNorm2d(4, eps=0.1), nn.ReLU())
    first = [nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), block]
    made = nn.Sequential(*first, strided, nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    for norm in (m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2)
    return made.eval().double()


@torch.no_grad()
def test_outputs_are_the_networks():
    made, images = network(), torch.randn(2, 3, 12, 10, dtype=torch.float64)
    before = made(images)
    torch.testing.assert_close(fold(made)(images), before, rtol=1e-12, atol=1e-12)
    assert before.std() > 0.1


def test_what_is_folded():
    folded = fold(network())
    norms = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["6"]  # the one after a ReLU
    assert not any(isinstance(module, nn.ZeroPad2d) for module in folded.modules())
    assert all(module.inplace for module in folded.modules() if isinstance(module, nn.ReLU | nn.ReLU6))
