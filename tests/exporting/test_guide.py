"""docs/generator.md: its commands and its program run, on small images."""

import runpy
import shutil

import numpy as np
import pytest
from PIL import Image

from evae.cli import main
from tests.exporting.web import needs_extra, onnxruntime_web
from tests.test_docs import TEXTS, blocks, commands

GUIDE = TEXTS["docs/generator.md"]


@needs_extra
@pytest.mark.slow
def test_the_commands_and_the_program_of_the_guide_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    small = {"train": ["--epochs", "1", "--image-size", "16", "--batch-size", "8", "--accelerator", "cpu"]}
    first, program = ["train", "fit-prior", "export"], blocks(GUIDE, "py")[0]
    given = [command for command in commands(GUIDE) if command[0] in first]
    assert [command[0] for command in given] == [*first, "export"]
    for command in given[:3]:
        assert main([*command, *small.get(command[0], [])]) == 0
    (tmp_path / "program.py").write_text(program)
    assert runpy.run_path("program.py")["images"].shape == (16, 3, 16, 16)
    (tmp_path / "npm").mkdir()
    shutil.copytree(onnxruntime_web(tmp_path / "npm"), "package")
    assert main(given[3]) == 0
    assert (tmp_path / "site" / "runtime").is_dir()
