"""Own networks: import paths, functions and modules; from Python, the command line and YAML; and the dry build."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from evae import EVAE, HVAE, VAE, BetaVAE, GaussianVAE, VampVAE
from evae.errors import ConfigError, RunError
from evae.models import FAMILIES, ImageShape, check_buildable
from tests.models import nets
from tests.models.families import SHAPE

BODY, DECODER = "tests.models.nets:body", "tests.models.nets:small_decoder"


class TestNetworks:
    @pytest.mark.parametrize("encoder", [BODY, nets.body, "tests.models.nets.body"])
    @pytest.mark.parametrize("decoder", [DECODER, nets.small_decoder])
    def test_an_import_path_and_a_function_are_the_same(self, encoder, decoder, images, tmp_path):
        model = BetaVAE(SHAPE, latent_dim=3, encoder=encoder, decoder=decoder).eval()
        assert model.encoder.loc.in_features == 8
        assert isinstance(model.decoder[1], nn.Unflatten)
        recorded = model.hyperparameters
        assert recorded["encoder"].replace(":", ".") == BODY.replace(":", ".")
        assert recorded["decoder"] == DECODER
        model.save_pretrained(tmp_path)
        loaded = VAE.from_pretrained(tmp_path)
        assert torch.equal(loaded.reconstruct(images), model.reconstruct(images))

    def test_a_class_of_modules_is_such_a_function(self):
        model = EVAE(SHAPE, latent_dim=2, encoder=nets.Body)
        assert isinstance(model.encoder.body, nets.Body)
        assert model.hyperparameters["encoder"] == "tests.models.nets:Body"

    def test_no_two_models_share_weights(self):
        build = partial(EVAE, latent_dim=2, encoder=nets.body)
        first, second = build(SHAPE), build((3, 16, 16))
        assert first.encoder.body is not second.encoder.body
        assert second.encoder.body[1].in_features == 768

    @pytest.mark.parametrize(
        ("encoder", "named"),
        [
            (nn.Flatten(), "object:torch.nn.modules.flatten.Flatten"),
            (lambda shape: nn.Flatten(), r"object:tests.models.test_custom.TestNetworks.<lambda>"),
            (partial(nets.body), "object:functools.partial"),
        ],
    )
    def test_other_objects_are_passed_again(self, encoder, named, tmp_path, images):
        model = GaussianVAE(SHAPE, latent_dim=2, encoder=encoder).eval()
        assert model.hyperparameters["encoder"] == named
        model.save_pretrained(tmp_path)
        kind = named.removeprefix("object:").split("<")[0]
        with pytest.raises(RunError, match=rf"this encoder was an object of a Python program \({kind}.*encoder=\.\.\."):
            VAE.from_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=r"or train with an import path, --model.encoder package.module:function"):
            GaussianVAE(**model.hyperparameters)
        assert torch.equal(VAE.from_pretrained(tmp_path, encoder=encoder).encode(images), model.encode(images))

    @pytest.mark.parametrize(
        ("encoder", "message"),
        [
            ("tests.models.nets:nope", "--model.encoder tests.models.nets:nope: tests.models.nets has no 'nope'"),
            ("nowhere:body", "--model.encoder nowhere:body: 'nowhere' cannot be imported"),
            ("body", "--model.encoder body: not an import path"),
            ("tests.models.nets:MODULE", "--model.encoder tests.models.nets:MODULE: must name a function"),
            ("tests.models.nets:__name__", "must name a function that returns a torch.nn.Module"),
            ("tests.models.nets:fails", r"--model.encoder tests.models.nets:fails.*\(KeyError: 16\)"),
            ("tests.models.nets:no_module", "must return a torch.nn.Module, not Tensor"),
            (DECODER, r"--model.encoder .*TypeError: small_decoder\(\) missing 1 required positional argument"),
            (3, "--model.encoder int: must name a function"),
        ],
    )
    def test_what_is_no_network(self, encoder, message):
        with pytest.raises(ConfigError, match=message) as caught:
            EVAE(SHAPE, latent_dim=2, encoder=encoder)
        assert "\n" not in str(caught.value)

    def test_a_decoder_that_does_not_fit(self):
        with pytest.raises(ConfigError, match=r"maps of shape \(N, 3, 16, 16\)"):
            EVAE((3, 16, 16), latent_dim=2, decoder=lambda shape, d: nets.small_decoder(SHAPE, d))


def train(model: Callable[[ImageShape], VAE] = EVAE):
    """As of the command."""


class TestCommandLine:
    @pytest.fixture
    def parse(self):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--config", action="config")
        parser.add_function_arguments(train, as_positional=False)
        return lambda *arguments: parser.parse_args([str(argument) for argument in arguments]).model

    def test_networks_are_import_paths(self, parse, tmp_path):
        options = parse("--model", "evae.BetaVAE", "--model.encoder", BODY, "--model.latent_dim", 3, "--model.beta", 2)
        assert options.class_path == "evae.BetaVAE"
        assert {"encoder": BODY, "latent_dim": 3, "beta": 2}.items() <= vars(options.init_args).items()
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"model": {"class_path": "evae.HVAE", "init_args": {"decoder": DECODER}}}))
        assert parse("--config", path).init_args.decoder == DECODER

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_has_the_shared_hyperparameters_and_no_parts(self, parse, family):
        shared = {"latent_dim": 3, "likelihood": "gaussian", "networks": "rae", "encoder": BODY, "decoder": DECODER}
        for name, value in shared.items():
            assert getattr(parse("--model", f"evae.{family}", f"--model.{name}", value).init_args, name) == value
        own = {"EVAE": {"prior", "objective"}, "BoundedVAE": {"prior"}}.get(family, set())
        for part in {"posterior", "pixels", "shared", "prior", "objective"} - own:
            with pytest.raises(Exception, match=rf"Option '{part}' is not accepted|Key '{part}'"):
                parse("--model", f"evae.{family}", f"--model.{part}", "x")

    def test_a_class_of_ones_own(self, parse):
        arguments = parse(
            *("--model", "tests.models.nets.PaperElbo", "--model.width", 3),
            *("--model.likelihood", "gaussian", "--model.networks", "rae"),
        )
        assert {"width": 3, "likelihood": "gaussian", "networks": "rae"}.items() <= vars(arguments.init_args).items()


class TestDryBuild:
    @pytest.mark.parametrize("size", [None, 16, 64])
    def test_families_can_be_built(self, size):
        for model in (EVAE, HVAE, partial(VampVAE, pseudo_inputs=3), partial(EVAE, encoder=BODY)):
            check_buildable(model, size)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (partial(EVAE, latent_dim=0), "latent_dim must be at least 1, not 0"),
            (partial(EVAE, kernel="nope"), "kernel must be one of"),
            (partial(BetaVAE, beta=-1), "beta must be positive"),
            (partial(EVAE, encoder="nowhere:body"), "'nowhere' cannot be imported"),
            (partial(EVAE, encoder=nets.fails), r"KeyError: 64"),
            (partial(EVAE, latent_dims=3), "--model cannot be built .TypeError: .*'latent_dims'"),
            (lambda shape: 1 / 0, "--model cannot be built .ZeroDivisionError: division by zero"),
        ],
    )
    def test_wrong_hyperparameters(self, model, message):
        with pytest.raises(ConfigError, match=message) as caught:
            check_buildable(model, None)
        assert "\n" not in str(caught.value)

    def test_a_size_without_a_network(self):
        with pytest.raises(ConfigError, match="16, 32, 64, 128, 256"):
            check_buildable(EVAE, 48)
        check_buildable(partial(EVAE, encoder=nets.Body, decoder=nets.small_decoder), 48)  # in grey only

    @pytest.mark.parametrize(
        "wrap", [lambda body: partial(EVAE, encoder=body), lambda body: lambda shape: EVAE(shape, encoder=body)]
    )
    @pytest.mark.parametrize("size", [None, 16])
    def test_the_callers_modules_stay_as_they_are(self, wrap, size):
        """A lazy layer stays lazy, a mode stays set, and statistics are those of before."""
        body = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d())
        body[0].eval()
        model = wrap(body)
        check_buildable(model, size)
        assert isinstance(body[1], nn.LazyLinear)
        assert isinstance(body[2], nn.LazyBatchNorm1d)
        assert not body[0].training
        assert model((1, 16, 16)).encoder.body[1].in_features == 256

    def test_a_module_that_cannot_be_copied_is_not_tried(self):
        body = nn.Sequential(nn.Flatten(), nn.LazyLinear(8))
        body.kept = torch.ones(1, requires_grad=True) * 2  # no leaf
        for model in (partial(EVAE, encoder=body), lambda shape: EVAE(shape, encoder=body)):
            check_buildable(model, 16)
        assert isinstance(body[1], nn.LazyLinear)

    def test_a_network_that_needs_numbers(self):
        check_buildable(partial(EVAE, encoder=nets.counts), 16)

    def test_random_numbers_are_not_consumed(self):
        before = torch.get_rng_state()
        for model in (VampVAE, partial(EVAE, encoder=nets.counts)):
            check_buildable(model, 16)
        assert torch.equal(torch.get_rng_state(), before)


class TestPrepare:
    def test_n_is_the_batch_size_where_it_is_open(self, tmp_path):
        model = EVAE(SHAPE, latent_dim=2)
        assert (model.hyperparameters["n"], model.objective.n) == (None, 100)
        model.prepare(None, 8)
        assert (model.hyperparameters["n"], model.objective.n) == (8, 8)
        model.save_pretrained(tmp_path)
        assert VAE.from_pretrained(tmp_path).objective.n == 8

    def test_n_that_was_given_or_has_another_meaning_stays(self):
        given = EVAE(SHAPE, latent_dim=2, n=30)
        given.prepare(None, 8)
        assert (given.hyperparameters["n"], given.objective.n) == (30, 30)
        elbo = EVAE(SHAPE, latent_dim=2, prior="gaussian", objective="elbo")
        elbo.prepare(None, 8)
        assert elbo.hyperparameters["n"] is None
        fixed = nets.FixedN(SHAPE)
        fixed.prepare(None, 8)
        assert (fixed.hyperparameters["n"], fixed.objective.n) == (None, 50)
        other = nets.OtherN(SHAPE)
        other.prepare(None, 8)
        assert (other.hyperparameters["n"], other.n) == (None, None)

    def test_n_of_a_class_of_ones_own(self):
        model = nets.Closed(SHAPE)
        model.prepare(None, 8)
        assert (model.hyperparameters["n"], model.objective.n) == (8, 8)
        assert type(model)(**model.hyperparameters).objective.n == 8

    def test_pseudo_inputs_are_images(self):
        model = VampVAE(SHAPE, latent_dim=2, pseudo_inputs=3)
        drawn = torch.rand(3, *SHAPE)
        model.prepare({3: drawn}.get, 8)
        assert torch.equal(model.prior.pseudo_inputs, drawn)
