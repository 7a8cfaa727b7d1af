"""Nothing is guessed in silence: what is found in a data set, what is left out of it, and which choices are made."""

import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evae.data import Account, open_store
from evae.data.cache import cache as cache_command
from evae.errors import ConfigError, DataError
from evae.records import as_type


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(number, mode=np.uint8, top=255):
    return (np.random.default_rng(number).random((12, 12)) * top).astype(mode)


def png(number):
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:03d}.png").write_bytes(png(number))
    return folder


def table(numbers, labels=None, column="image"):
    content = {column: [png(i) for i in numbers]}
    return pa.table(content if labels is None else content | {"label": labels})


def everything(store):
    return np.concatenate([store.train.images, store.holdout.images])


def total(store):
    return len(store.train) + len(store.holdout)


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


class TestSplits:
    @pytest.mark.parametrize(
        ("train", "holdout"),
        [
            ("Training", "Testing"),
            ("images/train2017", "images/val2017"),
            ("set_train/set_train", "set_test/set_test"),
            ("a/b/train", "a/b/dev"),
            ("imagesTr", "imagesTs"),
            ("train", "hold-out"),
        ],
    )
    def test_are_found_and_are_no_labels(self, tmp_path, train, holdout):
        for number, name in enumerate((train, holdout)):
            fill(tmp_path / "d" / name / "cat", range(20 * number, 20 * number + 3))
            fill(tmp_path / "d" / name / "dog", range(20 * number + 3, 20 * number + 5))
        store = open_store(tmp_path / "d")
        assert (len(store.train), len(store.holdout)) == (5, 5)
        assert all(name.startswith(f"{holdout}/") for name in store.holdout.names)
        assert store.class_names == ("cat", "dog")
        assert store.account.splits_from.startswith("folders: ")

    def test_one_level_down(self, tmp_path):
        for number, part in enumerate(("bottle", "cable")):
            fill(tmp_path / "d" / part / "train" / "good", range(20 * number, 20 * number + 4))
            fill(tmp_path / "d" / part / "test" / "crack", range(20 * number + 10, 20 * number + 12))
        store = open_store(tmp_path / "d")
        assert (len(store.train), len(store.holdout)) == (8, 4)
        assert store.class_names == ("bottle", "cable")

    def test_of_file_names(self, tmp_path):
        for name, numbers in (("train", range(6)), ("test", range(6, 9))):
            for path in fill(tmp_path / name, numbers).iterdir():
                path.rename(fill(tmp_path / "d", []) / f"{name}_{path.name}")
        store = open_store(tmp_path / "d")
        assert (len(store.train), len(store.holdout)) == (6, 3)

    def test_a_class_that_looks_like_a_split_is_told(self, tmp_path, capsys):
        for number, name in enumerate(("train", "bus", "boat")):
            fill(tmp_path / "d" / name, range(9 * number, 9 * number + 9))
        assert open_store(tmp_path / "d").class_names == ("boat", "bus", "train")
        assert "train: these names look like splits and are not taken as such" in said(capsys)

    def test_images_in_both_splits_are_counted(self, tmp_path, capsys):
        fill(tmp_path / "d" / "train", range(6))
        fill(tmp_path / "d" / "test", range(4, 8))
        assert open_store(tmp_path / "d").account.duplicates == 2
        assert "2 hold-out images are training images, too" in said(capsys)


