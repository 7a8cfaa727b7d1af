"""The report: one page that stands alone, says what a run was, and holds nothing that its files could slip in."""

import html
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from evae import EVAE, HVAE, WAE, evaluate, load_model, train
from evae.cli import main
from evae.data import open_store, to_float
from evae.errors import ConfigError, DataError, RunError
from evae.files import remove
from evae.reporting.charts import points
from evae.reporting.exploration import Survey, by_error, great_circle, interpolations, survey, traversals
from evae.reporting.run_page import report
from evae.runs import RunFolder
from evae.runs.evaluation import Number, Section, write_evaluation
from tests.reporting.html_pages import CHROMIUM, Page, browse
from tests.reporting.records import evaluation
from tests.small import trained

DISTANCES = Section(
    "distances",
    "",
    (Number("reconstructions: fid", 31.5, None, "lower"), Number("model prior: fid", 62.5, 0.5, "lower")),
    {"features": "inception", "resize": "bilinear", "model prior: count": 99},
)
SECTIONS = (
    Section(
        "reconstructions",
        "",
        (Number("bce", 12.5, 0.75, "lower"), Number("mse", 0.25, None, "lower"), Number("penalty", 1.5)),
        {"latents": "sample", "repeats": 3},
    ),
    Section(
        "latents",
        "",
        (Number("active_units", 2), Number("share_outside", 0.125)),
        {},
        {"rate_per_dimension": [0.5, 1.0, None], "spread": "r", "spread_quantiles": {"0.05": 0.1, "0.95": 0.9}},
    ),
    Section("likelihood", "", (Number("ln p(x) ≥", -81.5, 0.5, "higher"),), {"samples": 5}),
    DISTANCES,
    Section("probes", "", (Number("linear accuracy, pixels", 0.875, 0.01, "higher"),), {"count": 16}),
    Section("of a user", "", (Number("mine", 7.0),), {}, {"words": "seven", "by name": {"a": 1}, "many": [1, 2]}),
)


@pytest.fixture(scope="module")
def run(blobs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = trained(EVAE, blobs, tmp_path_factory.mktemp("report") / "run")
        evaluate(out, show=False)
        assert report(out) == out / "report.html"
    return out


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "a", ignore=shutil.ignore_patterns("checkpoints"))


def evaluated(run, *sections, name="evaluation.json", **about):
    """A run with an evaluation, by default one with every kind of section."""
    write_evaluation(RunFolder(run), evaluation(*(sections or SECTIONS), **{"repeats": 3} | about), {}, name)
    return run


