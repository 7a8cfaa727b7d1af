"""Laws of codes as functions of noise, which a graph of fixed operations can compute: what ``sample`` draws by itself.

Noise is of two kinds: ``uniform`` (N, U), independent draws in [0, 1), and ``normal`` (N, M), standard normal draws.
"""

from collections.abc import Sequence
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import Transform

from evae.distributions import (
    AggregatedPosterior,
    HypersphericalUniform,
    Kernel,
    KernelPosterior,
    MultivariateStudentT,
    WithBackground,
    coordinates,
    parameters_of,
    select,
)
from evae.distributions.kernels import GaussianKernel, UniformKernel
from evae.errors import ConfigError
from evae.models.second_stage import SecondStage, SecondStagePrior

MAX_COMPONENTS = 5_000  # of a kde, whose parameters are all in the file


class Sampler(nn.Module):
    """Noise to codes (N, d).

    Attributes:
        uniforms: U, the number of uniform draws that a code takes.
        normals: M, the number of standard normal draws.
        note: how its law differs from that of the prior, "" where it does not.
    """

    uniforms: int = 0
    normals: int = 0
    note: str = ""

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """The codes (N, d) of noise (N, U) and (N, M)."""
        raise NotImplementedError


@singledispatch
def sampler_of(prior: Distribution) -> Sampler:
    """The sampler with the law of a prior, batch shape () and event shape (d,).

    Args:
        prior: of a family of evae, or fitted by evae fit-prior.

    Raises:
        ConfigError: draws of this law are not a function of a fixed number of uniform and normal draws.
    """
    if type(prior).__name__ == "NormalizingFlow":  # of zuko, which may not be installed
        return _Flow(prior)
    raise _unknown(prior)


def _unknown(law: Distribution) -> ConfigError:
    return ConfigError(
        f"the prior cannot be exported: draws of a {type(law).__name__} are not a known function of a fixed number of "
        "uniform and normal draws; fit another prior, evae fit-prior RUN --kind gmm"
    )


class _Noise(nn.Module):
    """Standard draws (N, d) of a kernel."""

    def __init__(self, kernel: type[Kernel], dim: int) -> None:
        super().__init__()
        self.kernel, self.dim = kernel, dim
        self.normals = dim if kernel is GaussianKernel else 0
        self.uniforms = 0 if self.normals else dim * (1 + len(kernel.roots))

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """As ``Kernel._draw``, which draws the noise itself."""
        if self.normals:
            return normal
        p, *others = uniform.split(self.dim, dim=1)
        if not others:
            inner = p if self.kernel.bounded else p.clamp(torch.finfo(p.dtype).tiny, 1 - torch.finfo(p.dtype).eps / 2)
            return self.kernel._quantile(inner)
        powers = [other.log() / root for other, root in zip(others, self.kernel.roots, strict=True)]
        return (2 * p - 1) * torch.stack(powers).sum(0).exp()


