"""Small files that would take much memory, and files of the cache that are not what was written."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evae.data import decode as decoding
from evae.data import open_store, rows
from evae.data.cache import cache as cache_command
from evae.data.decode import BadImageError, Decoder
from evae.data.images import ImageSet
from evae.data.rows import Row
from evae.data.workers import _chunks
from evae.errors import DataError
from tests.data.test_store import noise, png
from tests.fuzz.forms import META

PADDED = png(noise()) + bytes(10_000)
SAME = pa.DictionaryArray.from_arrays(pa.array(np.zeros(400, np.int32)), pa.array([PADDED]))


@pytest.fixture
def low(monkeypatch):
    """Files are suspicious from 100 kB on, not from 256 MB."""
    monkeypatch.setattr(rows, "_UNPACKED", 10**5)


def ipc(path, table, compression=None, new=pa.ipc.new_file):
    with new(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as out:
        out.write_table(table, 100)


class TestTables:
    @pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
    @pytest.mark.parametrize("compression", ["zstd", "lz4"])
    def test_compressed_arrow_files(self, tmp_path, low, new, compression):
        ipc(tmp_path / "a.arrow", pa.table({"image": [png(noise())] * 20}), compression, new)
        open_store(tmp_path / "a.arrow")
        ipc(tmp_path / "b.arrow", pa.table({"image": [bytes(10**6)] * 40}), compression, new)
        with pytest.raises(DataError, match=r"b\.arrow would unpack [\d,]+ to 40,[\d,]+ bytes"):
            open_store(tmp_path / "b.arrow")

    @pytest.mark.parametrize("prefix", ["", "hf-stream:"])
    def test_one_value_repeated(self, tmp_path, low, prefix):
        pq.write_table(pa.table({"image": SAME}), tmp_path / "a.parquet", compression="zstd", row_group_size=200)
        with pytest.raises(DataError, match=r"a\.parquet would unpack [\d,]+ to [\d,]+ bytes"):
            open_store(f"{prefix}{tmp_path / 'a.parquet'}").train.read(slice(0, 1))

    def test_one_value_repeated_in_arrow(self, tmp_path, low):
        ipc(tmp_path / "a.arrow", pa.table({"image": SAME}))
        with pytest.raises(DataError, match=r"a\.arrow would unpack [\d,]+ to [\d,]+ bytes"):
            open_store(tmp_path / "a.arrow")

    def test_a_group_with_fewer_rows_than_its_file_says(self, tmp_path, monkeypatch):
        table = pa.table({"image": [png(noise()) for _ in range(20)]})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
        train = open_store(f"hf-stream:{tmp_path / 'a.parquet'}").train
        monkeypatch.setattr("evae.data.streams.RowGroup.read", lambda *_: iter(()))
        with pytest.raises(DataError, match="is damaged"):
            train.read(slice(0, 1))

    def test_endless_texts_are_no_labels(self, tmp_path):
        images = [png(noise()) for _ in range(20)]
        pq.write_table(pa.table({"image": images, "label": ["x" * 5000, "a"] * 10}), tmp_path / "a.parquet")
        assert open_store(tmp_path / "a.parquet").class_names == ("a",)


class TestArrays:
    def test_compressed_in_fortran_order(self, tmp_path, low):
        np.savez_compressed(tmp_path / "a.npz", x=np.zeros((40, 99, 99), np.uint8, "F"))
        with pytest.raises(DataError, match=r"x\.npy would take 392,040 bytes of memory"):
            open_store(tmp_path / "a.npz")

    def test_an_image_of_too_many_bytes(self, tmp_path):
        with (tmp_path / "a.npy").open("wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (2, 6000, 6000)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 2 * 8 * 6000**2)  # takes no place on the disk
        with pytest.raises(DataError, match=r"an image of shape \(6000, 6000\) has 288,000,000 bytes"):
            open_store(tmp_path / "a.npy")

    def test_tasks_of_arrays_are_small(self):
        large = np.broadcast_to(np.uint8(0), (5000, 5000))
        chunks = list(_chunks(Row(str(i), large, None, None) for i in range(7)))
        assert [len(chunk) for chunk in chunks] == [3, 3, 1]


class TestImages:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16", "F"])
    def test_strips_make_no_difference(self, mode, tmp_path, monkeypatch):
        values = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
        numbers = {"F": np.float32(1) / 255 * values[..., 0], "I;16": values[..., 1] * np.uint16(250)}
        image = Image.fromarray(numbers[mode]) if mode in numbers else Image.fromarray(values).convert(mode)
        image.save(tmp_path / "a.tif", **({"transparency": 3} if mode == "P" else {}))
        content = (tmp_path / "a.tif").read_bytes()
        whole, strips = Decoder(6), Decoder(6)
        expected = whole(content)
        monkeypatch.setattr(decoding, "_STRIP", 14)
        assert np.array_equal(strips(content), expected)
        bytes_at_most = {"byte": min(63, whole.levels.byte)}  # exact up to there
        assert asdict(strips.levels) | bytes_at_most == asdict(whole.levels) | bytes_at_most

    def test_formats_that_need_more_memory_have_a_lower_limit(self, tmp_path, monkeypatch):
        noise().save(tmp_path / "a.webp")
        monkeypatch.setitem(decoding._MAX_PIXELS_OF, "WEBP", 399)
        with pytest.raises(BadImageError, match="20x20 pixels, more than 399"):
            Decoder(6)((tmp_path / "a.webp").read_bytes())


class TestCache:
    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        monkeypatch.setenv("EVAE_CACHE", str(tmp_path / "cache"))
        np.savez(tmp_path / "a.npz", x=np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8), y=np.arange(20) % 3)
        return open_store(tmp_path / "a.npz")

    @pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'["a", "b"]', b"{}", b"\x93NUMPY\1\0\6\0('('x\n"])
    @pytest.mark.parametrize("name", ["names.json", "labels.npy"])
    def test_names_and_labels_that_are_none(self, store, name, content):
        images: ImageSet = store.holdout
        (images.folder / f"holdout-{name}").write_bytes(content)
        with pytest.raises(DataError, match=rf"holdout-{name} is damaged"):
            getattr(images, name.partition(".")[0])

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("image_shape", [1, 8]),
            ("image_shape", "123"),
            ("count", {"train": "x"}),
            ("files", {"train.u8": {"size": None, "mtime_ns": 1, "digest": "x"}}),
            ("account", {}),
            ("scaling", {"bytes": 1.5, "floats": 1}),
        ],
    )
    def test_a_record_of_other_types(self, store, tmp_path, name, value, capsys):
        path = store.holdout.folder / "meta.json"
        record = json.loads(path.read_text()) | {name: value}
        path.write_bytes(META.build(record))
        assert open_store(tmp_path / "a.npz").fingerprint == store.fingerprint
        assert "are damaged (meta.json is damaged)" in " ".join(capsys.readouterr().err.split())
        cache_command(verify=True)
