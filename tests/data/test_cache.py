"""``evae cache``: what it lists, what it deletes, and all that it leaves alone."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from evae.data import open_store
from evae.data.cache import cache, cache_folder
from evae.errors import ConfigError, DataError

DAY = 86400
KEY = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path):
    """Makes stores of 1,000 x 64 bytes each, last used some days ago."""

    def make(number, days=0.0):
        path = tmp_path / f"{number}.npz"
        images = np.random.default_rng(number).integers(0, 256, (1000, 8, 8), np.uint8)
        np.savez(path, x_train=images[:900], x_test=images[900:])
        folder = open_store(str(path), image_size=8).holdout.folder
        age(folder, days)
        return folder

    return make


def age(path, days):
    when = time.time() - days * DAY
    for file in [*(path.iterdir() if path.is_dir() else []), path]:
        os.utime(file, (when, when), follow_symlinks=False)


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def day(days):
    return time.strftime("%Y-%m-%d", time.localtime(time.time() - days * DAY))


def features(root, days=0.0, unfinished=False):
    root.mkdir(exist_ok=True)
    name = f"features-{KEY[:24]}.safetensors"
    path = root / (f".{name}.evae-0123abcd.tmp" if unfinished else name)
    path.write_bytes(b"x" * 5000)
    age(path, days)
    return path


def unfinished(root, days):
    root.mkdir(exist_ok=True)
    folder = root / f"{KEY}.abcdefg1.tmp"
    folder.mkdir()
    (folder / "0.chunk").write_bytes(b"x" * 1000)
    age(folder, days)
    return folder


class TestList:
    def test_what_there_is(self, store, root, tmp_path, capsys):
        first, _ = store(1, days=3.5), store(2)
        features(root)
        unfinished(root, 2)
        (root / "notes.txt").write_text("mine")
        cache()
        out = capsys.readouterr().out
        lines = out.splitlines()
        assert all(len(line) <= 80 for line in lines[1:])
        assert lines[0] == f"4 entries in {root}"
        assert lines[1].split() == ["data", "images", "size", "last", "use", "folder"]
        row = next(line for line in lines if first.name[:12] in line)
        assert row.split()[-5:-1] == ["1,000", f"{size(first) / 1000:.1f}", "kB", day(3.5)]
        titles = "".join(line[: lines[1].index("images")].strip() for line in lines[2:])
        assert f"{tmp_path / '1.npz'}(1x8x8)" in titles.replace(" ", "")
        assert "features of hold-out images" in " ".join(out.split())
        assert "unfinished store" in out
        assert f"total {(size(root) - 4) / 1000:.1f} kB" in " ".join(lines[-1].split())
        assert "notes" not in out

    def test_nothing(self, root, capsys):
        cache()
        assert capsys.readouterr().out == f"0 entries in {root}\n"
        assert not root.exists()

    def test_a_name_that_is_no_text_nor_markup(self, tmp_path, capsys):
        path = tmp_path / os.fsdecode(b"[red]\xff.npz")
        np.savez(path.with_name("a.npz"), x_train=np.arange(640, dtype=np.uint8).reshape(10, 8, 8))
        path.with_name("a.npz").rename(path)
        open_store(str(path))
        cache()
        assert "[red]?.npz" in "".join(capsys.readouterr().out.split())

    def test_a_store_of_an_older_evae(self, store, capsys):
        meta = store(1) / "meta.json"
        meta.write_text(meta.read_text().replace('"source"', '"other"'))
        cache()
        assert "unknown source (1x8x8)" in capsys.readouterr().out

    def test_opening_is_a_use(self, store, tmp_path, capsys):
        folder = store(1, days=10)
        open_store(str(tmp_path / "1.npz"), image_size=8)
        cache(prune=True, older_than=9)
        assert folder.exists()

    def test_a_cache_that_cannot_be_written_can_be_opened(self, store, tmp_path, monkeypatch):
        store(1)

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "utime", refuse)
        assert len(open_store(str(tmp_path / "1.npz"), image_size=8).train) == 900

    def test_a_cache_that_is_no_folder(self, root):
        root.write_text("mine")
        with pytest.raises(DataError, match=r"the image cache in .* cannot be read \(Not a directory\)"):
            cache()


class TestPrune:
    def test_by_age(self, store, root, capsys):
        old, new = store(1, days=31), store(2, days=29)
        old_features, new_features = features(root, days=31), root / f"features-{KEY[:23]}f.safetensors"
        new_features.write_bytes(b"x")
        cache(prune=True, older_than=30)
        assert not old.exists()
        assert not old.with_suffix(".lock").exists()
        assert not old_features.exists()
        assert new.exists()
        assert new_features.exists()
        out = capsys.readouterr().out
        assert f"2 entries deleted from {root}" in out
        assert f"2 entries in {root}" in out

    def test_by_size_the_least_recently_used_first(self, store, root):
        folders = [store(number, days=number) for number in (1, 2, 3)]
        cache(prune=True, max_size=2.5 * size(folders[0]) / 1e9)
        assert [folder.exists() for folder in folders] == [True, True, False]
        cache(prune=True, max_size=0)
        assert list(root.iterdir()) == []

    def test_nothing_to_do(self, store, capsys):
        folder = store(1, days=3)
        cache(prune=True, older_than=4, max_size=1)
        assert folder.exists()
        assert "0 entries deleted" in capsys.readouterr().out

    def test_a_deleted_store_is_made_again(self, store, tmp_path):
        folder = store(1)
        before = open_store(str(tmp_path / "1.npz"), image_size=8)
        cache(prune=True, max_size=0)
        assert not folder.exists()
        assert open_store(str(tmp_path / "1.npz"), image_size=8).fingerprint == before.fingerprint

    @pytest.mark.parametrize("criterion", [{"older_than": 1000}, {"max_size": 1}])
    def test_what_killed_processes_left_goes_with_every_prune(self, root, criterion):
        left = [unfinished(root, 0.1), features(root, 0.1, unfinished=True), root / f"{KEY[::-1]}.lock"]
        damaged = root / ("f" * 32)
        damaged.mkdir()
        (damaged / "train.u8").write_bytes(b"x")
        left[2].touch()
        for path in (left[2], damaged):
            age(path, 0.1)
        cache(prune=True, **criterion)
        assert list(root.iterdir()) == []

    def test_what_may_still_be_written_stays(self, root):
        paths = [unfinished(root, 0), features(root, unfinished=True)]
        cache(prune=True, older_than=0, max_size=0)
        assert all(path.exists() for path in paths)

    def test_what_another_process_builds_stays(self, store, root, tmp_path):
        folder, building = store(1, days=5), unfinished(root, 5)
        with FileLock(folder.with_suffix(".lock")), FileLock(root / f"{KEY}.lock"):
            cache(prune=True, older_than=1)
            assert folder.exists()
            assert building.exists()
        cache(prune=True, older_than=1)
        assert list(root.iterdir()) == []

    def test_what_evae_did_not_write_stays(self, store, root, tmp_path):
        """Though its names are like those of evae."""
        folder = store(1, days=5)
        (folder / "notes.txt").write_text("mine")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "train.u8").write_text("mine")
        mine = [folder / "notes.txt", outside / "train.u8", root / "notes.txt", root / "a.lock", root / "a.tmp"]
        mine += [root / ("0" * 32) / "meta.json", root / ("1" * 32) / "pixels.bin", root / f"{'2' * 32}.lock"]
        mine += [root / ("3" * 32) / "train.u8" / "deep.txt", root / "features-mine.safetensors"]
        for path in mine:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        (root / ("4" * 32)).symlink_to(outside)
        (root / f"features-{KEY[:24]}.safetensors").symlink_to(outside / "train.u8")
        (root / ("5" * 32)).mkdir()
        for path in [*root.rglob("*"), *outside.iterdir()]:
            age(path, 5)
        cache(prune=True, older_than=1, max_size=0)
        assert all(path.read_text() == "{}" for path in mine)
        assert [p.name for p in folder.iterdir()] == ["notes.txt"]
        assert (root / ("4" * 32)).is_symlink()
        assert (root / f"features-{KEY[:24]}.safetensors").is_symlink()
        assert (root / ("5" * 32)).is_dir()

    def test_links_inside_a_store_are_not_followed(self, store, tmp_path):
        folder = store(1, days=5)
        (folder / "train.u8").rename(tmp_path / "elsewhere.u8")
        (folder / "train.u8").symlink_to(tmp_path / "elsewhere.u8")
        cache(prune=True, max_size=0)
        assert not folder.exists()
        assert (tmp_path / "elsewhere.u8").exists()

    def test_what_cannot_be_deleted_is_named(self, store, monkeypatch, capsys):
        folder = store(1, days=5)

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            cache(prune=True, older_than=1)
        assert folder.exists()
        captured = capsys.readouterr()
        assert f"{folder} cannot be deleted (Permission denied)" in captured.err
        assert "0 entries deleted" in captured.out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prune": True}, "--prune needs a criterion: --older-than DAYS or --max-size GIGABYTES"),
            ({"older_than": 3}, "--older-than and --max-size need --prune"),
            ({"prune": True, "older_than": -1}, "older_than must be 0 or positive"),
            ({"prune": True, "max_size": float("nan")}, "max_size must be 0 or positive"),
        ],
    )
    def test_bad_options(self, store, options, message):
        folder = store(1, days=5)
        with pytest.raises(ConfigError, match=message):
            cache(**options)
        assert folder.exists()


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("EVAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "evae"


@pytest.mark.parametrize("content", ["", "[" * 100_000, '{"image_shape": [1], "count": {"a": 1e400}}', "[1]"])
def test_a_damaged_store_is_listed_beside_the_others(store, root, content, capsys):
    damaged, other = store(1, days=3), store(2)
    (damaged / "meta.json").write_text(content)
    cache()
    out = capsys.readouterr().out
    assert damaged.name[:8] in out
    assert other.name[:8] in out
