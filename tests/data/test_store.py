"""Sources of every kind, the split, bad images, and the store's promise: whole or not at all, once."""

import errno
import io
import json
import logging
import multiprocessing
import os
import shutil
import zipfile
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evae.data import batch_indices, build, open_store, to_float
from evae.data.hub import from_hub
from evae.data.labels import NO_LABEL
from evae.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def noise(mode="L", size=(20, 20)):
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.fromarray(RNG.integers(0, 256, (*size[::-1], bands), np.uint8).squeeze(), mode if mode != "P" else "L")


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, count: int, mode="L", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        noise(mode).save(folder / f"{i:04d}.png")
    return folder


class TestBuiltIn:
    def test_mnist5k_is_4000_and_1000_digits_with_every_class_in_proportion(self):
        digits = open_store("mnist5k")
        assert digits.image_shape == (1, 32, 32)
        assert (len(digits.train), len(digits.holdout)) == (4000, 1000)
        assert np.bincount(digits.train.labels).tolist() == [400] * 10
        assert np.bincount(digits.holdout.labels).tolist() == [100] * 10
        assert digits.class_names == tuple("0123456789")
        assert not set(digits.train.names) & set(digits.holdout.names)

    @pytest.mark.parametrize(
        ("name", "hub_id", "column", "holdout", "size"),
        [
            ("mnist", "ylecun/mnist", "image", "test", 32),
            ("fashion_mnist", "zalando-datasets/fashion_mnist", "image", "test", 32),
            ("cifar10", "uoft-cs/cifar10", "img", "test", 32),
            ("celeba", "flwrlabs/celeba", "image", "valid", 64),
            ("someone/pictures", "someone/pictures", "picture", "validation", 64),
        ],
    )
    def test_hub_datasets(self, name, hub_id, column, holdout, size, monkeypatch, capsys):
        """Their splits, sizes and CelebA's crop, on a dataset of the same form made here."""
        side = {"mnist": (28, 28), "celeba": (178, 218)}.get(name, (32, 32) if size == 32 else (90, 70))
        mode = "L" if "mnist" in name else "RGB"
        features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

        def split(count):
            images = [{"bytes": png(noise(mode, side)), "path": None} for _ in range(count)]
            return datasets.Dataset.from_dict({column: images, "label": [i % 2 for i in range(count)]}, features)

        made = datasets.DatasetDict(
            {"train": split(5), holdout: split(3)}
            | ({"test": split(2)} if name == "celeba" else {})
            | ({"extra": split(2)} if name == "someone/pictures" else {})
        )
        asked = []
        monkeypatch.setattr(datasets, "load_dataset", lambda id: asked.append(id) or made)
        images = open_store(name)
        assert asked == [hub_id]
        assert images.image_shape == (1 if mode == "L" else 3, size, size)
        assert (len(images.train), len(images.holdout)) == (5, 3)
        assert images.class_names == ("a", "b")
        assert images.holdout.labels.tolist() == [0, 1, 0]
        assert images.transform["crop"] == (140 if name == "celeba" else None)
        assert ("hold-out split: extra" in capsys.readouterr().err) == (name == "someone/pictures")

    @pytest.mark.parametrize("error", [ConnectionError("Couldn't reach it"), RuntimeError("a script"), KeyError("x")])
    def test_no_network(self, error, monkeypatch):
        def fail(id):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(DataError, match=r"ylecun/mnist cannot be loaded.*FOLDER\) and pass that folder"):
            open_store("mnist")

    @pytest.mark.parametrize("works", [True, False])
    def test_the_hubs_log_is_silent_only_meanwhile(self, works, monkeypatch):
        monkeypatch.setattr(logging.getLogger("huggingface_hub"), "level", logging.INFO)
        seen = []

        def load():
            seen.append(logging.getLogger("huggingface_hub").level)
            if not works:
                raise ConnectionError

        with nullcontext() if works else pytest.raises(DataError):
            from_hub(load, "it failed")
        assert (seen, logging.getLogger("huggingface_hub").level) == ([logging.ERROR], logging.INFO)


