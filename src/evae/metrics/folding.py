"""A convolutional network for inference only: the same outputs in fewer passes over memory."""

from itertools import pairwise

from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(network: nn.Module) -> nn.Module:
    """Change a network in evaluation mode to one of the same outputs, up to rounding, and return it.

    - Batch normalisation y = γ (x - μ) / √(σ² + ε) + β directly after a convolution becomes part of its weights, γ W /
      √(σ² + ε), and of its bias (Jacob et al., CVPR 2018, section 3.2).
    - A convolution's own padding replaces a padding module before it (``static_padding`` of EfficientNet), which copies
      its input. A convolution pads both sides alike: where the module does not, zeros widen its kernel.
    - ReLU and ReLU6 overwrite their inputs.

    A convolution and the batch normalisation after it have to be neighbours among the children of a module, in this
    order, as in Inception and EfficientNet. The result cannot be trained, and its state dict is another one.
    """
    for module in list(network.modules()):
        children = list(module.named_children())
        for (name, conv), (next_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, next_name, nn.Identity())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            _merge_padding(module)
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = True
    return network


def _merge_padding(conv: nn.Conv2d) -> None:
    padding = getattr(conv, "static_padding", None)
    if isinstance(padding, nn.ZeroPad2d):
        left, right, top, bottom = padding.padding
        down, across = max(top, bottom), max(left, right)
        zeros = (across - left, across - right, down - top, down - bottom)
        conv.weight = nn.Parameter(functional.pad(conv.weight.detach(), zeros))
        conv.padding, conv.static_padding = (down, across), nn.Identity()
