"""Commands for images of four and of five channels: what they write and show, and what they refuse."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from evae import GaussianVAE, train
from evae.collection import audit, encode
from evae.errors import ConfigError, DataError
from evae.figures import image_grid
from evae.inference import load_images, reconstruct, sample
from evae.metrics.command import evaluate
from evae.metrics.features import Extractor
from evae.metrics.image import sharpness

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("channels")


@pytest.fixture(scope="module", params=[4, 5])
def run(request, folder, _shared_cache):
    """A run of images of four channels, with alpha, or of five, with the array it was trained on."""
    count = request.param
    array = folder / f"{count}.npy"
    np.save(array, RNG.integers(0, 256, (40, 16, 16, count), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(_shared_cache))
        channels = "rgba" if count == 4 else "auto"
        path = train(
            str(array),
            folder / f"run{count}",
            GaussianVAE,
            image_size=16,
            channels=channels,
            epochs=1,
            batch_size=16,
            accelerator="cpu",
        )
    return path, array, count


def test_files_that_are_written_keep_all_channels(run, tmp_path):
    path, _, count = run
    sample(path, 3, tmp_path / "samples", prior="model", device="cpu")
    sample(path, 3, tmp_path / "samples.npy", prior="model", device="cpu")
    array = np.load(tmp_path / "samples.npy")
    assert array.shape == (3, 16, 16, count)
    with Image.open(tmp_path / "samples" / ("000001.png" if count == 4 else "000001.tif")) as file:
        if count == 4:
            assert file.mode == "RGBA"
            assert np.array_equal(np.asarray(file), array[1])
        else:
            assert file.n_frames == 5
            file.seek(4)
            assert np.array_equal(np.asarray(file), array[1, ..., 4])
    reconstruct(path, tmp_path / "samples", tmp_path / "rebuilt", device="cpu")
    assert {file.suffix for file in (tmp_path / "rebuilt").glob("0*")} == {".png" if count == 4 else ".tif"}
    assert load_images(path, tmp_path / "samples").shape == (3, count, 16, 16)


def test_codes_thumbnails_and_audits(run, tmp_path):
    path, array, count = run
    encode(path, tmp_path / "codes.parquet", thumbnails=True, device="cpu")
    content = pq.read_table(tmp_path / "codes.parquet")["image"][0]["bytes"].as_py()
    (tmp_path / "a.png").write_bytes(content)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == ("RGBA" if count == 4 else "RGB")
    assert audit(str(array), tmp_path / "audit", run=path, device="cpu").files == 40


def test_other_numbers_of_channels_are_refused(run, tmp_path):
    path, _, count = run
    np.save(tmp_path / "rgb.npy", RNG.integers(0, 256, (20, 16, 16, 3), np.uint8))
    said = "no alpha, which" if count == 4 else "3 channels, (and )?the model (takes|expects) 5"
    with pytest.raises(DataError, match=said):
        evaluate(path, str(tmp_path / "rgb.npy"), show=False, device="cpu")
    with pytest.raises(DataError, match=said):
        encode(path, tmp_path / "codes.parquet", str(tmp_path / "rgb.npy"), device="cpu")
    with pytest.raises(ConfigError, match=f"--channels rgb gives 3 channels, and the model takes {count}"):
        evaluate(path, str(tmp_path / "rgb.npy"), channels="rgb", show=False, device="cpu")
    Image.new("RGB", (20, 20), (250, 9, 9)).save(tmp_path / "red.png")
    if count == 4:  # an opaque file has alpha
        assert (load_images(path, tmp_path / "red.png")[0, 3] == 1).all()
        return
    with pytest.raises(DataError, match=r"red.png: images have 3 channels, and the model takes 5"):
        reconstruct(path, tmp_path / "red.png", tmp_path / "out", device="cpu")


def test_evaluation(run):
    path, _, count = run
    assert np.isfinite(evaluate(path, show=False, device="cpu")["sections"]["reconstructions"]["numbers"][0]["value"])
    assert count in (4, 5)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_grids_are_of_colours(count):
    assert image_grid(torch.rand(5, count, 8, 8)).mode == "RGB"


def test_features_and_sharpness_are_of_images_over_white():
    images = torch.randint(0, 256, (3, 4, 12, 12), dtype=torch.uint8)
    seen = []

    def network(batch):
        seen.append(batch)
        return batch.flatten(1)

    extractor = Extractor("features", "", network, lambda x: x, torch.device("cpu"))
    extractor(images)
    alpha = images[:, 3:].double() / 255
    white = images[:, :3].double() * alpha + 255 * (1 - alpha)
    assert (seen[0].double() - white).abs().max() <= 0.51
    values = images.double() / 255
    torch.testing.assert_close(sharpness(values), sharpness(white / 255))
    with pytest.raises(DataError, match="--features module:callable can take others"):
        extractor(images[:, :2])
