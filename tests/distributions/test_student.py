"""Student's t as a kernel and as the distribution of vectors, against scipy and against its own definition."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Normal, Uniform

from evae.distributions import AggregatedPosterior, KernelPosterior, MultivariateStudentT, StudentKernel, parameters_of

DOUBLE = torch.float64
T = torch.cat([-torch.logspace(-3, 8, 23, dtype=DOUBLE), torch.logspace(-3, 3, 13, dtype=DOUBLE)])
ORACLE = stats.t(4)


@pytest.fixture
def kernel():
    return StudentKernel(torch.tensor(0.0, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE))


def test_density_cdf_quantile_and_constants_are_scipys(kernel):
    torch.testing.assert_close(kernel.log_prob(T), torch.from_numpy(ORACLE.logpdf(T)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.cdf(T), torch.from_numpy(ORACLE.cdf(T)), rtol=1e-11, atol=0)
    torch.testing.assert_close(StudentKernel._log_cumulative(T).exp(), kernel.cdf(T), rtol=1e-12, atol=0)
    p = torch.tensor([1e-30, 1e-12, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-6], dtype=DOUBLE)
    torch.testing.assert_close(kernel.icdf(p), torch.from_numpy(ORACLE.ppf(p)), rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(kernel.cdf(kernel.icdf(p)), p, rtol=1e-13, atol=0)
    assert kernel.icdf(torch.tensor([0.0, 1.0], dtype=DOUBLE)).tolist() == [-math.inf, math.inf]
    assert kernel.variance.item() == pytest.approx(ORACLE.var(), rel=1e-14)
    assert kernel.entropy().item() == pytest.approx(float(ORACLE.entropy()), rel=1e-12)
    assert kernel.roughness.item() == pytest.approx(ORACLE.expect(ORACLE.pdf), rel=1e-8)


def test_quantiles_have_the_derivative_of_their_definition(kernel):
    p = torch.tensor([1e-9, 0.3, 0.8], dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(kernel.icdf(p).sum(), p)
    torch.testing.assert_close(slope, (-kernel.log_prob(kernel.icdf(p))).exp(), rtol=1e-9, atol=0)


def test_draws_of_the_kernel():
    draws = StudentKernel(torch.zeros(()), torch.ones(())).sample((50_000,)).double()
    assert stats.kstest(draws.numpy(), ORACLE.cdf).pvalue > 1e-6


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_densities_far_from_the_centre_are_those_of_the_tail(prior):
    """Far out q is the kernel's density, relatively 1 + 15 (variance of the prior)/t²."""
    spread = torch.tensor(0.1, dtype=DOUBLE)
    p = Uniform(-spread / 2, spread / 2) if prior == "uniform" else Normal(torch.zeros(()), spread)
    z = torch.logspace(2, 100, 50, dtype=DOUBLE)
    for scale in (1e-3, 1.0, 30.0):
        kernel = StudentKernel(torch.tensor(0.0, dtype=DOUBLE), torch.tensor(scale, dtype=DOUBLE))
        q = KernelPosterior(kernel, p, 1.0, validate_args=False)
        torch.testing.assert_close(q.log_prob(z), kernel.log_prob(z), rtol=0, atol=2e-5)


def test_gradients_at_the_centre_and_far_out_are_finite(kernel):
    for p in (Uniform(torch.tensor(-0.1, dtype=DOUBLE), 0.1), Normal(torch.tensor(0.0, dtype=DOUBLE), 0.1)):
        z = torch.tensor([0.0, 0.1, 1e6, 1e90], dtype=DOUBLE, requires_grad=True)
        q = KernelPosterior(kernel, p, 0.3, validate_args=False)
        (slope,) = torch.autograd.grad(q.log_prob(z).sum(), z)
        torch.testing.assert_close(slope[2:], -5 / z.detach()[2:], rtol=1e-6, atol=0)
        assert slope.isfinite().all()


def test_vectors_are_scipys():
    loc, scale = torch.randn(4, 3, dtype=DOUBLE), torch.rand(4, 3, dtype=DOUBLE) + 0.5
    q, x = MultivariateStudentT(5.0, loc, scale), torch.randn(4, 3, dtype=DOUBLE)
    for i in range(4):
        expected = stats.multivariate_t(loc[i], torch.diag(scale[i] ** 2), df=5)
        assert q.log_prob(x)[i].item() == pytest.approx(expected.logpdf(x[i].numpy()), rel=1e-12)
        assert q.entropy()[i].item() == pytest.approx(expected.entropy(), rel=1e-10)
    torch.testing.assert_close(q.variance, scale**2 * 5 / 3)
    image = MultivariateStudentT(5.0, loc.view(4, 3, 1, 1), scale.view(4, 3, 1, 1), 3)
    torch.testing.assert_close(image.log_prob(x.view(4, 3, 1, 1)), q.log_prob(x))


def test_draws_of_vectors_have_the_norms_of_f():
    q = MultivariateStudentT(5.0, torch.zeros(1, 3, dtype=DOUBLE), torch.ones(1, 3, dtype=DOUBLE))
    ratio = q.sample((20_000,)).square().sum(-1).flatten() / 3  # F(n, ν), as the mixing variable is common
    assert stats.kstest(ratio.numpy(), stats.f(3, 5).cdf).pvalue > 1e-6


def test_posteriors_of_vectors_are_stacked_and_mixed():
    q = MultivariateStudentT(5.0, torch.zeros(2, 3), torch.ones(2, 3))
    assert set(parameters_of(q)) == {"loc", "scale"}
    mixture = AggregatedPosterior(q, 2.0)
    z = torch.tensor([[0.3, 0.0, -1.0], [1e3, 0.0, 0.0]])
    expected = MultivariateStudentT(5.0, torch.zeros(3), torch.full((3,), 2.0)).log_prob(z)
    torch.testing.assert_close(mixture.log_prob(z), expected)
