"""The objectives of the models EVAE is compared with, against values by hand and models whose answer is known."""

import copy
import math
from functools import partial

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Normal

from evae import AE, HVAE, IWAE, RAE, VAE, WAE, BetaVAE, GaussianVAE, PowerSphericalVAE, VampVAE, train
from evae.distributions import VonMisesFisher, maximum_mean_discrepancy
from evae.errors import ConfigError
from evae.models.objectives import ImportanceWeighted, MmdPenalty, decode_with_gradient, squared_weights
from evae.runs import RunFolder
from tests.models.linear_gaussian import SHAPE, linear_model
from tests.small import trained

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


class TestAE:
    def test_the_loss_is_the_reconstruction(self):
        model = AE(SMALL, latent_dim=3).double()
        images = torch.rand(5, *SMALL, dtype=torch.float64)
        terms = model(images, divergence_weight=0.3)
        maps = model.decoder(model.encoder.loc(model.encoder.body(images)))
        bce = nn.functional.binary_cross_entropy_with_logits(maps, images, reduction="none").flatten(1).sum(1)
        torch.testing.assert_close(terms.reconstruction, bce)
        assert torch.equal(terms.loss, terms.reconstruction.mean())
        assert torch.equal(terms.divergence, torch.zeros(5, dtype=torch.float64))
        assert model.objective.divergence_name == "penalty"

    def test_its_encoder_has_no_spread_and_its_prior_is_the_standard_normal(self):
        model = AE(SMALL, latent_dim=3)
        assert (model.posterior(torch.rand(2, *SMALL)).variance == 0).all()
        assert (model.prior().mean.tolist(), model.prior().variance.tolist()) == ([0] * 3, [1] * 3)


def few_units(image_shape, latent_dim):
    """A decoder of 64 units, of the same layers as the others."""
    doubling = nn.ConvTranspose2d(4, image_shape[0], kernel_size=4, stride=4)
    points = nn.Linear(latent_dim, 64), nn.Unflatten(1, (4, 4, 4))
    return nn.Sequential(*points, nn.BatchNorm2d(4), nn.ReLU(inplace=True), doubling)


