"""Results replace earlier results of their kind, and nothing else."""

import os
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from evae import EVAE, compare, encode, evaluate, reconstruct, report, sample
from evae.errors import RunError
from evae.kernel_study import kernels
from tests.small import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory, blobs):
    return trained(EVAE, blobs, tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(scope="module")
def other(run, tmp_path_factory, blobs):
    """Another run, evaluated as the first one is."""
    folder = trained(EVAE, blobs, tmp_path_factory.mktemp("others") / "b")
    for one in (run, folder):
        evaluate(one, show=False)
    return folder


@pytest.fixture
def photo(tmp_path):
    Image.new("L", (16, 16), 7).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def grids(suffix):
    return lambda run, folder, **options: sample(run, 4, folder / f"x{suffix}", prior="model", **options)


# What writes into a folder, and the files that it writes.
WRITERS = {
    "grid.png": (grids(".png"), ["x.png"]),
    "grid.jpg": (grids(".jpg"), ["x.jpg"]),
    "grid.webp": (grids(".webp"), ["x.webp"]),
    "grid.tif": (grids(".tif"), ["x.tif"]),
    "samples": (
        lambda run, folder, **options: sample(run, 3, folder, prior="model", **options),
        ["000000.png", "000002.png"],
    ),
    "codes": (lambda run, folder, **options: encode(run, folder / "x.parquet", **options), ["x.parquet"]),
    "kernels": (
        lambda run, folder, **options: kernels(folder, draws=10, **options),
        ["densities.png", "divergences.png"],
    ),
    "reconstructions": (
        lambda run, folder, **options: reconstruct(run, [folder.parent / "photo.png"], folder, **options),
        ["photo.png", "comparison.png"],
    ),
}
NO_MARK = {
    "array": (grids(".npy"), ["x.npy"]),
    "grid.bmp": (grids(".bmp"), ["x.bmp"]),
}


def kinds(writers):
    """Their names; the figures of kernels take seconds."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name == "kernels")) for name in writers]


@pytest.mark.parametrize("kind", kinds(WRITERS))
def test_a_result_replaces_one_of_its_kind(kind, run, tmp_path, photo):
    write, names = WRITERS[kind]
    folder = tmp_path / "out"
    for _ in range(2):
        write(run, folder)
    assert set(names) <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", kinds(WRITERS | NO_MARK))
def test_other_files_stay_unless_overwritten(kind, run, tmp_path, photo):
    write, names = (WRITERS | NO_MARK)[kind]
    folder = tmp_path / "out"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")
        with pytest.raises(RunError, match=rf"{name} exists, .*--overwrite"):
            write(run, folder)
        assert {path.name: path.read_text() for path in folder.iterdir()} == {name: "mine"}
        (folder / name).unlink()
    (folder / names[0]).write_text("mine")
    write(run, folder, overwrite=True)
    assert (folder / names[0]).read_bytes() != b"mine"


@pytest.mark.parametrize("kind", NO_MARK)
def test_results_without_a_mark_need_overwrite(kind, run, tmp_path):
    write, _ = NO_MARK[kind]
    write(run, tmp_path)
    with pytest.raises(RunError, match="--overwrite"):
        write(run, tmp_path)
    write(run, tmp_path, overwrite=True)


@pytest.mark.slow
def test_pages_and_tables(run, other, tmp_path):
    for _ in range(2):
        report(run)
        report(run, tmp_path / "page.html")
        compare([run, other], tmp_path)
    with pytest.raises(RunError, match="did not write it as a report"):
        report(run, tmp_path / "comparison.html")
    (tmp_path / "comparison.html").unlink()
    with pytest.raises(RunError, match=r"table\.md exists, and evae did not write it as a comparison"):
        compare([run, other], tmp_path)


def test_another_kind_of_result_is_not_replaced(run, tmp_path, photo):
    reconstruct(run, [photo], tmp_path / "out")
    with pytest.raises(RunError, match="did not write it as samples"):
        sample(run, 4, tmp_path / "out" / "photo.png", prior="model")


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "README.md", "evaluation-x.json", "prior/x.html"])
def test_files_of_a_run_are_never_replaced(name, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="is the place of a file of the run"):
        report(run, copy / name, overwrite=True)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_figures_of_a_run_but_for_the_samples_are_never_replaced(run):
    (run / "figures").mkdir(exist_ok=True)
    Image.new("L", (16, 16), 7).save(run / "figures" / "reconstructions.png")  # in place of what training draws
    before = (run / "figures" / "reconstructions.png").read_bytes()
    sample(run, 4, prior="model")
    sample(run, 4, prior="model")
    for write in (partial(sample, prior="model"), report):
        with pytest.raises(RunError, match="would replace a file of the run"):
            write(run, out=run / "figures" / "reconstructions.png", overwrite=True)
    assert (run / "figures" / "reconstructions.png").read_bytes() == before
    with pytest.raises(RunError, match="is the place of a file of the run"):
        sample(run, 4, run / "checkpoints" / "x", prior="model")


def test_the_data_are_never_replaced(run, blobs, tmp_path):
    data = tmp_path / "images"
    data.mkdir()
    np.save(data / "x.npy", np.zeros((2, 16, 16), np.uint8))
    (data / "x.parquet").write_text("data")
    with pytest.raises(RunError, match="would replace the data"):
        encode(run, data / "x.parquet", data=str(data / "x.parquet"), overwrite=True)
    with pytest.raises(RunError, match="would replace a file of the data"):
        encode(run, data / "x.parquet", data=str(data), overwrite=True)
    link = tmp_path / "link.html"
    link.symlink_to(blobs)
    with pytest.raises(RunError, match="would replace the data"):
        report(run, link, overwrite=True)


@pytest.mark.parametrize("out", ["", ".", "/", "..", "/dev/null", "fifo", "folder"])
@pytest.mark.parametrize("write", [report, encode, partial(sample, prior="model", count=2)])
def test_what_is_no_file(write, out, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "folder").mkdir()
    if out == "folder" and isinstance(write, partial):
        return  # samples, one each
    with pytest.raises(RunError, match="--out"):
        write(run, out=out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "folder"]


@pytest.mark.parametrize("kind", kinds(WRITERS | NO_MARK))
def test_a_full_disk_leaves_old_results(kind, run, tmp_path, photo, monkeypatch):
    write, _ = (WRITERS | NO_MARK)[kind]
    folder = tmp_path / "out"
    write(run, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="could not be written .No space left"):
        write(run, folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
