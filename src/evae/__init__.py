"""Kernel-based variational autoencoders and the models they are compared with.

    from evae import EVAE
    model = EVAE(image_shape=(1, 32, 32), latent_dim=64)

Names are imported when first used, so that ``evae --help`` need not wait for torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evae.data import open_store
    from evae.distributions import Epanechnikov, KernelPosterior, kernel_penalty
    from evae.inference import encode, load_model, reconstruct, sample
    from evae.metrics import evaluate
    from evae.models import EVAE, HVAE, IWAE, VAE, WAE, BetaVAE, GaussianVAE, PowerSphericalVAE, Terms, VampVAE
    from evae.report import compare, report
    from evae.training import train

_HOMES = {
    "open_store": "data",
    "Epanechnikov": "distributions",
    "KernelPosterior": "distributions",
    "kernel_penalty": "distributions",
    "compare": "report",
    "encode": "inference",
    "evaluate": "metrics",
    "reconstruct": "inference",
    "report": "report",
    "sample": "inference",
    "EVAE": "models",
    "HVAE": "models",
    "IWAE": "models",
    "VAE": "models",
    "WAE": "models",
    "BetaVAE": "models",
    "GaussianVAE": "models",
    "PowerSphericalVAE": "models",
    "Terms": "models",
    "VampVAE": "models",
    "load_model": "inference",
    "train": "training",
}

__version__ = version("evae")
__all__ = [
    "EVAE",
    "HVAE",
    "IWAE",
    "VAE",
    "WAE",
    "BetaVAE",
    "Epanechnikov",
    "GaussianVAE",
    "KernelPosterior",
    "PowerSphericalVAE",
    "Terms",
    "VampVAE",
    "compare",
    "encode",
    "evaluate",
    "kernel_penalty",
    "load_model",
    "open_store",
    "reconstruct",
    "report",
    "sample",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evae' has no attribute {name!r}")
    return getattr(import_module(f"evae.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
