"""The record of an evaluation: what is written is read again; damage of every kind is one sentence."""

import json
import math

import numpy as np
import pytest

from evae.errors import RunError
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, Number, Section, read_evaluation, write_evaluation

NUMBERS = (
    Number("mse", 0.5, 0.1, "lower"),
    Number("psnr", math.inf, math.nan, "higher"),
    Number("sharpness", 0.25, None, "reference", 0.5),
)
SECTIONS = {
    "reconstructions": Section("reconstructions", "k", NUMBERS, {"latents": "sample", "repeats": 1}),
    "own": Section("own", "l", (Number("x", 3),), details={"rates": [1.0, math.nan]}),
}
VALUES = {"mse": np.array([0.25, 0.75]), "x": np.array([1.0, 2.0], np.float32)}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def evaluation(sections=SECTIONS):
    transform = {"size": 16, "crop": None}
    return Evaluation("EVAE", "blobs", "holdout", 2, "ff", transform, "sample", 1, 0, sections)


def test_what_is_written_is_read_again(run):
    path = write_evaluation(run, evaluation(), VALUES)
    read = read_evaluation(run)
    assert path == run.path / "evaluation.json"
    assert [n.name for n in read.numbers] == ["mse", "psnr", "sharpness", "x"]
    assert read.number("mse") == NUMBERS[0]
    assert read.number("sharpness") == NUMBERS[2]
    assert math.isnan(read.number("psnr").value)
    assert read.number("psnr").error is None
    assert read.number("none") is None
    assert read.sections["own"].details == {"rates": [1.0, None]}
    assert read.per_image("x").dtype == np.float64
    np.testing.assert_array_equal(read.per_image("mse"), VALUES["mse"])
    assert read.per_image("psnr") is None
    assert Evaluation.from_dict(read.to_dict()).to_dict() == read.to_dict()


def test_the_file_is_json_and_begins_with_the_version(run):
    def refused(constant):
        raise AssertionError(constant)

    text = write_evaluation(run, evaluation(), VALUES).read_text()
    result = json.loads(text, parse_constant=refused)  # NaN and Infinity are no JSON
    assert next(iter(result.items())) == ("version", 3)
    assert result["metrics"] == {"mse": 0.5, "psnr": None, "sharpness": 0.25}
    assert result["standard_errors"] == {"mse": 0.1, "psnr": None, "sharpness": None}
    assert result["sections"]["reconstructions"]["numbers"][0]["better"] == "lower"


def test_there_is_none(run):
    assert read_evaluation(run) is None
    assert read_evaluation(run, "evaluation-other.json") is None


def change(result, path, value):
    *way, last = path
    for step in way:
        result = result[step]
    result[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["version"], 1),
        (["version"], 4),
        (["count"], "many"),
        (["transform"], None),
        (["data"], ["blobs"]),
        (["sections"], []),
        (["sections", "own"], 3),
        (["sections", "own", "numbers"], {"x": 3}),
        (["sections", "own", "details"], "none"),
        (["sections", "own", "settings"], 3),
        (["sections", "own", "numbers", 0, "value"], "three"),
        (["sections", "own", "numbers", 0, "value"], 10**400),
        (["sections", "own", "numbers", 0, "error"], []),
        (["sections", "own", "numbers", 0, "better"], "bigger"),
    ],
)
def test_damage_is_one_sentence(path, value, run):
    file = write_evaluation(run, evaluation(), VALUES)
    result = json.loads(file.read_text())
    change(result, path, value)
    file.write_text(json.dumps(result))
    with pytest.raises(RunError, match=r"evaluation.json is damaged or of another version; evae evaluate .* again$"):
        read_evaluation(run)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"metrics": {"mse": 1}, "keys": {}}'])
def test_other_files_and_those_of_older_versions(content, run):
    (run.path / "evaluation-a.json").write_bytes(content)
    with pytest.raises(RunError, match=r"evaluation-a.json .*; evae evaluate .* --data DATA writes it again$"):
        read_evaluation(run, "evaluation-a.json")


def test_values_of_another_evaluation_are_not_used(run):
    write_evaluation(run, evaluation(), VALUES, "evaluation-a.json")
    write_evaluation(run, evaluation(), {"mse": np.zeros(2)}, "evaluation-b.json")
    a, b = (run.path / f"evaluation-{name}.safetensors" for name in "ab")
    a.write_bytes(b.read_bytes())
    assert read_evaluation(run, "evaluation-a.json").per_image("mse") is None
    a.write_bytes(b"junk")
    assert read_evaluation(run, "evaluation-a.json").per_image("mse") is None
    a.unlink()
    assert read_evaluation(run, "evaluation-a.json").number("mse") == NUMBERS[0]
    assert read_evaluation(run, "evaluation-b.json").per_image("mse").tolist() == [0, 0]


def test_numbers_as_shown():
    assert [str(number) for number in NUMBERS] == ["0.5 ± 0.1", "inf", "0.25"]
