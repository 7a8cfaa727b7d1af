"""What kills a run or takes away its disk: it goes on as if nothing had happened."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from evae import evaluate, train
from evae.reporting import training_figures
from evae.runs import RunFolder
from evae.training.fabric import open_fabric
from evae.training.settings import Compute
from evae.training.writer import RunWriter
from tests.training.small import SETTINGS, same_run, weights

_LEFT = ".evae-0123abcd.tmp"

# Children that have imported torch already, and nothing of the tests' state.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["evae.training.command", "evae.reporting", "tests.training.small"])


def _train_until(cache, blobs, out, last_event, options):
    """Train, but for a SIGKILL at the so-manieth change to the run folder or step taken."""
    import torch

    from evae.training.trainer import Trainer

    os.environ["EVAE_CACHE"] = str(cache)
    torch.set_num_threads(1)
    events = 0

    def count():
        nonlocal events
        events += 1
        if events == last_event:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event, arguments):
        changes = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
        if event in changes and arguments and str(out) in str(arguments[0]):
            count()

    original = Trainer.step

    def step(*arguments):
        count()
        return original(*arguments)

    Trainer.step = step
    sys.addaudithook(audit)
    train(blobs, out, resume="auto", **SETTINGS | options)


def _child(*arguments):
    process = _CONTEXT.Process(target=_train_until, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("moments", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments(cache, blobs, tmp_path, moments):
    """Between and during steps and writes; then the same weights, optimizer, average, best and metrics, bit for bit."""
    options = {"epochs": 12, "log_every": 4, "ema": 0.9}
    whole = train(blobs, tmp_path / "whole", **SETTINGS | options)
    draw, kills, parts = random.Random(0), 0, tmp_path / "parts"
    while kills < moments:
        code = _child(cache, blobs, parts, draw.randint(1, 100), options)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code == 0:
            assert same_run(whole, parts)
            shutil.rmtree(parts)
    assert _child(cache, blobs, parts, -1, options) == 0
    assert same_run(whole, parts)
    assert not list((parts / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_sigkill_at_every_moment_of_writing(cache, blobs, tmp_path):
    """Each change to the folder between the last step of one epoch and the first of the next."""
    options = {"epochs": 2}
    whole = train(blobs, tmp_path / "whole", **SETTINGS | options)
    for moment in range(1, 200):
        parts = tmp_path / f"parts-{moment}"
        code = _child(cache, blobs, parts, moment, options)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert same_run(whole, train(blobs, parts, resume="auto", **SETTINGS | options))
        shutil.rmtree(parts)
    assert moment > 50


@pytest.mark.slow
def test_a_disk_that_is_full(cache, blobs, tmp_path):
    """A file system of 2 MB that another program fills: one sentence, code 2, and then on from what was saved."""
    mount = "mount -t tmpfs -o size=2m evae-test {0}"
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount.format(disk)], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let its users mount")
    program = (
        "from tests.training.small import SETTINGS; from evae import train; from pathlib import Path; import sys\n"
        "from evae.errors import RunError\n"
        "blobs, disk, kept = map(Path, sys.argv[1:])\n"
        "train(str(blobs), disk / 'run', **SETTINGS | {'epochs': 1})\n"
        "import os; space = os.statvfs(disk)\n"
        "(disk / 'other').write_bytes(bytes(space.f_bavail * space.f_bsize - 2**15))\n"
        "try:\n"
        "    train(str(blobs), disk / 'run', resume='auto', **SETTINGS)\n"
        "except RunError as error:\n"
        "    print(error)\n"
        "(disk / 'other').unlink()\n"
        "train(str(blobs), disk / 'run', resume='auto', **SETTINGS)\n"
        "import shutil; shutil.copytree(disk / 'run', kept)\n"
    )
    kept = tmp_path / "kept"
    script = f'{mount.format(disk)} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", program, blobs, str(disk), str(kept)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as here: sums of two threads differ in their last bit
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
    assert "could not be written (No space left on device); what was saved before it is kept" in done.stdout
    assert same_run(train(blobs, tmp_path / "whole", **SETTINGS), kept)


def test_a_final_model_that_was_not_written_is_written_by_resuming(blobs, tmp_path):
    """Killed after the last checkpoint and before the model beside it."""
    out = train(blobs, tmp_path / "run", **SETTINGS)
    before = {name: value.clone() for name, value in weights(out).items()}  # not the file itself
    shutil.copy(out / "checkpoints" / "previous" / "model.safetensors", out / "model.safetensors")
    train(blobs, out, resume="auto", **SETTINGS)
    assert all((before[name] == value).all() for name, value in weights(out).items())
    assert RunFolder(out).metrics()[-1]["epoch"] == 3


def test_what_a_killed_process_left_is_deleted_at_the_next_start(blobs, tmp_path):
    """Of train in all its folders, of evaluate in the run folder."""
    out = train(blobs, tmp_path / "run", **SETTINGS | {"epochs": 1})
    (out / "figures").mkdir(exist_ok=True)
    files = [out / f".evaluation.json{_LEFT}", out / "figures" / f".losses.png{_LEFT}"]
    folder = out / "checkpoints" / "last.0123abcd.tmp"
    folder.mkdir()
    for path in (*files, folder / "model.safetensors"):
        path.write_text("half")
    train(blobs, out, resume="auto", **SETTINGS | {"epochs": 1})
    assert not any(path.exists() for path in (*files, folder))
    files[0].write_text("half")
    evaluate(out, show=False, device="cpu")
    assert not files[0].exists()


def test_a_run_folder_that_was_made_again_gets_no_figures(blobs, tmp_path, monkeypatch, capsys):
    run, drawn = RunFolder(tmp_path / "run"), []
    monkeypatch.setattr(training_figures, "draw_training", lambda *_: drawn.append(1))
    with run.locked():
        trainer = SimpleNamespace(result=SimpleNamespace(eval=lambda: None))
        writer = RunWriter(open_fabric(Compute("cpu")), run, print)
        writer.draw(trainer, None, final=True)
        shutil.rmtree(run.path)
        run.path.mkdir()
        writer.draw(trainer, None, final=True)
    assert drawn == [1]
    assert "was deleted or replaced" in capsys.readouterr().err
