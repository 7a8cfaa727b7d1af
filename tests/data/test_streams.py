"""Images that are streamed: the same as decoded ones, in an order that needs few of them at once."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evae import evaluate, train
from evae.data import open_store, streams
from evae.data.batches import Groups
from evae.errors import DataError
from tests.training.small import SETTINGS, same_run, weights


def png(number, colour=False):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3) if colour else (20, 20), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, numbers, change=None, group=7):
    images = [(change or {}).get(i) or png(i) for i in numbers]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": [{"bytes": image, "path": None} for image in images], "label": [i % 3 for i in numbers]}
    pq.write_table(pa.table(table), path, row_group_size=group)


@pytest.fixture
def folder(tmp_path):
    """50 images in eight row groups of two files to train on, 16 held out."""
    write(tmp_path / "data" / "train-00000-of-00002.parquet", range(30))
    write(tmp_path / "data" / "train-00001-of-00002.parquet", range(30, 50))
    write(tmp_path / "data" / "test-00000-of-00001.parquet", range(50, 66))
    return tmp_path / "data"


def stream(folder, **options):
    return open_store(f"hf-stream:{folder}", image_size=16, **options)


class TestOrder:
    @given(
        st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
        st.integers(1, 200),
        st.integers(0, 2**60),
        st.integers(1, 7),
    )
    def test_an_epoch_has_every_image_once(self, counts, window, seed, batch_size):
        counts = np.array(counts)
        groups = Groups(counts, 10 * counts, window)
        total = counts.sum()
        size = min(batch_size, total)
        steps = [groups.batch_indices(seed, 1, step, size) for step in range(total // size)]
        assert all(len(step) == size for step in steps)
        everything = groups.batch_indices(seed, 1, 0, total)
        assert sorted(everything) == list(range(total))
        assert np.array_equal(np.concatenate(steps), everything[: total // size * size])

    def test_few_groups_at_once(self):
        """A hundred groups of ten images, in windows of five: of 50 images in a row, at most ten groups."""
        groups = Groups(np.full(100, 10), np.full(100, 1000), 5000)
        for step in range(20):
            indices = groups.batch_indices(0, 3, step, 50)
            assert len(set(indices // 10)) == 5
            following = set(groups.following(0, 3, step, 50))
            after = groups.batch_indices(0, 3 + (step == 19), (step + 1) % 20, 50)
            assert set(after // 10) == following

    def test_epochs_and_seeds_differ(self):
        groups = Groups(np.full(9, 10), np.full(9, 10), 30)
        orders = [groups.batch_indices(*key, 0, 90).tolist() for key in [(0, 0), (0, 1), (1, 0)]]
        assert orders[0] != orders[1] != orders[2] != orders[0]


class TestImages:
    def test_are_those_of_a_store(self, folder):
        decoded, streamed = open_store(str(folder), image_size=16), stream(folder)
        assert streamed.image_shape == decoded.image_shape == (1, 16, 16)
        assert len(streamed.train) == 50
        assert np.array_equal(streamed.train.read(slice(0, 50)), decoded.train.read(slice(0, 50)))
        chosen = np.array([49, 3, 3, 28, 30])
        assert np.array_equal(streamed.train.read(chosen), decoded.train.read(chosen))
        assert np.array_equal(streamed.holdout.images, decoded.holdout.images)
        assert np.array_equal(streamed.train.labels, decoded.train.labels)

    def test_only_hold_out_images_are_decoded_before(self, folder, cache):
        stream(folder)
        newest = max((f for f in cache.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime_ns)
        assert {f.name for f in newest.glob("*.u8")} == {"holdout.u8"}

    def test_little_is_held(self, folder, monkeypatch):
        """Windows of one row group: three of them at most, and no group is fetched twice in an epoch."""
        reads = []
        fetch = streams.RowGroup.read
        monkeypatch.setattr(
            streams.RowGroup, "read", lambda group, columns: reads.append(group) or fetch(group, columns)
        )
        monkeypatch.setattr(streams, "_WINDOW", 1)
        images = stream(folder).train
        reads.clear()
        for step in range(7):
            images.read(images.batch_indices(0, 0, step, 7))
            images.prepare(0, 0, step, 7)
            assert len(images._held) <= 4
        assert len({(group.url, group.number) for group in reads}) == 8
        assert len(reads) <= 9  # and the next epoch's first

    def test_without_a_hold_out_split_some_groups_are_held_out(self, tmp_path):
        write(tmp_path / "all.parquet", range(60), group=5)
        images = stream(tmp_path)
        assert (len(images.train), len(images.holdout)) == (55, 5)
        everything = np.concatenate([images.train.read(slice(0, 55)), images.holdout.images])
        assert len(np.unique(everything.reshape(60, -1), axis=0)) == 60

    def test_colour(self, tmp_path):
        for name, numbers in (("train", range(9)), ("test", range(9, 12))):
            write(tmp_path / f"{name}.parquet", numbers, {i: png(i, colour=True) for i in numbers if i != 2})
        images = stream(tmp_path).train.read(slice(0, 9))
        assert images.shape == (9, 3, 16, 16)
        assert (images[2] == images[2, :1]).all()  # a grey one among them


class TestTraining:
    def test_goes_on_exactly_where_it_stopped(self, folder, tmp_path):
        options = SETTINGS | {"data": f"hf-stream:{folder}"}
        train(out=tmp_path / "whole", **options)
        for epochs in (1, 2, 3):
            train(out=tmp_path / "parts", resume="auto", **options | {"epochs": epochs})
        assert same_run(tmp_path / "whole", tmp_path / "parts")

    def test_evaluation(self, folder, tmp_path, monkeypatch):
        """From another folder than that which the run was started in."""
        monkeypatch.chdir(folder)
        out = train("hf-stream:.", tmp_path / "run", **SETTINGS)
        monkeypatch.chdir(tmp_path)
        assert evaluate(out, show=False, probes=True)["count"] == 16
        assert weights(out)


class TestBadInput:
    def test_bad_images(self, folder, capsys):
        write(folder / "train-00000-of-00002.parquet", range(30), {3: b"no image", 5: png(5, colour=True)})
        images = stream(folder).train.read(slice(0, 7))
        assert len(np.unique(images.reshape(7, -1), axis=0)) == 5
        messages = " ".join(capsys.readouterr().err.split())
        assert "row 3 is not an image; another image is read in its place" in messages
        assert "row 5 is in colour, but no hold-out image is" in messages
        with pytest.raises(DataError, match=r"row 3 is not an image \(--on_bad_image skip"):
            stream(folder, on_bad_image="error").train.read(slice(0, 7))
        with pytest.raises(DataError, match="none of the 1 images"):
            stream(folder).train.read(slice(3, 4))

    def test_too_small_for_the_crop(self, folder):
        write(folder / "train-00000-of-00002.parquet", range(30), {3: png(3)[:0]})
        with pytest.raises(DataError, match="smaller than the crop"):
            stream(folder, crop=40)

    def test_a_damaged_file(self, folder):
        (folder / "train-00001-of-00002.parquet").write_bytes(b"PAR1 nonsense")
        with pytest.raises(DataError, match=r"train-00001-of-00002.parquet cannot be read"):
            stream(folder)

    def test_a_file_that_disappears(self, folder):
        images = stream(folder).train
        (folder / "train-00001-of-00002.parquet").unlink()
        with pytest.raises(DataError, match=r"train-00001-of-00002.parquet cannot be read"):
            images.read(np.array([40]))

    def test_no_parquet(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(0))
        with pytest.raises(DataError, match="is not stored as parquet files; without hf-stream: it is decoded first"):
            stream(tmp_path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="cannot be found, neither on the hub nor as a folder"):
            stream(tmp_path / "nowhere")
        with pytest.raises(DataError, match="names nothing"):
            stream("")

    def test_a_single_row_group(self, tmp_path):
        write(tmp_path / "all.parquet", range(9), group=9)
        with pytest.raises(DataError, match="single row group and has no hold-out split"):
            stream(tmp_path)
