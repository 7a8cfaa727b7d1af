"""What the command line knows without importing torch is what the functions and classes are."""

import re
import subprocess
import sys
from importlib import import_module
from inspect import signature

import pytest

from evae.cli import COMMANDS
from evae.commandline.declarations import declared
from evae.commandline.parameters import parameters
from evae.models import FAMILIES

# Every help, and what is found wrong with options, in one process.
PROGRAM = """
import contextlib, io, sys
from evae.cli import COMMANDS, main

with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
    for command in COMMANDS:
        with contextlib.suppress(SystemExit):
            main([command, "--help"])
        assert main([command, "--nope"]) == 2
    for options in ("--model WAE --model.scales x", "--epochs 0", "--latent_dim 8", "--model wae", "--out="):
        assert main(["train", "--data", "x", "--out", "y", *options.split()]) == 2
assert said.getvalue().count("usage: evae ") == len(COMMANDS), said.getvalue()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
HEAVY = {"torch", "numpy", "scipy", "sklearn", "PIL", "pyarrow", "datasets", "matplotlib", "lightning_fabric"}


def test_help_and_wrong_options_import_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "jsonargparse" in imported
    assert imported & HEAVY == set()


LIBRARIES = re.compile(r"numpy\.|evae\.commandline\.declarations\.")


def described(of):
    """Its parameters as text, types up to the first of a library, which is not imported for a declaration."""
    return [(p.name, LIBRARIES.split(repr(p.hint))[0], repr(p.default), p.help) for p in parameters(of)]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_declared_as_they_are(name):
    function = name.replace("-", "_")
    real = getattr(import_module(COMMANDS[name].module), function)
    outline = declared(COMMANDS[name].module, function)
    assert outline.__doc__ == real.__doc__
    assert described(outline) == described(real)
    for parameter in signature(outline).parameters.values():
        if hasattr(parameter.annotation, "__dataclass_fields__"):
            assert described(parameter.annotation) == described(signature(real).parameters[parameter.name].annotation)


def test_families_are_declared_as_they_are():
    outlines = declared("evae.models", "FAMILIES")
    assert list(outlines) == list(FAMILIES)
    for name, family in FAMILIES.items():
        assert described(outlines[name]) == described(family)


def test_only_names_that_there_are():
    with pytest.raises(AttributeError, match=r"module 'evae\.training' has no attribute 'nope'"):
        declared("evae.training", "nope")
