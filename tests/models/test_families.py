"""Families: the objective's value by hand, shapes, precisions, hostile images."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Normal
from torch.nn import functional

from evae import EVAE, HVAE, RAE, VAE, GaussianVAE, HypersphericalVAE, load_model
from evae.cli import main
from evae.distributions import KERNELS, KernelPosterior
from evae.errors import ConfigError
from evae.models.encoders import PointEncoder
from evae.models.likelihoods import LIKELIHOODS
from tests.models.families import SHAPE


def test_shapes_of_the_interface(family, images):
    model = family(SHAPE, latent_dim=5)
    q = model.posterior(images)
    assert q.batch_shape == (6,)
    assert q.event_shape == (5,)
    z = q.rsample()
    p = model.likelihood(z)
    assert p.batch_shape == (6,)
    assert p.event_shape == SHAPE
    terms = model(images)
    assert terms.reconstruction.shape == terms.divergence.shape == (6,)
    assert terms.loss.shape == ()
    assert model.encode(images).shape == (6, 5)
    assert model.decode(z).shape == model.reconstruct(images).shape == images.shape
    samples = model.sample(3)
    assert samples.shape == (3, *SHAPE)
    for pictures in (model.decode(z), samples):
        assert ((pictures >= 0) & (pictures <= 1)).all()
    assert model.prior().event_shape == (5,)


def test_evae_loss_is_equation_10():
    model = EVAE(SHAPE, latent_dim=3, bandwidth=0.4, support_length=0.2, n=50).double()
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    torch.manual_seed(1)
    terms = model(images)

    torch.manual_seed(1)
    features = model.encoder.body(images)
    mu, r = model.encoder.loc(features), model.encoder.log_scale(features).exp()
    k = 2 * torch.sin(torch.asin(2 * torch.rand_like(mu) - 1) / 3)
    z = 0.4 * (mu + r * k) + 0.2 * (torch.rand_like(mu) - 0.5)
    bce = functional.binary_cross_entropy(model.decoder(z).sigmoid(), images, reduction="none").flatten(1).sum(1)
    penalty = (3 * 0.2 / (5 * 50) / r).sum(1)
    torch.testing.assert_close(terms.reconstruction, bce)
    torch.testing.assert_close(terms.divergence, penalty)
    torch.testing.assert_close(terms.loss, (bce + penalty).mean())
    assert model.objective.divergence_name == "penalty"


SLOW = {"tricube", "triangular", "triweight", "laplace", "biweight", "student"}  # a table of entropies each


@pytest.mark.parametrize(
    "kernel",
    [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in [*sorted(KERNELS), "spherical_epanechnikov"]],
)
def test_every_kernel_trains_and_has_the_variance_of_the_epanechnikov(kernel, images):
    torch.manual_seed(5)
    reference = EVAE(SHAPE, latent_dim=2).posterior(images)
    elbo = {"prior": "gaussian", "objective": "elbo"}
    for options in ({}, {"prior": "gaussian"}) if kernel.startswith("spherical") else ({}, elbo):
        torch.manual_seed(5)
        model = EVAE(SHAPE, latent_dim=2, kernel=kernel, **options)
        q = model.posterior(images)
        torch.testing.assert_close(getattr(q, "base_dist", q).kernel.variance, reference.base_dist.kernel.variance)
        model(images).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_evae_elbo_is_exact():
    """Its divergence is the mean of ln q - ln p over samples, to 6 standard errors (missed by one seed in 10^8)."""
    model = EVAE(SHAPE, latent_dim=2, prior="gaussian", objective="elbo", support_length=0.7).double().eval()
    images = torch.rand(2, *SHAPE, dtype=torch.float64)
    q = model.posterior(images)
    z = q.sample((100_000,))
    terms = q.log_prob(z) - model.prior().log_prob(z)
    error = terms.std(0) / math.sqrt(len(z))
    assert model.objective.divergence_name == "kl"
    assert ((model(images).divergence - terms.mean(0)).abs() < 6 * error).all()


def test_bandwidths_and_support_lengths_that_are_rules_or_learned(images):
    rule = EVAE(SHAPE, latent_dim=2, bandwidth="bickel-rosenblatt", m=1000)
    assert rule.posterior(images).base_dist.bandwidth[0, 0].item() == pytest.approx(1000 ** (-2 / 9))
    for bandwidth, count in (("learned", 1), ("learned-per-latent", 3)):
        model = EVAE(
            SHAPE, latent_dim=3, bandwidth=bandwidth, support_length="learned", prior="gaussian", objective="elbo"
        )
        q = model.posterior(images).base_dist
        torch.testing.assert_close(q.bandwidth, torch.full((6, 3), 100 ** (-2 / 9)))
        torch.testing.assert_close(q.support_length, torch.full((6, 3), 0.1))
        model(images).loss.backward()
        assert model.encoder.log_bandwidth.grad.shape == (count,)
        assert model.encoder.log_bandwidth.grad.abs().sum() > 0
        assert model.prior.log_spread.grad.abs() > 0


def test_penalty_does_not_depend_on_the_batch():
    model = EVAE(SHAPE, latent_dim=3).eval()
    images = torch.rand(8, *SHAPE)
    together = model(images).divergence
    apart = torch.cat([model(batch).divergence for batch in images.split(3)])
    torch.testing.assert_close(together, apart)


def test_the_centre_is_trained_by_the_reconstruction_alone():
    model = EVAE(SHAPE, latent_dim=3)
    model(torch.rand(4, *SHAPE)).divergence.sum().backward()
    assert model.encoder.loc.weight.grad is None
    assert model.encoder.log_scale.weight.grad.abs().sum() > 0


def test_gaussian_vae_loss_is_the_negative_elbo():
    model = GaussianVAE(SHAPE, latent_dim=3).double()
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    terms = model(images)
    features = model.encoder.body(images)
    mu, sigma = model.encoder.loc(features), model.encoder.log_scale(features).exp()
    kl = 0.5 * (mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum(1)
    torch.testing.assert_close(terms.divergence, kl)
    torch.testing.assert_close(terms.loss, (terms.reconstruction + kl).mean())
    assert model.objective.divergence_name == "kl"


@pytest.mark.parametrize("prior", ["uniform", "gaussian"])
def test_evae_posterior_is_the_papers(prior, images):
    model = EVAE(SHAPE, latent_dim=3, bandwidth=0.3, support_length=0.2, prior=prior)
    q = model.posterior(images).base_dist
    assert isinstance(q, KernelPosterior)
    torch.testing.assert_close(q.support_length, torch.full((6, 3), 0.2))
    torch.testing.assert_close(q.bandwidth, torch.full((6, 3), 0.3))
    assert model.prior().stddev[0].item() == pytest.approx(0.2 if prior == "gaussian" else 0.2 / math.sqrt(12))


@pytest.mark.parametrize("likelihood", sorted(LIKELIHOODS))
def test_every_likelihood_trains(family, likelihood, images):
    model = family(SHAPE, latent_dim=2, likelihood=likelihood)
    model(images).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bernoulli_reconstruction_of_intensities_is_the_cross_entropy(images):
    model = GaussianVAE(SHAPE, latent_dim=2).eval()
    z = torch.randn(6, 2)
    bce = functional.binary_cross_entropy_with_logits(model.decoder(z), images, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(-model.likelihood(z).log_prob(images), bce)


def test_continuous_bernoulli_and_gaussian_are_densities(images):
    for likelihood in ("continuous_bernoulli", "gaussian"):
        model = GaussianVAE(SHAPE, latent_dim=2, likelihood=likelihood).double().eval()
        p = model.likelihood(torch.randn(1, 2, dtype=torch.float64)).base_dist
        low, high = (0, 1) if likelihood == "continuous_bernoulli" else (-20, 20)
        x = torch.linspace(low, high, 20_001, dtype=torch.float64)
        density = p.expand((len(x), *SHAPE)).log_prob(x.view(-1, 1, 1, 1).expand(-1, *SHAPE)).exp()
        torch.testing.assert_close(
            torch.trapezoid(density, x, dim=0), torch.ones(SHAPE, dtype=torch.float64), rtol=1e-6, atol=0
        )


@given(fill=st.sampled_from([0.0, 1.0, 0.5, None]), count=st.integers(2, 5), shift=st.floats(-1e4, 1e4))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_loss_and_gradients_are_finite(family, fill, count, shift):
    """Also where the encoder asks for spreads far beyond the range it may have."""
    model = family(SHAPE, latent_dim=3)
    heads = dict(model.encoder.named_children())
    spread = heads.get("log_scale") or heads.get("concentration") or heads["loc"]
    with torch.no_grad():
        spread.bias.fill_(shift)
    images = torch.rand(count, *SHAPE) if fill is None else torch.full((count, *SHAPE), fill)
    scale = model.posterior(images).variance
    assert scale.isfinite().all()
    if abs(shift) < 10:
        terms = model(images)
        terms.loss.backward()
        assert terms.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_image_float64_and_autocast(family):
    model = family(SHAPE, latent_dim=3).eval()
    assert model(torch.rand(1, *SHAPE)).loss.isfinite()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model(torch.rand(2, *SHAPE))
        assert model.posterior(torch.rand(2, *SHAPE)).mean.dtype == torch.float32
    assert terms.loss.dtype == terms.reconstruction.dtype == torch.float32
    assert model.double()(torch.rand(2, *SHAPE, dtype=torch.float64)).loss.dtype == torch.float64


# Tracing warns of what it does itself: instances of autograd functions, gradients of tensors that are no leaves.
COMPILED = pytest.mark.filterwarnings("ignore")


def check_compiled(model, images, **options):
    torch._dynamo.reset()
    loss = torch.compile(model, **options)(images).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@COMPILED
@pytest.mark.slow
def test_traced_by_the_compiler(images):
    check_compiled(EVAE(SHAPE, latent_dim=3), images, backend="aot_eager")


@COMPILED
def test_a_second_derivative_is_not_traced(images):
    model = RAE(SHAPE, latent_dim=3, regularisation="gradient-penalty")
    check_compiled(model, images, backend="aot_eager")


@COMPILED
@pytest.mark.slow
def test_compiled(family, images):
    check_compiled(family(SHAPE, latent_dim=3), images)


def test_encode_is_deterministic_and_sample_follows_the_seed(family, images):
    model = family(SHAPE, latent_dim=3).eval()
    assert torch.equal(model.encode(images), model.encode(images))
    assert torch.equal(model.reconstruct(images), model.reconstruct(images))
    again = torch.equal(model.reconstruct(images, "sample"), model.reconstruct(images, "sample"))
    assert again == isinstance(model.encoder, PointEncoder)
    torch.manual_seed(2)
    first = model.sample(2)
    torch.manual_seed(2)
    assert torch.equal(first, model.sample(2))


def test_own_encoder_and_decoder(images):
    body = nn.Sequential(nn.Flatten(), nn.Linear(256, 7), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(3, 256), nn.Unflatten(1, SHAPE))
    model = EVAE(SHAPE, latent_dim=3, encoder=body, decoder=decoder)
    assert model.encoder.loc.in_features == 7
    model(images).loss.backward()
    assert body[1].weight.grad.abs().sum() > 0
    odd = EVAE((2, 9, 7), 2, encoder=nn.Flatten(), decoder=nn.Sequential(nn.Linear(2, 126), nn.Unflatten(1, (2, 9, 7))))
    assert odd.reconstruct(torch.rand(3, 2, 9, 7)).shape == (3, 2, 9, 7)


def test_parts_of_ones_own(images):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Linear(256, 2)

        def forward(self, images):
            return Independent(Normal(self.loc(images.flatten(1)), 0.1), 1)

    like = GaussianVAE(SHAPE, latent_dim=2)
    model = VAE(SHAPE, Encoder(), like.prior, like.decoder, like.pixels, like.objective)
    model(images).loss.backward()
    assert model.encoder.loc.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"bandwidth": 0}, "bandwidth"),
        ({"bandwidth": math.inf}, "bandwidth"),
        ({"support_length": -0.1}, "support_length"),
        ({"support_length": math.nan}, "support_length"),
        ({"n": 0}, "n must"),
        ({"m": 0}, "m must"),
        ({"objective": "nope"}, "objective must be one of penalty, elbo, not 'nope'"),
        ({"objective": "elbo"}, "needs prior 'gaussian'"),
        ({"objective": "elbo", "kernel": "spherical_epanechnikov", "prior": "gaussian"}, "independent coordinates"),
        ({"bandwidth": "nope"}, "bandwidth must be positive"),
        ({"bandwidth": "learned"}, "bandwidth='learned' requires objective='elbo'"),
        ({"support_length": "learned"}, "support_length='learned' requires objective='elbo'"),
        ({"latent_dim": 2.5}, "latent_dim must be a whole number"),
        ({"kernel": "nope"}, "kernel must be one of uniform, epanechnikov, .*, not 'nope'"),
        ({"prior": "nope"}, "prior must be one of uniform, gaussian, not 'nope'"),
        ({"likelihood": "nope"}, "likelihood must be one of auto, bernoulli, .*, not 'nope'"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        EVAE(SHAPE, **settings)


def test_images_that_do_not_fit(family):
    model = family(SHAPE, latent_dim=2)
    with pytest.raises(ConfigError, match=r"\(N, 1, 16, 16\), not torch.float32 of shape \(2, 1, 32, 32\)"):
        model(torch.rand(2, 1, 32, 32))
    with pytest.raises(ConfigError, match=r"not torch\.uint8"):
        model(torch.zeros(2, *SHAPE, dtype=torch.uint8))


@pytest.mark.parametrize(
    "change", [lambda x: (x - 0.13) / 0.31, lambda x: 255 * x, lambda x: 1 / (x - x), lambda x: -x]
)
def test_values_outside_0_1(family, change):
    model, images = family(SHAPE, latent_dim=2), torch.rand(4, *SHAPE)
    with pytest.raises(ConfigError, match=r"in \[0, 1\] of shape .*, not values from .* to .*; scale them"):
        model(change(images))
    model(images + 1e-6)  # rounding is none


def test_values_are_not_looked_at_where_there_are_none():
    model, images = EVAE(SHAPE, latent_dim=2).eval(), torch.rand(4, *SHAPE)
    mapped = torch.func.vmap(lambda image: model.encode(image[None])[0])(images)
    assert torch.allclose(mapped, model.encode(images), atol=1e-5)
    assert model.encode(images[:0]).shape == (0, 2)


@pytest.mark.parametrize("logit", [-500.0, -30.0, -1.0, -5e-3, 0.0, 1e-3, 2.0, 20.0, 50.0])
def test_continuous_bernoulli_at_any_logit(logit):
    """Density and mean against closed forms; torch's own are clamped at |logit| 16."""
    from mpmath import exp, expm1, log, mpf

    pixels = LIKELIHOODS["continuous_bernoulli"]()
    maps = torch.full((1, 1, 1, 2), logit, dtype=torch.float64, requires_grad=True)
    p = pixels(maps).base_dist
    x = torch.tensor([0.0, 0.7], dtype=torch.float64).reshape(1, 1, 1, 2)
    normaliser = log(expm1(mpf(logit)) / mpf(logit)) if logit else mpf(0)
    expected = [float(mpf(logit) * v - normaliser) for v in (mpf(0), mpf(0.7))]
    assert p.log_prob(x).flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    mean = float(1 / (1 - exp(-mpf(logit))) - 1 / mpf(logit)) if logit else 0.5
    assert p.mean.flatten().tolist() == pytest.approx([mean] * 2, rel=1e-9)
    (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), maps)
    assert gradient.flatten().tolist() == pytest.approx([-mean, 0.7 - mean], rel=1e-6, abs=1e-7)


