"""The run folder: failures are one sentence."""

import pytest

from evae.errors import RunError
from evae.runs import RunFolder


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunError, match="run folder .* cannot be made or written"), RunFolder(tmp_path).locked():
        pass
