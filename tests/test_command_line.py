"""How options are read: from the command line, from files that may be hostile, and what is said of wrong ones."""

import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from evae.cli import COMMANDS, main
from evae.commandline.declarations import declared
from evae.commandline.options import Options
from evae.commandline.parameters import UsageError, did_you_mean
from evae.errors import EvaeError

ROOT = Path(__file__).parents[1]
NEEDED = ["--data", "x", "--out", "y"]


@pytest.fixture
def parse():
    """The arguments of evae train, as they are parsed."""
    options = Options(declared("evae.training", "train"))
    return lambda *words: options.parse(list(map(str, words)))


@pytest.fixture
def file(tmp_path):
    def write(text, name="c.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


TEXTS = ["#x.png", "~", "null", "1e3", "[a]", "{", "true", "a: b", "'q'", "-", "\udcff", "!!int a", " "]


class TestTexts:
    @pytest.mark.parametrize("text", TEXTS)
    def test_as_they_are_written(self, parse, text):
        values = parse("--data", text, f"--out={text}")
        assert (values["data"], values["out"]) == (text, Path(text))

    @pytest.mark.parametrize("text", ["#x.png", "~", "null", "1e3", "07", "2001-01-01", "on", "0x10"])
    def test_in_files(self, parse, file, text):
        values = parse("--config", file(f"data: '{text}'\nout: \"{text}\"\nmodel:\n  class_path: evae.EVAE\n"))
        assert (values["data"], values["out"]) == (text, Path(text))

    @pytest.mark.parametrize("words", [["--data="], ["--out", ""], ["--model.kernel", ""]])
    def test_empty(self, parse, words):
        with pytest.raises(UsageError, match=f"{words[0].strip('=')} is empty"):
            parse(*NEEDED, *words)

    def test_nul(self, parse, file):
        with pytest.raises(UsageError, match="--out holds the character NUL"):
            parse("--config", file('data: x\nout: "a\\0b"'))

    def test_numbers_and_flags(self, parse):
        flags = ("--overwrite", "--sync-batchnorm", "false")
        values = parse(*NEEDED, "--epochs", 3, "--ema", "null", "--learning_rate", "1e-2", *flags, "--model.n", "null")
        assert (values["epochs"], values["ema"], values["learning_rate"]) == (3, None, 0.01)
        assert (values["overwrite"], values["sync_batchnorm"]) == (True, False)


@pytest.mark.parametrize(
    ("words", "value", "spec"),
    [
        (["s.yaml"], None, "s.yaml"),
        (["--slurm", "s.yaml"], "", "s.yaml"),
        (["s.yaml", "--slurm", "--trust-spec"], "", "s.yaml"),
        (["s.yaml", "--slurm"], "", "s.yaml"),
        (["--slurm", "", "s.yaml"], "", "s.yaml"),
        (["--slurm", "--partition=a-b", "s.yaml"], "--partition=a-b", "s.yaml"),
        (["--slurm", "-p a --gpu-bind=x", "--out", "o", "s.yaml"], "-p a --gpu-bind=x", "s.yaml"),
        (["--slurm=--time=1", "s.yaml"], "--time=1", "s.yaml"),
        (["--", "--slurm"], None, "--slurm"),
    ],
)
def test_options_that_are_passed_on_to_another_program(words, value, spec):
    of = COMMANDS["benchmark"]
    options = Options(declared(of.module, "benchmark"), of.positional, passed_on=of.passed_on)
    values = options.parse(words)
    assert (values["slurm"], values["spec"]) == (value, Path(spec))


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("word " * 50_000, "names and values, NAME: VALUE, are needed"),
            ("word " * 300_000, "is larger than 1,000,000 bytes"),
            ("[" * 200_000, "is nested too deeply or too long"),
            ("{a: " * 200_000, "is nested too deeply or too long"),
            ("a: 1\n" * 10_000, "is nested too deeply or too long"),
            ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases, anchors and tags"),
            ("a: &a [*a]", "aliases, anchors and tags"),
            ("<<: *a", "aliases, anchors and tags"),
            ("seed: !!int abc", "aliases, anchors and tags"),
            ("seed: !!timestamp '2001-99-99'", "aliases, anchors and tags"),
            ("seed: !!python/object/apply:os.system [x]", "aliases, anchors and tags"),
            ("seed: 0x_", "--seed: not a number"),
            ("learning_rate: ._", "--learning-rate: not a number"),
            ("seed: 1" + "0" * 5000, "--seed: a number of 5001 digits is too large"),
            ("epochs: '" + "[" * 30_000 + "'", "--epochs: a value of 30,000 characters is too long"),
            ("epochs: 2001-99-99", "--epochs: expected int, not 2001-99-99"),
            ("epoch: 3", "unknown option epoch (did you mean epochs?)"),
            ("epochs: 3\nepochs: 4", "line 2: epochs is given twice"),
            ("[a]: 3", "a name is needed"),
            ("epochs: [3", "is not a YAML file of options (line 1"),
            ("- 1", "names and values, NAME: VALUE, are needed"),
            (b"\xff\xfe\x00", "is not UTF-8 text"),
            (b"\x00", "is not a YAML file of options"),
            ("model: {latent_dim: 3}", "model takes a class_path and its init_args"),
            ("model: [EVAE]", "names and values, NAME: VALUE, are needed"),
            ("model: Evae", "unknown Evae (did you mean EVAE?)"),
            ("model: {class_path: EVAE, init_args: {latent_dm: 3}}", "EVAE has no hyperparameter latent_dm (did you"),
            ("model: {class_path: EVAE, init_args: 3}", "names and values, NAME: VALUE, are needed"),
            ("model: {class_path: EVAE, init_args: {latent_dim: x}}", "--model.latent_dim: expected int, not x"),
            ("run_folder: x", "unknown option run_folder"),
        ],
        ids=lambda text: text[:20] if isinstance(text, str) else None,
    )
    def test_wrong_ones(self, parse, file, text, sentence):
        start = time.process_time()
        with pytest.raises(UsageError) as caught:
            parse("--config", file(text), *NEEDED)
        assert sentence in str(caught.value)
        assert len(str(caught.value)) < 500
        assert time.process_time() - start < 5  # quadratic time takes minutes

    def test_the_line_replaces_files_and_later_files_earlier_ones(self, parse, file):
        files = file("epochs: 1\nseed: 1\nbatch-size: 1"), file("epochs: 2\nseed: 2", "d.yaml")
        values = parse("--epochs", 3, "--config", files[0], f"--config={files[1]}", *NEEDED)
        assert (values["epochs"], values["seed"], values["batch_size"]) == (3, 2, 1)

    def test_hyperparameters_in_their_order_and_without_those_of_another_family(self, parse, file, capsys):
        path = file("model: {class_path: evae.BetaVAE, init_args: {encoder: null, beta: 2, latent_dim: 5}}")
        model = parse("--config", path, *NEEDED)["model"]
        assert (model.func.__name__, model.keywords) == ("BetaVAE", {"encoder": None, "beta": 2.0, "latent_dim": 5})
        assert list(model.keywords) == ["encoder", "beta", "latent_dim"]
        model = parse("--config", path, "--model", "GaussianVAE", *NEEDED)["model"]
        assert (model.func.__name__, model.keywords) == ("GaussianVAE", {"latent_dim": 64})
        said = capsys.readouterr().err
        assert "the hyperparameters of evae.BetaVAE are not used with --model evae.GaussianVAE" in said

    def test_print_config_gives_such_a_file(self, parse, file, capsys):
        words = [*NEEDED, "--epochs", 3, "--model", "WAE", "--model.scales", "[1, 2]", "--warmup", "0.5"]
        with pytest.raises(SystemExit) as stop:
            parse(*words, "--print-config")
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert yaml.safe_load(text)["model"]["class_path"] == "evae.WAE"
        again, first = parse("--config", file(text)), parse(*words)
        assert again.pop("model").keywords == first.pop("model").keywords
        assert again == first