class _Rows(nn.Module):
    """One of K rows by its weight, for each uniform draw: indices (N,)."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        ends = (weights.double() / weights.double().sum()).cumsum(0)[:-1]
        self.register_buffer("ends", ends.to(weights.dtype))

    def forward(self, uniform: Tensor) -> Tensor:
        ends = self.get_buffer("ends")
        return (uniform >= ends).sum(1) if len(ends) else torch.zeros_like(uniform[:, 0], dtype=torch.int64)


class _LocScale(Sampler):
    """loc + Σ_j scale_j · (a standard draw of kernel j), of a row at random: loc and scales (K, d), or (1, d) for all.

    The first uniform draw chooses the row, where there are several.
    """

    def __init__(self, weights: Tensor, loc: Tensor, terms: Sequence[tuple[type[Kernel], Tensor]]) -> None:
        super().__init__()
        dim = loc.shape[1]
        self.rows = _Rows(weights) if len(weights) > 1 else None
        self.noises = nn.ModuleList(_Noise(kernel, dim) for kernel, _ in terms)
        self.register_buffer("loc", loc)
        for number, (_, scale) in enumerate(terms):
            self.register_buffer(f"scale{number}", scale.expand(max(1, len(scale)), dim))
        self.uniforms = (self.rows is not None) + sum(noise.uniforms for noise in self._noises)
        self.normals = sum(noise.normals for noise in self._noises)

    @property
    def _noises(self) -> list[_Noise]:
        return [cast(_Noise, noise) for noise in self.noises]

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        index = None
        if self.rows is not None:
            index, uniform = self.rows(uniform[:, :1]), uniform[:, 1:]
        codes = self._row("loc", index)
        for number, noise in enumerate(self._noises):
            own = noise(uniform[:, : noise.uniforms], normal[:, : noise.normals])
            uniform, normal = uniform[:, noise.uniforms :], normal[:, noise.normals :]
            codes = codes + self._row(f"scale{number}", index) * own
        return codes

    def _row(self, name: str, index: Tensor | None) -> Tensor:
        table = self.get_buffer(name)
        return table if index is None or len(table) == 1 else table[index]


class _Normals(Sampler):
    """N(mean, L Lᵀ) of a row at random: means (K, d), factors L (K, d, d)."""

    def __init__(self, weights: Tensor, means: Tensor, scale_trils: Tensor) -> None:
        super().__init__()
        self.rows = _Rows(weights) if len(weights) > 1 else None
        self.register_buffer("means", means)
        self.register_buffer("scale_trils", scale_trils)
        self.uniforms, self.normals = int(self.rows is not None), means.shape[1]

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        means, factors = self.get_buffer("means"), self.get_buffer("scale_trils")
        if self.rows is None:
            return means + normal @ factors[0].mT
        index = self.rows(uniform)
        return means[index] + (factors[index] @ normal.unsqueeze(-1)).squeeze(-1)


class _OnSphere(Sampler):
    """Uniform on the unit sphere of R^d."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.normals = dim

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        return normal / normal.norm(dim=1, keepdim=True)


class _Student(Sampler):
    """Student's t of vectors with a whole number ν of degrees of freedom: loc + scale·ε·√(ν/χ²)."""

    def __init__(self, law: MultivariateStudentT) -> None:
        super().__init__()
        self.dim, self.df = law.event_shape[0], int(law.df)
        self.normals = self.dim + self.df  # χ² is the sum of ν squares
        self.register_buffer("loc", law.loc)
        self.register_buffer("scale", law.scale)

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        noise, mixing = normal[:, : self.dim], normal[:, self.dim :]
        factor = (self.df / mixing.square().sum(1, keepdim=True)).sqrt()
        return self.get_buffer("loc") + self.get_buffer("scale") * noise * factor


class _WithBackground(Sampler):
    """With probability w a draw of the background, else of the main sampler; the last uniform draw chooses."""

    def __init__(self, main: Sampler, background: Sampler, weight: float) -> None:
        super().__init__()
        self.main, self.background, self.weight = main, background, weight
        self.uniforms = main.uniforms + background.uniforms + 1
        self.normals = main.normals + background.normals
        self.note = main.note

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        u, m = self.main.uniforms, self.main.normals
        main, background = self.main(uniform[:, :u], normal[:, :m]), self.background(uniform[:, u:-1], normal[:, m:])
        return torch.where(uniform[:, -1:] < self.weight, background, main)


