"""The per-image parameters of posteriors: out and in again, selected, widened."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Laplace, Normal, Uniform, kl_divergence
from torch.nn import functional

from evae.distributions import (
    KERNELS,
    KernelPosterior,
    PointMass,
    PowerSpherical,
    SphericalEpanechnikov,
    SphericalPosterior,
    VonMisesFisher,
    parameters_of,
    select,
    widened,
    with_parameters,
)

DOUBLE = torch.float64
D = 3


def kernel_posterior(name, prior, n, dtype=DOUBLE, bandwidth=0.36, d=D, seed=0):
    """n kernel posteriors of the named kernel, bandwidth a number or "per-latent"."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(n, d, dtype=dtype, generator=generator)
    scale = torch.rand(n, d, dtype=dtype, generator=generator) + 0.1
    if bandwidth == "per-latent":
        bandwidth = torch.linspace(0.2, 0.8, d, dtype=dtype)
    spread = torch.tensor(0.3, dtype=dtype)
    p = Uniform(-spread / 2, spread / 2) if prior == "uniform" else Normal(torch.zeros_like(spread), spread)
    if name == "spherical":
        p = Independent(p.expand((d,)), 1)
        return SphericalPosterior(SphericalEpanechnikov(loc, scale), p, bandwidth, validate_args=False)
    kernel = KERNELS[name](loc, scale)
    return Independent(KernelPosterior(kernel, p, bandwidth, validate_args=False), 1, validate_args=False)


def others(n, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(n)
    loc = torch.randn(n, D, dtype=dtype, generator=generator)
    width = torch.rand(n, D, dtype=dtype, generator=generator) + 0.1
    unit = functional.normalize(loc, dim=-1)
    return {
        "normal": Independent(Normal(loc, width), 1),
        "vmf": VonMisesFisher(unit, width[:, 0] * 20),
        "power-spherical": PowerSpherical(unit, width[:, 0] * 20),
        "point": PointMass(loc),
    }


KINDS = [(k, p, b) for k in [*KERNELS, "spherical"] for p in ("uniform", "normal") for b in (0.36, "per-latent")]


def posterior(kind, n, dtype=DOUBLE):
    return others(n, dtype)[kind] if isinstance(kind, str) else kernel_posterior(*kind[:2], n, dtype, kind[2])


ALL = [*KINDS, "normal", "vmf", "power-spherical", "point"]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("kind", ALL, ids=str)
def test_round_trip(kind, dtype):
    """The same parameters in a posterior made like one of a single image: the same moments, draws and densities."""
    q, like = posterior(kind, 5, dtype), posterior(kind, 1, dtype)
    tensors = parameters_of(q)
    again = with_parameters(like, tensors)
    assert type(again) is type(q)
    assert (again.batch_shape, again.event_shape) == ((5,), (D,))
    for name, tensor in parameters_of(again).items():
        assert torch.equal(tensor, tensors[name])
    assert torch.equal(again.mean, q.mean)
    assert torch.equal(again.variance, q.variance)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = q.sample((2,))
        torch.manual_seed(0)
        assert torch.equal(again.sample((2,)), draws)
    if kind != "point" and kind[0] != "spherical":
        assert torch.equal(again.log_prob(draws), q.log_prob(draws))


@given(kind=st.sampled_from(ALL), rows=st.lists(st.integers(0, 6), max_size=9))
@settings(max_examples=60, deadline=None)
def test_select(kind, rows):
    q = posterior(kind, 7)
    some = select(q, torch.tensor(rows, dtype=torch.long))
    assert some.batch_shape == (len(rows),)
    assert torch.equal(some.mean, q.mean[rows])
    assert torch.equal(some.variance, q.variance[rows])


def test_select_by_slice_and_mask():
    q = posterior("normal", 4)
    for rows in (slice(1, 3), torch.tensor([False, True, True, False])):
        assert torch.equal(select(q, rows).mean, q.mean[1:3])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] != "spherical"] + ["normal"], ids=str)
