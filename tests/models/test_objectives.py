"""The objectives of the models EVAE is compared with, against values by hand and models whose answer is known."""

import copy
import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Normal

from evae import HVAE, IWAE, VAE, WAE, BetaVAE, GaussianVAE, PowerSphericalVAE, VampVAE, train
from evae.distributions import VonMisesFisher, maximum_mean_discrepancy
from evae.errors import ConfigError
from evae.models.objectives import ImportanceWeighted, MmdPenalty
from tests.models.linear_gaussian import SHAPE, linear_model

SMALL = (1, 16, 16)


def with_weights_of(model, other):
    model.load_state_dict(other.state_dict())
    return model


class TestBetaVAE:
    def test_beta_1_is_the_gaussian_vae_exactly(self):
        vae = GaussianVAE(SMALL, latent_dim=3)
        images = torch.rand(5, *SMALL)
        losses = []
        for model in (vae, with_weights_of(BetaVAE(SMALL, latent_dim=3, beta=1), vae)):
            torch.manual_seed(2)
            losses.append(copy.deepcopy(model)(images).loss)
        assert torch.equal(*losses)

    def test_beta_weighs_the_kl(self):
        terms = BetaVAE(SMALL, latent_dim=3, beta=0.1)(torch.rand(5, *SMALL))
        torch.testing.assert_close(terms.loss, (terms.reconstruction + 0.1 * terms.divergence).mean())


class TestIWAE:
    def test_one_sample_is_the_elbo(self):
        """The loss is -ln p(x|z) - ln p(z) + ln q(z|x) of the draw, whose mean is the negative ELBO."""
        model = IWAE(SMALL, latent_dim=3, samples=1).double().eval()
        images = torch.rand(4, *SMALL, dtype=torch.float64)
        torch.manual_seed(1)
        loss = model(images).loss
        torch.manual_seed(1)
        q = model.posterior(images)
        z = q.rsample()
        terms = -model.likelihood(z).log_prob(images) - model.prior().log_prob(z) + q.log_prob(z)
        torch.testing.assert_close(loss, terms.mean())

    @pytest.mark.parametrize("gradient", ["standard", "doubly-reparameterised"])
    def test_the_bound_rises_with_k_to_the_known_likelihood(self, gradient):
        """Within 6 standard errors at the end (one seed in 10^8), over 400 images."""
        model, exact = linear_model(kernel_posterior=False)
        images = exact.sample((400,)).view(-1, *SHAPE)
        known = exact.log_prob(images.flatten(1))
        bounds = {}
        with torch.no_grad():
            for samples in (1, 5, 50, 2000):
                bounds[samples] = -ImportanceWeighted(samples, gradient)(model, images).loss.item()
            terms = ImportanceWeighted(5)(model, images)
        assert bounds[1] < bounds[5] < bounds[50] < bounds[2000]
        assert bounds[2000] == pytest.approx(known.mean().item(), abs=0.02)
        elbo = -(terms.reconstruction + terms.divergence).mean().item()
        assert elbo < bounds[5]

    def test_both_gradients_have_one_mean_and_the_doubly_reparameterised_less_noise(self):
        """Of 4,000 copies of an image each; means within 6 standard errors (one seed in 10^8)."""
        model, exact = linear_model(kernel_posterior=False)
        images = exact.sample().view(1, *SHAPE).expand(4000, -1, -1, -1)
        spread = torch.full((4000, 2), 0.3, dtype=torch.float64)
        gradients = {}
        for gradient in ("standard", "doubly-reparameterised"):
            loc = torch.full((4000, 2), 0.2, dtype=torch.float64, requires_grad=True)
            model.encoder = Fixed(loc, spread)
            loss = ImportanceWeighted(20, gradient)(model, images).loss
            (gradients[gradient],) = torch.autograd.grad(loss * 4000, loc)
        standard, doubly = gradients.values()
        error = (standard.var(0) + doubly.var(0)).div(4000).sqrt()
        assert ((standard.mean(0) - doubly.mean(0)).abs() < 6 * error).all()
        assert (doubly.std(0) < 0.8 * standard.std(0)).all()


