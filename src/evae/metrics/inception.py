"""The Inception network that FID is defined by: TensorFlow's of 2015-12-05, which is not torchvision's.

Topology and names are those of the published port pt_inception-2015-12-05-6726825d.pth, which pytorch-fid and
torch-fidelity load. Comments say where it differs from torchvision's.
"""

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evae.errors import DataError

_Shape = tuple[int, ...]

_CLASSIFIER = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}  # in the file; the features are its inputs

# Branches of the blocks: their convolutions one after the other, as outputs and kernel; two kernels are parallel.
_A = "branch1x1 64:1x1 / branch5x5 48:1x1 64:5x5 / branch3x3dbl 64:1x1 96:3x3 96:3x3 / branch_pool {}:1x1"
_B = "branch3x3 384:3x3 / branch3x3dbl 64:1x1 96:3x3 96:3x3 / branch_pool"
_C = (
    "branch1x1 192:1x1 / branch7x7 {0}:1x1 {0}:1x7 192:7x1 / "
    "branch7x7dbl {0}:1x1 {0}:7x1 {0}:1x7 {0}:7x1 192:1x7 / branch_pool 192:1x1"
)
_D = "branch3x3 192:1x1 320:3x3 / branch7x7x3 192:1x1 192:1x7 192:7x1 192:3x3 / branch_pool"
_E = (
    "branch1x1 320:1x1 / branch3x3 384:1x1 384:1x3,3x1 / branch3x3dbl 448:1x1 384:3x3 384:1x3,3x1 / branch_pool 192:1x1"
)


def _convolution(inputs: int, outputs: int, kernel: str, stride: int = 1, same: bool = True) -> nn.Module:
    height, width = map(int, kernel.split("x"))
    padding = (height // 2, width // 2) if same else 0
    conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
    bn = nn.BatchNorm2d(outputs, eps=0.001)
    return nn.Sequential(OrderedDict[str, nn.Module](conv=conv, bn=bn, relu=nn.ReLU(inplace=True)))


class _Mixed(nn.Module):
    """Parallel branches, one of them after ``pool``; with a ``stride``, their last convolutions have no padding."""

    def __init__(self, inputs: int, branches: str, pool: nn.Module, stride: int = 1) -> None:
        super().__init__()
        self.pool = pool
        self.chains: dict[str, list[list[str]]] = {}  # of each branch, the names of the parallel convolutions in turn
        for branch, *layers in map(str.split, branches.split("/")):
            self.chains[branch], width = [], inputs
            for number, layer in enumerate(layers, start=1):
                outputs, kernels = int(layer.split(":")[0]), layer.split(":")[1].split(",")
                name = f"{branch}_{number}" if len(layers) > 1 else branch
                names = [name] if len(kernels) == 1 else [name + letter for letter in "ab"]
                step = stride if number == len(layers) else 1
                for label, kernel in zip(names, kernels, strict=True):
                    self.add_module(label, _convolution(width, outputs, kernel, step, same=step == 1))
                self.chains[branch].append(names)
                width = outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch, chain in self.chains.items():
            y = self.pool(x) if branch == "branch_pool" else x
            for names in chain:
                parallel = [self.get_submodule(name)(y) for name in names]
                y = parallel[0] if len(parallel) == 1 else torch.cat(parallel, 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


def inception() -> nn.Module:
    """The network, without weights: images (N, 3, 299, 299) in [-1, 1] to pool3's features (N, 2048)."""
    # TensorFlow's average excludes the padding, torchvision's counts it as zeros.
    average = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    layers = OrderedDict[str, nn.Module](
        Conv2d_1a_3x3=_convolution(3, 32, "3x3", stride=2, same=False),
        Conv2d_2a_3x3=_convolution(32, 32, "3x3", same=False),
        Conv2d_2b_3x3=_convolution(32, 64, "3x3"),
        pool_1=nn.MaxPool2d(3, 2),
        Conv2d_3b_1x1=_convolution(64, 80, "1x1"),
        Conv2d_4a_3x3=_convolution(80, 192, "3x3", same=False),
        pool_2=nn.MaxPool2d(3, 2),
        Mixed_5b=_Mixed(192, _A.format(32), average),
        Mixed_5c=_Mixed(256, _A.format(64), average),
        Mixed_5d=_Mixed(288, _A.format(64), average),
        Mixed_6a=_Mixed(288, _B, nn.MaxPool2d(3, 2), stride=2),
        Mixed_6b=_Mixed(768, _C.format(128), average),
        Mixed_6c=_Mixed(768, _C.format(160), average),
        Mixed_6d=_Mixed(768, _C.format(160), average),
        Mixed_6e=_Mixed(768, _C.format(192), average),
        Mixed_7a=_Mixed(768, _D, nn.MaxPool2d(3, 2), stride=2),
        Mixed_7b=_Mixed(1280, _E, average),
        Mixed_7c=_Mixed(2048, _E, nn.MaxPool2d(3, 1, 1)),  # an average in torchvision's and in the paper
        pool_3=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
    )
    return nn.Sequential(layers)


def load_inception(path: Path) -> nn.Module:
    """The network with the weights of a file, the published state dict or the same as .safetensors, in evaluation mode.

    A DataError where there is no such file, or it is damaged or holds weights of another network.
    """
    network = inception()
    load_weights(network, path, "the Inception network of FID", _CLASSIFIER)
    return network.eval()


def load_weights(network: nn.Module, path: Path, title: str, others: Mapping[str, _Shape] | None = None) -> None:
    """Load the weights of a file, which may also hold ``others``; errors call the network ``title``."""
    state = _read_state(path)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    known = own | dict(others or {})
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differences = [
        # Batch normalisation's count of batches is for training only; old files do not have it.
        *(f"it has no {name}" for name in own if name not in state and not name.endswith("batches_tracked")),
        *(f"it has {name}" for name in state if name not in known),
        *(f"its {name} is of shape {x}, not {known[name]}" for name, x in shapes.items() if x != known.get(name, x)),
    ]
    if differences:
        raise DataError(f"{path} holds weights of another network than {title}: {differences[0]}")
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise DataError(f"{path} is damaged: not all of {name} is finite")
    network.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or torch file of tensors only; code in it is not executed."""
    try:
        with path.open("rb"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other formats; checked below
            safe = path.suffix == ".safetensors"
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"the weights {path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damaged files raise all kinds of errors
        if found := re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)|GLOBAL (\S+)", str(error)):
            what = found[1] or found[2]
            raise DataError(f"{path} holds more than weights ({what}), which could run code, and is refused") from error
        raise DataError(f"{path} is damaged or holds something else than weights, and is refused") from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) and v.is_cpu and v.layout == torch.strided and not v.is_quantized
        for k, v in state.items()
    ):
        raise DataError(f"{path} holds no state dict, which is a weight for each name")
    return state
