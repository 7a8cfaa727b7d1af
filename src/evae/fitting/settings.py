"""The settings of ``evae fit-prior``: which density, of which codes, and the published protocols by name."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from evae import checks
from evae.models.fitted import Flow, Kind
from evae.models.vae import Latents

Choice = Literal["auto", "gaussian", "gmm", "kde", "flow", "vae"]
Preset = Literal["rae-gmm10", "dai-wipf", "pythae-maf"]


@dataclass(frozen=True)
class Density:
    """Density: what is fitted, and to which codes.

    Args:
        kind: gaussian, one with full covariance; gmm, a mixture of them; kde, the aggregated posterior; flow, a
            normalizing flow; vae, the second stage of Dai and Wipf, without a density; auto fits all but vae and keeps
            the one with the highest mean log-density of held-out codes.
        codes: fit to one sample of each posterior, or to its mean.
        components: components of a gmm; default: 10, fewer where there are fewer than 20 codes.
        iterations: steps of a gmm's expectation maximisation, at most.
        flow: maf, a masked autoregressive flow; or coupling-splines, rational-quadratic splines, slower to fit.
        transforms: transforms of a flow.
        depth: hidden layers of a flow's or a vae's networks; default: 2 and 3.
        width: units of a hidden layer; default: 128 and 512.
        fit_epochs: epochs of a flow or a vae, at most; default: 100.
        fit_batch_size: codes per step of a flow or a vae.
        fit_learning_rate: Adam learning rate of a flow or a vae.
        halve_every: epochs after which that learning rate is halved, again and again.
        patience: stop a flow or a vae after this many epochs without a better held-out loss.
    """

    kind: Choice = "gmm"
    codes: Latents = "sample"
    components: int | None = None
    iterations: int = 500
    flow: Flow = "maf"
    transforms: int = 5
    depth: int | None = None
    width: int | None = None
    fit_epochs: int = 100
    fit_batch_size: int = 512
    fit_learning_rate: float = 1e-3
    halve_every: int | None = None
    patience: int | None = 10

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, get_args(Choice))
        checks.one_of("codes", self.codes, get_args(Latents))
        checks.one_of("flow", self.flow, get_args(Flow))
        for name in ("iterations", "transforms", "fit_epochs", "fit_batch_size"):
            checks.whole_number(name, getattr(self, name))
        for name in ("components", "depth", "width", "halve_every", "patience"):
            if getattr(self, name) is not None:
                checks.whole_number(name, getattr(self, name))
        checks.positive("fit_learning_rate", self.fit_learning_rate, 1e3)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds to fit."""
        return ("gaussian", "gmm", "kde", "flow") if self.kind == "auto" else (self.kind,)


# Published protocols, as far as they concern the prior: of the model's own training they say nothing.
PRESETS: dict[str, dict[str, Any]] = {
    # Ghosh et al., ICLR 2020, and their code: scikit-learn's mixture, full covariances, at most 2,000 iterations
    "rae-gmm10": {"kind": "gmm", "codes": "mean", "components": 10, "iterations": 2000},
    # Dai and Wipf, ICLR 2019, and their code: samples drawn anew in each epoch
    "dai-wipf": {
        "kind": "vae",
        "codes": "sample",
        "depth": 3,
        "width": 1024,
        "fit_epochs": 800,
        "fit_batch_size": 64,
        "fit_learning_rate": 1e-4,
        "halve_every": 300,
        "patience": None,
    },
    # pythae's MAFSampler by default; its trainer's own defaults for the rest
    "pythae-maf": {
        "kind": "flow",
        "codes": "sample",
        "flow": "maf",
        "transforms": 2,
        "depth": 3,
        "width": 128,
        "fit_epochs": 100,
        "fit_batch_size": 100,
        "fit_learning_rate": 1e-4,
    },
}
