"""The commands of docs/collections.md, on small data."""

from pathlib import Path

import numpy as np
import pytest

from evae.cli import main
from evae.collection import outliers
from tests.collection.conftest import pictures, written
from tests.test_docs import commands

PAGE = Path(__file__).parents[2] / "docs" / "collections.md"


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    pytest.importorskip("anndata", reason="needs anndata (pip install 'evae[anndata]')")
    pytest.importorskip("umap", reason="needs umap-learn (pip install 'evae[umap]')")
    monkeypatch.setattr(outliers, "_STEPS", (2, 2))
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (140, 32, 32), dtype=np.uint8)
    np.savez("digits.npz", x_train=images[:120], x_test=images[120:])
    for folder in ("photos", "mixed"):
        written(tmp_path / folder, pictures(110), [f"{i}.png" for i in range(110)])
    training = ["--epochs", "1", "--accelerator", "cpu"]
    assert main(["train", "--data", "photos", "--image-size", "16", "--out", "runs/photos", *training]) == 0
    for name, *arguments in commands(PAGE.read_text()):
        small = ["digits.npz" if word == "mnist5k" else word for word in arguments]
        assert main([name, *small, *(training if name == "train" else [])]) == 0, arguments
    for result in ("runs/digits/map.html", "umap.html", "audit/audit.html", "latents.parquet", "latents.h5ad"):
        assert Path(result).exists()
