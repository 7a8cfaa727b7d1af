"""Images that are streamed: the same as decoded ones, in an order that needs few of them at once."""

import io
import threading
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evae import encode, evaluate, train
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
            after = groups.batch_indices(0, 3 + (step == 19), (step + 1) % 20, 50)
            assert set(groups.soon(0, 3, step, 50)) == set(indices // 10) | set(after // 10)

    def test_the_first_window_is_shuffled_like_any_other(self):
        """Of two images in groups of their own, about half of the epochs begin with the second (2 failures in 10⁹)."""
        groups = Groups(np.array([1, 1]), np.array([1, 1]), 10)
        firsts = [groups.batch_indices(0, epoch, 0, 1)[0] for epoch in range(400)]
        assert 140 < sum(firsts) < 260
        orders = [np.argsort(groups.batch_indices(0, e, 0, 2)).tolist() for e in range(9)]
        assert [0, 1] in orders
        assert [1, 0] in orders

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
        reads, fetch = [], streams.RowGroup.column
        monkeypatch.setattr(streams.RowGroup, "column", lambda group, name: reads.append(group) or fetch(group, name))
        monkeypatch.setattr(streams, "_WINDOW", 1)
        for number, numbers in enumerate((range(30), range(30, 50))):
            write(folder / f"train-0000{number}-of-00002.parquet", numbers, group=5)
        images = stream(folder).train
        for step in range(25):  # of 2 images, in windows of 5
            images.prefetch(0, 0, step, 2)
            images.read(images.indices(0, 0, step, 2))
            assert len(images._held) <= 3
        assert len({(group.url, group.number) for group in reads}) == 10
        assert len(reads) <= 11  # and the next epoch's first

    def test_what_fails_is_tried_again(self, folder, tmp_path):
        images, file = stream(folder).train, folder / "train-00001-of-00002.parquet"
        file.rename(tmp_path / "elsewhere")
        with pytest.raises(DataError, match=r"train-00001-of-00002.parquet cannot be read"):
            images.read(np.array([40]))
        (tmp_path / "elsewhere").rename(file)
        assert images.read(np.array([40])).shape == (1, 1, 16, 16)

    def test_nothing_is_fetched_that_nobody_waits_for(self, folder, monkeypatch):
        monkeypatch.setattr(streams, "FETCHES", 1)
        started = threading.Event()
        monkeypatch.setattr(streams.RowGroup, "column", lambda group, name: started.set() or time.sleep(0.2))
        images = stream(folder).train
        images.prefetch(0, 0, 0, 7)
        started.wait()
        images.cancel_prefetch()
        assert len(images._held) == 1

    def test_changed_images_are_read_again(self, folder):
        """Of files with the same names and layout."""
        before = stream(folder)
        for numbers in (range(70, 86), range(90, 106)):
            write(folder / "test-00000-of-00001.parquet", numbers)
            after = stream(folder)
            assert after.fingerprint != before.fingerprint
            assert not np.array_equal(after.holdout.images, before.holdout.images)
            before = after

    def test_without_a_hold_out_split_some_groups_are_held_out(self, tmp_path):
        write(tmp_path / "all.parquet", range(60), group=5)
        images = stream(tmp_path)
        assert (len(images.train), len(images.holdout)) == (55, 5)
        everything = np.concatenate([images.train.read(slice(0, 55)), images.holdout.images])
        assert len(np.unique(everything.reshape(60, -1), axis=0)) == 60

    @pytest.mark.parametrize(
        ("names", "counts"),
        [
            (["TRAIN-0.PARQUET", "TEST-0.PARQUET"], (40, 10)),
            (["train-0.parquet", "holdout-0.parquet"], (40, 10)),
            (["train-0.parquet", "validation-0.parquet", "unsupervised-0.parquet"], (40, 10)),
            (["train-[1]-0.parquet", "test-[1]-0.parquet"], (40, 10)),
        ],
    )
    def test_splits_are_those_of_a_folder_that_is_decoded(self, names, counts, tmp_path):
        for name, numbers in zip(names, (range(40), range(40, 50), range(50, 55)), strict=False):
            write(tmp_path / name, numbers)
        for images in (stream(tmp_path), open_store(str(tmp_path), image_size=16)):
            assert (len(images.train), len(images.holdout)) == counts

    def test_a_file(self, tmp_path):
        write(tmp_path / "all.parquet", range(60), group=5)
        assert len(stream(tmp_path / "all.parquet").train) == 55

    @pytest.mark.parametrize(("name", "id"), [("someone/pictures", "someone/pictures"), ("mnist", "ylecun/mnist")])
    def test_a_dataset_of_the_hub(self, name, id, folder, monkeypatch):
        """Found as datasets finds it, here in a folder."""
        find, asked = datasets.load_dataset_builder, []
        monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: asked.append(name) or find(str(folder)))
        images = open_store(f"hf-stream:{name}", image_size=16)
        assert asked == [id]
        assert (len(images.train), len(images.holdout)) == (50, 16)

    def test_few_large_groups(self, tmp_path, monkeypatch):
        """No more are held out than are to be."""
        monkeypatch.setattr(streams, "_HELD_OUT", 4)
        write(tmp_path / "all.parquet", range(60), group=20)
        images = stream(tmp_path)
        assert (len(images.train), len(images.holdout)) == (40, 4)

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

    def test_images_that_do_not_come(self, folder, tmp_path, monkeypatch, capsys):
        """In mid-epoch: what was done before is saved, and gone on with."""
        options = SETTINGS | {"data": f"hf-stream:{folder}", "log_every": 1}
        train(out=tmp_path / "whole", **options)
        read, reads = streams.StreamedImages.read, []

        def fail(images, chosen):
            reads.append(chosen)
            if len(reads) == 9:
                raise DataError("the network is down")
            return read(images, chosen)

        monkeypatch.setattr(streams.StreamedImages, "read", fail)
        with pytest.raises(DataError, match="the network is down"):
            train(out=tmp_path / "parts", **options)
        assert "checkpoint saved at step 8; continue with --resume auto" in " ".join(capsys.readouterr().err.split())
        train(out=tmp_path / "parts", resume="auto", **options)
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
        """The next of their row group stand for them, whatever they are read with."""
        write(folder / "train-00000-of-00002.parquet", range(30), {3: b"no image", 6: png(6, colour=True)})
        images = stream(folder).train
        read = images.read(slice(0, 7))
        assert np.array_equal(read[3], read[4])
        assert np.array_equal(read[6], read[0])
        assert np.array_equal(images.read(np.array([6, 3])), read[[0, 4]])
        assert images.bad == {3, 6}
        messages = " ".join(capsys.readouterr().err.split())
        assert messages.count("skipping undecodable training images 3, 6 (replaced by their successors)") == 1
        with pytest.raises(DataError, match=r"training image 3 is not an image \(--on-bad-image skip"):
            stream(folder, on_bad_image="error").train.read(slice(0, 7))

    def test_a_row_group_without_a_good_image(self, folder):
        write(folder / "train-00000-of-00002.parquet", range(30), dict.fromkeys(range(7), b"no image"))
        with pytest.raises(
            DataError, match=r"all images of a row group .* undecodable, for example .* is not an image"
        ):
            stream(folder).train.read(slice(0, 7))

    def test_codes_of_bad_images_are_left_out(self, folder, tmp_path, capsys):
        write(folder / "train-00000-of-00002.parquet", range(30), {3: b"no image"})
        out = train(f"hf-stream:{folder}", tmp_path / "run", **SETTINGS | {"epochs": 1})
        codes = pq.read_table(encode(out, tmp_path / "codes.parquet")).to_pylist()
        assert [row["index"] for row in codes if row["split"] == "train"] == [i for i in range(50) if i != 3]
        assert "65 latent codes in" in capsys.readouterr().err  # 50 - 1 + 16

    def test_columns(self, folder):
        write(folder / "train-00001-of-00002.parquet", range(30, 50))
        table = pq.read_table(folder / "train-00001-of-00002.parquet")
        pq.write_table(table.rename_columns(["picture", "label"]), folder / "train-00001-of-00002.parquet")
        with pytest.raises(DataError, match=r"train-00001-of-00002.parquet has no column image, .* has picture, label"):
            stream(folder)
        pq.write_table(table.select(["image"]), folder / "train-00001-of-00002.parquet")
        table = pq.read_table(folder / "test-00000-of-00001.parquet")
        pq.write_table(table.select(["image"]), folder / "test-00000-of-00001.parquet")
        assert stream(folder).holdout.labels.tolist() == [-1] * 16

    def test_too_small_for_the_crop(self, folder):
        write(folder / "train-00000-of-00002.parquet", range(30), {3: png(3)[:0]})
        with pytest.raises(DataError, match="smaller than the crop"):
            stream(folder, crop=40)

    def test_a_damaged_file(self, folder):
        (folder / "train-00001-of-00002.parquet").write_bytes(b"PAR1 nonsense")
        with pytest.raises(DataError, match=r"train-00001-of-00002.parquet cannot be read"):
            stream(folder)

    def test_no_parquet(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(0))
        with pytest.raises(DataError, match="holds no Parquet files; leave out hf-stream: to decode it first"):
            stream(tmp_path)

    @pytest.mark.parametrize("error", [ConnectionError("no network\nhere"), RuntimeError("a script"), KeyError("x")])
    def test_nothing_there(self, error, monkeypatch):
        def fail(name):
            raise error

        monkeypatch.setattr(datasets, "load_dataset_builder", fail)
        with pytest.raises(DataError, match="is no folder and was not found on the hub"):
            stream("nowhere")

    def test_no_name(self):
        with pytest.raises(DataError, match="names no data"):
            stream(" ")

    def test_a_single_row_group(self, tmp_path):
        write(tmp_path / "all.parquet", range(9), group=9)
        with pytest.raises(DataError, match="single row group and has no hold-out split"):
            stream(tmp_path)