class TestPage:
    def test_everything_is_there_and_nothing_else_is_needed(self, run):
        page = Page(run / "report.html")
        assert page.tags.count("h1") == 1
        for expected in ("EVAE on ", "Measurements", "bce", "Training", "Samples", "Interpolations", "latent_dim: 3"):
            assert expected in page.text
        assert "are not the images" not in page.text
        alts = " | ".join(image["alt"] for image in page.images)
        for expected in ("loss by", "reconstruction by", "penalty by", "best", "median", "worst", "64 images"):
            assert expected in alts
        assert alts.count("from hold-out image") == 8
        assert alts.count("images decoded while latent") == 3
        assert "histogram of the posteriors' r over" in alts

    @pytest.mark.parametrize(
        ("family", "way", "spread"),
        [(HVAE, "Spherical interpolation", "concentration"), (WAE, "Linear interpolation", None)],
    )
    def test_families(self, family, way, spread, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
        np.savez(tmp_path / "colours.npz", x_train=pixels[:19], x_test=pixels[19:])
        page = Page(report(trained(family, str(tmp_path / "colours.npz"), tmp_path / "run")))
        assert way in page.text
        assert "5 hold-out images, colour" in page.text
        histograms = [image["alt"] for image in page.images if "histogram" in image["alt"]]
        assert histograms == [f"histogram of the posteriors' {spread} over hold-out images and latents"] * bool(spread)

    def test_every_section_of_an_evaluation(self, copied, undrawn):
        page = Page(report(evaluated(copied)))
        for expected in (
            "16 hold-out images of blobs; reconstructions decoded from 3 posterior samples each. ↓ lower is better;",
            "These are not the images of the other figures",
            "bce ↓ 12.5 0.8 mse ↓ 0.25 penalty 1.5",
            "-81.5 0.5",
            "reconstructions: fid ↓ 31.5",
            "model prior: fid ↓ 62.5",
            "settings: features inception, resize bilinear, model prior: count 99.",
            "active_units 2",
            "of a user value standard error mine 7 words: seven. by name: a 1.",
            "Quantiles of the posteriors' r: 0.1 at 0.05, 0.9 at 0.95.",
            "linear accuracy, pixels ↑ 0.88",
        ):
            assert expected in page.text
        assert "bars of the mean divergence" in page.images[-1]["alt"]

    def test_traversals_are_of_the_latents_that_tell_most_of_factors(self, copied, undrawn):
        information = [[0.1, 0.02], [0.0, 0.5], [0.3, 0.2]]
        factors = Section("factors", "", (), {}, {"factors": ["size", "x<b>"], "information": information})
        page = Page(report(evaluated(copied, factors)))
        assert re.findall(r"(z\d, \S+ [\d.]+, \S+ [\d.]+): from", page.text) == [
            "z1, x<b> 0.50, size 0.00",
            "z2, size 0.30, x<b> 0.20",
            "z0, size 0.10, x<b> 0.02",
        ]
        other = replace(factors, details=factors.details | {"information": information[:2]})
        assert "whose codes vary most" in Page(report(evaluated(copied, other))).text

    def test_validation_images_have_curves(self, blobs, tmp_path):
        options = {"epochs": 2, "batch_size": 16, "image_size": 16, "accelerator": "cpu", "validation": 0.25}
        page = Page(report(train(blobs, tmp_path / "run", partial(EVAE, latent_dim=3), **options)))
        for panel in ("loss", "reconstruction", "penalty"):
            assert f"{panel} by epoch: training, validation" in [image["alt"] for image in page.images]
        assert "16 hold-out images" in page.text

    def test_one_hold_out_image_has_no_interpolations(self, tmp_path, undrawn):
        pixels = np.random.default_rng(0).integers(0, 256, (17, 16, 16), np.uint8)
        np.savez(tmp_path / "few.npz", x_train=pixels[:16], x_test=pixels[16:])
        page = Page(report(trained(WAE, str(tmp_path / "few.npz"), tmp_path / "run")))
        assert "1 hold-out image above reconstructions" in " ".join(image["alt"] for image in page.images)
        assert "Interpolations" not in page.text

    def test_what_is_missing_is_said(self, copied, undrawn):
        (copied / "metrics.jsonl").unlink()
        (copied / "evaluation.json").unlink()
        text = Page(report(copied)).text
        assert f"run evae evaluate {copied} to add" in text
        assert "No epoch is on record." in text

    def test_names_that_look_like_html(self, copied, blobs, tmp_path, undrawn):
        name = "<script>alert(1)<!--\"'&amp;{x}\\<img src=x onerror=y>"
        run = copied.rename(tmp_path / f"run {name}")
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["data"] = str(shutil.copy(blobs, tmp_path / f"{name}.npz"))
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        sections = Section("reconstructions", "", (Number(f"-- {name}", 1),)), replace(DISTANCES, settings={"f": name})
        evaluated(run, *sections, data=name, split=name, latents=name)
        page = Page(report(run))
        for before in ("on ", "run ", "16 ", "images of ", "-- ", "settings: f "):
            assert f"{before}{name}" in page.text.replace(f"{tmp_path}/", "")

    def test_other_data_have_a_section_of_their_own(self, copied, undrawn):
        mine = Section("reconstructions", "", (Number("bce", 77.0),))
        evaluated(copied, mine, name="evaluation-other.json", data="other", images="ff")
        text = Page(report(copied)).text
        assert "Measurements on other 16 hold-out images of other;" in text
        assert text.index("bce 77") > text.index("Measurements on other") > text.index("Measurements")
        assert "are not the images" not in text
        (copied / "evaluation.json").unlink()
        text = Page(report(copied)).text
        assert "None yet: run" in text
        assert "bce 77" in text

    def test_a_model_alone(self, copied, undrawn):
        """What was shared: no run, so that nothing is known of its images."""
        for path in copied.iterdir():
            if path.name not in ("config.json", "model.safetensors", "evaluation.json"):
                remove(path)
        page = Page(report(copied))
        assert "It is a model without its run" in page.text
        assert "bce ↓" in page.text
        assert [image["alt"] for image in page.images] == ["64 images decoded from draws of the model's own prior"]
        (copied / "evaluation.json").unlink()
        assert "Measurements None." in Page(report(copied)).text

    def test_a_model_that_cannot_be_imported(self, copied, undrawn):
        model = load_model(copied).train()
        (copied / "config.json").write_text('{"model": "gone.Model"}')
        with pytest.raises(RunError):
            report(copied)
        assert "EVAE on" in Page(report(copied, model=model)).text

    def test_the_callers_random_numbers_are_left_alone(self, copied, undrawn):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        report(copied, seed=1)
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_same_again_with_the_same_seed_elsewhere(self, run, tmp_path):
        again = report(run, tmp_path / "new" / "page.html")
        assert again.read_bytes() == (run / "report.html").read_bytes()


def test_damaged_metrics_are_left_out(tmp_path):
    lines = ["3", '"x"', '{"epoch": 1, "loss": "x"}', '{"epoch": null, "loss": 1}', '{"epoch": 2, "loss": 3.5}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"epoch": 3, "loss": NaN}', '{"ep']))
    assert points(RunFolder(tmp_path).epochs(), "loss") == [(2, 3.5)]


