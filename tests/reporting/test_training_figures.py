"""The figures of a run in training."""

import json
import shutil
from functools import partial

import pytest
from PIL import Image

from evae import EVAE, load_model, open_store, train
from evae.errors import RunError
from evae.reporting import charts
from evae.reporting.training_figures import draw_training
from evae.runs import RunFolder
from tests.small import trained

pytestmark = pytest.mark.usefixtures("drawn")


@pytest.fixture
def run(blobs, tmp_path):
    run = RunFolder(trained(EVAE, blobs, tmp_path / "run"))
    shutil.rmtree(run.path / "figures")
    return run


def test_two_figures(run, blobs):
    draw_training(run, load_model(run.path), open_store(blobs, 16).holdout)
    for name in ("losses.png", "reconstructions.png"):
        with Image.open(run.path / "figures" / name) as image:
            image.load()
            low, high = image.convert("L").getextrema()
            assert high > low


def test_curves_are_named_by_their_images(run):
    model = load_model(run.path)
    (line,) = run.epochs()
    lines = [line | {"epoch": epoch, "validation_loss": 1.0} for epoch in (1, 2)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    panels = charts.training_panels(run, model)
    assert [panel.title for panel in panels] == ["loss", "reconstruction", "penalty"]
    assert [curve.name for curve in panels[0].curves] == ["training", "validation", "hold-out"]
    assert [curve.name for curve in panels[1].curves] == ["training", "hold-out"]
    assert all(len(curve.points) == 2 for panel in panels for curve in panel.curves)


def test_a_run_with_validation_images(blobs, tmp_path):
    options = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu", "validation": 0.25}
    run = RunFolder(train(blobs, tmp_path / "run", partial(EVAE, latent_dim=3), **options))
    panels = charts.training_panels(run, load_model(run.path))
    assert [[curve.name for curve in panel.curves] for panel in panels] == [["training", "validation"]] * 3
    assert (run.path / "figures" / "losses.png").exists()


def test_a_run_without_epochs_has_no_curves(run, blobs):
    (run.path / "metrics.jsonl").unlink()
    draw_training(run, load_model(run.path), open_store(blobs, 16).holdout)
    assert [path.name for path in (run.path / "figures").iterdir()] == ["reconstructions.png"]


def test_a_folder_that_cannot_be_written(run, blobs):
    (run.path / "figures").touch()
    with pytest.raises(RunError, match="could not be written"):
        draw_training(run, load_model(run.path), open_store(blobs, 16).holdout)
