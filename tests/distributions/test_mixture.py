"""A mixture with a background: density, moments, samples."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

from evae.distributions import WithBackground


def mixture(weight=0.25):
    low, high = torch.tensor([1.0, 2.0]).double(), torch.tensor([2.0, 4.0]).double()
    main = Independent(Uniform(low, high, validate_args=False), 1)
    background = Independent(Normal(torch.zeros(2).double(), torch.tensor([1.0, 3.0]).double()), 1)
    return WithBackground(main, background, weight)


@pytest.mark.parametrize(("z", "main"), [((1.5, 3.0), 0.5), ((5.0, 3.0), 0.0)])
def test_the_density_is_the_weighted_sum(z, main):
    p, z = mixture(), torch.tensor(z).double()
    expected = math.log(0.75 * main + 0.25 * p.background.log_prob(z).exp().item())
    assert p.log_prob(z).item() == pytest.approx(expected, abs=1e-12)


def test_moments_and_samples():
    """Means of 40,000 draws to within 6 standard errors: missed by one seed in 10^8."""
    p = mixture()
    z = p.sample((40_000,))
    assert z.shape == (40_000, 2)
    assert ((z.mean(0) - p.mean).abs() < 6 * (p.variance / 40_000).sqrt()).all()
    assert z.var(0) == pytest.approx(p.variance, rel=0.1)
    assert p.sample((2, 3)).shape == (2, 3, 2)