class TestFolders:
    def test_nested_folders_are_labels(self, tmp_path):
        fill(tmp_path / "cats" / "deep", 30)
        fill(tmp_path / "dogs", 30, start=30)
        fill(tmp_path, 3, start=60)
        images = open_store(str(tmp_path))
        assert images.class_names == ("cats", "dogs")
        assert images.image_shape == (1, 64, 64)
        names, labels = images.train.names + images.holdout.names, [*images.train.labels, *images.holdout.labels]
        for name, label in zip(names, labels, strict=True):
            assert label == {"c": 0, "d": 1}.get(name[0], NO_LABEL)

    @pytest.mark.parametrize("holdout", ["test", "val", "validation"])
    def test_train_and_holdout_folders_are_splits(self, tmp_path, holdout, capsys):
        fill(tmp_path / "train" / "a", 3, "RGB")
        fill(tmp_path / "train" / "b", 1, "RGB", start=3)
        fill(tmp_path / holdout / "a", 2, "RGB", start=4)
        fill(tmp_path / "other", 2, "RGB", start=6)
        images = open_store(str(tmp_path))
        assert (len(images.train), len(images.holdout)) == (4, 2)
        assert images.class_names == ("a", "b")
        assert images.holdout.labels.tolist() == [0, 0]
        assert images.image_shape == (3, 64, 64)
        assert "left out, as neither the training nor the hold-out split: other\n" in capsys.readouterr().err

    def test_split_is_by_content_and_does_not_move(self, tmp_path):
        fill(tmp_path, 300)
        before = open_store(str(tmp_path), image_size=8)
        assert 10 <= len(before.holdout) <= 55  # binomial(300, 1/10), beyond 4.6 deviations once in 10^5
        fill(tmp_path, 50, start=1000)
        (tmp_path / "0000.png").rename(tmp_path / "zzz.png")
        after = open_store(str(tmp_path), image_size=16)
        renamed = {"0000.png": "zzz.png"}
        assert {renamed.get(n, n) for n in before.holdout.names} <= set(after.holdout.names)
        assert {renamed.get(n, n) for n in before.train.names} <= set(after.train.names)

    def test_copies_in_several_formats_are_in_one_split(self, tmp_path):
        for i in range(60):
            picture = noise("L" if i % 2 else "RGB", (9, 7))
            for suffix in ("png", "bmp", "tiff"):
                picture.save(tmp_path / f"{i}.{suffix}")
        images = open_store(str(tmp_path), image_size=8)
        train, holdout = ({name.partition(".")[0] for name in split.names} for split in (images.train, images.holdout))
        assert len(holdout) > 1
        assert not train & holdout

    def test_two_images_are_one_each(self, tmp_path):
        fill(tmp_path, 2)
        images = open_store(str(tmp_path))
        assert (len(images.train), len(images.holdout)) == (1, 1)

    def test_one_image_is_too_few(self, tmp_path):
        fill(tmp_path, 1)
        with pytest.raises(DataError, match="no usable image for the"):
            open_store(str(tmp_path))

    def test_mixed_modes_and_sizes(self, tmp_path):
        for i, mode in enumerate(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"] * 3):
            noise("RGB", (30 + i, 90 - i)).convert("RGB" if mode == "CMYK" else "L" if mode == "LA" else mode).convert(
                mode
            ).save(tmp_path / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}")
        images = open_store(str(tmp_path))
        assert images.image_shape == (3, 64, 64)
        assert len(images.train) + len(images.holdout) == 21

    def test_content_that_changed_is_decoded_again(self, tmp_path):
        fill(tmp_path, 12)
        before = open_store(str(tmp_path))
        noise(size=(21, 21)).save(tmp_path / "0003.png")
        after = open_store(str(tmp_path))
        assert before.fingerprint != after.fingerprint

    def test_empty_and_imageless_folders(self, tmp_path):
        with pytest.raises(DataError, match="is an empty folder"):
            open_store(str(tmp_path))
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(DataError, match="holds 1 files, but no images"):
            open_store(str(tmp_path))

    def test_a_path_is_as_good_as_its_name(self, tmp_path, capsys):
        for name in ("train", "test", "other"):
            fill(tmp_path / "data" / name, 3, start=ord(name[0]))
        named, images = open_store(str(tmp_path / "data")), open_store(tmp_path / "data")
        assert images.fingerprint == named.fingerprint
        assert images.holdout.folder == named.holdout.folder
        assert images.source == str(tmp_path / "data")
        *account, first, second = capsys.readouterr().err.splitlines()
        assert first == second
        assert account == str(images.account).splitlines()
        with pytest.raises(DataError, match="is no file or folder that exists"):
            open_store(tmp_path / "nowhere")

    def test_split_folders_that_differ_in_case_only(self, tmp_path):
        for i, name in enumerate(("train", "Train", "test")):
            fill(tmp_path / name, 3, start=10 * i)
        images = open_store(str(tmp_path))
        assert (len(images.train), len(images.holdout)) == (6, 3)

    def test_missing_path(self, tmp_path):
        for missing in (tmp_path / "nowhere", "nowhere", "./a/b", tmp_path / "x.npz"):
            with pytest.raises(DataError, match="is no file or folder that exists, nor a built-in name"):
                open_store(str(missing))


class TestBadImages:
    @pytest.fixture
    def folder(self, tmp_path):
        fill(tmp_path, 20, "RGB")
        whole = (tmp_path / "0000.png").read_bytes()
        noise("RGB", (90, 90)).save(tmp_path / "cut.jpg")
        (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
        (tmp_path / "empty.png").write_bytes(b"")
        (tmp_path / "text.png").write_text("I am no image")
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        return tmp_path

    def test_are_named_counted_and_skipped(self, folder, capsys):
        for _ in range(2):  # freshly decoded, and from the cache
            images = open_store(str(folder))
            assert len(images.train) + len(images.holdout) == 20
            assert len(images.skipped) == 4
            message = capsys.readouterr().err
            assert "4 bad images skipped" in message
            for named in (
                "cut.jpg cannot be decoded",
                "cut.png cannot",
                "empty.png is empty",
                "text.png is not an image",
            ):
                assert named in message

    def test_or_stop(self, folder):
        with pytest.raises(DataError, match="bad images?: .* cannot be decoded"):
            open_store(str(folder), on_bad_image="error")
        open_store(str(folder))
        with pytest.raises(DataError, match=r"4 bad images: .*--on-bad-image skip"):
            open_store(str(folder), on_bad_image="error")

    def test_only_bad_images(self, tmp_path):
        (tmp_path / "text.png").write_text("I am no image")
        with pytest.raises(DataError, match=r"1 cannot be decoded: text.png is not an image"):
            open_store(str(tmp_path))

    def test_smaller_than_the_crop(self, tmp_path):
        fill(tmp_path, 3)
        with pytest.raises(DataError, match=r"0000.png is 20x20, smaller than the crop of 30 pixels; lower --crop"):
            open_store(str(tmp_path), crop=30)


class TestTables:
    def table(self, count, column="image", binary=False, start=0):
        images = [png(Image.fromarray(np.full((24, 24), (start + i) * 3, np.uint8))) for i in range(count)]
        column_data = pa.array(images) if binary else pa.array([{"bytes": b, "path": None} for b in images])
        return pa.table({"id": list(range(count)), column: column_data, "label": [i % 3 for i in range(count)]})

    def test_one_parquet_file(self, tmp_path):
        pq.write_table(self.table(40, binary=True, column="photo"), tmp_path / "images.parquet")
        images = open_store(str(tmp_path / "images.parquet"))
        assert images.image_shape == (1, 32, 32)
        assert len(images.train) + len(images.holdout) == 40
        assert images.train.labels.max() == 2

    def test_a_folder_as_the_hub_lays_it_out(self, tmp_path, capsys):
        pq.write_table(self.table(6), tmp_path / "train-00000-of-00002.parquet")
        pq.write_table(self.table(5, start=6), tmp_path / "train-00001-of-00002.parquet")
        pq.write_table(self.table(3, start=11), tmp_path / "test-00000-of-00001.parquet")
        pq.write_table(self.table(2, start=14), tmp_path / "validation-00000-of-00001.parquet")
        images = open_store(str(tmp_path))
        assert "hold-out split: validation-00000-of-00001.parquet\n" in capsys.readouterr().err
        assert (len(images.train), len(images.holdout)) == (11, 3)
        assert images.train.images[:, 0, 0, 0].tolist() == [3 * i for i in range(11)]
        assert images.holdout.images[:, 0, 5, 5].tolist() == [33, 36, 39]

    @pytest.mark.parametrize("kind", ["file", "stream"])
    def test_arrow(self, tmp_path, kind):
        table = self.table(20)
        path = tmp_path / "data.arrow"
        new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table)
        images = open_store(str(path))
        assert len(images.train) + len(images.holdout) == 20

    def test_no_image_column(self, tmp_path):
        pq.write_table(pa.table({"a": ["y"], "b": ["x"]}), tmp_path / "t.parquet")
        with pytest.raises(DataError, match="no column of encoded images .*its columns are a, b"):
            open_store(str(tmp_path / "t.parquet"))

    def test_damaged(self, tmp_path):
        (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense")
        with pytest.raises(DataError, match=r"t.parquet is damaged or no parquet file"):
            open_store(str(tmp_path / "t.parquet"))

    def test_no_rows(self, tmp_path):
        pq.write_table(self.table(1).slice(0, 0), tmp_path / "t.parquet")
        with pytest.raises(DataError, match="has no rows"):
            open_store(str(tmp_path / "t.parquet"))


class TestArrays:
    @pytest.mark.parametrize(
        "array",
        [
            np.full((30, 16, 16), 51, np.uint8),
            np.full((30, 16, 16, 1), 51, np.uint8),
            np.full((30, 1, 16, 16), 0.2),
            np.full((30, 16, 16), 0.2, np.float32),
        ],
        ids=["bytes", "channel last", "channel first", "floats"],
    )
    def test_npy(self, tmp_path, array):
        array = array.copy()
        array.reshape(30, -1)[:, 0] = np.linspace(0, 1, 30) * (255 if array.dtype == np.uint8 else 1)  # all different
        np.save(tmp_path / "a.npy", array)
        images = open_store(str(tmp_path / "a.npy"), image_size=16)
        assert images.image_shape == (1, 16, 16)
        assert len(images.train) + len(images.holdout) == 30
        assert (images.train.images[:, 0, 8:, 8:] == 51).all()
        assert images.train.labels.tolist() == [NO_LABEL] * len(images.train)

    @pytest.mark.parametrize(
        "names",
        [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "val_images", "val_labels")],
    )
    def test_npz_with_splits_and_labels(self, tmp_path, names):
        x = RNG.integers(0, 256, (9, 40, 50, 3), np.uint8)
        np.savez(
            tmp_path / "a.npz", **dict(zip(names, (x[:6], np.arange(6)[:, None], x[6:], np.arange(3)), strict=True))
        )
        images = open_store(str(tmp_path / "a.npz"))
        assert images.image_shape == (3, 64, 64)
        assert images.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
        assert images.holdout.labels.tolist() == [0, 1, 2]

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 4)), "too few rows"),
            (np.zeros(3), "no array of images, .* nor of rows of numbers"),
            (np.full((3, 8, 8), -1, np.int64), "whole numbers from -1 to -1, beyond 16 bits"),
            (np.full((3, 8, 8), 700.0), r"scale them to \[0, 1\] or \[0, 255\]"),
            (np.full((3, 8, 8), np.nan), "some pixels are no numbers"),
            (np.zeros((3, 8, 8, 8), np.uint8), "may be .* or"),
            (np.zeros((0, 8, 8), np.uint8), "has no images"),
        ],
    )
    def test_bad_arrays(self, tmp_path, array, message):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(DataError, match=message):
            open_store(str(tmp_path / "a.npy"))

    def test_pickles_are_not_opened(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="no array file that can be read"):
            open_store(str(tmp_path / "a.npy"))

    def test_other_files(self, tmp_path):
        (tmp_path / "a.ods").write_text("1,2")
        with pytest.raises(DataError, match=r"neither a folder nor a \.parquet"):
            open_store(str(tmp_path / "a.ods"))


