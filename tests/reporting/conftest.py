"""What the tests of reports and of comparisons share."""

import pytest
import torch

from evae.reporting import charts


@pytest.fixture
def undrawn(monkeypatch):
    """One picture in the place of every chart, for tests that look at something else."""
    picture = charts.images(torch.linspace(0, 1, 256).reshape(1, 1, 16, 16), 1)
    for name in ("curves", "histogram", "bars"):
        monkeypatch.setattr(charts, name, lambda *arguments: picture)
