"""evae encode: the columns, their values, and files that other tools read."""

import io

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from evae import EVAE, GaussianVAE, encode, load_model, open_store
from evae.collection.description import percentiles
from evae.errors import ConfigError, DataError, RunError
from evae.metrics.likelihood import importance_weighted_bound
from tests.collection.conftest import pictures, written
from tests.small import trained


def test_numbers_of_each_image(run, blobs, tmp_path):
    codes = pd.read_parquet(encode(run, tmp_path / "codes.parquet"))
    store, model = open_store(blobs, 16), load_model(run)
    images = torch.from_numpy(np.concatenate([s.read(slice(None)) for s in (store.train, store.holdout)])).float() / 255
    with torch.no_grad():
        q = model.posterior(images)
        errors = (model.decode(q.mean) - images).square().mean((1, 2, 3)).numpy()
        rates = model.objective.divergence(model, q).numpy()
    np.testing.assert_allclose(codes["error"], errors, rtol=1e-4)
    np.testing.assert_allclose(codes["rate"], rates, rtol=1e-4)
    held = codes[codes["split"] == "holdout"]["error_percentile"]
    np.testing.assert_allclose(sorted(held), (np.arange(16) + 0.5) / 16 * 100, rtol=1e-4)
    about = pq.read_schema(tmp_path / "codes.parquet").metadata
    assert about[b"evae.rate"] == b"penalty"
    assert "bound" not in codes  # posteriors leave the uniform prior


def test_percentiles_of_ties():
    assert percentiles(np.array([0.0, 1, 2, 5]), np.array([1.0, 2, 2, 3])).tolist() == [0, 12.5, 50, 100]


def test_a_bound_where_there_is_one(blobs, tmp_path):
    folder = trained(GaussianVAE, blobs, tmp_path / "run")
    codes = pd.read_parquet(encode(folder, tmp_path / "codes.parquet", likelihood_samples=16))
    store, model = open_store(blobs, 16), load_model(folder)
    images = torch.from_numpy(store.holdout.read(slice(None))).float() / 255
    with torch.no_grad():
        expected = importance_weighted_bound(model, images, 16)
    bound = codes[codes["split"] == "holdout"]["bound"]
    assert bound.mean() == pytest.approx(expected.mean().item(), rel=0.03)
    again = pd.read_parquet(encode(folder, tmp_path / "codes.parquet", likelihood_samples=16))
    assert again["bound"].equals(codes["bound"])
    assert "bound" not in pd.read_parquet(encode(folder, tmp_path / "codes.parquet", likelihood_samples=0))


def test_columns_and_thumbnails(run, tmp_path):
    data = written(tmp_path / "data", pictures(3), ["a/0.png", "a/1.jpg", "b/2.bmp"])
    out = encode(run, tmp_path / "codes.parquet", data=str(data), layout="columns", thumbnails=True)
    codes = pd.read_parquet(out)
    assert list(codes.columns)[:3] == ["file", "split", "label"]
    assert list(codes.columns)[-4:] == ["z0", "z1", "z2", "image"]
    assert codes["label"].tolist() == ["a", "a", "b"]
    assert [image["path"] for image in codes["image"]] == codes["file"].tolist()
    assert Image.open(io.BytesIO(codes["image"][0]["bytes"])).size == (16, 16)


@pytest.mark.slow
def test_tables_for_scanpy(run, tmp_path):
    anndata = pytest.importorskip("anndata", reason="needs anndata (pip install 'evae[anndata]')")
    frame = pd.read_parquet(encode(run, tmp_path / "codes.parquet"))
    for layout in ("vector", "columns", "vector"):  # replaces its own
        table = anndata.read_h5ad(encode(run, tmp_path / "codes.h5ad", layout=layout))
        np.testing.assert_array_equal(table.X, np.stack(frame["vector"]))
        assert list(table.var_names) == ["z0", "z1", "z2"]
        np.testing.assert_allclose(table.obs["error"], frame["error"])
        assert table.obs["split"].tolist() == frame["split"].tolist()
    (tmp_path / "mine.h5ad").write_text("mine")
    with pytest.raises(RunError, match="evae did not write it as codes"):
        encode(run, tmp_path / "mine.h5ad")
    with pytest.raises(ConfigError, match="--thumbnails is for .parquet"):
        encode(run, tmp_path / "codes.h5ad", thumbnails=True)


def test_percentiles_need_the_runs_images(run, blobs, tmp_path, capsys):
    """A model alone has none; nor has a run whose images are gone."""
    EVAE((1, 16, 16), latent_dim=2).save_pretrained(tmp_path / "model")
    codes = pd.read_parquet(encode(tmp_path / "model", tmp_path / "z.parquet", data=blobs))
    assert "error_percentile" not in codes
    assert "error" in codes


def test_files_have_names(run, tmp_path):
    data = written(tmp_path / "data", pictures(2), ["a.png", "b.png"])
    assert pd.read_parquet(encode(run, tmp_path / "z.parquet", data=str(data)))["file"].tolist() == ["a.png", "b.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        encode(run, tmp_path / "z.parquet", data=str(tmp_path / "none"))