def test_widened_is_the_law_of_a_stretched_draw(kind):
    """The density of c + h (Z - c) at z is that of Z at c + (z - c)/h, over h^d."""
    q, h = posterior(kind, 4), 1.7
    wide = widened(q, h)
    torch.testing.assert_close(wide.mean, q.mean)
    torch.testing.assert_close(wide.variance, h**2 * q.variance)
    z = q.mean + 0.8 * q.stddev * torch.tensor([1.0, -0.5, 0.2], dtype=DOUBLE)
    expected = q.log_prob(z) - D * torch.tensor(h, dtype=DOUBLE).log()
    torch.testing.assert_close(wide.log_prob(q.mean + h * (z - q.mean)), expected, rtol=1e-9, atol=1e-9)


def test_widened_about_the_mean_of_the_prior():
    kernel = KERNELS["epanechnikov"](torch.zeros(2, 1, dtype=DOUBLE), torch.ones(2, 1, dtype=DOUBLE))
    for prior in (Uniform(1.0, 3.0), Normal(2.0, 1.0)):
        q = Independent(KernelPosterior(kernel, prior, 0.5, validate_args=False), 1, validate_args=False)
        wide = widened(q, 3.0)
        torch.testing.assert_close(wide.mean, q.mean)
        torch.testing.assert_close(wide.variance, 9 * q.variance)


@pytest.mark.parametrize("kind", ["vmf", "power-spherical"])
def test_widened_on_the_sphere(kind):
    q = posterior(kind, 4)
    wide = widened(q, 2.0)
    assert torch.equal(wide.loc, q.loc)
    assert torch.equal(wide.concentration, q.concentration / 4)


@pytest.mark.parametrize("kind", ["point", ("spherical", "normal", 0.36)], ids=str)
def test_no_density_to_widen(kind):
    with pytest.raises(NotImplementedError, match="has no density"):
        widened(posterior(kind, 2), 2.0)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_factor(factor):
    with pytest.raises(ValueError, match="must be positive and finite"):
        widened(posterior("normal", 2), factor)


@pytest.mark.parametrize(
    "q",
    [
        Independent(Laplace(torch.zeros(2, 3), 1.0), 1),
        Normal(torch.zeros(2), 1.0),
        Independent(Normal(torch.zeros(2, 3, 4), 1.0), 2),
    ],
)
def test_other_kinds(q):
    for call in (
        parameters_of,
        lambda q: with_parameters(q, {}),
        lambda q: select(q, slice(1)),
        lambda q: widened(q, 2),
    ):
        with pytest.raises(TypeError, match="not a posterior of evae's encoders"):
            call(q)


def test_bad_shapes_and_names():
    q = posterior(KINDS[0], 3)
    loc = torch.zeros(2, D)
    with pytest.raises(ValueError, match="batch shape"):
        parameters_of(Independent(Normal(torch.zeros(2, 3, 4), 1.0), 1))
    with pytest.raises(ValueError, match=r"must be \['loc', 'scale'\], not \['loc'\]"):
        with_parameters(q, {"loc": loc})
    with pytest.raises(ValueError, match="loc must have shape"):
        with_parameters(q, {"loc": loc[:, :2], "scale": loc[:, :2]})
    with pytest.raises(ValueError, match="empty batch"):
        with_parameters(select(q, slice(0)), {"loc": loc, "scale": loc})


def test_bandwidth_and_prior_must_be_shared():
    loc = torch.zeros(2, D)
    varying, spread = torch.tensor([[0.1], [0.2]]), torch.ones(2, 1)
    for prior, bandwidth, name in (
        (Normal(torch.zeros(2, 1), spread), varying, "bandwidth"),
        (Normal(torch.zeros(2, 1), varying), spread, "prior's scale"),
        (Uniform(torch.zeros(2, 1), varying), spread, "prior's high"),
    ):
        q = Independent(KernelPosterior(KERNELS["cosine"](loc, 1.0), prior, bandwidth), 1)
        with pytest.raises(ValueError, match=f"the {name} of kernel posteriors must be the same"):
            parameters_of(q)
        if name == "bandwidth":  # a full tensor of one value is shared
            same = KernelPosterior(KERNELS["cosine"](loc, 1.0), prior, torch.full((2, D), 0.1))
            assert set(parameters_of(Independent(same, 1))) == {"loc", "scale"}


def test_gradients_reach_the_parameters():
    q = posterior("normal", 2)
    tensors = {name: x.clone().requires_grad_() for name, x in parameters_of(q).items()}
    rebuilt = with_parameters(q, tensors)
    kl_divergence(rebuilt, Independent(Normal(torch.zeros(2, D), 1.0), 1)).sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in tensors.values())
