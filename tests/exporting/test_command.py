"""evae export: files, messages, and the same numbers as torch."""

import json
import shutil
import sys
from base64 import b64encode
from hashlib import sha384
from html import unescape

import numpy as np
import pytest
import torch
from torch import nn

from evae import EVAE, T3VAE, GaussianVAE, export, fit_prior
from evae.cli import main
from evae.columns import Columns
from evae.errors import ConfigError, RunError
from evae.exporting import command
from evae.exporting.directions import active_latents, centre_of, principal_axes
from evae.exporting.graphs import Graph, decoder_graph, encoder_graph, noise_for, open_session, prior_graph
from evae.exporting.runtime import BINARY, DIGESTS, MODULE, SCRIPT, VERSION, runtime_of
from evae.exporting.samplers import sampler_of
from evae.fitting.codes import of_posteriors
from evae.fitting.command import best_prior
from evae.fitting.settings import Density
from evae.reporting import pages
from evae.runs import RunFolder
from tests.exporting.web import needs_extra, onnxruntime_web
from tests.models.families import FAMILIES, SHAPE
from tests.small import trained


@pytest.fixture(scope="module")
def _run(tmp_path_factory, blobs, _shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(_shared_cache))
        folder = trained(GaussianVAE, blobs, tmp_path_factory.mktemp("exported") / "run")
        fit_prior(folder, components=2)
    return folder


@pytest.fixture
def run(_run, tmp_path):
    """A GaussianVAE with a fitted mixture."""
    return shutil.copytree(_run, tmp_path / "run")


@pytest.fixture
def stubbed(monkeypatch):
    """Networks are not exported, which takes seconds each."""

    def graph(name, output, shape):
        return lambda *_: Graph(name, b"network", {"images": SHAPE} if name == "encoder" else {}, (output, shape), 1e-7)

    for name, output, shape in (("encoder", "codes", (3,)), ("decoder", "images", SHAPE), ("prior", "codes", (3,))):
        monkeypatch.setattr(command, f"{name}_graph", graph(name, output, shape))
    monkeypatch.setattr(command, "check_extra", lambda: None)


def test_without_the_extra_it_says_how_to_install_it(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run), "--out", str(tmp_path / "web")]) == 2
    said = capsys.readouterr().err
    assert "evae export needs pip install 'evae[export]'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "web").exists()


def test_what_it_writes(run, tmp_path, stubbed, capsys):
    out = export(run, tmp_path / "web")
    assert {path.name for path in out.iterdir()} == {"encoder.onnx", "decoder.onnx", "prior.onnx", "model.json"}
    assert "encoder.onnx: largest difference to torch 1e-07" in capsys.readouterr().err
    record = json.loads((out / "model.json").read_text())
    assert record["prior"] == "fitted prior, gmm (2 components)"
    assert record["networks"]["encoder"]["inputs"] == [
        {"name": "images", "type": "float32", "shape": ["batch", 1, 16, 16], "range": [0, 1]}
    ]
    assert record["preprocessing"]["size"] == 16
    export(run, tmp_path / "web")  # its own earlier result
    (out / "model.json").write_text("{}")
    with pytest.raises(RunError, match="evae did not write it as an exported model"):
        export(run, out)
    export(run, out, overwrite=True)


def test_the_page_loads_nothing_but_what_its_policy_names(run, tmp_path, stubbed):
    page = (export(run, tmp_path / "web", page=True) / "index.html").read_text()
    policy = unescape(page.split('Content-Security-Policy" content="')[1].split('"')[0])
    script = page.rsplit("<script>", 1)[1].split("</script>")[0]
    assert f"'{pages.digest_of(script.encode())}'" in policy
    assert f"'{pages.digest_of(page.split('<style>')[1].split('</style>')[0].encode())}'" in policy
    assert "unsafe-inline" not in policy
    assert page.count("<script") == 3
    cdn = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
    assert f'src="{cdn}{SCRIPT}" integrity="{DIGESTS[SCRIPT]}" crossorigin="anonymous"' in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert {file["integrity"] for file in data["runtime"].values()} == {DIGESTS[MODULE], DIGESTS[BINARY]}
    assert len(data["examples"]["images"]) == len(data["examples"]["codes"]) == 16
    vectors = np.array(data["axes"]["vectors"])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-5)
    assert all(low < high for low, high in zip(data["axes"]["low"], data["axes"]["high"], strict=True))


