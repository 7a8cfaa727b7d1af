"""Completion in shells: every command, every option with its choices, and files elsewhere."""

import shutil
import subprocess

import pytest

from evae.cli import COMMANDS, main

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def scripts():
    from contextlib import redirect_stdout
    from io import StringIO

    texts = {}
    for shell in ("bash", "zsh", "fish"):
        with redirect_stdout(StringIO()) as said:
            assert main(["--print-completion", shell]) == 0
        texts[shell] = said.getvalue()
    return texts


def test_every_shell_knows_all(scripts):
    for script in scripts.values():
        for word in (*COMMANDS, "batch-size", "model.latent_dim", "GaussianVAE", "bf16-mixed", "older-than"):
            assert word in script


@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["re"], "report reconstruct"),
        (["train", "--batch"], "--batch-size"),
        (["train", "--model", "W"], "WAE"),
        (["train", "--model.lat"], "--model.latent_dim"),
        (["sample", "runs/a", "--prior", ""], "fitted model"),
        (["cache", "--p"], "--prune --print-config"),
        (["train", "--out", ""], ""),  # files, by bash itself
        (["report", "ru"], ""),
    ],
)
def test_bash(scripts, words, completed):
    given = " ".join(f"'{word}'" for word in ["evae", *words])
    asked = f'{scripts["bash"]}\nCOMP_WORDS=({given}) COMP_CWORD={len(words)}; _evae; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run([BASH, "-c", asked], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (completed, "")


@pytest.mark.parametrize(
    "words", [["--print-completion"], ["--print-completion", "csh"], ["--print-completion=a", "b"]], ids=len
)
def test_other_shells(words, capsys):
    assert main(words) == 2
    assert "bash, zsh" in capsys.readouterr().err


def test_help_is_a_command(capsys):
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: evae COMMAND")
    with pytest.raises(SystemExit, match="0"):
        main(["help", "cache"])
    assert capsys.readouterr().out.startswith("usage: evae cache")