class TestConfiguration:
    def test_the_command_makes_the_run_again(self, copied, tmp_path, undrawn):
        run = copied.rename(tmp_path / "it's my run; ls")
        command = shlex.split(re.search("evae train --config .* --out runs/again", Page(report(run)).text)[0])
        assert command == ["evae", "train", "--config", f"{run}/config.yaml", "--out", "runs/again"]
        assert main([*command[1:-1], str(tmp_path / "again")]) == 0
        weights = [(folder / "model.safetensors").read_bytes() for folder in (run, tmp_path / "again")]
        assert weights[0] == weights[1]

    def test_code_of_ones_own_needs_trust(self, copied, undrawn):
        config = yaml.safe_load((copied / "config.yaml").read_text())
        model = load_model(copied)
        config["model"]["init_args"]["encoder"] = "mynets:body"
        (copied / "config.yaml").write_text(yaml.safe_dump(config))
        assert "config.yaml --trust-config --out runs/again" in Page(report(copied, model=model)).text

    def test_every_option_is_on_the_page(self, run):
        page = (run / "report.html").read_text()
        (shown,) = re.findall(r"config.yaml</summary>\s*<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
        config = yaml.safe_load(html.unescape(shown))
        wanted = yaml.safe_load((run / "config.yaml").read_text())
        assert config == wanted | {"data": "blobs.npz"}
        assert wanted["data"] not in (run / "report.html").read_text()
        assert config["model"]["init_args"]["latent_dim"] == 3
        assert config["batch_size"] == 16


class TestErrors:
    def test_folders(self, tmp_path):
        with pytest.raises(RunError, match="does not exist"):
            report(tmp_path / "nowhere")
        with pytest.raises(RunError, match=r"config\.json is missing"):
            report(tmp_path)

    @pytest.mark.parametrize("content", ["", "[]", "3", '{"metrics": 3}', '{"distances": [1]}', "[" * 100_000])
    def test_damaged_evaluation(self, copied, content):
        (copied / "evaluation.json").write_text(content)
        with pytest.raises(
            RunError, match=r"evaluation\.json is damaged or of another version; evae evaluate .* writes it again$"
        ):
            report(copied)

    @pytest.mark.parametrize("content", ["", "[]", "3", "data: 3", "model: {class_path: evae.EVAE}"])
    def test_damaged_configuration(self, copied, content):
        (copied / "config.yaml").write_text(content)
        with pytest.raises(RunError, match=r"config\.yaml is not the resolved command of a run"):
            report(copied)

    def test_images_that_are_gone(self, copied, tmp_path):
        config = yaml.safe_load((copied / "config.yaml").read_text())
        (copied / "config.yaml").write_text(yaml.safe_dump(config | {"data": str(tmp_path / "gone.npz")}))
        with pytest.raises(DataError, match=f"the images {copied} was trained on: ") as raised:
            report(copied)
        assert "--data names others" not in str(raised.value)  # there is no such option here

    def test_output_that_cannot_be_written(self, run, tmp_path, undrawn):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match="could not be written"):
            report(run, tmp_path / "file" / "x.html")

    def test_seed_and_device(self, run):
        with pytest.raises(ConfigError, match="seed must be at least 0, not -1"):
            report(run, seed=-1)
        with pytest.raises(ConfigError, match="--device meta cannot be used"):
            report(run, device="meta")