class Fixed(nn.Module):
    """A posterior that does not look at the images."""

    def __init__(self, loc, scale):
        super().__init__()
        self.given = loc, scale

    def forward(self, images):
        return Independent(Normal(*self.given), 1)


class TestMmd:
    def test_direct_double_sum(self):
        x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64) + 1

        def k(a, b):
            return sum(c / (c + ((a - b) ** 2).sum()) for c in (0.5, 2.0, 30.0))

        direct = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
        direct += sum(k(y[i], y[j]) for i in range(7) for j in range(7) if i != j) / 42
        direct -= 2 * sum(k(a, b) for a in x for b in y) / 35
        shares = maximum_mean_discrepancy(x, y, (0.5, 2.0, 30.0))
        assert shares.shape == (5,)
        torch.testing.assert_close(shares.mean(), direct)

    def test_it_is_zero_in_the_mean_for_equal_laws_and_positive_for_others(self):
        """300 pairs of samples: |t| < 6 (one seed in 10^8), with values on both sides."""
        values = torch.stack(
            [maximum_mean_discrepancy(torch.randn(20, 4), torch.randn(30, 4), (8.0,)).mean() for _ in range(300)]
        )
        assert abs(stats.ttest_1samp(values.numpy(), 0).statistic) < 6
        assert (values < 0).any()
        assert maximum_mean_discrepancy(torch.randn(50, 4) + 2, torch.randn(50, 4), (8.0,)).mean() > 0.1

    def test_gradient(self):
        x, y = torch.randn(4, 2, dtype=torch.float64, requires_grad=True), torch.randn(5, 2, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: maximum_mean_discrepancy(x, y, (1.0, 4.0)), x)

    def test_a_single_code_has_no_pair(self):
        assert maximum_mean_discrepancy(torch.ones(1, 2), torch.randn(9, 2), (1.0,)).tolist() == [0]

    def test_wae_is_their_objective(self):
        model = WAE(SMALL, latent_dim=3)
        objective = model.objective
        assert isinstance(objective, MmdPenalty)
        assert (objective.weight, objective.divergence_name) == (10, "mmd")
        assert list(objective.scales) == [0.1, 0.2, 0.5, 1, 2, 5, 10]
        images = torch.rand(6, *SMALL)
        torch.manual_seed(3)
        terms = model.eval()(images)
        torch.manual_seed(3)
        z = model.encode(images)
        constants = [2 * 3 * scale for scale in objective.scales]
        expected = maximum_mean_discrepancy(z, torch.randn(100, 3), constants)
        torch.testing.assert_close(terms.divergence, expected)
        torch.testing.assert_close(terms.loss, terms.reconstruction.mean() + 10 * expected.mean())


class TestSphere:
    @pytest.mark.parametrize("family", [HVAE, PowerSphericalVAE])
    def test_codes_and_samples_are_on_the_sphere(self, family):
        model = family(SMALL, latent_dim=4)
        images = torch.rand(5, *SMALL)
        q = model.posterior(images)
        for z in (model.encode(images), q.rsample(), model.prior().sample((5,))):
            torch.testing.assert_close(z.norm(dim=-1), torch.ones(5))
        assert isinstance(q, VonMisesFisher) == (family is HVAE)
        assert (q.concentration > 0).all()
        assert (model(images).divergence > 0).all()

    def test_two_dimensions_at_least(self):
        with pytest.raises(ConfigError, match="latent_dim must be at least 2"):
            HVAE(SMALL, latent_dim=1)


