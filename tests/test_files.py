import os
import stat
import subprocess
import sys

import pytest

from evae.errors import RunError
from evae.files import remove_leftovers, replacing, temporary_folder, write_atomically


def test_a_new_name_is_durable(tmp_path, monkeypatch):
    """Not only the content is on the disk after a power failure: so is the folder's entry."""
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)) or sync(fd))
    write_atomically(tmp_path / "new" / "file", "text")
    assert synced == [False, True]
    assert (tmp_path / "new" / "file").read_text() == "text"


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunError, match=r"file could not be written \(No space left on device\)"):
        write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_two_writers_of_one_file_do_not_share_a_temporary_one(tmp_path):
    with replacing(tmp_path / "file") as first, replacing(tmp_path / "file") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "1"


def test_permissions_are_the_users(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
        with temporary_folder(tmp_path / "folder") as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch):
    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_leftovers_of_dead_processes_only(tmp_path):
    program = "import os, sys; from pathlib import Path; from evae.files import replacing\n"
    program += "with replacing(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "killed")], check=False)
    (tmp_path / ".notes.tmp").write_text("the user's")
    (left,) = tmp_path.glob(".killed.*")
    with replacing(tmp_path / "alive") as temporary:
        remove_leftovers(tmp_path)
        assert temporary.exists()
        assert not left.exists()
        assert (tmp_path / ".notes.tmp").exists()
