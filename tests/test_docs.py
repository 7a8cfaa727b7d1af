"""README and docs: Python blocks run, commands parse, links and paths exist."""

import ast
import re
import shlex
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

from evae import train
from evae.benchmark.cells import cells_of
from evae.benchmark.spec import read_spec
from evae.cli import COMMANDS, main
from evae.commandline.declarations import declared
from evae.commandline.help import dashed
from evae.commandline.options import Options
from evae.models import FAMILIES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
PAPER_TO_CODE = TEXTS["docs/paper-to-code.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def blocks(text: str, language: str) -> list[str]:
    return [content for of, content in BLOCK.findall(text) if of == language]


def commands(text: str) -> list[list[str]]:
    """The arguments of every evae command in blocks of the shell."""
    lines = "\n".join(blocks(text, "")).replace("\\\n", " ")
    found = re.findall(r"(?:^|\s)(?:evae|-m evae\.cli) (.*)", lines)
    return [shlex.split(line, comments=True) for line in found]


@cache
def options(command: str) -> Options:
    of = COMMANDS[command]
    return Options(declared(of.module, command.replace("-", "_")), of.positional, of.first, of.hidden, of.passed_on)


def small(text: str) -> str:
    """With few images and epochs."""
    return re.sub(r"epochs=\d+", "epochs=1", text.replace('"mnist5k"', '"digits.npz"'))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images, runs/evae and runs/elbo, trained on so few that it takes a second."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (120, 32, 32), dtype=np.uint8)
    np.savez(folder / "digits.npz", x_train=images[:112], x_test=images[112:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(folder / "cache"))
        train(str(folder / "digits.npz"), folder / "runs" / "evae", epochs=1, accelerator="cpu")
    return folder


@pytest.fixture
def folder(trained, monkeypatch):
    """That folder as the current one, its modules importable."""
    monkeypatch.chdir(trained)
    monkeypatch.syspath_prepend(trained)
    before = set(sys.modules)
    yield trained
    for name in {path.stem for path in trained.glob("*.py")} & set(sys.modules) - before:
        del sys.modules[name]


def write_modules(text: str, folder: Path) -> list[str]:
    """Write the Python blocks that begin with a file's name to that file, and return these names."""
    named = {m[1]: block for block in blocks(text, "python") if (m := re.match(r"# (\w+)\.py\n", block))}
    for name, block in named.items():
        (folder / f"{name}.py").write_text(block)
    return list(named)


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if "```python" in text])
def test_python_blocks_run(page, folder):
    """In one namespace for each page."""
    write_modules(TEXTS[page], folder)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(TEXTS[page], "python"):
        exec(compile(small(block), page, "exec"), namespace)


@pytest.mark.parametrize("page", ["README.md", "docs/models.md"])
def test_own_models_train_and_load(page, folder):
    """The commands with modules that the page defines."""
    modules = write_modules(TEXTS[page], folder)
    own = [
        c for c in commands(TEXTS[page]) if any(word.startswith(f"{m}{x}") for m in modules for x in ".:" for word in c)
    ]
    assert own
    for command in own:
        run = command[command.index("--out") + 1]
        words = ["digits.npz" if word == "mnist5k" else word for word in command]
        assert main([*words, "--epochs", "1", "--overwrite", "--accelerator", "cpu"]) == 0
        assert main(["evaluate", run, "--device", "cpu"]) == 0


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if commands(text)])
def test_commands_parse(page, folder):
    write_modules(TEXTS[page], folder)
    for name, *arguments in commands(TEXTS[page]):
        if name != "--print-completion":
            options(name).parse(arguments)


@cache
def known_options() -> set[str]:
    """Of all commands and models."""
    known = {"--help", "--version", "--print-completion"}
    for command in COMMANDS:
        known |= {dashed(flag) for action in options(command).parser()._actions for flag in action.option_strings}
    for family in FAMILIES.values():
        known |= {f"--model.{name}" for name in family((1, 16, 16), 2).hyperparameters}
    return known


@pytest.mark.parametrize("page", TEXTS)
def test_options_in_the_text_exist(page):
    for code in CODE.findall(BLOCK.sub("", TEXTS[page])):
        if code.startswith("evae ") and (name := code.split()[1]).islower():
            assert name in (*COMMANDS, "help", "--print-completion"), code
        if re.match(r"evae |--|\w+ --model", code):
            unquoted = re.sub('"[^"]*"', "", code)  # options of other programs are values
            assert set(re.findall(r"--[\w.-]+", unquoted)) <= known_options(), code


@pytest.mark.parametrize(("page", "text"), TEXTS.items())
def test_yaml_blocks_are_configurations(page, text, folder):
    write_modules(text, folder)
    for number, block in enumerate(blocks(text, "yaml")):
        path = folder / f"{number}.yaml"
        path.write_text(block)
        if "train" in yaml.safe_load(block):
            assert cells_of(read_spec(path))
            continue
        assert (
            options("train").parse(["--config", str(path), "--trust-config"])["data"] == yaml.safe_load(block)["data"]
        )


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", TEXTS[page])):
        if re.match(r"\w+://", target):
            continue
        file, _, heading = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        assert not heading or heading in map(anchor, re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)), target


@pytest.mark.parametrize("page", TEXTS)
def test_lines_are_short_and_paths_exist(page):
    roots = (ROOT, ROOT / "src" / "evae", ROOT / "tests")
    for line in BLOCK.sub("", TEXTS[page]).splitlines():
        assert line.startswith(("|", "    ")) or len(line) <= 120, line
    for path in re.findall(r"`(?:python )?([\w/.-]+/[\w.-]+\.(?:py|md|yaml))", TEXTS[page]):
        if not path.startswith("runs/"):
            assert any((root / path).exists() for root in roots), path


def names(path: Path) -> set[str]:
    """Functions and classes that a file defines."""
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def test_paper_to_code_names_code_and_tests():
    for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", PAPER_TO_CODE):
        assert name in names(ROOT / "tests" / path), path
    for path, listed in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", PAPER_TO_CODE):
        assert set(CODE.findall(listed)) <= names(ROOT / "src" / "evae" / path), path


def test_the_api_pages_name_modules():
    for module in re.findall(r"^::: (.*)$", "\n".join(TEXTS.values()), re.MULTILINE):
        assert import_module(module).__doc__