class TestLabels:
    @pytest.mark.parametrize("top", ["train", "images", "a/b"])
    def test_a_level_with_one_folder_is_none(self, tmp_path, top):
        fill(tmp_path / "d" / top / "cat", range(8))
        fill(tmp_path / "d" / top / "dog", range(8, 16))
        store = open_store(tmp_path / "d")
        assert store.class_names == ("cat", "dog")
        assert store.account.classes == {"cat": 8, "dog": 8}

    def test_one_folder_is_no_class(self, tmp_path):
        store = open_store(fill(tmp_path / "d" / "images", range(8)).parent)
        assert store.class_names == ()
        assert "labels: none" in str(store.account)

    def test_a_split_without_folders_of_classes_has_no_labels(self, tmp_path):
        for number, name in enumerate(("train/n1/images", "train/n2/images", "test/images")):
            fill(tmp_path / "d" / name, range(9 * number, 9 * number + 4))
        store = open_store(tmp_path / "d")
        assert store.class_names == ("n1", "n2")
        assert store.holdout.labels.tolist() == [-1] * 4
        assert store.account.unlabelled == 4

    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            (["x", "y"] * 10, ("x", "y")),
            ([0.5, 1.5] * 10, ("0.5", "1.5")),
            ([False, True] * 10, ("False", "True")),
            (pa.array(["x", "y"] * 10).dictionary_encode(), ("x", "y")),
            (pa.array(["x", "y"] * 10, pa.large_string()), ("x", "y")),
        ],
    )
    def test_of_any_type_are_classes(self, tmp_path, labels, names):
        pq.write_table(table(range(20), labels), tmp_path / "d.parquet")
        store = open_store(tmp_path / "d.parquet")
        assert store.class_names == names
        assert store.account.classes == dict.fromkeys(names, 10)

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            ([1] * 5, ["1"] * 5, r"the column label of labels is int64 in .*a\.parquet and string in .*b\.parquet"),
            (None, [1] * 5, r"a\.parquet has no labels, but .*b\.parquet has a column label"),
            ([1] * 5, None, r"b\.parquet has no column label"),
        ],
    )
    def test_shards_that_disagree(self, tmp_path, first, second, message):
        (tmp_path / "d").mkdir()
        for name, numbers, labels in (("a", range(5), first), ("b", range(5, 10), second)):
            pq.write_table(table(numbers, labels), tmp_path / "d" / f"{name}.parquet")
        with pytest.raises(DataError, match=message):
            open_store(tmp_path / "d")

    def test_a_label_that_cannot_be_one_is_told(self, tmp_path, capsys):
        pq.write_table(table(range(9), [[1]] * 9), tmp_path / "d.parquet")
        open_store(tmp_path / "d.parquet")
        assert "the column label (list<element: int64>) is not used as labels" in said(capsys)


def fifo(path):
    os.mkfifo(path)


