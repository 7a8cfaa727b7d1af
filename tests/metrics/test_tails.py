"""Scores of tails against their definitions, the MMD test, and the bound on generated means."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from evae import AE, EVAE, BoundedVAE, GaussianVAE, HypersphericalVAE
from evae.columns import Columns
from evae.errors import DataError
from evae.metrics.bounds import lipschitz_constants, mean_bound, support_radius
from evae.metrics.tails import check_enough, quantile_error, tail_ks, tail_scores
from evae.metrics.two_sample import kernel_mmd, mmd_test

UNITS = Columns(("a", "b", "c"), (1.0, -2.0, 0.0), (2.0, 0.5, 1.0))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_distance_of_tails_is_the_largest_difference_of_the_conditional_laws(rng):
    x, y = rng.standard_t(3, 500), rng.standard_normal(400)
    points = np.concatenate([x, y])
    of_x, of_y = ((rows[rows > 1][:, None] <= points).mean(0) for rows in (x, y))
    assert tail_ks(x, y, 1.0) == pytest.approx(np.abs(of_x - of_y).max(), rel=1e-12)
    assert tail_ks(x, x, 1.0) == 0
    assert tail_ks(x, np.minimum(y, 1.0), 1.0) == 1  # nothing is generated there
    assert math.isnan(tail_ks(np.minimum(x, 1.0), y, 1.0))


def test_errors_of_quantiles(rng):
    x = rng.pareto(2, 20_000) + 1
    assert quantile_error(x, 0.5 * x, 0.999) == pytest.approx(-0.5)
    assert quantile_error(x, 0.5 * x, 0.001) == pytest.approx(-0.5)
    assert quantile_error(x, x, 0.9999) is None  # two values beyond
    assert quantile_error(x, x[:5_000], 0.999) is None
    assert quantile_error(np.zeros(1_000), np.ones(1_000), 0.9) is None


def test_both_tails_of_a_column(rng):
    x, y = rng.standard_t(3, 5_000), rng.standard_normal(4_000)
    scores = tail_scores(x, y, 0.02)
    assert scores.thresholds == dict(zip(("left", "right"), np.quantile(x, [0.02, 0.98]), strict=True))
    assert scores.of_data == pytest.approx({"left": 0.02, "right": 0.02})
    assert scores.fractions["left"] == (y < scores.thresholds["left"]).mean()
    assert scores.ks["left"] == tail_ks(-x, -y, -scores.thresholds["left"])
    assert (scores.largest, scores.largest_of_data) == (np.abs(y).max(), np.abs(x).max())
    assert list(scores.quantiles) == [0.001, 0.999, 0.0001, 0.9999]
    mirrored = tail_scores(-x, -y, 0.02)
    assert mirrored.ks["right"] == pytest.approx(scores.ks["left"])
    assert tail_scores(x, y, thresholds=(-6, 6)).of_data["right"] == (x > 6).mean()


def test_too_few_rows_are_told():
    check_enough(0.01, 1_000, 1_000)
    with pytest.raises(DataError, match="--tails 0.01 leaves 9.9 of 990 hold-out rows in each tail, and at least 10"):
        check_enough(0.01, 990, 1_000)
    with pytest.raises(DataError, match="of 50 samples in each tail, .* more samples"):
        check_enough(0.01, 1_000, 50)


def test_mmd_has_an_interval_and_an_exact_p_value():
    x, y = torch.randn(400, 2), torch.randn(300, 2)
    test = mmd_test(x, y + 0.5)
    assert test.value == pytest.approx(kernel_mmd(x, y + 0.5)[0], rel=1e-12)
    assert test.low < test.value < test.high
    assert test.error == pytest.approx(kernel_mmd(x, y + 0.5)[1], rel=0.5)
    assert test.p_value == 0.001
    assert mmd_test(x, y + 0.5) == test
    assert all(math.isnan(value) for value in mmd_test(x[:1], y))
    p_values = [mmd_test(torch.randn(20, 1), torch.randn(30, 1), seed).p_value for seed in range(30)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("family", [EVAE, BoundedVAE, HypersphericalVAE])
def test_generated_means_are_within_the_bound(family):
    model = family((3,), latent_dim=4, widths=[16, 8]).eval()
    if family is not HypersphericalVAE:
        assert support_radius(model.prior()) == pytest.approx(model.prior.spread[0].item() * math.sqrt(4) / 2)
    bound = mean_bound(model, UNITS)
    with torch.no_grad():
        means = torch.from_numpy(UNITS.restore(model.decode(model.prior().sample((2_000,))).numpy()))
    assert ((means - torch.tensor(bound.centre)).abs() <= torch.tensor(bound.radius)).all()
    assert (means.abs().amax(0) <= torch.tensor(bound.largest)).all()


def test_the_bound_of_a_linear_decoder_is_reached():
    model = EVAE((3,), latent_dim=1, widths=[8], decoder=lambda shape, d: torch.nn.Sequential(torch.nn.Linear(d, 3)))
    bound = mean_bound(model, UNITS)
    with torch.no_grad():
        ends = UNITS.restore(model.decode(torch.tensor([[-0.05], [0.05]])).numpy())
    np.testing.assert_allclose(np.abs(ends - bound.centre), [bound.radius] * 2, rtol=1e-4)
    assert lipschitz_constants(model.decoder).shape == (3,)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: GaussianVAE((3,), latent_dim=2), "the support of the prior of this GaussianVAE is not bounded"),
        (lambda: AE((3,), latent_dim=2), "is not bounded"),
        (
            lambda: EVAE((3,), latent_dim=2, decoder=lambda s, d: torch.nn.Sequential(torch.nn.Linear(d, 3), Cube())),
            "no Lipschitz constant is known",
        ),
    ],
)
def test_where_there_is_no_bound_a_sentence_says_why(model, reason):
    assert reason in mean_bound(model(), UNITS)


class Cube(torch.nn.Module):
    def forward(self, x):
        return x**3
