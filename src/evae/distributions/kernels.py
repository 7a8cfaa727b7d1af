"""The smoothing kernels, each a density k on R in standard form, centre 0 and scale 1; KERNELS has them by name."""

import math

import torch
from torch import Tensor

from evae.distributions.kernel import Kernel
from evae.distributions.student import StudentKernel


def _distance(t: Tensor) -> Tensor:
    """|t|, whose derivative at 0 is that from above, while that of ``abs`` is 0."""
    return torch.where(t < 0, -t, t)


class UniformKernel(Kernel):
    r"""The uniform (box) kernel, k(t) = 1/2 on [-1, 1]; of equal variance it has the least ∫(k⋆k)²."""

    standard_variance = 1 / 3
    standard_roughness = 1 / 2
    standard_entropy = math.log(2)
    quadrature_nodes = 1

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return 0 * t - math.log(2)  # of t, so that it has a gradient, 0

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        return (1 + t) / 2

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        return 2 * p - 1


class Epanechnikov(Kernel):
    r"""The Epanechnikov kernel, K(x) = 3/(4r) · (1 - ((x - μ)/r)²) for |x - μ| ≤ r.

    Of all densities of equal variance it has the least roughness ∫K² (Lemma 3.2). ``loc`` is μ and ``scale`` is r.
    A draw is μ + r · 2 sin(asin(2p - 1)/3), p uniform on [0, 1]; its law is that of Algorithm 2's median of three.

    Examples:
        >>> kernel = Epanechnikov(torch.tensor(0.0), torch.tensor(2.0))
        >>> kernel.roughness  # 3 / (5 r)
        tensor(0.3000)
    """

    standard_variance = 1 / 5
    standard_roughness = 3 / 5
    standard_entropy = 5 / 3 - math.log(3)
    quadrature_nodes = 2

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return math.log(0.75) + torch.log1p(-t.square())

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        return (1 + t).square() * (2 - t) / 4

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        return 2 * torch.sin(torch.asin(2 * p - 1) / 3)

    @classmethod
    def _draw(cls, shape: torch.Size, like: Tensor) -> Tensor:
        p = torch.rand(shape, dtype=like.dtype, device=like.device)
        return p.mul_(2).sub_(1).asin_().div_(3).sin_().mul_(2)  # the quantile in place: memory is what limits it


class Biweight(Kernel):
    r"""The biweight (quartic) kernel, k(t) = 15/16 (1 - t²)² on [-1, 1]."""

    standard_variance = 1 / 7
    standard_roughness = 5 / 7
    standard_entropy = 0.42528313223112327
    quadrature_nodes = 3
    roots = (3, 5)

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return math.log(15 / 16) + 2 * torch.log1p(-t.square())

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        return (1 + t) ** 3 * (8 + t * (3 * t - 9)) / 16


class Triweight(Kernel):
    r"""The triweight kernel, k(t) = 35/32 (1 - t²)³ on [-1, 1]."""

    standard_variance = 1 / 9
    standard_roughness = 350 / 429
    standard_entropy = 0.30864761509349815
    quadrature_nodes = 4
    roots = (3, 5, 7)

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return math.log(35 / 32) + 3 * torch.log1p(-t.square())

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        u = 1 - _distance(t)
        tail = u**4 * (70 - u * (84 - u * (35 - 5 * u))) / 32
        return torch.where(t < 0, tail, 1 - tail)


class Triangular(Kernel):
    r"""The triangular kernel, k(t) = 1 - |t| on [-1, 1]."""

    standard_variance = 1 / 6
    standard_roughness = 2 / 3
    standard_entropy = 1 / 2
    quadrature_nodes = 1
    kink_at_zero = True

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return torch.log1p(-t.abs())

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        tail = (1 - _distance(t)).square() / 2
        return torch.where(t < 0, tail, 1 - tail)

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        distance = 1 - (2 * torch.where(p < 0.5, p, 1 - p)).sqrt()
        return torch.where(p < 0.5, -distance, distance)


