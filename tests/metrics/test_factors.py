"""The section "factors" of an evaluation: of a table beside the images, and of generated shapes."""

import csv
from functools import partial

import numpy as np
import pytest

from evae import EVAE, evaluate, train
from evae.cli import main
from evae.data.shapes import FACTORS, SHAPES, draw_factors, render
from tests.small import trained

COUNT = 120


@pytest.fixture(scope="module")
def run(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("factors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(folder / "cache"))
        return trained(EVAE, blobs, folder / "run")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """An .npz of 60 and 60 small shapes, and a .csv of their factors by row number."""
    folder, values = tmp_path_factory.mktemp("shapes"), draw_factors(COUNT, seed=1)
    images = np.stack([render(int(shape), *place, side=16) for shape, *place in values.tolist()])
    np.savez(folder / "images.npz", x_train=images[:60], x_test=images[60:])
    with (folder / "factors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *FACTORS])
        writer.writerows([i, SHAPES[int(shape)], *place] for i, (shape, *place) in enumerate(values.tolist()))
    return folder


def numbers(result):
    return {number["name"]: number["value"] for number in result["sections"]["factors"]["numbers"]}


class TestEvaluate:
    def test_a_table_gives_every_number_and_what_each_latent_tells(self, run, shapes):
        options = {"data": str(shapes / "images.npz"), "device": "cpu", "show": False}
        result = evaluate(run, factors=shapes / "factors.csv", **options)
        found = numbers(result)
        each = [f"informativeness, {name}" for name in FACTORS]
        assert list(found) == ["mig", "disentanglement", "completeness", "informativeness", *each]
        assert found["informativeness"] == pytest.approx(np.mean([found[name] for name in each]))
        assert all(0 <= found[name] <= 1 for name in ("mig", "disentanglement", "completeness"))
        section = result["sections"]["factors"]
        assert section["settings"] == {"train_count": 60, "count": 60}
        assert section["details"]["factors"] == list(FACTORS)
        assert np.shape(section["details"]["information"]) == np.shape(section["details"]["importance"]) == (3, 5)
        assert evaluate(run, **options)["sections"]["factors"] == section  # it stays

    def test_names_that_are_not_those_of_the_images_are_told(self, run, shapes, tmp_path, capsys):
        path = tmp_path / "other.csv"
        path.write_text("file,size\n" + "".join(f"{i}.png,{i / 7}\n" for i in range(COUNT)))
        arguments = ["evaluate", str(run), "--data", str(shapes / "images.npz"), "--factors", str(path)]
        assert main([*arguments, "--device", "cpu"]) == 0
        told = " ".join(capsys.readouterr().err.split())
        assert "no measures of factors: 0 training and 0 hold-out images" in told
        assert "such as '60'" in told

    def test_a_file_that_cannot_be_read_is_an_error_in_a_sentence(self, run, tmp_path, capsys):
        assert main(["evaluate", str(run), "--factors", str(tmp_path / "none.csv")]) == 2
        assert "--factors" in capsys.readouterr().err


@pytest.mark.slow
def test_generated_shapes_have_their_own_factors(tmp_path):
    model = partial(EVAE, latent_dim=3, networks="mlp")
    out = train("shapes", tmp_path / "run", model, epochs=1, image_size=16, accelerator="cpu")
    result = evaluate(out, device="cpu", show=False)
    assert result["count"] == 1000
    assert list(numbers(result))[4:] == [f"informativeness, {name}" for name in FACTORS]
