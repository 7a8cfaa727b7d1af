"""A prior fitted to the codes of a trained model: its parameters, the distribution they make, and its files."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    TransformedDistribution,
)
from torch.distributions.transforms import Transform

from evae.checks import one_of, whole_number
from evae.distributions import AggregatedPosterior, Stereographic, WithBackground, with_parameters
from evae.errors import ConfigError, EvaeError, RunError, first_line
from evae.files import digest, write_atomically
from evae.models.second_stage import SecondStage, SecondStagePrior
from evae.models.weights import read_weights
from evae.records import Finite, RecordError, read_json

Kind = Literal["gaussian", "gmm", "kde", "flow", "vae"]
Flow = Literal["maf", "coupling-splines"]

FOLDER, RECORD, TENSORS = "prior", "prior.json", "prior.safetensors"
VERSION = 1


@dataclass(frozen=True)
class FittedPrior:
    r"""A density fitted to the codes of the training images, in place of the prior that the model was trained with.

    ``tensors`` by ``kind``::

        gaussian    mean (d,), scale_tril (d, d)
        gmm         weights (K,), means (K, d), scale_trils (K, d, d)
        kde         the parameters of N posteriors by name, (N, ...): the aggregated posterior 1/N Σ q(z|x_i); of
                    vectors also the mean and scale_tril of a background, see ``WithBackground``
        flow        the state of a zuko flow
        vae         the state of a ``SecondStage``

    Besides, ``shift`` and ``scale`` (d,) where the density is of (z - shift)/scale, and ``centre`` (d,) where the codes
    are on the unit sphere: the density is then of their stereographic coordinates about it, in R^(d-1).

    Args:
        kind: of density.
        tensors: its parameters.
        settings: those that no tensor tells: sizes of networks, the factor on the width of a kde.
        about: how it was fitted: codes, seed, counts, the mean log-density of held-out codes.
        weights: digest of the weights of the model whose codes they are.
    """

    kind: Kind
    tensors: dict[str, Tensor] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    weights: str = ""

    def __str__(self) -> str:
        notes = {"gmm": "{components} components", "kde": "width x {factor:g}", "flow": "{flow}", "vae": "second stage"}
        return f"{self.kind} ({notes[self.kind].format(**self.settings)})" if self.kind in notes else self.kind

    @property
    def identity(self) -> str:
        """A digest of all that its distribution depends on besides the model."""
        return digest(self.content() + repr((self.kind, sorted(self.settings.items()))).encode())

    def content(self) -> bytes:
        """Its tensors as safetensors holds them."""
        return save({name: tensor.contiguous() for name, tensor in self.tensors.items()})

    def distribution(self, posterior: Callable[[], Distribution], like: Tensor) -> Distribution:
        """The distribution of codes, event shape (d,), with the device and type of ``like``.

        ``posterior`` returns a posterior of the model, from which a kde takes its kernel, bandwidth and prior.

        Raises:
            RunError: tensors and settings do not make a distribution.
            ConfigError: zuko is not installed, for a flow.
        """
        tensors = {k: v.to(like.device, like.dtype if v.is_floating_point() else None) for k, v in self.tensors.items()}
        try:
            charts = _charts(tensors)
            with torch.random.fork_rng(devices=[]):  # for initial weights, which are replaced
                base = _DENSITIES[self.kind](tensors, self.settings, posterior)
        except EvaeError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"the prior is damaged ({first_line(error)}); evae fit-prior fits it again") from error
        return TransformedDistribution(base, charts, validate_args=False) if charts else base


def _charts(tensors: dict[str, Tensor]) -> list[Transform]:
    """The transforms from the density's coordinates to codes; their tensors are taken out."""
    charts: list[Transform] = []
    if "shift" in tensors:
        charts.append(AffineTransform(tensors.pop("shift"), tensors.pop("scale"), event_dim=1))
    if "centre" in tensors:
        charts.append(Stereographic(tensors.pop("centre")))
    return charts


Posterior = Callable[[], Distribution]


def _gaussian(tensors: dict[str, Tensor], settings: dict[str, Any], posterior: Posterior) -> Distribution:
    return MultivariateNormal(tensors["mean"], scale_tril=tensors["scale_tril"], validate_args=False)


def _gmm(tensors: dict[str, Tensor], settings: dict[str, Any], posterior: Posterior) -> Distribution:
    components = MultivariateNormal(tensors["means"], scale_tril=tensors["scale_trils"], validate_args=False)
    return MixtureSameFamily(Categorical(tensors["weights"], validate_args=False), components, validate_args=False)


def _kde(tensors: dict[str, Tensor], settings: dict[str, Any], posterior: Posterior) -> Distribution:
    posteriors = {name: tensor for name, tensor in tensors.items() if name not in ("mean", "scale_tril")}
    aggregated = AggregatedPosterior(with_parameters(posterior(), posteriors), float(settings["factor"]))
    if "mean" not in tensors:
        return aggregated
    return WithBackground(aggregated, _gaussian(tensors, settings, posterior), float(settings["background"]))


def _flow(tensors: dict[str, Tensor], settings: dict[str, Any], posterior: Posterior) -> Distribution:
    flow = make_flow(**settings)
    distribution: Distribution = _with_state(flow, tensors)()
    return distribution


