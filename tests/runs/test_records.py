"""Records of a run with arbitrary values in them: each is read, or one RunError; files that are none; links."""

import json
import math
import os
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evae import VAE, GaussianVAE
from evae.errors import RunError
from evae.files import digest
from evae.fitting import fit_prior
from evae.models.fitted import FittedPrior, write_prior
from evae.runs import Progress, RunFolder, checkpoints
from evae.runs.evaluation import Evaluation, Number, Section, read_evaluation, write_evaluation

SHAPE = (1, 16, 16)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([-1, 10**400, -1e308, 1e308, "\0", "\ud800", "../a"])
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=4
)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONFIG = {
    "data": "blobs.npz",
    "out": "a",
    "model": {"class_path": "evae.GaussianVAE", "init_args": {"latent_dim": 2}},
    "epochs": 3,
    "image_size": 16,
    "crop": None,
    "image_column": None,
    "validation": 0.25,
    "seed": 0,
}


def model():
    return GaussianVAE(SHAPE, latent_dim=2)


def stepped(network):
    """Its optimizer after a step."""
    optimizer = torch.optim.Adam(network.parameters())
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    return optimizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with all its records, without training."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "a")
    progress = Progress("ff", step=12, sums=[1.0, 2.0], metrics_bytes=0, best_loss=3.0)
    with run.locked():
        run.claim(CONFIG, {}, resume=False, overwrite=False)
        run.truncate_metrics(progress)
        run.append_metrics({"epoch": 1, "step": 6, "loss": 3.5}, progress)
        network = model()
        checkpoints.save(run, network, checkpoints.optimizer_state(stepped(network)), progress)
    section = Section("latents", "k", (Number("x", 3.0, 0.1, "lower"),), {"n": 1}, {"rate_per_dimension": [1.0, None]})
    transform = {"size": 16, "crop": None}
    weights = run.model().weights_digest
    about = ("GaussianVAE", "blobs", "holdout", 2, "ff", transform, "mean", 1, 0)
    evaluation = Evaluation(*about, {"latents": section}, weights)
    write_evaluation(run, evaluation, {"x": np.array([1.0, 2.0])})
    tensors = {"mean": torch.zeros(2), "scale_tril": torch.eye(2)}
    write_prior(FittedPrior("gaussian", tensors, {}, {"seed": 0}, weights), run.path)
    return run


@pytest.fixture
def run(made, tmp_path):
    return RunFolder(shutil.copytree(made.path, tmp_path / "a"))


def resumed(run):
    network = model()
    return checkpoints.load(run, network, stepped(network), "ff", terms=2)


def fitted(run):
    prior = run.model().read_prior()
    prior.distribution(lambda: None, torch.zeros(2)).sample()


READERS = {
    "config.json": lambda run: run.model(),
    "config.yaml": lambda run: json.dumps(run.config()),
    "evaluation.json": lambda run: json.dumps(read_evaluation(run).to_dict()),
    "prior/prior.json": fitted,
    "checkpoints/last/state.json": resumed,
}


def opened(path):
    """A record, and a function that writes it again."""
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text()), lambda r: path.write_text(yaml.safe_dump(r, allow_unicode=False))
    record = json.loads(path.read_text())
    if path.name != "state.json":
        return record, lambda r: path.write_text(json.dumps(r))
    return json.loads(record["state"]), lambda r: path.write_text(json.dumps(sealed(r)))


def sealed(state):
    body = json.dumps(state)
    return {"state": body, "digest": digest(body.encode())}


def places(record, at=()):
    """The path of every value in a record."""
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    return [p for key, value in items for p in [(*at, key), *places(value, (*at, key))]]


def changed(record, path, value):
    *way, last = path
    for step in way:
        record = record[step]
    record[last] = value


@pytest.mark.parametrize("name", READERS)
def test_whole_records(run, name):
    READERS[name](run)


@pytest.mark.parametrize("name", READERS)
@FEW
@given(data=st.data())
def test_any_value_in_any_place(made, name, data, monkeypatch):
    monkeypatch.setattr("evae.console.console.quiet", True)
    path = made.path / name
    before = path.read_bytes()
    record, write = opened(path)
    changed(record, data.draw(st.sampled_from(places(record))), data.draw(VALUES))
    sentence = "fine"
    try:
        write(record)
        READERS[name](made)
    except RunError as error:
        sentence = str(error)
    finally:
        path.write_bytes(before)
    assert len(sentence.splitlines()) == 1


@FEW
@given(line=st.dictionaries(st.sampled_from(["epoch", "step", "loss"]) | st.text(), VALUES, max_size=3))
def test_any_line_of_metrics(made, line):
    path = made.path / "metrics.jsonl"
    before = path.read_bytes()
    try:
        path.write_bytes(json.dumps(line).encode() + b"\n" + before)
        for numbers in made.metrics():
            assert all(math.isfinite(value) and abs(value) <= 1e100 for value in numbers.values())
            assert numbers.get("epoch", 0) >= 0
    finally:
        path.write_bytes(before)


