"""Hyperparameters, saving and loading: folders, other processes, the hub."""

import json
import math
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from evae import EVAE, VAE, BetaVAE, GaussianVAE, VampVAE
from evae.errors import ConfigError, RunError
from evae.models import FAMILIES, check_buildable, pretrained
from evae.models.weights import save_weights
from tests.models import nets
from tests.models.families import SHAPE

OWN = [nets.PaperElbo, nets.Deeper, nets.Closed, nets.FixedN, nets.OtherN, nets.FromParts]


@pytest.mark.parametrize("cls", [*FAMILIES.values(), *OWN])
def test_a_model_is_built_again_from_its_hyperparameters(cls):
    model = cls(SHAPE)
    assert json.loads(json.dumps(model.hyperparameters)) == model.hyperparameters
    again = cls(**model.hyperparameters)
    assert again.hyperparameters == model.hyperparameters
    assert again.objective == model.objective
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_defaults_are_recorded():
    assert BetaVAE(SHAPE, beta=2).hyperparameters == {
        "image_shape": [1, 16, 16],
        "latent_dim": 64,
        "beta": 2,
        "likelihood": "bernoulli",
        "likelihood_scale": None,
        "networks": "paper",
        "widths": None,
        "encoder": None,
        "decoder": None,
    }
    assert set(EVAE(SHAPE).hyperparameters) >= {"kernel", "bandwidth", "support_length", "n", "m", "likelihood"}


def test_a_subclass_records_what_it_takes():
    model = nets.PaperElbo(SHAPE, latent_dim=3, likelihood="gaussian")
    taken = model.hyperparameters
    assert (taken["width"], taken["latent_dim"], taken["likelihood"]) == (32, 3, "gaussian")
    assert taken["kernel"] == "epanechnikov"
    assert not {"prior", "objective"} & set(taken)
    deeper = nets.Deeper(SHAPE, depth=5, latent_dim=3).hyperparameters
    assert (deeper["depth"], deeper["latent_dim"]) == (5, 3)
    assert "width" not in deeper
    assert nets.Closed(SHAPE).hyperparameters == {"image_shape": [1, 16, 16], "latent_dim": 2, "n": None}


def test_positional_arguments_are_recorded():
    assert EVAE(SHAPE, 2, "biweight").hyperparameters["kernel"] == "biweight"


def loads_elsewhere(folder):
    """The class that another process loads, which has imported nothing but evae."""
    code = f"from evae import VAE; print(VAE.from_pretrained({str(folder)!r}).class_path)"
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


class TestClassPath:
    @pytest.mark.parametrize("cls", [nets.PaperElbo, nets.Closed, nets.FromParts])
    def test_a_class_of_ones_own_is_imported(self, cls, tmp_path):
        model = cls(SHAPE).eval()
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["model"] == f"tests.models.nets.{cls.__name__}"
        loaded = VAE.from_pretrained(tmp_path)
        assert type(loaded) is cls
        x = torch.rand(2, *SHAPE)
        assert torch.equal(loaded.encode(x), model.encode(x))

    def test_in_another_process(self, tmp_path):
        nets.PaperElbo(SHAPE, encoder=nets.body).save_pretrained(tmp_path)
        assert loads_elsewhere(tmp_path) == "tests.models.nets.PaperElbo"

    def test_a_bare_name_of_an_old_file(self, tmp_path):
        GaussianVAE(SHAPE, latent_dim=2).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        assert config["model"] == "evae.GaussianVAE"
        del config["decoder"]
        path.write_text(json.dumps(config | {"model": "GaussianVAE"}))
        assert type(VAE.from_pretrained(tmp_path)) is GaussianVAE

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("torch.nn.Linear", "'torch.nn.Linear', which is not VAE"),
            ("evae.train", "'evae.train', which is not VAE"),
            ("Nope", "'Nope', which is not VAE"),
            (None, "None, which is not VAE"),
            ("tests.models.nets.Nope", "tests.models.nets has no 'Nope'"),
            ("nowhere.Nope", "'nowhere' cannot be imported"),
        ],
    )
    def test_what_is_no_model(self, tmp_path, name, message):
        GaussianVAE(SHAPE, latent_dim=2).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": name}))
        with pytest.raises(RunError, match=message):
            VAE.from_pretrained(tmp_path)


