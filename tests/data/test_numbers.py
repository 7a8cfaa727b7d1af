"""Rows of numbers from arrays and tables: what is read, standardised, held out and left out."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evae import open_store
from evae.columns import Columns
from evae.data.images import Subset
from evae.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
VALUES = RNG.normal([5, -300, 1e6], [1, 20, 1e-2], (80, 3))


@pytest.fixture
def frame():
    return pd.DataFrame(VALUES, columns=["a", "b", "c"]).assign(
        kind=RNG.choice(["x", "y"], 80), target=np.arange(80) % 4
    )


def values_of(store):
    """All rows in the units of the data, sorted."""
    rows = np.concatenate([store.train.values(slice(None)), store.holdout.values(slice(None))])
    return rows[np.lexsort(rows.T)]


def test_rows_are_standardised_by_the_training_rows(tmp_path, frame):
    frame.to_parquet(tmp_path / "t.parquet")
    store = open_store(str(tmp_path / "t.parquet"))
    assert (store.image_shape, store.columns.names, store.noun) == ((3,), ("a", "b", "c"), "row")
    train, raw = store.train.read(slice(None)), store.train.values(slice(None))
    assert train.dtype == np.float32
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(store.columns.mean, raw.mean(0), rtol=1e-12)
    np.testing.assert_allclose(store.columns.restore(train), raw, rtol=0, atol=1e-5)  # also of 1e6 ± 0.01
    np.testing.assert_array_equal(values_of(store), VALUES[np.lexsort(VALUES.T)])
    np.testing.assert_array_equal(store.train[3], store.train.read(np.array([3]))[0])
    assert "2 columns" not in str(store.account)
    assert "4 classes from the column target" in str(store.account)
    assert "columns that hold no numbers (kind" in str(store.account)
    held = store.split_validation(0.25, 0)
    assert isinstance(held.validation, Subset)
    assert held.validation.read(slice(0, 2)).shape == (2, 3)


@pytest.mark.parametrize("form", ["npy", "npz", "csv", "tsv", "headless", "arrow", "array", "tensor", "frame", "table"])
def test_every_form_gives_the_same_rows(tmp_path, form):
    frame, path = pd.DataFrame(VALUES, columns=["x0", "x1", "x2"]), tmp_path / f"t.{form}"
    data = {"array": VALUES, "tensor": torch.from_numpy(VALUES), "frame": frame, "table": pa.table(frame)}.get(
        form, path
    )
    if form == "npy":
        np.save(path, VALUES)
    elif form == "npz":
        np.savez(path, features=VALUES, y=np.zeros(80))
    elif form == "arrow":
        with pa.ipc.new_file(path, pa.Table.from_pandas(frame).schema) as writer:
            writer.write_table(pa.Table.from_pandas(frame))
    elif data is path:
        data = tmp_path / ("t.tsv" if form == "tsv" else "t.csv")
        frame.to_csv(data, sep="\t" if form == "tsv" else ",", index=False, header=form != "headless")
    store = open_store(data)
    assert store.columns.names == ("x0", "x1", "x2")
    np.testing.assert_allclose(values_of(store), VALUES[np.lexsort(VALUES.T)], rtol=1e-12)


def test_splits_of_names_and_of_a_column(tmp_path, frame):
    np.savez(
        tmp_path / "s.npz", x_train=VALUES[:60], x_test=VALUES[60:], y_train=np.ones(60, int), y_test=np.ones(20, int)
    )
    store = open_store(str(tmp_path / "s.npz"))
    assert (len(store.train), len(store.holdout), set(store.holdout.labels)) == (60, 20, {1})
    (tmp_path / "folder").mkdir()
    frame[:70].to_csv(tmp_path / "folder" / "train.csv", index=False)
    frame[70:].to_csv(tmp_path / "folder" / "test.csv", index=False)
    assert len(open_store(str(tmp_path / "folder")).holdout) == 10
    frame.assign(split=["train"] * 50 + ["test"] * 30).to_parquet(tmp_path / "c.parquet")
    store = open_store(str(tmp_path / "c.parquet"))
    assert (len(store.train), store.account.splits_from) == (50, "the column split")
    assert store.holdout.names[0] == "50"


def test_lists_of_numbers_are_columns(tmp_path):
    table = pa.table({"index": range(80), "embedding": VALUES.tolist()})
    pq.write_table(table, tmp_path / "e.parquet")
    store = open_store(str(tmp_path / "e.parquet"))
    assert store.columns.names == ("embedding_0", "embedding_1", "embedding_2")
    assert "the column index numbers the rows" in str(store.account)
    pq.write_table(pa.table({"e": [[1.0, 2.0], [3.0]]}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"lists of the column e have different lengths \(1, 2\)"):
        open_store(str(tmp_path / "f.parquet"))


def test_floating_point_targets_are_values(tmp_path, frame):
    frame.assign(y=VALUES[:, 0] * 2)[["a", "y"]].to_parquet(tmp_path / "t.parquet")
    assert open_store(str(tmp_path / "t.parquet")).columns.names == ("a", "y")


def test_missing_values_and_constant_columns(tmp_path, frame, capsys):
    frame.loc[3, "b"], frame.loc[5, "a"] = None, np.inf
    frame.assign(same=7, none=np.nan).to_parquet(tmp_path / "t.parquet")
    store = open_store(str(tmp_path / "t.parquet"))
    assert store.skipped == ("row 3 (b is missing)", "row 5 (a is infinite)")
    assert store.columns.names == ("a", "b", "c")
    told = " ".join(capsys.readouterr().err.split())
    assert "2 bad rows skipped: row 3 (b is missing); row 5 (a is infinite)" in told
    assert "1 constant column is left out: same" in told
    assert "1 empty column is left out: none" in told
    with pytest.raises(DataError, match=r"2 bad rows: row 3 .*--on-bad-image skip"):
        open_store(str(tmp_path / "t.parquet"), on_bad_image="error")


def test_a_models_columns_select_and_standardise(tmp_path, frame):
    frame.to_parquet(tmp_path / "t.parquet")
    columns = Columns(("c", "a"), (1e6, 0.0), (1.0, 2.0))
    store = open_store(str(tmp_path / "t.parquet"), columns=columns)
    np.testing.assert_allclose(
        store.train.read(slice(None))[:, 1], store.train.values(slice(None))[:, 1] / 2, rtol=1e-6
    )
    with pytest.raises(DataError, match="has no column of numbers z, which the model was trained on; it has a, b, c"):
        open_store(str(tmp_path / "t.parquet"), columns=Columns(("z",), (0.0,), (1.0,)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.ones((30, 2)), "has too few rows: 0 to train on and 30 held out"),
        (VALUES[:2], "has too few rows: 1 to train on and 1 held out"),
        (np.full((9, 2), np.nan), "has no numbers: all values are missing or infinite"),
        (np.zeros((0, 3)), "has no rows"),
        (np.zeros(7), "data must be"),
    ],
)
def test_rows_that_cannot_be_used(values, sentence):
    with pytest.raises(DataError, match=sentence):
        open_store(values)


def test_constant_columns_alone(tmp_path):
    np.savez(tmp_path / "c.npz", x_train=np.ones((9, 2)), x_test=VALUES[:3, :2])
    with pytest.raises(DataError, match="all 2 columns are constant over the training rows"):
        open_store(str(tmp_path / "c.npz"))


def test_options_of_images_are_not_for_rows():
    for option in ({"image_size": 16}, {"crop": 3}):
        with pytest.raises(
            ConfigError, match="has rows of numbers; --image-size, --crop and --channels are for images"
        ):
            open_store(VALUES, **option)


def test_few_rows_have_both_splits():
    for count in range(3, 12):
        store = open_store(RNG.normal(size=(count, 2)))
        assert min(len(store.train), len(store.holdout)) >= 1


def test_numbers_beside_images_are_not_read(tmp_path, frame):
    from PIL import Image

    frame.to_csv(tmp_path / "about.csv")
    frame.to_parquet(tmp_path / "about.parquet")
    for i in range(12):
        Image.fromarray(np.full((16, 16), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    assert open_store(str(tmp_path), image_size=16).image_shape == (1, 16, 16)