def test_no_image_of_the_data_has_to_be_on_the_page(run, tmp_path, stubbed):
    page = (export(run, tmp_path / "web", page=True, examples=0) / "index.html").read_text()
    assert len(json.loads(page.split('id="data">')[1].split("</script>")[0])["examples"]["images"]) == 24
    assert "codes of two images\n(samples)" in page


def test_a_model_without_its_images(tmp_path, stubbed):
    EVAE(SHAPE, latent_dim=3).save_pretrained(tmp_path / "model")
    page = (export(tmp_path / "model", tmp_path / "web", page=True) / "index.html").read_text()
    assert "quantile of the codes of draws" in page
    assert json.loads((tmp_path / "web" / "model.json").read_text())["prior"] == "prior that the model was trained with"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--runtime", "nowhere"], "--runtime is for the page"),
        (["--page", "--runtime", "nowhere"], "nowhere has no ort.wasm.min.js"),
        (["--examples", "-1"], "examples must be at least 0"),
    ],
)
def test_settings_that_cannot_work(run, tmp_path, stubbed, capsys, options, sentence):
    assert main(["export", str(run), "--out", str(tmp_path / "web"), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "web").exists()


def test_a_prior_that_is_not_there(run, tmp_path, stubbed):
    shutil.rmtree(run / "prior")
    with pytest.raises(ConfigError, match="no prior was fitted"):
        export(run, tmp_path / "web", prior="fitted")


def test_a_page_needs_square_images(tmp_path, stubbed):
    flat = {"encoder": nn.Flatten(), "decoder": nn.Sequential(nn.Linear(2, 128), nn.Unflatten(1, (1, 8, 16)))}
    with pytest.raises(ConfigError, match="--page shows square images of 1, 3 or 4 channels"):
        command.check_page(EVAE((1, 8, 16), latent_dim=2, **flat))


@pytest.fixture
def of_rows(tmp_path):
    model = T3VAE((2,), latent_dim=3, df=5, widths=[4])
    model.columns = Columns(("height", "weight"), (1.7, 70.0), (0.1, 9.0))
    model.save_pretrained(tmp_path / "rows")
    return tmp_path / "rows"


def test_rows_of_numbers(of_rows, tmp_path, stubbed):
    record = json.loads((export(of_rows, tmp_path / "out") / "model.json").read_text())
    assert record["preprocessing"]["columns"] == ["height", "weight"]
    assert record["preprocessing"]["mean"] == [1.7, 70.0]
    assert record["preprocessing"]["deviation"] == [0.1, 9.0]
    with pytest.raises(ConfigError, match="evae export --page is for images, and .*rows is of rows of numbers"):
        export(of_rows, tmp_path / "web", page=True)
    GaussianVAE((5,), latent_dim=2).save_pretrained(tmp_path / "alone")
    with pytest.raises(RunError, match="the columns of this GaussianVAE are not known"):
        export(tmp_path / "alone", tmp_path / "web")


@needs_extra
@pytest.mark.slow
def test_rows_of_numbers_in_onnxruntime(of_rows, tmp_path):
    out = export(of_rows, tmp_path / "out")
    networks = json.loads((out / "model.json").read_text())["networks"]
    assert networks["encoder"]["inputs"][0]["name"] == networks["decoder"]["outputs"][0]["name"] == "rows"
    rows = torch.randn(4, 2)
    model = T3VAE.from_pretrained(of_rows)
    (codes,) = open_session((out / "encoder.onnx").read_bytes()).run(None, {"rows": rows.numpy()})
    np.testing.assert_allclose(codes, model.encode(rows).detach(), rtol=1e-5, atol=1e-5)


def test_a_local_runtime_is_copied(tmp_path):
    (tmp_path / "dist").mkdir()
    for name in DIGESTS:
        (tmp_path / "dist" / name).write_text(name)
    web = runtime_of(tmp_path)
    web.write(tmp_path / "out")
    assert web.source == "'self'"
    for name in DIGESTS:
        content = (tmp_path / "out" / web.base / name).read_bytes()
        assert web.digests[name] == f"sha384-{b64encode(sha384(content).digest()).decode()}"


def test_directions():
    axes = torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
    codes = torch.randn(20_000, 2, dtype=torch.float64) * torch.tensor([3.0, 0.5]) @ axes + 1
    found = principal_axes(codes, centre_of(codes, on_sphere=False), 8)
    torch.testing.assert_close(found.vectors.abs(), axes.abs(), atol=0.01, rtol=0)
    torch.testing.assert_close(found.high, torch.tensor([3.0, 0.5]).double() * 2.326, rtol=0.05, atol=0)
    torch.testing.assert_close(found.share, torch.tensor([9, 0.25]).double() / 9.25, atol=0.01, rtol=0)
    latents = active_latents(codes, 1)
    assert latents.names == ["z1"]
    assert latents.low < 1 < latents.high
    assert len(principal_axes(codes[:, :1], codes[:, :1].mean(0), 8).names) == 1


def ran(graph, inputs):
    return open_session(graph.content).run(None, {name: values.numpy() for name, values in inputs.items()})[0]


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    model = FAMILIES[name](SHAPE, latent_dim=3).eval()
    images = torch.rand(100, *SHAPE)
    with torch.no_grad():
        sampler, codes = sampler_of(model.prior()), model.encode(images)
        decoded = model.decode(codes)
    noise = noise_for(sampler, 100)
    graphs = encoder_graph(model, images), decoder_graph(model, codes), prior_graph(sampler, noise)
    for size in (1, 100):
        np.testing.assert_allclose(ran(graphs[0], {"images": images[:size]}), codes[:size], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ran(graphs[1], {"codes": codes[:size]}), decoded[:size], atol=1e-5)
        assert ran(graphs[2], {key: values[:size] for key, values in noise.items()}).shape == (size, 3)


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["continuous_bernoulli", "gaussian"])
def test_every_likelihood(likelihood):
    model = GaussianVAE((3, 32, 32), latent_dim=3, likelihood=likelihood, networks="rae").eval()
    assert decoder_graph(model, torch.randn(100, 3)).difference <= 1e-5


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize("family", ["EVAE", "GaussianVAE", "BoundedVAE", "HVAE"])
@pytest.mark.parametrize("kind", ["gaussian", "gmm", "kde", "flow", "vae"])
def test_every_kind_of_fitted_prior(family, kind):
    model = FAMILIES[family](SHAPE, latent_dim=3).eval()
    with torch.no_grad():
        codes = of_posteriors(model, model.posterior(torch.rand(64, *SHAPE)), "sample", 0)
        density = Density(kind=kind, components=2 if kind == "gmm" else None, fit_epochs=1)
    law = best_prior(codes, density, torch.device("cpu")).distribution(
        model.example_posterior, next(model.parameters())
    )
    if (family, kind) == ("HVAE", "kde"):
        with pytest.raises(ConfigError, match="draws of a VonMisesFisher"):
            sampler_of(law)
        return
    with torch.no_grad():
        sampler = sampler_of(law)
    noise = noise_for(sampler, 100)
    graph = prior_graph(sampler, noise)
    for size in (1, 100):
        assert ran(graph, {key: values[:size] for key, values in noise.items()}).shape == (size, 3)