class Identity(nn.Module):
    """A model of one weight whose images are its codes."""

    device = torch.device("cpu")

    def __init__(self, code):
        super().__init__()
        self.code = nn.Parameter(code)

    def encode(self, images):
        return self.code.expand(len(images), -1)

    def decode(self, codes):
        return codes[:, None, None]


class TestExploration:
    def test_survey_is_the_model_image_by_image(self, run, blobs):
        model, holdout = load_model(run), open_store(blobs, 16).holdout
        found = survey(model, holdout)
        images = to_float(holdout.images[:])
        rebuilt = model.reconstruct(images)
        assert torch.allclose(found.errors, (rebuilt - images).double().square().flatten(1).mean(1), atol=1e-9)
        assert torch.allclose(found.codes, model.encode(images).detach(), atol=1e-6)
        assert torch.allclose(found.mean_image, images.mean(0), atol=1e-6)
        assert found.spreads.shape == (16 * 3,)
        assert not found.on_sphere

    def test_best_median_and_worst(self):
        chosen = by_error(torch.arange(101.0).flip(0), 3)
        assert {name: rows.tolist() for name, rows in chosen.items()} == {
            "best": [100, 99, 98],
            "median": [51, 50, 49],
            "worst": [0, 1, 2],
        }
        assert all(len(rows) == 2 for rows in by_error(torch.rand(2), 8).values())

    def test_great_circles_are_on_the_sphere_and_at_one_speed(self):
        start, end = nn.functional.normalize(torch.randn(2, 50, 5, dtype=torch.float64), dim=-1)
        way = torch.stack([great_circle(start, end, t) for t in torch.linspace(0, 1, 7).tolist()])
        assert torch.allclose(way.norm(dim=-1), torch.ones(7, 50, dtype=torch.float64))
        assert torch.allclose(way[0], start)
        assert torch.allclose(way[-1], end)
        angles = (way[1:] * way[:-1]).sum(-1).acos()
        assert torch.allclose(angles, (start * end).sum(-1).acos() / 6)
        assert torch.allclose(great_circle(start, start, 0.3), start)

    def test_interpolations_are_straight_elsewhere(self):
        starts, ends = torch.zeros(2, 3), torch.tensor([[2.0, 4.0, 6.0], [1.0, 0.0, 0.0]])
        images = interpolations(Identity(torch.zeros(3)), starts, ends, 5, on_sphere=False)
        assert images.shape == (2, 5, 1, 1, 3)
        assert images[0, :, 0, 0, 1].tolist() == [0, 1, 2, 3, 4]

    def test_traversals_take_the_most_active_latents_through_their_quantiles(self):
        codes = torch.randn(1001, 4) * torch.tensor([1.0, 3.0, 0.1, 2.0])
        around = torch.tensor([5.0, 6.0, 7.0, 8.0])
        found = Survey(codes, torch.zeros(1001), torch.zeros(1, 2, 2), None, None)
        first, second = traversals(Identity(around), found, 2, 3)
        assert (first.latent, second.latent) == (1, 3)
        low, high = np.quantile(codes[:, 1].numpy(), (0.05, 0.95))
        assert (first.low, first.high) == pytest.approx((low, high))
        assert first.activity == pytest.approx(codes[:, 1].var(correction=0).item())
        assert first.images[:, 0, 0, 1].tolist() == pytest.approx([low, (low + high) / 2, high], abs=1e-5)
        assert first.images[:, 0, 0, [0, 2, 3]].tolist() == [[5, 7, 8]] * 3

    def test_traversals_stay_on_the_sphere(self):
        codes, around = nn.functional.normalize(torch.randn(2, 500, 4), dim=-1)
        found = Survey(codes, torch.zeros(500), torch.zeros(1, 2, 2), None, None, on_sphere=True)
        for t in traversals(Identity(around[0]), found, 4, 5):
            assert torch.allclose(t.images.norm(dim=-1), torch.ones(5, 1, 1))
            assert torch.allclose(t.images[:, 0, 0, t.latent], torch.linspace(t.low, t.high, 5))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(copied, tmp_path, width):
    said, laid_out = browse(report(evaluated(copied)), tmp_path, width)
    assert said == []
    assert laid_out["page"] <= laid_out["window"] <= width
    assert len(laid_out["images"]) == 21
    for loaded, pixels, shown in laid_out["images"]:
        assert loaded
        assert pixels > 0
        assert 80 < shown <= width
