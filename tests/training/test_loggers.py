"""Each logger gets every line; those whose packages are large are stood in for."""

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

from evae import train
from evae.errors import ConfigError
from evae.runs import RunFolder
from tests.training.small import SETTINGS


@pytest.fixture
def options(blobs, tmp_path):
    return {"data": blobs, "out": tmp_path / "run", **SETTINGS}


def expected(out):
    return [(line["step"], line["holdout_reconstruction"]) for line in RunFolder(out).metrics()]


def test_tensorboard(options):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(logger="tensorboard", **options)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [(e.step, pytest.approx(e.value, rel=1e-6)) for e in events.Scalars("holdout_reconstruction")]
    assert expected(out) == logged


class Recorder:
    """What a logger was told."""

    def __init__(self):
        self.lines, self.begun, self.ended = [], {}, 0

    def log(self, line, step):
        self.lines.append((step, line["holdout_reconstruction"]))

    def finish(self):
        self.ended += 1

    @contextmanager
    def begin(self, **settings):
        self.begun = settings
        yield self
        self.finish()


def stand_in(monkeypatch, name, **functions):
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_wandb(options, monkeypatch):
    seen = Recorder()
    stand_in(monkeypatch, "wandb", init=seen.begin)
    out = train(logger="wandb", **options)
    assert seen.lines == expected(out)
    assert seen.begun["config"]["batch_size"] == 8
    assert seen.begun["project"] == "evae"
    first = seen.begun["id"]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    train(logger="wandb", resume="auto", **options | {"epochs": 4})
    assert seen.begun["project"] == "mine"
    assert seen.begun["id"] == first  # goes on in the same run
    assert seen.ended == 2


def test_mlflow(options, monkeypatch):
    seen = Recorder()
    stand_in(
        monkeypatch,
        "mlflow",
        set_experiment=lambda name: None,
        start_run=seen.begin,
        log_dict=lambda config, name: None,
        log_metrics=seen.log,
    )
    assert expected(train(logger="mlflow", **options)) == seen.lines
    assert (seen.begun, seen.ended) == ({"run_name": "run"}, 1)


def test_trackio(options, monkeypatch):
    seen = Recorder()
    run_of = SimpleNamespace(finish=seen.finish)
    stand_in(monkeypatch, "trackio", init=lambda **settings: run_of, log=seen.log)
    assert expected(train(logger="trackio", **options)) == seen.lines
    assert seen.ended == 1


def test_a_logger_that_is_not_installed(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"the module wandb is missing; pip install 'evae\[wandb\]'"):
        train(logger="wandb", **options)
    with pytest.raises(ConfigError, match="logger must be one of tensorboard, wandb"):
        train(logger="stdout", **options)


def test_a_logger_that_does_not_start(options, monkeypatch):
    def refuse(**settings):
        raise RuntimeError("no such server\nand more")

    stand_in(monkeypatch, "wandb", init=refuse)
    with pytest.raises(ConfigError, match="--logger wandb failed to start: no such server$"):
        train(logger="wandb", **options)


@pytest.mark.parametrize("moment", ["init", "log", "finish"])
def test_a_logger_that_fails_does_not_stop_the_run(options, monkeypatch, capsys, moment):
    calls = []

    def fail(*arguments, **settings):
        calls.append(arguments)
        raise OSError("the network is gone")

    run = SimpleNamespace(finish=fail if moment == "finish" else lambda: None)
    log = fail if moment == "log" else lambda line, step: None
    stand_in(monkeypatch, "trackio", init=fail if moment == "init" else lambda **settings: run, log=log)
    out = train(logger="trackio", **options)
    assert len(RunFolder(out).metrics()) == 3
    assert len(calls) == 1  # then it is dropped
    assert capsys.readouterr().err.count("logging to trackio failed (the network is gone) and has ended") == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_on_a_full_disk(options, monkeypatch, capfd):
    """Its thread dies, without a traceback."""
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.record_writer import RecordWriter

    def fail(writer, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", fail)
    out = train(logger="tensorboard", log_every=1, **options)
    assert len(RunFolder(out).epochs()) == 3
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.count("logging to tensorboard failed") == 1


def test_a_link_in_the_place_of_tensorboards_folder(options, tmp_path, capsys):
    """Nothing is written outside of the run, and the run goes on."""
    pytest.importorskip("tensorboard")
    out = train(**options)
    (tmp_path / "elsewhere").mkdir()
    (out / "tensorboard").symlink_to(tmp_path / "elsewhere")
    train(logger="tensorboard", resume="auto", **options | {"epochs": options["epochs"] + 1})
    assert "tensorboard is a link) and has ended" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "elsewhere").iterdir())