def _second_stage(tensors: dict[str, Tensor], settings: dict[str, Any], posterior: Posterior) -> Distribution:
    return SecondStagePrior(_with_state(SecondStage(**settings), tensors))


_DENSITIES: dict[str, Callable[[dict[str, Tensor], dict[str, Any], Posterior], Distribution]] = {
    "gaussian": _gaussian,
    "gmm": _gmm,
    "kde": _kde,
    "flow": _flow,
    "vae": _second_stage,
}


def make_flow(dim: int, flow: Flow = "maf", transforms: int = 5, depth: int = 2, width: int = 128) -> nn.Module:
    """A normalizing flow of R^d with initial weights, of the library zuko: its call returns the Distribution.

    Args:
        dim: d.
        flow: "maf", a masked autoregressive flow (Papamakarios et al., NeurIPS 2017), whose draws take d passes through
            its networks; or "coupling-splines", rational-quadratic splines of one half of the coordinates given the
            other (Durkan et al., NeurIPS 2019).
        transforms: number of transforms.
        depth: hidden layers of each.
        width: units of a hidden layer.

    Raises:
        ConfigError: zuko is not installed, or a size is out of range.
    """
    try:
        from zuko import flows
    except ImportError as error:
        raise ConfigError(f"a prior of kind flow needs pip install 'evae[flow]' ({error})") from error
    for name, value in {"dim": dim, "transforms": transforms, "depth": depth, "width": width}.items():
        whole_number(name, value, most=2**14)
    sizes = {"transforms": transforms, "hidden_features": [width] * depth}
    if one_of("flow", flow, get_args(Flow)) == "maf" or dim == 1:  # one coordinate has no halves
        made: nn.Module = flows.MAF(dim, **sizes)
    else:
        made = flows.NSF(dim, passes=2, **sizes)
    return made


def _with_state(network: nn.Module, tensors: dict[str, Tensor]) -> Any:
    """The network with these weights, on their device, without gradients."""
    some = next(tensor for tensor in tensors.values() if tensor.is_floating_point())
    network.to(some.device, some.dtype).load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def prior_files(prior: FittedPrior) -> dict[str, bytes]:
    """The content of the files of a prior, by name relative to the folder of its model; the record is the last."""
    content = prior.content()
    record = {
        "version": VERSION,
        "kind": prior.kind,
        "settings": prior.settings,
        "about": prior.about,
        "weights": prior.weights,
        "tensors": digest(content),
    }
    return {f"{FOLDER}/{TENSORS}": content, f"{FOLDER}/{RECORD}": (json.dumps(record, indent=2) + "\n").encode()}


def write_prior(prior: FittedPrior, folder: Path) -> None:
    """Write ``prior/`` into the folder of its model.

    Raises:
        RunError: it cannot be written.
    """
    for name, content in prior_files(prior).items():
        write_atomically(folder / name, content)


def read_prior(fetch: Callable[[str], Path | None], weights: Callable[[], str], model: str) -> FittedPrior | None:
    """The prior beside a model; None where there is none.

    Args:
        fetch: the path of a file by its name relative to the model's folder, None where there is none.
        weights: returns the digest of the model's weights.
        model: the model's name in messages.

    Raises:
        RunError: it is damaged, of another version, or was fitted to other weights.
    """
    path = fetch(f"{FOLDER}/{RECORD}")
    if path is None:
        return None
    again = f"evae fit-prior {model} fits it again"
    try:
        record = read_json(path, _Record)
        if record.weights != weights():
            raise RunError(f"the prior in {path.parent} was fitted to other weights than those of {model}; {again}")
        stored = fetch(f"{FOLDER}/{TENSORS}")
        content = read_weights(stored) if stored else b""
        if digest(content) != record.tensors:
            raise RecordError(f"{TENSORS} is not what was written")
        tensors = load(content)
        _check_sizes(record.settings, tensors)
        return _described(FittedPrior(record.kind, tensors, record.settings, record.about, record.weights))
    except (OSError, RecordError, SafetensorError) as error:
        raise RunError(f"the prior in {path.parent} is damaged ({first_line(error)}); {again}") from error


@dataclass(frozen=True)
class _Record:
    """prior.json."""

    version: Literal[1]
    kind: Kind
    settings: dict[str, bool | int | Finite | str | None]
    about: dict[str, Any]
    weights: str
    tensors: str


def _described(prior: FittedPrior) -> FittedPrior:
    """The prior, if its settings are those that describe its kind."""
    try:
        str(prior)
    except (KeyError, ValueError, TypeError) as error:
        raise RecordError(f"the settings of a {prior.kind} are others ({first_line(error)})") from error
    return prior


def _check_sizes(settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse settings of networks that are larger than their tensors, before they take memory."""
    lengths = [length for tensor in tensors.values() for length in tensor.shape]
    limits = {"depth": len(tensors), "transforms": len(tensors)}
    for name in ("depth", "transforms", "width", "dim"):
        most = limits.get(name, max(lengths, default=1))
        if name in settings and not (isinstance(settings[name], int) and 0 <= settings[name] <= most):
            raise RecordError(f"{name} is {settings[name]}, which does not fit {TENSORS}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise RecordError(f"{TENSORS} has values that are NaN or infinite")
