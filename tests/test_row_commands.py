"""Every command on a run of rows of numbers."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from evae import VAE, evaluate, load_images
from evae.cli import main
from evae.metrics.two_sample import kernel_mmd

RNG = np.random.default_rng(0)
MIXED = RNG.normal(size=(120, 2)) @ RNG.normal(size=(2, 5)) * [1, 10, 100, 1000, 1e4] + 7


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "t.parquet"
    frame = pd.DataFrame(MIXED, columns=list("abcde")).assign(kind=(MIXED[:, 0] > 7).astype(int))
    frame.rename(columns={"kind": "label"}).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    options = "--model GaussianVAE --model.latent_dim 2 --model.widths [16] --epochs 8 --batch-size 16"
    more = "--learning-rate 0.01 --accelerator cpu --fit-prior gaussian"
    assert main(["train", "--data", str(table), "--out", str(out), *options.split(), *more.split()]) == 0
    return out


def evae(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_model_keeps_its_columns(run, table):
    model, frame = VAE.from_pretrained(run), pd.read_parquet(table)
    assert model.columns.names == tuple("abcde")
    rows = load_images(run, table)
    np.testing.assert_allclose(model.columns.restore(rows.numpy()), frame[list("abcde")], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(load_images(model, [table, table])[:120], rows)
    assert model.sample(3).shape == (3, 5)


def test_evaluate_measures_rows(run, table, tmp_path):
    result = evaluate(run, likelihood=2, probes=True, samples=60, show=False)
    numbers = {n["name"]: n["value"] for section in result["sections"].values() for n in section["numbers"]}
    assert result["transform"] == {"columns": 5}
    assert {"mse", "reconstruction", "kl", "ln p(x) ≥", "linear accuracy, columns"} <= numbers.keys()
    assert {"model prior: kernel_mmd", "fitted prior: kernel_mmd", "training rows: kernel_mmd"} <= numbers.keys()
    assert not {"bce", "psnr", "sharpness"} & numbers.keys()
    errors = result["sections"]["reconstructions"]["details"]["rmse_per_column"]
    scale = VAE.from_pretrained(run).columns.deviation
    standardised = [errors[name] / s for name, s in zip("abcde", scale, strict=True)]
    assert np.mean(np.square(standardised)) == pytest.approx(numbers["mse"], rel=0.5)  # of other draws
    likelihood = result["sections"]["likelihood"]
    difference = numbers["ln p(x) ≥"] - likelihood["details"]["bound_in_units_of_data"]
    assert difference == pytest.approx(np.log(scale).sum())
    pd.read_parquet(table)[list("edcba")].to_csv(tmp_path / "other.csv", index=False)
    other = evaluate(run, tmp_path / "other.csv", show=False)  # columns in another order
    assert other["count"] == pytest.approx(result["count"], abs=8)
    assert other["metrics"]["mse"] < 1


def test_evaluate_measures_tails(run, tmp_path, capsys):
    random = np.random.default_rng(1)
    frame = pd.DataFrame(random.standard_t(3, (400, 5)), columns=list("abcde")).assign(b=random.integers(0, 2, 400))
    frame.to_parquet(tmp_path / "many.parquet")
    result = evaluate(run, tmp_path / "many.parquet", tails=0.4, samples=60)
    numbers = {n["name"]: n["value"] for section in result["sections"].values() for n in section["numbers"]}
    for prior in ("model prior", "fitted prior"):
        assert {f"{prior}: mmd2", f"{prior}: mmd2_left_p", f"{prior}: right_tail_ks", f"{prior}: largest"} <= set(
            numbers
        )
        ks = [numbers[f"{prior}, {name}: left_tail_ks"] for name in "acde"]
        assert all(0 <= value <= 1 for value in ks)
        assert numbers[f"{prior}: left_tail_ks"] == pytest.approx(np.mean(ks))
        assert numbers[f"{prior}, b: left_tail_ks"] is None
    shown = capsys.readouterr().err
    assert "no distance of the tails of b: no hold-out row lies beyond a threshold" in shown
    assert "no error of the quantiles 0.001, 0.999" in shown
    details = result["sections"]["tails"]["details"]
    assert details["bound_on_mean"] == "the support of the prior of this GaussianVAE is not bounded"
    assert set(details["thresholds"]) == set("abcde")
    again = evaluate(run, tmp_path / "many.parquet", samples=60, show=False)
    assert again["sections"]["tails"] == result["sections"]["tails"]  # it stays


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy"])
def test_samples_are_a_table_in_units_of_the_data(run, tmp_path, suffix):
    out = tmp_path / f"s{suffix}"
    assert evae("sample", run, "--count", 400, "--out", out) == 0
    read = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".npy": lambda path: pd.DataFrame(np.load(path))}
    frame = read[suffix](out)
    assert frame.shape == (400, 5)
    assert list(frame.columns) == (list(range(5)) if suffix == ".npy" else list("abcde"))
    np.testing.assert_allclose(frame.std().to_numpy() / MIXED.std(0), 1, atol=0.5)
    assert evae("sample", run, "--count", 3, "--out", out) == (0 if suffix == ".parquet" else 2)  # marked as its own


def test_reconstruct_and_encode_keep_the_order(run, table, tmp_path):
    frame = pd.read_parquet(table).drop(columns="label")
    frame.loc[2, "c"] = None
    frame.to_csv(tmp_path / "new.csv", index=False)
    assert evae("reconstruct", run, tmp_path / "new.csv", "--out", tmp_path / "r.parquet") == 0
    rebuilt = pd.read_parquet(tmp_path / "r.parquet")
    assert list(rebuilt.columns) == ["index", *"abcde"]
    assert list(rebuilt["index"]) == [0, 1, *range(3, 120)]
    assert np.corrcoef(rebuilt["e"], frame["e"].drop(2))[0, 1] > 0.2
    assert evae("encode", run, "--data", tmp_path / "new.csv", "--out", tmp_path / "z.parquet") == 0
    assert evae("encode", run, "--out", tmp_path / "own.parquet") == 0
    new, own = (pq.read_table(tmp_path / name).to_pandas().set_index("index") for name in ("z.parquet", "own.parquet"))
    codes = [np.stack(of["vector"].sort_index()) for of in (new, own.drop(2))]
    np.testing.assert_allclose(*codes, rtol=1e-4, atol=1e-5)
    assert set(own["split"]) == {"train", "holdout"}


@pytest.mark.slow
def test_pages_and_figures(run, tmp_path):
    assert evae("evaluate", run) == 0
    assert evae("report", run, "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert "R² is 1 less" in page
    assert "interpolation" not in page
    assert evae("inspect", run.parent / "none.csv", "--out", tmp_path / "i.png") == 2
    assert evae("inspect", json.loads((run / "data.json").read_text())["source"], "--out", tmp_path / "i.png") == 0
    assert (tmp_path / "i.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("evaluate RUN --features inception", "--features is for images"),
        ("evaluate RUN --tails 0.01", "hold-out rows in each tail, and at least 10 are needed"),
        ("evaluate RUN --tails 0.7", "tails is the fraction of rows in each tail, below 0.5, not 0.7"),
        ("evaluate RUN --data BLOBS", "has images, and the model takes rows of numbers"),
        ("sample RUN --out s.png", "whose results are tables"),
        ("reconstruct RUN a.png b.png --out o.csv", "name one file of them, not 2"),
        ("reconstruct RUN TABLE --out folder", "whose results are tables"),
        ("map RUN", "evae map is for images"),
        ("audit TABLE --out a", "evae audit is for images"),
        ("audit TABLE --out a --run RUN", "evae audit is for images, and "),
        ("push RUN me/it --out a --licence mit", "evae push is for images"),
        ("tradeoff --data TABLE --out a", "evae tradeoff is for images"),
        ("encode RUN --thumbnails true --out z.parquet", "--thumbnails is for images"),
        ("train --data TABLE --out x --image-size 32", "--image-size, --crop and --channels are for images"),
        ("train --data TABLE --out x --model.networks rae", "rows of numbers take --model.networks mlp"),
        ("train --data TABLE --out x --batch-size 500", "larger than the 1"),
    ],
)
def test_what_is_for_images_only_is_said_in_a_sentence(
    run, table, blobs, tmp_path, monkeypatch, capsys, command, sentence
):
    monkeypatch.chdir(tmp_path)
    arguments = command.replace("RUN", str(run)).replace("TABLE", str(table)).replace("BLOBS", blobs).split()
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_an_image_model_takes_no_rows(blobs, table, tmp_path, capsys):
    out = tmp_path / "run"
    options = "--model AE --model.latent_dim 2 --epochs 1 --batch-size 16 --image-size 16 --accelerator cpu"
    assert evae("train", "--data", blobs, "--out", out, *options.split()) == 0
    assert evae("evaluate", out, "--tails", 0.1) == 2
    assert "--tails is for rows of numbers" in capsys.readouterr().err
    assert evae("evaluate", out, "--data", table) == 2
    assert evae("encode", out, "--data", table, "--out", tmp_path / "z.parquet") == 2
    assert capsys.readouterr().err.count("has rows of numbers") == 2


def test_kernel_mmd():
    x, y = torch.randn(300, 2), torch.randn(200, 2)
    same, error = kernel_mmd(x, y)
    assert abs(same) < 4 * error
    far, spread = kernel_mmd(x, y + 1)
    assert far > 5 * spread
    assert kernel_mmd(x, y + 1) == (far, spread)