def test_networks_that_do_not_fit_or_must_not_be_touched():
    frozen = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256))
    frozen[1].eval()
    EVAE(SHAPE, latent_dim=2, encoder=frozen)
    assert frozen.training
    assert not frozen[1].training
    wrong = nn.Sequential(nn.Linear(2, 768), nn.Unflatten(1, (3, 16, 16)))
    with pytest.raises(ConfigError, match=r"maps of shape \(N, 1, 16, 16\); for N = 1 it returned \(1, 3, 16, 16\)"):
        EVAE(SHAPE, latent_dim=2, decoder=wrong)
    with pytest.raises(ConfigError, match=r"cannot take inputs of shape \(N, 2\)"):
        EVAE(SHAPE, latent_dim=2, decoder=nn.Linear(3, 3))
    for shape in ((1, 16), (1.0, 16.0, 16.0), 16):
        with pytest.raises(ConfigError, match="image_shape must be"):
            EVAE(shape)


def test_an_older_name_of_a_family(blobs, tmp_path):
    """HVAE is the paper's name of HypersphericalVAE: the same class, of which one name is recorded."""
    words = ["train", "--data", blobs, "--out", str(tmp_path / "a"), "--model", "HVAE", "--model.latent_dim", "3"]
    words += ["--image-size", "16", "--batch-size", "16", "--accelerator", "cpu", "--epochs"]
    assert main([*words, "1"]) == 0
    config, model = tmp_path / "a" / "config.yaml", tmp_path / "a" / "config.json"
    for file in (config, model):
        assert "evae.HypersphericalVAE" in file.read_text()
        file.write_text(file.read_text().replace("evae.HypersphericalVAE", "evae.HVAE"))
    assert type(load_model(tmp_path / "a")) is HVAE is HypersphericalVAE
    assert main([*words, "2", "--resume", "auto"]) == 0
    config.write_text(config.read_text().replace("evae.HypersphericalVAE", "evae.HVAE"))
    assert main(["train", "--config", str(config), "--out", str(tmp_path / "b"), "--epochs", "1"]) == 0