class TestVampVAE:
    def test_the_prior_is_the_mixture_of_posteriors(self):
        model = VampVAE(SMALL, latent_dim=2, pseudo_inputs=3).double().eval()
        z = torch.randn(7, 2, dtype=torch.float64)
        components = model.posterior(model.prior.pseudo_inputs.clamp(0, 1))
        expected = components.log_prob(z.unsqueeze(1)).logsumexp(1) - math.log(3)
        torch.testing.assert_close(model.prior().log_prob(z), expected)
        model(torch.rand(4, *SMALL, dtype=torch.float64)).loss.backward()
        assert model.prior.pseudo_inputs.grad.abs().sum() > 0

    def test_pseudo_inputs_do_not_disturb_the_statistics_of_images(self):
        model = VampVAE(SMALL, latent_dim=2, pseudo_inputs=3)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.prior()
        assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
        assert model.encoder.training

    def test_images_and_pseudo_inputs_are_encoded_together(self):
        """In evaluation mode that makes no difference; in training they share their statistics."""
        model = VampVAE(SMALL, latent_dim=2, pseudo_inputs=3)
        images = torch.rand(5, *SMALL)
        z = torch.randn(4, 2)
        _, prior = model.eval().prior.encode_jointly(images)
        torch.testing.assert_close(prior.log_prob(z), model.prior().log_prob(z))
        q, prior = model.train().prior.encode_jointly(images)
        together = model.posterior(torch.cat([images, model.prior.pseudo_inputs]))
        torch.testing.assert_close(torch.cat([q.mean, prior.component_distribution.mean]), together.mean)

    def test_the_kl_is_an_unbiased_estimate(self):
        """Where all pseudo-inputs are one image, the prior is its posterior and the KL is known (6 standard errors)."""
        model = VampVAE(SMALL, latent_dim=2, pseudo_inputs=3).eval()
        image = torch.rand(1, *SMALL)
        other = torch.rand(1, *SMALL)
        model.prepare(lambda count: other.expand(count, *SMALL), batch_size=8)
        with torch.no_grad():
            model.encoder.loc.weight *= 20
            q, p = model.posterior(image), model.posterior(other)
            known = torch.distributions.kl_divergence(q, p).item()
            estimates = torch.cat([model.objective.divergence(model, q) for _ in range(2000)])
        assert known > 1e-3
        assert abs(estimates.mean().item() - known) < 6 * estimates.std().item() / len(estimates) ** 0.5
        assert model.objective.divergence_name == "monte_carlo_kl"

    def test_training_starts_from_training_images(self, blobs, tmp_path):
        seen = {}

        class Spy(VampVAE):
            def prepare(self, images, batch_size):
                super().prepare(images, batch_size)
                seen["start"] = self.prior.pseudo_inputs.detach().clone()

        settings = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}
        train(blobs, tmp_path / "run", lambda shape: Spy(shape, latent_dim=2, pseudo_inputs=48), **settings)
        start = seen["start"]
        assert start.max() > 0.9
        assert len(torch.unique(start, dim=0)) == 48
        with pytest.raises(ConfigError, match="initialises from 49 training images, but there are only 48"):
            train(blobs, tmp_path / "more", lambda shape: Spy(shape, latent_dim=2, pseudo_inputs=49), **settings)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (BetaVAE, {"beta": 0}, "beta must be positive"),
        (IWAE, {"samples": 0}, "samples must be at least 1, not 0"),
        (IWAE, {"gradient": "nope"}, "gradient must be one of standard, doubly-reparameterised, not 'nope'"),
        (WAE, {"weight": -1}, "weight must be positive"),
        (WAE, {"scales": []}, "scales must hold"),
        (WAE, {"scales": [1, -1]}, "scales must be positive"),
        (VampVAE, {"pseudo_inputs": 0}, "pseudo_inputs must be"),
    ],
)
def test_settings_that_cannot_work(family, settings, message):
    with pytest.raises(ConfigError, match=message):
        family(SMALL, **settings)


def test_weights_that_are_shared_are_saved_once(tmp_path):
    model = GaussianVAE(SMALL, latent_dim=256)
    model.encoder.log_scale.weight = model.encoder.loc.weight
    model.save_pretrained(tmp_path)
    loaded = VAE.from_pretrained(tmp_path)
    assert torch.equal(loaded.encoder.log_scale.weight, model.encoder.loc.weight)