class Tricube(Kernel):
    r"""The tricube kernel, k(t) = 70/81 (1 - |t|³)³ on [-1, 1]."""

    standard_variance = 35 / 243
    standard_roughness = 175 / 247
    standard_entropy = 0.41721385297954510
    quadrature_nodes = 5
    kink_at_zero = True  # its third derivative jumps
    roots = (4, 7, 10)

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        x = t.abs()
        return math.log(70 / 81) + 3 * (torch.log1p(-x) + torch.log1p(x + x.square()))  # 1 - x³, factored

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        u = 1 - _distance(t)  # the tail beyond |t| is a polynomial in it
        polynomial = 35 / 6 + u * (-14 + u * (140 / 9 + u * (-10 + u * (35 / 9 + u * (-70 / 81 + u * 7 / 81)))))
        tail = u**4 * polynomial
        return torch.where(t < 0, tail, 1 - tail)


class Cosine(Kernel):
    r"""The cosine kernel, k(t) = π/4 cos(π t/2) on [-1, 1]."""

    standard_variance = 1 - 8 / math.pi**2
    standard_roughness = math.pi**2 / 16
    standard_entropy = 1 - math.log(math.pi / 2)
    quadrature_nodes = 12

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return math.log(math.pi / 4) + (math.pi / 2 * (1 - t.abs())).sin().log()

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        return (math.pi / 4 * (1 + t)).sin().square()

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        return 2 / math.pi * torch.asin(2 * p - 1)


class GaussianKernel(Kernel):
    r"""The standard normal density, on all of R; ``scale`` is its standard deviation."""

    bounded = False
    standard_variance = 1.0
    standard_roughness = 1 / (2 * math.sqrt(math.pi))
    standard_entropy = math.log(2 * math.pi * math.e) / 2

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return -t.square() / 2 - math.log(2 * math.pi) / 2

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        return torch.special.erfc(t * -math.sqrt(0.5)) / 2  # torch's ndtr is 0 from -6 on in float32, -9 in float64

    @staticmethod
    def _log_cumulative(t: Tensor) -> Tensor:
        return torch.special.log_ndtr(t)

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        return torch.special.ndtri(p)

    @classmethod
    def _draw(cls, shape: torch.Size, like: Tensor) -> Tensor:
        return torch.randn(shape, dtype=like.dtype, device=like.device)


class LogisticKernel(Kernel):
    r"""The logistic density, k(t) = 1/(eᵗ + 2 + e⁻ᵗ), on all of R."""

    bounded = False
    standard_variance = math.pi**2 / 3
    standard_roughness = 1 / 6
    standard_entropy = 2.0

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        x = t.abs()
        return -x - 2 * torch.log1p(torch.exp(-x))

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        return t.sigmoid()

    @staticmethod
    def _log_cumulative(t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(t)

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        return p.log() - torch.log1p(-p)


class LaplaceKernel(Kernel):
    r"""The Laplace density, k(t) = exp(-|t|)/2, on all of R."""

    bounded = False
    standard_variance = 2.0
    standard_roughness = 1 / 4
    standard_entropy = 1 + math.log(2)
    kink_at_zero = True

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return -t.abs() - math.log(2)

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        tail = torch.exp(-_distance(t)) / 2
        return torch.where(t < 0, tail, 1 - tail)

    @staticmethod
    def _log_cumulative(t: Tensor) -> Tensor:
        return torch.where(t < 0, t - math.log(2), torch.log1p(-torch.exp(-t.clamp(min=0)) / 2))

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        log_tail = (2 * torch.where(p < 0.5, p, 1 - p)).log()
        return torch.where(p < 0.5, log_tail, -log_tail)


KERNELS: dict[str, type[Kernel]] = {
    "uniform": UniformKernel,
    "epanechnikov": Epanechnikov,
    "biweight": Biweight,
    "triweight": Triweight,
    "triangular": Triangular,
    "tricube": Tricube,
    "cosine": Cosine,
    "gaussian": GaussianKernel,
    "logistic": LogisticKernel,
    "laplace": LaplaceKernel,
    "student": StudentKernel,
}


def matched_scale(kernel: type[Kernel] | str, variance: Tensor | float) -> Tensor | float:
    """The scale at which ``kernel`` (a class, or its name in KERNELS) has the given variance.

    Lemma 3.2 compares kernels at equal variance; at equal scale they differ by their spread as well as their shape.
    """
    cls = KERNELS[kernel] if isinstance(kernel, str) else kernel
    return (variance / cls.standard_variance) ** 0.5