class TestHub:
    """hf_hub_download gives the files of a folder."""

    @pytest.fixture
    def download(self, tmp_path, monkeypatch):
        def save(saved, **changes):
            saved.save_pretrained(tmp_path)
            path = tmp_path / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
            monkeypatch.setattr(pretrained, "hf_hub_download", lambda model_id, name, **options: tmp_path / name)

        return save

    def test_a_family_is_loaded(self, download):
        download(GaussianVAE(SHAPE, latent_dim=2))
        assert type(VAE.from_pretrained("someone/model")) is GaussianVAE

    @pytest.mark.parametrize("name", ["tests.models.nets.PaperElbo", "os.system", "evae.models.families.GaussianVAE"])
    def test_no_other_class_is(self, download, name):
        download(GaussianVAE(SHAPE, latent_dim=2), model=name)
        with pytest.raises(RunError, match=r"someone/model on the hub is of class .*only models of evae's own classes"):
            VAE.from_pretrained("someone/model")

    @pytest.mark.parametrize("part", ["encoder", "decoder"])
    def test_no_network_is_imported(self, download, part):
        download(EVAE(SHAPE, latent_dim=2), **{part: "os:system"})
        with pytest.raises(RunError, match=rf"'os:system' is code outside of evae; pass it: .*{part}=\.\.\."):
            VAE.from_pretrained("someone/model")

    def test_a_network_that_is_passed_is_used(self, download):
        download(EVAE(SHAPE, latent_dim=2, encoder=nets.body))
        assert VAE.from_pretrained("someone/model", encoder=nets.body).encoder.loc.in_features == 8


class TestSaving:
    def test_a_learned_support_length(self, tmp_path):
        model = EVAE(SHAPE, latent_dim=2, prior="gaussian", objective="elbo", support_length="learned")
        with torch.no_grad():
            model.prior.log_spread.fill_(0.7)
        model.save_pretrained(tmp_path)
        loaded = VAE.from_pretrained(tmp_path)
        assert loaded.prior.log_spread.item() == pytest.approx(0.7)
        assert loaded.encoder.prior is loaded.prior

    def test_a_saved_model_loads_without_anything_else(self, family, images, tmp_path):
        model = family(SHAPE, latent_dim=3, likelihood="gaussian").eval()
        model.save_pretrained(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
        loaded = VAE.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        assert not loaded.training
        assert loaded.hyperparameters == json.loads(json.dumps(model.hyperparameters))
        assert torch.equal(loaded.encode(images), model.encode(images))
        assert torch.equal(loaded.decode(torch.ones(1, 3)), model.decode(torch.ones(1, 3)))
        assert loaded.objective == model.objective

    def test_n_and_support_length_survive(self, tmp_path):
        EVAE(SHAPE, latent_dim=2, n=7, support_length=3.0).save_pretrained(tmp_path)
        loaded = EVAE.from_pretrained(tmp_path)
        assert loaded.objective.n == 7
        assert loaded.prior().support.base_constraint.upper_bound.tolist() == [1.5, 1.5]

    def test_another_family_is_refused(self, tmp_path):
        GaussianVAE(SHAPE, latent_dim=2).save_pretrained(tmp_path)
        with pytest.raises(RunError, match="'evae.GaussianVAE', which is not EVAE"):
            EVAE.from_pretrained(tmp_path)

    def test_own_modules_are_given_again(self, images, tmp_path):
        def body():
            return nn.Sequential(nn.Flatten(), nn.Linear(256, 7))

        model = EVAE(SHAPE, latent_dim=2, encoder=body()).eval()
        model.save_pretrained(tmp_path)
        assert torch.equal(EVAE.from_pretrained(tmp_path, encoder=body()).encode(images), model.encode(images))
        with pytest.raises(
            RunError, match=r"encoder was an object .*Sequential\); pass it again, from_pretrained\(folder"
        ):
            EVAE.from_pretrained(tmp_path)
        with pytest.raises(RunError, match="another network"):
            EVAE.from_pretrained(tmp_path, encoder=None)

    def test_damage_is_told_in_a_sentence(self, tmp_path):
        GaussianVAE(SHAPE, latent_dim=2).save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        whole = weights.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"not safetensors at all"):
            weights.write_bytes(content)
            with pytest.raises(RunError, match=r"model.safetensors is damaged"):
                VAE.from_pretrained(tmp_path)
        weights.unlink()
        with pytest.raises(RunError, match="does not exist"):
            VAE.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(RunError, match=r"config.json is damaged"):
            VAE.from_pretrained(tmp_path)
        (tmp_path / "config.json").unlink()
        with pytest.raises(RunError, match="holds no model"):
            VAE.from_pretrained(tmp_path)