class TestRAE:
    @pytest.mark.parametrize("regularisation", ["l2", "gradient-penalty"])
    def test_the_terms(self, regularisation):
        model = RAE(SMALL, 3, weight_code=0.7, decoder_decay=0.2, regularisation=regularisation).double()
        images = torch.rand(5, *SMALL, dtype=torch.float64)
        torch.manual_seed(4)
        terms = model(images, divergence_weight=0.5)
        z = model.encode(images)
        reconstruction, penalty = -model.likelihood(z).log_prob(images), (z**2).sum(1) / 2
        torch.testing.assert_close(terms.reconstruction, reconstruction)
        torch.testing.assert_close(terms.divergence, penalty)
        torch.manual_seed(4)
        term = squared_weights(model.decoder) if regularisation == "l2" else decode_with_gradient(model, z)[1]
        torch.testing.assert_close(terms.loss, (reconstruction + 0.5 * 0.7 * penalty).mean() + 0.2 * term)
        assert model.objective.divergence_name == "penalty"
        per_dimension = model.objective.per_dimension(model, model.posterior(images))
        torch.testing.assert_close(per_dimension.sum(1), penalty)

    def test_the_squared_weights_are_those_of_matrices_and_filters(self):
        model = RAE(SMALL, latent_dim=3, decoder_decay=2.0).double()
        layers = [m for m in model.decoder if isinstance(m, nn.Linear | nn.ConvTranspose2d)]
        assert len(layers) == 4
        squared = squared_weights(model.decoder)
        torch.testing.assert_close(squared, sum((m.weight**2).sum() for m in layers))
        squared.backward()
        regularised = {name for name, p in model.decoder.named_parameters() if p.grad is not None}
        assert regularised == {f"{i}.weight" for i, m in enumerate(model.decoder) if m in layers}
        for layer in layers:
            torch.testing.assert_close(layer.weight.grad, 2 * layer.weight)
        assert squared_weights(nn.ReLU()) == 0

    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
    def test_the_gradient_penalty_is_unbiased(self, likelihood):
        """Its mean is the squared norm of the whole Jacobian, over the batch, too: 6 standard errors (1 in 10^8)."""
        model = RAE(SMALL, latent_dim=3, likelihood=likelihood, decoder=few_units).double()
        z = torch.randn(4, 3, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda z: model.decoder(z).sigmoid(), z)
        with torch.no_grad():
            draws = torch.stack([decode_with_gradient(model, z)[1] for _ in range(400)])
        error = draws.std() / 400**0.5
        known = (jacobian**2).sum() / 4
        assert error < 0.1 * known
        assert (draws.mean() - known).abs() < 6 * error

    def test_the_gradient_of_the_gradient_penalty(self):
        """Through batch normalisation in training mode and ReLUs in place, against finite differences.

        The Jacobian jumps where a unit's sign changes: few units and short steps, so that 1 run in 10^3 meets one.
        """
        model = RAE(SMALL, latent_dim=2, decoder=few_units).double()
        z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

        def penalty():
            torch.manual_seed(5)
            return decode_with_gradient(model, z)[1]

        variables = [z, *model.decoder.parameters()]
        gradients = torch.autograd.grad(penalty(), variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            direction, values = torch.randn_like(variable), []
            direction /= direction.norm()
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    variable.add_(direction, alpha=step)
                    values.append(penalty().item())
                    variable.sub_(direction, alpha=step)
            slope = (gradient * direction).sum().item()
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-6)

    @pytest.mark.parametrize("regularisation", ["l2", "gradient-penalty"])
    def test_the_loss_is_the_same_without_gradients(self, regularisation):
        model = RAE(SMALL, latent_dim=3, regularisation=regularisation, decoder_decay=0.5).eval()
        images = torch.rand(4, *SMALL)
        losses = []
        for enabled in (True, False):
            torch.manual_seed(2)
            with torch.set_grad_enabled(enabled):
                terms = model(images)
            assert terms.loss.requires_grad == terms.reconstruction.requires_grad == enabled
            losses.append(terms.loss)
        torch.testing.assert_close(*losses)

    def test_without_weights_it_is_an_autoencoder(self):
        ae = AE(SMALL, latent_dim=3)
        rae = with_weights_of(RAE(SMALL, latent_dim=3, weight_code=0, decoder_decay=0), ae)
        images = torch.rand(4, *SMALL)
        torch.testing.assert_close(rae(images).loss, ae(images).loss)


@pytest.mark.parametrize("family", [AE, partial(RAE, regularisation="gradient-penalty", weight_code=2.0)])
def test_deterministic_autoencoders_train(family, blobs, tmp_path):
    trained(family, blobs, tmp_path)
    (line,) = RunFolder(tmp_path).epochs()
    assert {"penalty", "holdout_penalty", "holdout_loss"} <= line.keys()
    if family is AE:
        assert line["penalty"] == 0
        assert line["loss"] == pytest.approx(line["reconstruction"])
    else:
        assert line["holdout_loss"] > line["holdout_reconstruction"] + 2 * line["holdout_penalty"]
    assert VAE.from_pretrained(tmp_path).sample(2).shape == (2, *SMALL)


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

    def test_the_prior_leaves_the_mode_of_the_encoder_alone(self):
        """Another thread may train the model while this one encodes the pseudo-inputs, in evaluation mode."""
        model, seen = VampVAE(SMALL, latent_dim=2, pseudo_inputs=3), []
        model.train()
        model.encoder.register_forward_hook(lambda *_: seen.append({m.training for m in model.modules()}))
        mean, posterior = model.prior().mean, model.example_posterior().mean
        assert seen == [{True}, {True}]
        model.eval()
        assert torch.equal(mean, model.prior().mean)
        assert torch.equal(posterior, model.example_posterior().mean)

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
            estimates = torch.cat([model.objective.divergence(model, q) for _ in range(500)])
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
        (RAE, {"weight_code": -1}, "weight_code must be 0 or positive"),
        (RAE, {"decoder_decay": math.nan}, "decoder_decay must be 0 or positive"),
        (RAE, {"regularisation": "nope"}, "regularisation must be one of l2, gradient-penalty, not 'nope'"),
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