class TestLeftOut:
    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda path: path.with_suffix(".HEIC").write_bytes(b"x"), "1 .heic files, which are not read (x.HEIC)"),
            (lambda path: path.write_bytes(png(99)), "1 files without a suffix, which are not read (x)"),
            (lambda path: path.symlink_to("nowhere"), "1 links that lead nowhere (x: No such file or directory)"),
            (lambda path: path.with_suffix(".png").symlink_to("/dev/zero"), "1 devices, pipes and sockets (x.png)"),
            (lambda path: fifo(path.with_suffix(".png")), "1 devices, pipes and sockets (x.png)"),
        ],
        ids=["suffix", "no suffix", "dangling", "device", "pipe"],
    )
    def test_is_counted_and_named_at_every_opening(self, tmp_path, capsys, make, told):
        make(fill(tmp_path / "d", range(9)) / "x")
        for _ in range(2):
            assert total(open_store(tmp_path / "d")) == 9
            assert f"not read: {told}" in said(capsys)

    def test_text_beside_images_is_counted_in_the_account_only(self, tmp_path, capsys):
        (fill(tmp_path / "d", range(9)) / "README.md").write_text("hello")
        store = open_store(tmp_path / "d")
        assert [entry.what for entry in store.account.left_out] == [".md files, which are not read"]
        assert "warning" not in said(capsys)

    def test_unreadable_folders(self, tmp_path, capsys, monkeypatch):
        fill(tmp_path / "d" / "cat", range(9))
        fill(tmp_path / "d" / "dog", range(9, 12))
        listed = os.scandir

        def refuse(path):
            if Path(path).name == "dog":
                raise PermissionError(13, "Permission denied", str(path))
            return listed(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            assert total(open_store(tmp_path / "d")) == 9
            assert "1 folders that cannot be read (dog: Permission denied)" in said(capsys)
        assert total(open_store(tmp_path / "d")) == 12

    def test_a_file_that_cannot_be_read_is_tried_again(self, tmp_path, monkeypatch, capsys):
        fill(tmp_path / "d", range(9))
        opened = os.open

        def refuse(path, *rest, **more):
            if str(path).endswith("003.png"):
                raise OSError(5, "Input/output error")
            return opened(path, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            for _ in range(2):
                assert total(open_store(tmp_path / "d", 12)) == 8
                assert "003.png cannot be read (Input/output error)" in said(capsys)
        assert total(open_store(tmp_path / "d", 12)) == 9
        assert "can be read now; decoding again" in said(capsys)

    def test_arrays_of_other_splits_and_of_other_kinds(self, tmp_path, capsys):
        images = np.stack([picture(i) for i in range(9)])
        parts = {f"{name}_images": images + i for i, name in enumerate(("train", "val", "test"))}
        np.savez(tmp_path / "d.npz", **parts, extra=np.zeros((9, 6)), meta=np.array({"a": 1}, dtype=object))
        store = open_store(tmp_path / "d.npz")
        assert (len(store.train), len(store.holdout)) == (9, 9)
        message = said(capsys)
        assert "hold-out split: val_images" in message
        assert "1 arrays that are neither images nor their labels (extra)" in message
        assert "1 pickled arrays, which are never opened (meta)" in message

    def test_files_that_other_programs_keep(self, tmp_path, capsys):
        fill(tmp_path / "d", range(9))
        fill(tmp_path / "d" / "@eaDir", range(20, 22))
        run = fill(tmp_path / "d" / "run" / "figures", range(30, 33)).parent
        (run / "config.yaml").write_text("a: 1")
        (run / "metrics.jsonl").write_text("")
        assert total(open_store(tmp_path / "d")) == 9
        message = said(capsys)
        assert "1 run folders of evae (run)" in message
        assert "1 folders of previews that other programs keep (@eaDir)" in message
        open_store(tmp_path / "d")
        assert said(capsys) == ""

    def test_a_run_that_comes_later_is_told_once(self, tmp_path, capsys):
        before = open_store(fill(tmp_path / "d", range(9)))
        run = fill(tmp_path / "d" / "run" / "figures", range(30, 33)).parent
        (run / "config.yaml").write_text("a: 1")
        (run / "checkpoints").mkdir()
        said(capsys)
        assert open_store(tmp_path / "d").fingerprint == before.fingerprint
        assert "left out: 1 run folders of evae (run)" in said(capsys)
        open_store(tmp_path / "d")
        assert said(capsys) == ""

    @pytest.mark.parametrize("state", [{"_data_files": [{"filename": "data-0.arrow"}]}, {}])
    def test_caches_of_datasets(self, tmp_path, state):
        (tmp_path / "d").mkdir()
        for name in ("data-0.arrow", "cache-1f.arrow"):
            with pa.OSFile(str(tmp_path / "d" / name), "wb") as sink, pa.ipc.new_stream(sink, table([1]).schema) as out:
                out.write_table(table(range(9)))
        (tmp_path / "d" / "state.json").write_text(json.dumps(state))
        assert total(open_store(tmp_path / "d")) == 9

    @pytest.mark.parametrize(("pictures", "rows", "count"), [(3, 9, 9), (12, 9, 12)])
    def test_of_images_and_tables_the_more_are_read(self, tmp_path, capsys, pictures, rows, count):
        fill(tmp_path / "d", range(pictures))
        pq.write_table(table(range(rows)), tmp_path / "d" / "t.parquet")
        assert total(open_store(tmp_path / "d")) == count
        assert ("3 .png files" if count == rows else "1 .parquet files") in said(capsys)


class TestColumns:
    def pair(self, tmp_path, first, second, metadata=None):
        numbers = range(9)
        columns = {name: table(numbers if name == "photo" else range(20, 29), column=name) for name in (first, second)}
        both = pa.table({name: columns[name][name] for name in columns})
        pq.write_table(both.replace_schema_metadata(metadata), tmp_path / "d.parquet")
        return open_store(tmp_path / "d.parquet", 12)

    @pytest.mark.parametrize(("first", "second"), [("mask", "photo"), ("photo", "depth_map"), ("photo", "second")])
    def test_the_choice_is_told(self, tmp_path, capsys, first, second):
        store = self.pair(tmp_path, first, second)
        other = first if second == "photo" else second
        assert {x.tobytes() for x in everything(store)} == {picture(i).tobytes() for i in range(9)}
        assert f"images: column photo, not {other} (--image-column chooses)" in said(capsys)

    def test_metadata_decides(self, tmp_path):
        feature = {"info": {"features": {"photo": {"_type": "Image"}, "image": {"_type": "Value"}}}}
        store = self.pair(tmp_path, "image", "photo", {"huggingface": json.dumps(feature)})
        assert "images: column photo, not image" in str(store.account)

    def test_the_users_choice(self, tmp_path):
        default = self.pair(tmp_path, "photo", "second")
        chosen = open_store(tmp_path / "d.parquet", 12, image_column="second")
        assert {x.tobytes() for x in everything(chosen)} == {picture(i).tobytes() for i in range(20, 29)}
        assert chosen.fingerprint != default.fingerprint
        assert open_store(tmp_path / "d.parquet", 12, image_column="photo").fingerprint == default.fingerprint

    def test_a_choice_that_cannot_be(self, tmp_path):
        self.pair(tmp_path, "photo", "second")
        with pytest.raises(ConfigError, match="--image-column x of .* is no column of images; choose of photo, second"):
            open_store(tmp_path / "d.parquet", image_column="x")
        with pytest.raises(ConfigError, match="--image-column x is for tables"):
            open_store(fill(tmp_path / "d", range(9)), image_column="x")

    @pytest.mark.parametrize("digests", [[bytes(16)] * 9, pa.array([bytes(16)] * 9, pa.binary(16))])
    def test_bytes_that_are_no_images(self, tmp_path, digests):
        pq.write_table(pa.table({"md5": digests, "p": [png(i) for i in range(9)]}), tmp_path / "d.parquet")
        assert total(open_store(tmp_path / "d.parquet")) == 9


class TestValues:
    @pytest.mark.parametrize("kind", ["npy", "png"])
    def test_zeros_and_ones(self, tmp_path, kind, capsys):
        images = [picture(i, top=2) for i in range(12)]
        (tmp_path / "d").mkdir()
        if kind == "npy":
            np.save(tmp_path / "d.npy", np.stack(images))
        else:
            for i, image in enumerate(images):
                Image.fromarray(image).save(tmp_path / "d" / f"{i}.png")
        store = open_store(tmp_path / ("d.npy" if kind == "npy" else "d"), 12)
        assert set(np.unique(everything(store))) == {0, 255}
        assert "8-bit (0 and 1 only, times 255)" in said(capsys)

    @pytest.mark.parametrize("top", [1, 255])
    def test_one_scale_for_floats(self, tmp_path, top):
        (tmp_path / "d").mkdir()
        for i in range(12):
            Image.fromarray(picture(i, np.float32, 1 if i == 7 else top)).save(tmp_path / "d" / f"{i:02d}.tif")
        store = open_store(tmp_path / "d", 12)
        names = store.train.names + store.holdout.names
        expected = picture(7, np.float32, 1) * (255 if top == 1 else 1)
        assert np.array_equal(everything(store)[names.index("07.tif")][0], expected.round())

    @pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 4000)])
    def test_floats_of_another_range(self, tmp_path, low, high):
        (tmp_path / "d").mkdir()
        for i in range(3):
            image = low + picture(i, np.float32, high - low)
            Image.fromarray(image).save(tmp_path / "d" / f"{i}.tif")
        with pytest.raises(DataError, match=r"values from .* to .*; scale them to \[0, 1\] or \[0, 255\]"):
            open_store(tmp_path / "d")

    @pytest.mark.parametrize("excess", [1e-6, -1e-6])
    def test_rounding_errors_of_floats(self, tmp_path, excess):
        images = np.stack([picture(i, np.float32, 1) for i in range(12)])
        images[:, 0, 0], images[:, 0, 1] = 1 + excess, min(excess, 0)
        np.save(tmp_path / "d.npy", images)
        assert (everything(open_store(tmp_path / "d.npy", 12))[:, 0, 0, :2] == [255, 0]).all()

    @pytest.mark.parametrize(("name", "message"), [("train", "63 in the train split"), ("test", "63 in the holdout")])
    def test_a_dark_split_is_told_at_every_opening(self, tmp_path, name, message, capsys):
        images = {f"x_{split}": np.stack([picture(i) for i in range(9)]) for split in ("train", "test")}
        images[f"x_{name}"] //= 4
        np.savez(
            tmp_path / "d.npz", **{key: value.clip(0, 63 if name in key else 255) for key, value in images.items()}
        )
        for _ in range(2):
            open_store(tmp_path / "d.npz", 12)
            assert f"the brightest pixel of 255 is only {message}"[:55] in said(capsys)

    def test_twelve_bits_in_sixteen(self, tmp_path, capsys):
        (tmp_path / "d").mkdir()
        for i in range(12):
            Image.fromarray(picture(i, np.uint16, 4095)).save(tmp_path / "d" / f"{i}.png")
        store = open_store(tmp_path / "d", 12)
        assert store.scaling.words == 4095
        assert "times 255/4,095" in (message := said(capsys))
        assert "8 bits are kept" in message
        assert "the brightest pixel" not in message

    def test_what_is_cropped_away(self, tmp_path, capsys):
        (tmp_path / "d").mkdir()
        for i in range(9):
            Image.fromarray(np.tile(picture(i), (1, 2))).save(tmp_path / "d" / f"{i}.png")
        assert open_store(tmp_path / "d").account.cropped == 9
        assert "more than a third of 9 of 9 images was cut away" in said(capsys)