class _Transformed(Sampler):
    """The transforms of another sampler's codes."""

    def __init__(self, base: Sampler, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.base, self.transforms, self.note = base, list(transforms), base.note
        self.uniforms, self.normals = base.uniforms, base.normals

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        codes: Tensor = self.base(uniform, normal)
        for transform in self.transforms:
            codes = transform(codes)
        return codes


class _Flow(Sampler):
    """A normalizing flow of zuko: the inverse of its transform, of draws of its base, a diagonal normal."""

    def __init__(self, flow: Distribution) -> None:
        super().__init__()
        base = flow.base  # type: ignore[attr-defined]
        self.transform: Transform = flow.transform  # type: ignore[attr-defined]
        self.normals = base.event_shape[0]
        self.register_buffer("loc", base.mean)
        self.register_buffer("scale", base.stddev)

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        inverse = self.transform.inv
        return cast(Tensor, inverse(self.get_buffer("loc") + self.get_buffer("scale") * normal))


class _SecondStage(Sampler):
    """A second-stage VAE: its decoder at a normal draw, and noise of its own scale γ."""

    def __init__(self, stage: SecondStage) -> None:
        super().__init__()
        self.stage, self.normals = stage, 2 * stage.dim

    def forward(self, uniform: Tensor, normal: Tensor) -> Tensor:
        u, noise = normal.chunk(2, dim=1)
        return cast(Tensor, self.stage.decoder(u) + self.stage.log_gamma.exp() * noise)


@sampler_of.register(Independent)
def _(prior: Independent[Distribution]) -> Sampler:
    one = torch.ones(1, dtype=prior.mean.dtype)
    return _LocScale(one, *_loc_and_terms(prior.expand([1])))


@sampler_of.register
def _(prior: HypersphericalUniform) -> Sampler:
    return _OnSphere(prior.event_shape[0])


@sampler_of.register
def _(prior: MultivariateStudentT) -> Sampler:
    if prior.df != int(prior.df):
        raise ConfigError(
            f"the prior cannot be exported: Student's t of {prior.df:g} degrees of freedom, no whole number, needs "
            "draws of a gamma distribution; fit another prior, evae fit-prior RUN --kind gmm"
        )
    return _Student(prior)


@sampler_of.register
def _(prior: MultivariateNormal) -> Sampler:
    return _Normals(torch.ones(1, dtype=prior.loc.dtype), prior.loc[None], prior.scale_tril[None])


@sampler_of.register
def _(prior: MixtureSameFamily) -> Sampler:
    weights, components = prior.mixture_distribution.probs, prior.component_distribution
    if isinstance(components, MultivariateNormal):
        return _Normals(weights, components.loc, components.scale_tril)
    return _LocScale(weights, *_loc_and_terms(components))


@sampler_of.register
def _(prior: AggregatedPosterior) -> Sampler:
    components, count = prior.components, prior.components.batch_shape[0]
    kept = min(count, MAX_COMPONENTS)  # posteriors are in random order, see ``evae.fitting.codes``
    loc, terms = _loc_and_terms(select(components, slice(0, kept)))
    sampler = _LocScale(torch.ones(kept, dtype=loc.dtype), loc, terms)
    if kept < count:
        sampler.note = f"of {kept:,} of its {count:,} posteriors"
    return sampler


@sampler_of.register
def _(prior: WithBackground) -> Sampler:
    return _WithBackground(sampler_of(prior.main), sampler_of(prior.background), prior.weight)


@sampler_of.register
def _(prior: TransformedDistribution) -> Sampler:
    return _Transformed(sampler_of(prior.base_dist), prior.transforms)


@sampler_of.register
def _(prior: SecondStagePrior) -> Sampler:
    return _SecondStage(prior.stage)


def _loc_and_terms(components: Distribution) -> tuple[Tensor, list[tuple[type[Kernel], Tensor]]]:
    """Of K laws of vectors: loc (K, d), and the kernels and scales whose independent draws are added to it."""
    base = coordinates(components)
    if isinstance(base, Kernel):
        return base.loc, [(type(base), base.scale)]
    if isinstance(base, Normal):
        return base.loc, [(GaussianKernel, base.scale)]
    if isinstance(base, Uniform):
        return base.mean, [(UniformKernel, (base.high - base.low) / 2)]
    if isinstance(base, KernelPosterior):
        tensors, (loc, terms) = parameters_of(components), _loc_and_terms(Independent(base.prior, 1))
        kernel = (type(base.kernel), base.bandwidth * tensors["scale"])
        return base.bandwidth * tensors["loc"] + loc, [kernel, *((k, scale[:1]) for k, scale in terms)]
    raise _unknown(base)
