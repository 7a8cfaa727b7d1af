"""What every measurement is given and returns: options, the model's pass over the hold-out images, and numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.data import Store
from evae.data.factors import Factors
from evae.metrics.features import Extractor
from evae.models import VAE
from evae.models.vae import Latents, Prior
from evae.numerics import seeded
from evae.runs.evaluation import Better, Number
from evae.runs.images import batches

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What was asked for, as in ``evaluate``; None: no bound on ln p(x), no distances, no tails, no factors.

    ``fitted`` identifies the fitted prior, "" where there is none; ``is_row`` says that the model is of rows.
    """

    latents: Latents = "sample"
    repeats: int = 1
    likelihood: int | None = None
    extractor: Extractor | None = None
    samples: int = 0
    probes: bool = False
    fitted: str = ""
    is_row: bool = False
    tails: float | None = None
    factors: Factors | None = None


class Context:
    """A model in evaluation mode and a store, whose hold-out images are encoded once for all measurements."""

    def __init__(self, model: VAE, store: Store, seed: int = 0) -> None:
        self.model, self.store, self.seed = model, store, seed
        self._posteriors: list[Distribution] = []
        self._kept: dict[str, Any] = {}

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, computed by the first measurement that asks for this name."""
        if name not in self._kept:
            self._kept[name] = compute()
        kept: T = self._kept[name]
        return kept

    def batches(self, title: str) -> Iterator[tuple[Tensor, Distribution]]:
        """Hold-out images (N, C, H, W) in order, with their posteriors q(z|x), and a progress bar of that title."""
        for i, images in enumerate(batches(self.store.holdout, self.model.device, title)):
            if i == len(self._posteriors):
                self._posteriors.append(self.model.posterior(images))
            yield images, self._posteriors[i]


@dataclass(frozen=True)
class Measured:
    """What a measurement returns; see ``Section``. ``per_image`` has (count,) values by the number's name."""

    numbers: Sequence[Number] = ()
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    per_image: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A section of an evaluation, by its name.

    ``depends_on`` returns the options that it depends on, as JSON has them; None where it was not asked for.
    ``is_of_fitted_prior`` says that it depends on the fitted prior, too: measured where there is one, and void as soon
    as another one is fitted.
    """

    name: str
    measure: Callable[[Context, Options], Measured]
    depends_on: Callable[[Options], dict[str, Any] | None] = lambda options: {}
    is_of_fitted_prior: bool = False

    def asked(self, options: Options) -> dict[str, Any] | None:
        """What it depends on, with the fitted prior where it is of that; None where it is not to be measured."""
        depends_on = self.depends_on(options)
        if depends_on is None or not self.is_of_fitted_prior:
            return depends_on
        return depends_on | {"fitted": options.fitted} if options.fitted else None

    def __call__(self, context: Context, options: Options) -> Measured:
        """Measure from the context's seed, whatever was measured before; without gradients."""
        with torch.no_grad(), seeded(context.seed):
            return self.measure(context, options)


def priors(model: VAE) -> tuple[Prior, ...]:
    """The model's own prior and, where evae fit-prior was run, the fitted one."""
    return ("model",) if model.read_prior() is None else ("model", "fitted")


def mean_of(name: str, values: Tensor, better: Better | None = None, reference: float | None = None) -> Number:
    """The mean of values (N,) and its standard error, in double precision; one value has no standard error."""
    x = values.double()
    error = x.std().item() / len(x) ** 0.5 if len(x) > 1 else None
    return Number(name, x.mean().item(), error, better, reference)