def test_long_and_deep_lines_of_metrics(run, capsys):
    path = run.path / "metrics.jsonl"
    path.write_text("[" * 10**6 + "\n" + path.read_text() + '{"loss": ' + "1" * 400 + "}\n")
    assert [line["epoch"] for line in run.metrics()] == [1]
    assert "damaged lines are left out" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "expected `int` >= 0 - at `$.progress.step`"),
        ({"step": 1.5}, "expected `int`, got `float`"),
        ({"step": None}, "expected `int`, got `null`"),
        ({"sums": "x"}, "expected `array`, got `str`"),
        ({"sums": [1.0]}, "1 sums, where 2 terms are logged"),
        ({"best_loss": [1]}, "expected `float | null`, got `array`"),
        ({"skipped": 13}, "13 of 12 steps skipped"),
    ],
)
def test_progress_that_cannot_be(run, change, message):
    path = run.path / "checkpoints" / "last" / "state.json"
    record, write = opened(path)
    write(record | {"progress": record["progress"] | change})
    with pytest.raises(RunError, match=f"last is damaged .*{re.escape(message)}"):
        resumed(run)


@pytest.mark.parametrize("change", [{"betas": [0.9]}, {"lr": "x"}, {"params": [0]}, {"betas": None}])
def test_settings_of_another_optimizer(run, change):
    path = run.path / "checkpoints" / "last" / "state.json"
    record, write = opened(path)
    record["optimizer"]["param_groups"][0] |= change
    write(record)
    with pytest.raises(RunError, match="last holds the state of another network .*of the optimizer is of another type"):
        resumed(run)


@pytest.mark.parametrize("name", ["../../config.json", "/etc/passwd", "more.safetensors"])
def test_a_state_names_no_other_files(run, name):
    path = run.path / "checkpoints" / "last" / "state.json"
    record, write = opened(path)
    record["digests"][name] = "0"
    write(record)
    with pytest.raises(RunError, match="last is damaged .*names other files"):
        resumed(run)


FILES = ["config.json", "config.yaml", "metrics.jsonl", "evaluation.json", "prior/prior.json", "model.safetensors"]


@pytest.mark.parametrize("name", [*FILES, "checkpoints/last/state.json", "checkpoints/last/model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file(run, name, kind):
    readers = READERS | {"metrics.jsonl": RunFolder.metrics, "model.safetensors": RunFolder.model}
    path = run.path / name
    path.unlink()
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(RunError):
        readers.get(name, resumed)(run)


class TestLinks:
    @pytest.fixture
    def mine(self, tmp_path):
        path = tmp_path / "mine.txt"
        path.write_text("mine\n" * 1000)
        yield path
        assert path.read_text() == "mine\n" * 1000

    @pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
    def test_metrics(self, run, mine, link):
        path = run.path / "metrics.jsonl"
        path.unlink()
        getattr(path, link)(mine)
        progress = Progress("ff", metrics_bytes=10)
        run.truncate_metrics(progress)
        run.append_metrics({"epoch": 2}, progress)
        assert not path.is_symlink()
        path.unlink()
        path.symlink_to(mine)
        with pytest.raises(RunError, match=r"metrics.jsonl could not be written"):
            run.append_metrics({"epoch": 3}, progress)

    def test_lock(self, run, mine):
        (run.path / ".lock").unlink()
        (run.path / ".lock").symlink_to(mine)
        with run.locked():
            pass

    def test_folders(self, run, mine, tmp_path):
        shutil.move(run.path / "checkpoints", tmp_path / "elsewhere")
        (run.path / "checkpoints").symlink_to(tmp_path / "elsewhere")
        before = sorted((tmp_path / "elsewhere").rglob("*"))
        network = model()
        save = partial(checkpoints.save, run, network, checkpoints.optimizer_state(stepped(network)), Progress("ff"))
        for write in (save, partial(checkpoints.save_best, run, network)):
            with pytest.raises(RunError, match="checkpoints is a link"):
                write()
        with run.locked():
            with pytest.raises(RunError, match="checkpoints is a link"):
                run.claim(CONFIG, {}, resume=True, overwrite=False)
            run.claim(CONFIG, {}, resume=False, overwrite=True)
        assert before == sorted((tmp_path / "elsewhere").rglob("*"))
        assert not (run.path / "checkpoints").exists()

    def test_prior(self, run, tmp_path):
        shutil.move(run.path / "prior", tmp_path / "elsewhere")
        (run.path / "prior").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="prior is a link"):
            fit_prior(run.path)


def test_a_folder_that_was_made_again(run):
    """The process that trained into the old one writes nothing more."""
    network, old = model(), RunFolder(run.path)
    with old.locked():
        shutil.rmtree(run.path)
        with run.locked():
            run.claim(CONFIG, {}, resume=False, overwrite=False)
            optimizer = checkpoints.optimizer_state(stepped(network))
            writes = [
                partial(checkpoints.save, old, network, optimizer, Progress("ff")),
                partial(checkpoints.save_best, old, network),
                partial(checkpoints.save_model, old, network),
                partial(old.append_metrics, {"epoch": 1}, Progress("ff")),
            ]
            for write in writes:
                with pytest.raises(RunError, match="was deleted or replaced while it was trained"):
                    write()
            assert sorted(p.name for p in run.path.iterdir()) == [".lock", "config.yaml"]


@pytest.mark.parametrize("kind", ["gmm", "kde", "flow"])
def test_settings_of_another_prior(run, kind):
    path = run.path / "prior/prior.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": kind}))
    with pytest.raises(RunError, match=f"the settings of a {kind} are others"):
        run.model().read_prior()


def test_the_digest_is_of_what_was_read(run):
    loaded = run.model()
    content = (run.path / "model.safetensors").read_bytes()
    model().save_pretrained(run.path)
    assert loaded.weights_digest == digest(content)
    assert loaded.read_prior() is not None  # of the weights that it has
    assert VAE.from_pretrained(run.path).weights_digest != digest(content)
