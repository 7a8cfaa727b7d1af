"""The examples of CONTRIBUTING.md: at most 15 lines each, and what they add shows up wherever it should."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from evae import compare, evaluate, report, train
from evae.metrics import command, image
from tests.training.small import SETTINGS

CONTRIBUTING = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)


@pytest.fixture
def contributed(monkeypatch, tmp_path):
    """A module of the examples; what they add to evae's lists is removed afterwards."""
    (tmp_path / "contributed.py").write_text("\n".join(EXAMPLES))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(command, "MEASUREMENTS", command.MEASUREMENTS)
    metrics = list(image.METRICS)
    yield import_module("contributed")
    image.METRICS[:] = metrics
    del sys.modules["contributed"]


def test_examples_are_short():
    assert len(EXAMPLES) == 3
    for example in EXAMPLES:
        assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_what_is_added_appears_everywhere(contributed, blobs, tmp_path):
    runs = [tmp_path / name for name in "ab"]
    for run, batch_size in zip(runs, (8, 16), strict=True):
        settings = SETTINGS | {"model": contributed.HalfKlVAE, "batch_size": batch_size, "epochs": 1}
        train(blobs, run, **settings)
        result = evaluate(run, show=False)
        assert result["metrics"]["mae"] > 0
        assert result["sections"]["contrast"]["numbers"][0]["better"] == "higher"
    assert json.loads((runs[0] / "config.json").read_text())["model"] == "contributed.HalfKlVAE"
    compare(runs, tmp_path / "comparison")
    for page in (report(runs[0]), tmp_path / "comparison" / "table.md", tmp_path / "comparison" / "comparison.html"):
        text = page.read_text()
        assert "mae" in text
        assert "contrast" in text
