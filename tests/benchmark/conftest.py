"""Specs as text, results that were never computed, and cells in forked processes, which need no imports."""

import multiprocessing
import os
import sys

import numpy as np
import pytest

from evae.benchmark import run as scheduling
from evae.benchmark.cell import LOG, folder_of, run_cell
from evae.benchmark.cells import cells_of
from evae.benchmark.spec import read_spec
from evae.runs import RunFolder
from evae.runs.evaluation import Section, write_evaluation
from tests.reporting.records import evaluation, number

SPEC = """
data: {{blobs: {blobs}}}
train:
  data: blobs
  epochs: 1
  batch_size: 16
  image_size: 16
  accelerator: cpu
  seed: {{grid: [0, 1]}}
  model: {{class_path: EVAE, init_args: {{latent_dim: {{grid: [2, 3]}}}}}}
evaluate: {{device: cpu}}
table: {{rows: model.latent_dim, over: seed, columns: [bce, mse, sharpness]}}
"""


@pytest.fixture
def spec(tmp_path, blobs):
    """Write a spec: the small one with texts replaced, or another."""

    def write(*replaced, text=None, name="spec.yaml"):
        text = text or SPEC.format(blobs=blobs)
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def cells():
    """The cells of a file."""
    return lambda path: cells_of(read_spec(path))


@pytest.fixture
def computed(tmp_path):
    """Finish cells without training: ``values(cell)`` are their metrics, value or (value, values of images)."""

    def fake(path, values, out=tmp_path / "results", **about):
        for cell in cells_of(read_spec(path)):
            found = values(cell)
            if found is None:
                continue
            folder = folder_of(out, cell)
            folder.run.mkdir(parents=True, exist_ok=True)
            folder.write(cell)
            images = {name: np.asarray(value[1], float) for name, value in found.items() if isinstance(value, tuple)}
            plain = {name: value[0] if isinstance(value, tuple) else value for name, value in found.items()}
            numbers = tuple(number(name, value, 0.1) for name, value in plain.items())
            record = evaluation(Section("reconstructions", "", numbers), **about)
            write_evaluation(RunFolder(folder.run), record, images)
        return out

    return fake


class _Forked:
    """What the scheduler uses of a Popen, for a forked process."""

    def __init__(self, folder):
        self._process = multiprocessing.get_context("fork").Process(target=_child, args=(folder,))
        self._process.start()

    def poll(self):
        return self._process.exitcode

    def terminate(self):
        self._process.terminate()

    def wait(self):
        self._process.join()

    @property
    def returncode(self):
        return self._process.exitcode


def _child(folder):
    with (folder.path / LOG).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False)
    os._exit(run_cell(folder))


@pytest.fixture
def forked(monkeypatch):
    """Cells in forked processes; looks at them are more frequent."""
    monkeypatch.setattr(scheduling, "_spawned", lambda folder, environment: _Forked(folder))
    monkeypatch.setattr(scheduling, "_POLL", 0.02)
    monkeypatch.setattr(scheduling, "_LOOK_AGAIN", 0.05)