class TestWeights:
    """What the file of the weights tells before and after it is read."""

    @pytest.fixture
    def saved(self, tmp_path):
        GaussianVAE(SHAPE, latent_dim=2).save_pretrained(tmp_path)
        return tmp_path

    def test_any_flipped_bit_is_told(self, saved):
        path = saved / "model.safetensors"
        whole = path.read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        before = VAE.from_pretrained(saved).state_dict()
        for position in (0, 9, start // 2, start - 1, start, start + 1001, len(whole) - 1):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
            with pytest.raises(RunError, match=r"model.safetensors (is damaged|holds weights of another network)"):
                VAE.from_pretrained(saved)
        path.write_bytes(whole)
        after = VAE.from_pretrained(saved).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_files_without_a_digest_are_read(self, saved):
        path = saved / "model.safetensors"
        tensors = load_file(path)
        save_file(tensors, path)
        assert torch.equal(VAE.from_pretrained(saved).encoder.loc.weight, tensors["encoder.loc.weight"])

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("is_sealed", [True, False])
    def test_values_that_are_not_finite(self, saved, value, is_sealed):
        path = saved / "model.safetensors"
        tensors = load_file(path)
        tensors["encoder.loc.bias"][1] = value
        path.write_bytes(save_weights(tensors) if is_sealed else save(tensors))
        with pytest.raises(RunError, match=r"model.safetensors: 1 of the 2 values of encoder.loc.bias are NaN or inf"):
            VAE.from_pretrained(saved)

    def test_buffers_that_are_infinite_by_design(self, tmp_path):
        WithMask(SHAPE).save_pretrained(tmp_path)
        assert WithMask.from_pretrained(tmp_path).mask.tolist() == [0, -math.inf]

    @pytest.mark.parametrize("cls", FAMILIES.values())
    @pytest.mark.parametrize("change", [{"latent_dim": 2**20}, {"image_shape": [2**12, 256, 256]}])
    def test_sizes_are_compared_before_memory_is_taken(self, cls, change, tmp_path):
        cls(SHAPE, latent_dim=2).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(RunError, match=r"weights of another network|does not make a"):
            VAE.from_pretrained(tmp_path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB

    def test_numbers_of_pseudo_inputs(self, tmp_path):
        VampVAE(SHAPE, latent_dim=2).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pseudo_inputs": 2**20}))
        with pytest.raises(RunError, match=r"another network .*\(prior.* in it, prior.*1048576.* in the model\)"):
            VAE.from_pretrained(tmp_path)

    def test_a_header_that_tells_of_another_size(self, saved):
        path = saved / "model.safetensors"
        os.truncate(path, 2**40)  # sparse
        with pytest.raises(RunError, match=r"is damaged .*1,099,511,627,776 bytes, where its header tells of"):
            VAE.from_pretrained(saved)
        path.write_bytes((2**60).to_bytes(8, "little"))
        with pytest.raises(RunError, match="no safetensors file"):
            VAE.from_pretrained(saved)


class WithMask(GaussianVAE):
    def __init__(self, image_shape, **networks):
        super().__init__(image_shape, latent_dim=2, **networks)
        self.register_buffer("mask", torch.tensor([0, -math.inf]))


class WithObjects(GaussianVAE):
    """Defaults that JSON cannot hold."""

    def __init__(self, image_shape, activation=nn.ReLU, dtypes=frozenset({"a"}), **networks):
        super().__init__(image_shape, **networks)
        self.activation = activation


def test_defaults_that_json_cannot_hold_stay_the_defaults(tmp_path):
    model = WithObjects((1, 16, 16), latent_dim=2)
    assert model.hyperparameters.keys() == {
        *("image_shape", "latent_dim", "likelihood", "likelihood_scale", "networks", "widths", "encoder", "decoder")
    }
    model.save_pretrained(tmp_path)
    assert WithObjects.from_pretrained(tmp_path).activation is nn.ReLU
    WithObjects((1, 16, 16), nn.GELU, latent_dim=2).save_pretrained(tmp_path)
    with pytest.raises(RunError, match="activation was an object of a Python program"):
        WithObjects.from_pretrained(tmp_path)
    assert WithObjects.from_pretrained(tmp_path, activation=nn.GELU).activation is nn.GELU


def test_a_class_that_cannot_be_imported_loads_its_own_models(tmp_path):
    class Local(GaussianVAE):
        pass

    Local((1, 16, 16), latent_dim=2).save_pretrained(tmp_path)
    assert isinstance(Local.from_pretrained(tmp_path), Local)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": "Local"}))  # as older versions wrote it
    assert isinstance(Local.from_pretrained(tmp_path), Local)


class TakesTuples(GaussianVAE):
    def __init__(self, image_shape, widths=(1, 2), **networks):
        super().__init__(image_shape, **networks)
        self.widths = (0,) + widths  # noqa: RUF005


def test_a_model_that_could_not_be_loaded_again_is_found_before_training():
    with pytest.raises(ConfigError, match="can only concatenate tuple"):
        check_buildable(partial(TakesTuples, latent_dim=2), 16)
