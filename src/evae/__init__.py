"""Kernel-based variational autoencoders and the models they are compared with: names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evae.collection import audit as audit
    from evae.collection import encode as encode
    from evae.collection import map as map
    from evae.data import open_store as open_store
    from evae.distributions import Epanechnikov as Epanechnikov
    from evae.distributions import KernelPosterior as KernelPosterior
    from evae.distributions import kernel_penalty as kernel_penalty
    from evae.exporting import export as export
    from evae.fitting import fit_prior as fit_prior
    from evae.hub import pull as pull
    from evae.hub import push as push
    from evae.inference import load_images as load_images
    from evae.inference import load_model as load_model
    from evae.inference import reconstruct as reconstruct
    from evae.inference import sample as sample
    from evae.inspection import inspect as inspect
    from evae.metrics import evaluate as evaluate
    from evae.models import AE as AE
    from evae.models import EVAE as EVAE
    from evae.models import HVAE as HVAE
    from evae.models import IWAE as IWAE
    from evae.models import RAE as RAE
    from evae.models import T3VAE as T3VAE
    from evae.models import VAE as VAE
    from evae.models import WAE as WAE
    from evae.models import BetaVAE as BetaVAE
    from evae.models import BoundedVAE as BoundedVAE
    from evae.models import GaussianVAE as GaussianVAE
    from evae.models import HypersphericalVAE as HypersphericalVAE
    from evae.models import PowerSphericalVAE as PowerSphericalVAE
    from evae.models import Terms as Terms
    from evae.models import VampVAE as VampVAE
    from evae.reporting import compare as compare
    from evae.reporting import report as report
    from evae.training import train as train

_HOMES = {
    "collection": "audit encode map",
    "data": "open_store",
    "distributions": "Epanechnikov KernelPosterior kernel_penalty",
    "exporting": "export",
    "fitting": "fit_prior",
    "hub": "pull push",
    "inference": "load_images load_model reconstruct sample",
    "inspection": "inspect",
    "metrics": "evaluate",
    "models": "AE EVAE HVAE IWAE RAE T3VAE VAE WAE BetaVAE BoundedVAE "
    "GaussianVAE HypersphericalVAE PowerSphericalVAE Terms VampVAE",
    "reporting": "compare report",
    "training": "train",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("evae")
    if name not in _HOME:
        raise AttributeError(f"module 'evae' has no attribute {name!r}")
    return getattr(import_module(f"evae.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