class Shaped(nn.Module):
    """Its operations depend on the values, which no graph can do."""

    def forward(self, images):
        return images.flatten(1)[:, :4] if images.sum().item() > 1 else images.flatten(1)[:, 4:8]


@needs_extra
@pytest.mark.slow
def test_one_image_to_compare_with_leaves_the_batch_size_open():
    model = GaussianVAE(SHAPE, latent_dim=3).eval()
    graph = decoder_graph(model, torch.zeros(1, 3))
    assert ran(graph, {"codes": torch.zeros(5, 3)}).shape == (5, *SHAPE)


@needs_extra
@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_named(tmp_path, capsys, monkeypatch):
    own = GaussianVAE(SHAPE, latent_dim=2, encoder=Shaped()).eval()
    own.save_pretrained(tmp_path / "run")
    monkeypatch.setattr(RunFolder, "model", lambda *_: own)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "web")]) == 2
    said = capsys.readouterr().err
    assert "the encoder of this model cannot be exported" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "web").exists()


@needs_extra
@pytest.mark.slow
def test_a_run_from_the_command_line(run, tmp_path, capsys):
    assert main(["export", str(run), "--out", str(tmp_path / "web"), "--page"]) == 0
    graphs = {path.stem: path.read_bytes() for path in (tmp_path / "web").glob("*.onnx")}
    assert b"/site-packages/" not in b"".join(graphs.values())  # no path of this machine
    record = json.loads((tmp_path / "web" / "model.json").read_text())
    assert {name: len(content) for name, content in graphs.items()} == {
        name: network["bytes"] for name, network in record["networks"].items()
    }
    prior = open_session(graphs["prior"])
    assert [[i.name, i.shape] for i in prior.get_inputs()] == [["uniform", ["batch", 1]], ["normal", ["batch", 3]]]


@pytest.mark.slow
def test_the_digests_are_those_of_the_package(tmp_path):
    web = runtime_of(onnxruntime_web(tmp_path))
    assert web.digests == DIGESTS
    assert web.size == runtime_of(None).size