class TestStore:
    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("EVAE_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    def test_images_are_memory_mapped_and_decoded_once(self, blobs, monkeypatch):
        images = open_store(blobs)
        assert isinstance(images.train.images, np.memmap)
        assert not images.train.images.flags.writeable
        monkeypatch.setattr(build, "decode_all", None)
        assert open_store(blobs).fingerprint == images.fingerprint
        with pytest.raises(TypeError):
            open_store(blobs, image_size=16)

    def test_nothing_is_left_of_a_failed_build(self, tmp_path, own_cache, monkeypatch):
        fill(tmp_path / "images", 5)

        def fail(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(build._Writer, "add", fail)
        with pytest.raises(DataError, match="No space left on device.*EVAE_CACHE"):
            open_store(str(tmp_path / "images"))
        assert [p for p in own_cache.iterdir() if p.suffix != ".lock"] == []

    def test_leftovers_of_a_killed_build_are_removed(self, tmp_path, own_cache):
        fill(tmp_path / "images", 5)
        images = open_store(str(tmp_path / "images"))
        folder = images.train.folder
        leftover = folder.with_name(f"{folder.name}.abc.tmp")
        shutil.copytree(folder, leftover)
        shutil.rmtree(folder)
        open_store(str(tmp_path / "images"))
        assert not leftover.exists()
        assert folder.exists()

    @pytest.mark.slow
    def test_two_processes_at_once(self, tmp_path):
        fill(tmp_path / "images", 200)
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            fingerprints = pool.map(_fingerprint, [str(tmp_path / "images")] * 2)
        assert fingerprints[0] == fingerprints[1]

    def test_grey_images_take_one_channel_and_colour_three(self, tmp_path):
        fill(tmp_path / "images", 6)
        assert open_store(str(tmp_path / "images")).image_shape[0] == 1
        noise("RGB").save(tmp_path / "images" / "colour.png")
        images = open_store(str(tmp_path / "images"))
        assert images.image_shape[0] == 3
        size = sum((images.train.folder / f"{s}.u8").stat().st_size for s in ("train", "holdout"))
        assert size == 7 * 3 * 64 * 64

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"image_size": 0}, "the image size must be from 1 to 4096, not 0"),
            ({"crop": 0}, "the crop must be positive, not 0"),
            ({"on_bad_image": "ignore"}, "on_bad_image must be one of skip, error, not 'ignore'"),
        ],
    )
    def test_options_that_cannot_work(self, blobs, options, message):
        with pytest.raises(ConfigError, match=message):
            open_store(blobs, **options)

    def test_meta_says_what_was_done(self, blobs):
        images = open_store(blobs, image_size=16)
        meta = json.loads((images.train.folder / "meta.json").read_text())
        assert meta["transform"] == {"size": 16, "crop": None}
        assert meta["count"] == {"train": 48, "holdout": 16}
        assert meta["source"] == blobs


