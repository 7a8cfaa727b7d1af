"""The specs in configs/: all of them can be computed, their figures are of cells, and each runs in miniature."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from evae.benchmark import benchmark
from evae.benchmark.cells import cells_of, check_models
from evae.benchmark.spec import read_spec
from evae.benchmark.table import BenchmarkTable

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of fork, from Python 3.12 on
CONFIGS = Path(__file__).parents[2] / "configs"
SPECS = sorted(path for path in CONFIGS.glob("*.yaml") if "train" in yaml.safe_load(path.read_text()))
QUICK = ("gaussian-kernel",)


def names(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", SPECS, ids=names(SPECS))
def test_specs_can_be_computed_and_figures_have_cells(path, tmp_path):
    spec = read_spec(path)
    cells = cells_of(spec)
    check_models(spec, cells[:1])
    table = BenchmarkTable(spec, cells, tmp_path)
    places = {(table.row_of(entry), table.column_of(entry)) for entry in table.entries}
    for published in spec.published:
        figures = {(row, by) for row, of in published.figures.items() for by in of}
        assert figures <= places
        assert len(figures) == len([place for place in places if published.figure(*place)])
        assert published.metric in spec.table.columns
    assert len({cell.name for cell in cells}) == len(cells)


def test_specs_share_cells():
    """EVAE at B = 0.1 and d = 64 on Fashion-MNIST and CIFAR-10 is in tables 1, 2 and 6."""
    one, two, six = ({cell.name for cell in cells_of(read_spec(CONFIGS / f"paper-table{i}.yaml"))} for i in (1, 2, 6))
    assert len(one & two & six) == 6


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in SPECS]
)
def test_specs_run_in_miniature(path, blobs, tmp_path, forked):
    content = yaml.safe_load(path.read_text())
    content["train"] |= {"data": "blobs", "epochs": 1, "batch_size": 16, "image_size": 16, "seed": {"grid": [0]}}
    content["train"] |= {"accelerator": "cpu"}
    content |= {"data": {"blobs": blobs}, "evaluate": {"device": "cpu"}}
    if "fit_prior" in content:
        content["train"]["image_size"] = 32
        content["fit_prior"] |= {"device": "cpu"}
    if path.stem.startswith("heavy-tails"):  # of rows of numbers
        rows = np.random.default_rng(0).standard_t(4, (160, 1))
        np.savez(tmp_path / "rows.npz", x_train=rows[:100], x_test=rows[100:])
        content["data"] = {"blobs": str(tmp_path / "rows.npz")}
        content["evaluate"]["tails"] = 0.2
        del content["train"]["image_size"]
        content["table"]["rows"] = ["model", "model.kernel"]
    small = tmp_path / path.name
    small.write_text(yaml.safe_dump(content, sort_keys=False))
    out = benchmark(small, tmp_path / "results")
    cells = cells_of(read_spec(small))
    assert len(list(out.glob("cells/*/run/evaluation.json"))) == len(cells)
    assert (out / f"{path.stem}.md").read_text() == (out / "table.md").read_text()
