"""Messages and results on streams that are closed, full, of another encoding or without a reader; Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from evae import cli
from evae.console import Console, console, warn
from evae.errors import printable

EVAE = [sys.executable, "-m", "evae"]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")


def run(words, redirection="", **env):
    """A command in a shell, which closes or redirects streams."""
    line = f'"$@" {redirection}'
    return subprocess.run(
        ["sh", "-c", line, "sh", *EVAE, *words.split()], capture_output=True, env=os.environ | env, check=False
    )


class TestProcesses:
    def test_ascii(self):
        done = run("train --model WAE --help", PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        assert b"lambda > 0 of the MMD" in done.stdout

    @pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-"])
    def test_closed(self, redirection):
        done = run("train --nope", redirection)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr

    @needs_full
    def test_full(self):
        done = run("--help", ">/dev/full")
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert b"No space left on device" in done.stderr
        assert run("train --nope", "2>/dev/full").returncode == 2

    def test_no_reader(self):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*EVAE, "--help"], stdout=writing, stderr=subprocess.PIPE, check=False)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize("phase", ["_run", "_answer"])
    def test_interrupted_at_the_start(self, phase):
        program = (
            f"import os, sys; from evae import cli; cli.{phase} = lambda *_: os.kill(os.getpid(), {signal.SIGINT:d})\n"
            "sys.argv = ['evae', 'models']\nsys.exit(cli.main())"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (130, "evae: interrupted\n")

    def test_interrupted_twice(self):
        """The second Ctrl-C comes while the first one is answered, where Python shows exceptions and ignores them."""
        program = (
            "import os, signal, sys, time; from evae import cli\n"
            "def run(*_):\n"
            "    with cli._interrupts():\n"
            "        try: os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
            "        finally:\n"
            "            try: os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
            "            except KeyboardInterrupt: print('Exception ignored', file=sys.stderr)\n"
            "cli._run = run\nsys.argv = ['evae', 'models']\nsys.exit(cli.main())"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (130, "evae: interrupted\n")


def test_an_interrupted_command_ends_with_the_signals_code(monkeypatch, capsys):
    def interrupted(name, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["models"]) == 130
    assert capsys.readouterr().err == "evae: interrupted\n"


class _Broken:
    encoding = "utf-8"

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return False


@pytest.mark.parametrize("error", [OSError(28, "full"), BrokenPipeError(32, "gone"), ValueError("closed file")])
def test_messages_that_cannot_be_written_are_lost(monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", _Broken(error))
    warn("something")
    console.print("epoch 1/2")
    monkeypatch.setattr(sys, "stderr", None)
    warn("something")


def test_control_characters_are_shown_escaped(capsys):
    hostile = "a\x1b]0;title\x07b\u202e\udcff"
    warn(f"{hostile}\nsecond line")
    table = Table("name", hostile)
    table.add_row(hostile, "1")
    Console(width=200).print(table)
    captured = capsys.readouterr()
    assert r"warning: a\x1b]0;title\x07b\u202e\udcff" in captured.err
    assert "\nsecond line" in captured.err
    assert captured.out.count(r"a\x1b]0;title\x07b\u202e\udcff") == 2
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.parametrize("text", ["plain", "μ ± ² 漢字 é", "👩‍👩‍👧", "a b"])
def test_other_texts_stay(text):
    assert printable(text) == text


def test_results_without_a_reader_are_a_broken_pipe():
    with pytest.raises(BrokenPipeError):
        Console(file=_Broken(BrokenPipeError(32, "gone"))).print("x")