def _fingerprint(folder):
    return open_store(folder).fingerprint


class TestBatches:
    def test_an_epoch_is_a_permutation_and_a_pure_function_of_the_seed(self):
        def epoch(seed, number):
            return np.concatenate([batch_indices(seed, number, step, 100, 10) for step in range(10)]).tolist()

        assert sorted(epoch(0, 0)) == list(range(100))
        assert epoch(0, 3) == epoch(0, 3)
        assert len({tuple(epoch(seed, number)) for seed in range(3) for number in range(3)}) == 9

    def test_to_float(self):
        images = to_float(np.array([[[[0, 51, 255]]]], np.uint8))
        assert images.flatten().tolist() == pytest.approx([0, 0.2, 1])


class TestOddInput:
    """What a hostile newcomer tried."""

    def test_links_to_folders_are_followed_once(self, tmp_path):
        fill(tmp_path / "elsewhere" / "train", 6)
        fill(tmp_path / "data" / "test", 3, start=6)
        (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere" / "train")
        (tmp_path / "data" / "test" / "loop").symlink_to(tmp_path / "data")
        images = open_store(str(tmp_path / "data"))
        assert (len(images.train), len(images.holdout)) == (6, 3)

    @pytest.mark.parametrize("names", [("Train", "Test"), ("set/train", "set/test")])
    def test_splits_in_another_case_or_one_folder_down(self, tmp_path, names):
        for i, name in enumerate(names):
            fill(tmp_path / "data" / name / "a", 3 - i, start=10 * i)
            fill(tmp_path / "data" / name / "b", 1, start=10 * i + 5)
        images = open_store(str(tmp_path / "data"))
        assert (len(images.train), len(images.holdout)) == (4, 3)
        assert images.class_names == ("a", "b")

    def test_names_that_are_no_text(self, tmp_path):
        (tmp_path / "data").mkdir()
        for i, name in enumerate([b"\xff\xfe.png", b"a\nb.png", b"c [d].png"]):
            with open(os.path.join(os.fsencode(tmp_path / "data"), name), "wb") as file:  # noqa: PTH123
                file.write(png(Image.fromarray(np.full((9, 9), i, np.uint8))))
        images = open_store(str(tmp_path / "data"))
        names = images.train.names + images.holdout.names
        assert sorted(map(os.fsencode, names)) == [b"a\nb.png", b"c [d].png", b"\xff\xfe.png"]

    def test_labels_are_no_images(self, tmp_path):
        x = RNG.integers(0, 256, (6, 20, 20), np.uint8)
        np.savez(tmp_path / "a.npz", train_images=x, test_images=x[:3], train_labels=np.zeros((6, 2, 2)))
        images = open_store(str(tmp_path / "a.npz"))
        assert (len(images.train), len(images.holdout)) == (6, 3)
        np.savez(tmp_path / "b.npz", first=x, second=x)
        with pytest.raises(DataError, match="several arrays of images \\(first, second\\), none of them"):
            open_store(str(tmp_path / "b.npz"))

    @pytest.mark.parametrize("labels", [np.full(6, np.nan), np.zeros((6, 0)), np.array(3), np.full(6, 2**64 - 1)])
    def test_labels_that_are_no_whole_numbers_are_left_out(self, tmp_path, labels):
        x = RNG.integers(0, 256, (6, 20, 20), np.uint8)
        np.savez(tmp_path / "a.npz", x_train=x, y_train=labels, x_test=x[:2])
        assert open_store(str(tmp_path / "a.npz")).train.labels.tolist() == [NO_LABEL] * 6

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numpy leaves a cut zip open
    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00v\x00{'descr': "])
    def test_damaged_arrays(self, tmp_path, content):
        for name in ("a.npz", "a.npy"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match="no array file that can be read"):
                open_store(str(tmp_path / name))

    @pytest.mark.parametrize("shape", [(10**15, 8, 8), (10**30, 8, 8)])
    def test_sizes_beyond_all_memory(self, tmp_path, shape):
        header = io.BytesIO()
        description = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, description)
        (tmp_path / "a.npy").write_bytes(header.getvalue())
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", header.getvalue())
        for name in ("a.npy", "a.npz"):
            with pytest.raises(DataError, match="no array file that can be read"):
                open_store(str(tmp_path / name))

    @pytest.mark.parametrize("shape", [(5, 0, 20), (5, 20, 0, 3)])
    def test_images_without_pixels(self, tmp_path, shape):
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        with pytest.raises(DataError, match="have no pixels"):
            open_store(str(tmp_path / "a.npy"))

    @pytest.mark.parametrize(
        "metadata", [b"no json", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": null}}}']
    )
    def test_odd_tables(self, tmp_path, metadata):
        labels = pa.array([0, 1, None, 2**64 - 1, 3, 4], pa.uint64())
        images = pa.array([png(Image.fromarray(np.full((9, 9), i, np.uint8))) for i in range(6)])
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata({b"huggingface": metadata})
        pq.write_table(table, tmp_path / "T.PARQUET")
        store = open_store(str(tmp_path / "T.PARQUET"))
        assert sorted([*store.train.labels, *store.holdout.labels]) == [NO_LABEL, NO_LABEL, 0, 1, 3, 4]
        pq.write_table(pa.table({"image": images}), tmp_path / "train.parquet")
        pq.write_table(pa.table({"img": images}), tmp_path / "test.parquet")
        (tmp_path / "T.PARQUET").unlink()
        with pytest.raises(DataError, match="train.parquet has no column img, as others have; it has image"):
            open_store(str(tmp_path))
        pq.write_table(pa.table({"img": ["a.png"] * 6}), tmp_path / "train.parquet")
        with pytest.raises(DataError, match="the column img of .*train.parquet holds no encoded images, but string"):
            open_store(str(tmp_path))

    def test_columns_of_the_same_name(self, tmp_path):
        images = pa.array([png(noise()) for _ in range(6)])
        pq.write_table(pa.table([images, images], ["image", "image"]), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="a.parquet is damaged or no parquet file"):
            open_store(str(tmp_path / "a.parquet"))

    def test_paths_that_no_file_can_have(self, tmp_path):
        images = pa.array([{"bytes": None, "path": "a\0b"}] * 6)
        pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="cannot be read .*null byte"):
            open_store(str(tmp_path / "a.parquet"))

    def test_pixels_that_are_no_numbers(self, tmp_path, capsys):
        fill(tmp_path, 12)
        Image.fromarray(np.full((20, 20), np.nan, np.float32)).save(tmp_path / "bad.tiff")
        open_store(str(tmp_path))
        assert "1 bad image skipped: bad.tiff cannot be decoded (some pixels" in " ".join(
            capsys.readouterr().err.split()
        )

    @pytest.mark.parametrize("path", ["", "  ", "~nosuchuser/x", "x" * 5000, "a\0b"])
    def test_what_is_no_path(self, path):
        with pytest.raises(DataError, match="is no "):
            open_store(path)

    @pytest.mark.parametrize("damage", ["meta.json", "train.u8", "train-labels.npy", "holdout-names.json"])
    def test_a_damaged_store_is_made_again(self, tmp_path, monkeypatch, blobs, damage):
        monkeypatch.setenv("EVAE_CACHE", str(tmp_path))
        before = open_store(blobs)
        file = before.train.folder / damage
        if damage in ("meta.json", "train.u8"):
            file.write_bytes(file.read_bytes()[:-3])
        else:
            file.unlink()
        assert open_store(blobs).train.images.shape == before.train.shape
        assert file.exists()
