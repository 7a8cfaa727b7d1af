"""Preprocessing of new images, and results that replace nothing but results."""

import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from evae import EVAE, encode, open_store, reconstruct, train
from evae.errors import ConfigError, DataError
from evae.inference import load_images, load_model


def trained(data, out, crop=None):
    options = {"epochs": 1, "batch_size": 8, "image_size": 16, "accelerator": "cpu"}
    return train(str(data), out, partial(EVAE, latent_dim=2), crop=crop, **options)


def coloured(rng, size=24):
    return rng.integers(0, 256, (size, size, 3), np.uint8)


def grey(rng, size=24):
    return rng.integers(0, 256, (size, size), np.uint8)


def zeros_and_ones(rng, size=24):
    return rng.integers(0, 2, (size, size), np.uint8)


def floats(rng, size=24):
    return rng.uniform(0, 200, (size, size)).astype(np.float32)


def folder_of(path, image, count=24):
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(image(rng)).save(path / f"{i:02d}.tif")
    return path


@pytest.fixture(
    scope="module",
    params=[(coloured, 20), (grey, None), (zeros_and_ones, 16), (floats, 20)],
    ids=lambda p: p[0].__name__,
)
def run(request, tmp_path_factory):
    """A run on each kind of image files, with the data folder."""
    image, crop = request.param
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(root / "cache"))
        data = folder_of(root / "data", image)
        yield trained(data, root / "run", crop=crop), data, crop


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("colour")
    return trained(folder_of(root / "data", coloured), root / "run")


def test_a_training_image_from_its_file_is_what_was_trained_on(run):
    folder, data, crop = run
    store = open_store(data, 16, crop)
    for images in (store.train, store.holdout):
        loaded = load_images(folder, [data / name for name in images.names])
        assert torch.equal(loaded, torch.from_numpy(images.read(slice(None))).float() / 255)


def test_codes_of_files_are_those_of_the_run(run, tmp_path):
    folder, data, _ = run
    own = encode(folder, tmp_path / "own.parquet")
    other = encode(folder, tmp_path / "other.parquet", data=str(data))
    one = encode(folder, tmp_path / "one.parquet", data=str(data / "07.tif"))
    own, other, one = (
        pd.read_parquet(path).set_index("file").sort_index()["vector"].apply(pd.Series) for path in (own, other, one)
    )
    np.testing.assert_allclose(own, other, atol=1e-6)
    np.testing.assert_allclose(own.loc[["07.tif"]], one, atol=1e-6)


@pytest.mark.parametrize("image", [coloured, grey])
def test_colour_and_grey_are_converted(image, blobs, colour_run, tmp_path):
    data = folder_of(tmp_path / "data", image, 3)
    for model in (load_model(colour_run), EVAE((1, 16, 16), latent_dim=2)):
        assert load_images(model, data).shape == (3, *model.image_shape)
    assert len(pd.read_parquet(encode(colour_run, tmp_path / "z.parquet", data=str(data)))) == 3
    luma = np.asarray(Image.open(data / "00.tif").convert("L"))
    model = EVAE((1, 32, 32), latent_dim=2)
    Image.fromarray(np.kron(luma, np.ones((4, 4), np.uint8))).save(tmp_path / "large.png")
    assert load_images(model, tmp_path / "large.png").shape == (1, 1, 32, 32)


def test_luma_is_that_of_pillow():
    from evae.runs.preprocessing import recoloured

    pixels = coloured(np.random.default_rng(0), 64)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert (recoloured(pixels.transpose(2, 0, 1), 1)[0] == expected).all()


def test_one_image_of_an_array_has_no_split(colour_run, tmp_path):
    np.save(tmp_path / "one.npy", coloured(np.random.default_rng(0))[None])
    codes = pd.read_parquet(encode(colour_run, tmp_path / "z.parquet", data=str(tmp_path / "one.npy")))
    assert codes["index"].tolist() == [0]
    assert codes["split"].isna().all()


def test_labels_and_splits_of_other_images(colour_run, tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder_of(tmp_path / "data" / split / label, grey, 2)
    codes = pd.read_parquet(encode(colour_run, tmp_path / "z.parquet", data=str(tmp_path / "data")))
    assert sorted(zip(codes["split"], codes["label"], strict=True)) == [
        (split, label) for split in ("holdout", "train") for label in ("cat", "dog") for _ in range(2)
    ]


def test_values_of_another_range_are_told(colour_run, tmp_path, capsys):
    encode(colour_run, tmp_path / "z.parquet", data=str(folder_of(tmp_path / "data", floats, 3)))
    assert "floating-point values are multiplied by 255" in capsys.readouterr().err


def test_one_broken_file_stops_no_other(colour_run, tmp_path, capsys):
    data = folder_of(tmp_path / "data", coloured, 3)
    (data / "01.tif").write_text("no image")
    reconstruct(colour_run, [data, tmp_path / "nowhere.png"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"00.png", "02.png", "comparison.png"}
    said = capsys.readouterr().err
    assert "2 files were not reconstructed" in said
    assert "01.tif is not an image" in said
    assert "nowhere.png cannot be read" in said


def test_an_image_smaller_than_the_crop_is_named(tmp_path):
    root = tmp_path
    folder = trained(folder_of(root / "data", grey), root / "run", crop=20)
    Image.new("L", (10, 10)).save(root / "small.png")
    with pytest.raises(DataError, match=r"small.png is smaller than the run's crop of 20 pixels"):
        reconstruct(folder, [root / "small.png"], root / "out")


def test_images_that_are_gone_leave_their_crop(tmp_path, capsys, monkeypatch):
    data = folder_of(tmp_path / "data", grey)
    folder = trained(data, tmp_path / "run", crop=20)
    expected = load_images(folder, data / "03.tif")
    shutil.move(data, tmp_path / "moved")
    assert torch.equal(load_images(folder, tmp_path / "moved" / "03.tif"), expected)  # the cache knows
    monkeypatch.setenv("EVAE_CACHE", str(tmp_path / "empty"))
    assert torch.equal(load_images(folder, tmp_path / "moved" / "03.tif"), expected)
    assert "pixel values are taken as they are" in " ".join(capsys.readouterr().err.split())


def test_codes_are_parquet(colour_run, tmp_path):
    with pytest.raises(ConfigError, match=r"name it codes\.parquet"):
        encode(colour_run, tmp_path / "codes.csv")


def test_a_model_without_a_run_takes_files(tmp_path):
    data = folder_of(tmp_path / "data", coloured, 3)
    EVAE((1, 32, 32), latent_dim=2).save_pretrained(tmp_path / "model")
    codes = pd.read_parquet(encode(tmp_path / "model", tmp_path / "z.parquet", data=str(data)))
    assert codes["file"].tolist() == ["00.tif", "01.tif", "02.tif"]
    reconstruct(tmp_path / "model", [data], tmp_path / "out")
    expected = load_model(tmp_path / "model").encode(load_images(tmp_path / "model", data)).detach()
    np.testing.assert_allclose(np.stack(codes["vector"]), expected, rtol=1e-4, atol=1e-6)