class TestTrust:
    @pytest.fixture
    def own(self, tmp_path, monkeypatch):
        """A module that leaves a file behind when it is imported."""
        text = (
            f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
            "from evae import VAE\n\nclass Own(VAE):\n    def __init__(self, image_shape): pass\n\n"
            "def features(images): return images.flatten(1)\n"
        )
        (tmp_path / "ownmodule.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path / "ran"
        sys.modules.pop("ownmodule", None)

    @pytest.mark.parametrize(
        "text",
        [
            "model: ownmodule.Own",
            "model: ownmodule:Own",
            "model: {class_path: ownmodule.Own}",
            "model: {class_path: EVAE, init_args: {encoder: 'ownmodule:body'}}",
            "model: {class_path: EVAE, init_args: {decoder: {class_path: ownmodule.Own}}}",
        ],
    )
    def test_files_do_not_run_code(self, parse, file, own, text):
        with pytest.raises(UsageError, match="code that is not evae's and would be run; add --trust-config"):
            parse("--config", file(text), *NEEDED)
        assert not own.exists()

    def test_neither_for_features(self, file, own):
        options = Options(declared("evae.metrics", "evaluate"), ("run_folder",))
        path = file("features: ownmodule:features")
        with pytest.raises(UsageError, match="names ownmodule:features, code that is not evae's"):
            options.parse(["run", "--config", str(path)])
        assert options.parse(["run", "--config", str(path), "--trust-config"])["features"] == "ownmodule:features"
        assert options.parse(["run", "--config", str(file("features: inception"))])["features"] == "inception"

    def test_trusted_files_and_the_line_do(self, parse, file, own):
        path = file("model: {class_path: ownmodule.Own}")
        assert parse("--config", path, "--trust-config", *NEEDED)["model"].func.__name__ == "Own"
        assert own.exists()
        assert parse("--model", "ownmodule.Own", *NEEDED)["model"].keywords == {}


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("--latent_dim", ["--model.latent_dim", "--data"], " (did you mean --model.latent_dim?)"),
        ("evae", ["EVAE", "WAE"], " (did you mean EVAE?)"),
        ("batch_sise", ["--batch-size"], " (did you mean --batch-size?)"),
        ("quite-other", ["--batch-size"], ""),
        ("", ["a"], ""),
    ],
)
def test_did_you_mean(name, known, hint):
    assert did_you_mean(name, known) == hint