class TestRecord:
    """The account is kept with the images, and the images are what was written."""

    def test_the_account_is_kept(self, tmp_path, capsys):
        fill(tmp_path / "d" / "cat", range(9))
        fill(tmp_path / "d" / "dog", range(9, 12))
        first = open_store(tmp_path / "d")
        assert said(capsys) == " ".join(str(first.account).split())
        again = open_store(tmp_path / "d")
        assert again.account == first.account
        assert said(capsys) == ""
        assert as_type(json.loads(json.dumps(asdict(first.account))), Account) == first.account
        open_store(tmp_path / "d", show_account=True)
        assert said(capsys) == " ".join(str(first.account).split())

    @pytest.mark.parametrize("name", ["meta.json", "train.u8", "holdout.u8", "train-labels.npy", "holdout-names.json"])
    @pytest.mark.parametrize("damage", ["cut", "flipped", "zeros", "empty"])
    def test_damage_is_noticed_and_mended(self, tmp_path, capsys, name, damage):
        before = open_store(fill(tmp_path / "d", range(12)), 12)
        pixels = everything(before).copy()
        file = before.train.folder / name
        content = bytearray(file.read_bytes())
        if damage == "flipped":
            content[len(content) // 2] ^= 1
        changed = {"cut": content[:-3], "flipped": content, "zeros": bytes(len(content)), "empty": b""}[damage]
        file.write_bytes(changed)
        os.utime(file, ns=(1, 1))
        said(capsys)
        after = open_store(tmp_path / "d", 12)
        assert np.array_equal(everything(after), pixels)
        assert after.train.names == before.train.names
        assert f"are damaged ({name} " in said(capsys)

    @pytest.mark.parametrize("key", ["count", "account", "files", "digest", "scaling", "image_shape"])
    def test_a_record_without_a_part(self, tmp_path, key, capsys):
        before = open_store(fill(tmp_path / "d", range(12)), 12)
        meta = before.train.folder / "meta.json"
        values = json.loads(meta.read_text())
        del values[key]
        meta.write_text(json.dumps(values))
        assert open_store(tmp_path / "d", 12).fingerprint == before.fingerprint
        assert "meta.json is damaged" in said(capsys)

    def test_verify_reads_all(self, tmp_path, capsys):
        """Also what was changed without another time of modification."""
        before = open_store(fill(tmp_path / "d", range(12)), 12)
        file = before.train.folder / "train.u8"
        status = file.stat()
        cache_command(verify=True)
        assert file.exists()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        said(capsys)
        cache_command(verify=True)
        assert "is damaged (train.u8 has another content than was written) and deleted" in said(capsys)
        assert not file.exists()

    def test_cut_while_in_use(self, tmp_path):
        store = open_store(fill(tmp_path / "d", range(12)), 12)
        os.truncate(store.train.folder / "train.u8", 10)
        with pytest.raises(DataError, match="was cut short while it was in use"):
            store.train.read(slice(0, 5))

    def test_others_may_read_it_where_the_user_says_so(self, tmp_path):
        folder = open_store(fill(tmp_path / "d", range(12)), 12).train.folder
        assert folder.stat().st_mode == (tmp_path / "d").stat().st_mode

    def test_a_disk_that_is_too_small(self, tmp_path, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("U", (), {"free": 100}))
        with pytest.raises(DataError, match="free some space or set EVAE_CACHE to another disk"):
            open_store(fill(tmp_path / "d", range(12)), 12)

    def test_images_one_by_one(self, tmp_path):
        train = open_store(fill(tmp_path / "d", range(12)), 12).train
        assert np.array_equal(train[1], train.images[1])
        assert len(list(train)) == len(train)
        with pytest.raises(IndexError):
            train[len(train)]


class TestHostile:
    @pytest.mark.parametrize("path", ["/dev/zero", "{tmp}/fifo", "{tmp}/secret.png", "../secret.png", "link.png"])
    def test_rows_name_files_below_the_data_only(self, tmp_path, path, capsys):
        fill(tmp_path / "d", [])
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "secret.png").write_bytes(png(50))
        (tmp_path / "d" / "link.png").symlink_to(tmp_path / "secret.png")
        cells = [{"bytes": png(i), "path": None} for i in range(9)]
        cells += [{"bytes": None, "path": path.format(tmp=tmp_path)}]
        pq.write_table(pa.table({"image": cells}), tmp_path / "d" / "t.parquet")
        assert total(open_store(tmp_path / "d" / "t.parquet")) == 9
        assert "which is not below the data's own folder" in said(capsys)

    def test_a_pipe_below_the_data(self, tmp_path, capsys):
        os.mkfifo(fill(tmp_path / "d", []) / "pipe")
        cells = [{"bytes": png(i), "path": None} for i in range(9)] + [{"bytes": None, "path": "pipe"}]
        pq.write_table(pa.table({"image": cells}), tmp_path / "d" / "t.parquet")
        assert total(open_store(tmp_path / "d" / "t.parquet")) == 9
        assert "9 is no regular file" in said(capsys)

    def test_rows_name_files_relative_to_the_table(self, tmp_path):
        fill(tmp_path / "d" / "deep", range(9))
        cells = [{"bytes": None, "path": f"deep/{i:03d}.png"} for i in range(9)]
        pq.write_table(pa.table({"image": cells}), tmp_path / "d" / "t.parquet")
        assert total(open_store(tmp_path / "d" / "t.parquet")) == 9

    def test_offsets_beyond_a_table(self, tmp_path):
        values = pa.array([bytes([i]) * 300 for i in range(60)], pa.binary())
        schema = pa.schema({"image": pa.binary()})
        with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
            out.write_table(pa.table({"image": values}))
        content = bytearray((tmp_path / "d.arrow").read_bytes())
        at = content.find(np.arange(0, 6000, 300, "<i4").tobytes()[:40])
        content[at + 120 : at + 124] = (2**31 - 1).to_bytes(4, "little")
        (tmp_path / "d.arrow").write_bytes(content)
        with pytest.raises(DataError, match=r"d\.arrow is damaged"):
            open_store(tmp_path / "d.arrow")

    @pytest.mark.slow
    def test_rows_that_unpack_to_too_much(self, tmp_path):
        pq.write_table(
            pa.table({"image": [bytes(2**25)] * 10}), tmp_path / "d.parquet", compression="zstd", use_dictionary=False
        )
        with pytest.raises(DataError, match=r"would unpack [\d,]+ to [\d,]+ bytes in its column image"):
            open_store(tmp_path / "d.parquet")

    def test_images_of_too_many_pixels(self, tmp_path, capsys):
        Image.new("1", (11_000, 9_200)).save(fill(tmp_path / "d", range(9)) / "big.png")
        with pytest.warns(Image.DecompressionBombWarning):
            assert total(open_store(tmp_path / "d", 12)) == 9
        assert "big.png cannot be decoded (11000x9200 pixels, more than 100,000,000)" in said(capsys)

    def test_an_array_whose_header_lies(self, tmp_path):
        np.savez(tmp_path / "d.npz", x=np.zeros((9, 12, 12), np.uint8))
        content = (tmp_path / "d.npz").read_bytes()
        (tmp_path / "d.npz").write_bytes(content.replace(b"(9, 12, 12)", b"(9, 12, 99)"))
        with pytest.raises(DataError, match=r"d\.npz"):
            open_store(tmp_path / "d.npz")


