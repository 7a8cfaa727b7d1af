import os
import stat

import pytest

from evae.errors import RunError
from evae.files import write_atomically


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