class TestCommands:
    @pytest.mark.parametrize("name", ["fit-prior", "fit_prior"])
    def test_dashes_and_underscores(self, name, capsys):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "usage: evae fit-prior RUN_FOLDER [options]" in capsys.readouterr().out

    def test_commands_without_options_offer_none(self, capsys):
        with pytest.raises(SystemExit):
            main(["models", "--help"])
        text = capsys.readouterr().out
        assert text.startswith("usage: evae models\n")
        assert "config" not in text
        assert main(["models", "--config", "x"]) == 2

    @pytest.mark.parametrize("command", [["report", "run"], ["encode", "run"]])
    @pytest.mark.parametrize("out", [".", "/", "..", "./"])
    def test_folders_where_a_file_is_written(self, command, out, capsys):
        assert main([*command, "--out", out]) == 2
        assert "is a folder; name the file to write" in capsys.readouterr().err

    def test_control_characters_and_endless_words(self, capsys):
        assert main(["a\x1b[31mb\rc\nd\udcff\u202e"]) == 2
        assert r"unknown command 'a\x1b[31mb\rc\nd\udcff\u202e'" in capsys.readouterr().err
        assert main(["x" * 10_000]) == 2
        assert len(capsys.readouterr().err) < 600

    def test_every_command_says_what_it_does(self):
        for command, of in COMMANDS.items():
            assert of.summary
            assert Options(declared(of.module, command.replace("-", "_")), of.positional).name == f"evae {command}"


def test_a_model_that_cannot_be_imported_ends_in_a_sentence(parse, tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EvaeError, match="'leaves' cannot be imported"):
        parse("--model", "leaves.Model", *NEEDED)


def test_the_source_distribution_names_files_that_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"Makefile", "constraints.txt", "conftest.py", "CONTRIBUTING.md", "benchmarks"} <= set(included)
    assert [name for name in included if not (ROOT / name).exists()] == []
    versions = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)}
    assert versions <= set(project["project"]["classifiers"])
