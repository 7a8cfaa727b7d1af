"""Images given as objects of Python, and lists of image files: a run finds them again."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evae import EVAE, evaluate, open_store, train
from evae.data.cache import cache
from evae.data.memory import named
from evae.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 16, 16), np.uint8)
TENSOR = torch.from_numpy(PIXELS)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(PIXELS))]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.parametrize(
    "images",
    [PIXELS, PIXELS[..., None], TENSOR[:, None], TENSOR / 255, np.asfortranarray(PIXELS)],
    ids=["grey", "channels last", "tensor", "floats", "not contiguous"],
)
def test_arrays(images):
    store = open_store(images, 16)
    shown = np.concatenate([store.train.read(slice(None)), store.holdout.read(slice(None))])
    assert sorted(map(bytes, shown)) == sorted(map(bytes, PIXELS))


@pytest.mark.parametrize("kind", ["array", "list"])
def test_a_run_finds_its_images_again(kind, files, tmp_path):
    data = PIXELS if kind == "array" else [str(files[0]), *files[1:]]
    options = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}
    run = train(data, tmp_path / "run", partial(EVAE, latent_dim=3), **options)
    own = evaluate(run, show=False)
    assert own["images"] == evaluate(run, data, show=False)["images"]
    assert not list(run.glob("evaluation-*.json"))


def test_names_stay_and_contents_are_kept_once(root, files):
    assert named("mnist5k") == "mnist5k"
    assert named(Path("a")) == "a"
    assert named(PIXELS) == named(PIXELS.copy()) != named(PIXELS[:39])
    assert named(files) == named(tuple(files)) != named(files[:3])
    assert len(list(root.iterdir())) == 4


def test_images_are_decoded_once(capsys):
    open_store(PIXELS, 16)
    assert "50 images" in capsys.readouterr().err
    open_store(PIXELS, 16)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "data must be a name, a path, .* not NoneType"),
        ([], "data must be"),
        (np.zeros(3), r"not an array of float64 of shape \(3,\)"),
        (np.full((3, 4, 4), None), "not an array of object"),
        (["nowhere.png"], "nowhere.png is not a file"),
    ],
)
def test_what_is_none(data, sentence):
    with pytest.raises(DataError, match=sentence):
        open_store(data)


def test_list_files(files, tmp_path):
    listing = tmp_path / "some.txt"
    listing.write_text("\n".join(["3.png", "", str(files[5]), *(f"{i}.png" for i in range(6, 40))]))
    store = open_store(listing)
    assert {*store.train.names, *store.holdout.names} >= {"3.png", str(files[5]), "39.png"}
    for text, sentence in (("3.png\ngone.png", "names 1 files that do not exist: gone.png"), ("", "names no files")):
        listing.write_text(text)
        with pytest.raises(DataError, match=sentence):
            open_store(listing)


def test_the_cache_lists_and_prunes_them(root, files, capsys):
    named(PIXELS), named(files)
    cache()
    assert capsys.readouterr().out.count("data given from Python") == 2
    cache(prune=True, max_size=0)
    assert not [path for path in root.iterdir() if path.suffix in (".npy", ".txt")]