def test_the_folder_of_a_third_person(tmp_path, capsys):
    """All at once: transparency, palettes, HEIC among JPEG, dangling links, an unreadable class, copies of images."""
    folder = tmp_path / "d"
    for split, count in (("Training", 24), ("Testing", 8)):
        for offset, name in enumerate(("bird", "cat", "dog")):
            path = folder / split / name
            path.mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(picture(1000 * offset + 100 * len(split) + i))
                mode = ("L", "RGB", "RGBA", "P")[i % 4]
                image.convert(mode).save(path / f"{i}.{'jpg' if mode == 'RGB' else 'png'}")
    for i in (0, 2):
        (folder / "Testing" / "cat" / f"copy-{i}.png").write_bytes(
            (folder / "Training" / "cat" / f"{i}.png").read_bytes()
        )
    (folder / "Training" / "cat" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "Training" / "dog" / "link.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "Training" / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "notes.txt").write_text("mine")
    fill(folder / "Training" / "secret", range(3)).chmod(0)
    is_root = os.access(folder / "Training" / "secret", os.R_OK)  # who may read everything
    store = open_store(folder)
    assert (len(store.train), len(store.holdout)) == (72 + 3 * is_root, 26)
    assert set(store.class_names) == {"bird", "cat", "dog"} | ({"secret"} if is_root else set())
    assert store.account.duplicates == 2
    text = said(capsys)
    for part in (
        "1 links that lead nowhere (Training/dog/link.jpg",
        "1 .heic files, which are not read (Training/cat/IMG_1.HEIC)",
        "1 .txt files, which are not read (notes.txt)",
        "1 bad images (Training/dog/broken.jpg",
        "(folders: Testing, Training)",
        "duplicates: 2 hold-out images are training images, too",
        *([] if is_root else ["1 folders that cannot be read (Training/secret: Permission denied)"]),
    ):
        assert part in text
