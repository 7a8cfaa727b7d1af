"""evae push and evae pull against a hub on the loopback address."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from evae import VAE, fit_prior, load_model, pull, push, sample
from evae.cli import main
from evae.errors import DataError, RunError
from evae.hub.public import check_no_paths, public_evaluation
from evae.metrics.factors import OF_FACTOR
from evae.runs import RunFolder
from evae.runs.evaluation import Number, Section, read_evaluation
from evae.runs.images import own_images
from tests.hub.server import TOKEN

NAME = "someone/blobs"


@pytest.fixture
def files(hub, run):
    """The files of a run as they were published."""
    push(run, NAME, licence="mit", device="cpu")
    return hub.repositories[NAME]


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run to change."""
    return shutil.copytree(run, tmp_path / "copy")


def all_bytes(hub):
    """What the hub received, as it was sent and decoded."""
    sent = b"\n".join(hub.received)
    encoded = (json.loads(line)["value"] for body in hub.received if b'"key"' in body for line in body.splitlines())
    return sent + b"\n".join(base64.b64decode(value["content"]) for value in encoded if "content" in value)


class TestPush:
    def test_files(self, files):
        assert files.keys() == {
            *(".gitattributes", "README.md", "config.json", "model.safetensors", "config.yaml", "metrics.jsonl"),
            *("evaluation.json", "prior/prior.json", "prior/prior.safetensors", "figures/samples.png"),
        }

    @pytest.mark.parametrize("options", [{}, {"show_data": True}])
    def test_no_byte_tells_of_files_paths_or_classes(self, hub, run, options):
        push(run, NAME, device="cpu", **options)
        data = RunFolder(run).config()["data"]
        content = all_bytes(hub)
        assert b"Latents and" not in content
        assert b"GaussianVAE" in content
        for secret in (str(Path.home()), data, str(run), str(Path.cwd()), "secret-data", "patient", "diagnosis"):
            assert secret.encode() not in content, secret

    def test_classes_are_named_where_they_are_asked_for(self, hub, run):
        push(run, NAME, labels=True, device="cpu")
        assert "classes: diagnosis-0, diagnosis-1" in hub.repositories[NAME]["README.md"].decode().replace("\\", "")

    def test_every_measurement_has_its_recipe(self, files, run):
        card = ModelCard(files["README.md"].decode())
        results = {result.metric_type: result for result in card.data.eval_results}
        evaluation = read_evaluation(RunFolder(run))
        assert results.keys() == {number.name for number in evaluation.numbers}
        for number in evaluation.numbers:
            assert results[number.name].metric_value == number.value
        recipe = results["mse"].metric_args
        assert {"latents": "sample", "repeats": 1, "seed": 0, "images": 10}.items() <= recipe.items()
        assert recipe["standard_error"] == evaluation.number("mse").error
        assert results["linear accuracy, latents"].metric_args["train_count"] == 30
        assert (card.data.license, card.data.library_name) == ("mit", "evae")

    def test_the_lines_of_the_card_load_it(self, files, run):
        code = re.search(r"```python\n(.*?)```", files["README.md"].decode(), re.DOTALL)[1]
        assert len([line for line in code.splitlines() if line]) == 3
        images = torch.rand(2, 1, 16, 16)
        space = {"images": images}
        exec(code, space)
        assert torch.equal(space["codes"], load_model(run).encode(images))

    def test_a_prior_of_codes_stays_unless_data_may_be_shown(self, hub, copy, capsys):
        fit_prior(copy, kind="kde", device="cpu")
        push(copy, NAME, device="cpu")
        assert not {name for name in hub.repositories[NAME] if name.startswith("prior/")}
        assert "the codes of all training images and is left out" in capsys.readouterr().err
        push(copy, NAME, show_data=True, overwrite=True, device="cpu")
        assert {"prior/prior.json", "figures/reconstructions.png"} <= hub.repositories[NAME].keys()

    def test_built_in_data_are_named(self, hub, copy):
        config = RunFolder(copy).config() | {"data": "cifar10"}
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
        push(copy, NAME, device="cpu")
        card = ModelCard(hub.repositories[NAME]["README.md"].decode())
        assert card.data.datasets == ["uoft-cs/cifar10"]
        assert card.data.eval_results[0].dataset_name == "cifar10"

    def test_a_model_is_replaced_only_on_demand(self, hub, files, run, copy):
        with pytest.raises(RunError, match=r"someone/blobs has a model already; --overwrite"):
            push(run, NAME, device="cpu")
        shutil.rmtree(copy / "prior")
        push(copy, NAME, overwrite=True, device="cpu")
        assert "prior/prior.json" not in hub.repositories[NAME]

    def test_private(self, hub, run):
        push(run, NAME, private=True, device="cpu")
        assert hub.private == {NAME}

    def test_into_a_folder(self, hub, run, tmp_path):
        push(run, NAME, out=tmp_path / "look", device="cpu")
        assert (tmp_path / "look" / "figures" / "samples.png").exists()
        assert not hub.received


def test_names_of_factors_stay(run):
    evaluation = read_evaluation(RunFolder(run))
    factors = Section("factors", "key", (Number("mig", 0.1), Number(f"{OF_FACTOR}diagnosis", 0.2)))
    kept = public_evaluation(replace(evaluation, sections=evaluation.sections | {"factors": factors}), "")
    assert [number.name for number in kept.sections["factors"].numbers] == ["mig"]


def test_a_path_among_hyperparameters_is_found(run):
    check_no_paths({"config.json": b"{}"}, RunFolder(run))
    for path in (Path.home() / "nets.py", run, RunFolder(run).config()["data"]):
        with pytest.raises(RunError, match=r"config.json would publish the path .*, so nothing was uploaded"):
            check_no_paths({"config.json": json.dumps({"weights": str(path)}).encode()}, RunFolder(run))


class TestPull:
    def test_a_run_comes_back(self, hub, files, run, tmp_path):
        out = pull(NAME, tmp_path / "pulled")
        there = load_model(out)
        assert {p.name for p in out.iterdir()} > {"config.yaml", "evaluation.json", "metrics.jsonl", "prior", "figures"}
        for name, value in load_model(run).state_dict().items():
            assert torch.equal(value, there.state_dict()[name])
        mine, theirs = (read_evaluation(RunFolder(folder)) for folder in (run, out))
        assert mine.numbers == theirs.numbers
        assert mine.weights == theirs.weights
        sample(out, count=4, device="cpu")
        with pytest.raises(DataError, match=r"pulled was trained on were not published"):
            own_images(RunFolder(out))

    def test_the_hub_id_loads_the_prior_too(self, hub, files):
        assert str(VAE.from_pretrained(NAME).read_prior()) == "gaussian"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model": "os.system"}, "only models of evae's own classes load from the hub"),
            ({"encoder": "os:system"}, "is code outside of evae"),
            ({"latent_dim": 4}, "holds weights of another network"),
        ],
    )
    def test_other_code_and_other_weights_are_refused(self, hub, files, tmp_path, change, message):
        files["config.json"] = json.dumps(json.loads(files["config.json"]) | change).encode()
        with pytest.raises(RunError, match=message):
            pull(NAME, tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()


@pytest.mark.parametrize(
    ("command", "environment", "message"),
    [
        ("push RUN blobs", {}, "'blobs' does not name a repository of the hub: give its owner, too, as owner/name"),
        ("push RUN a/b/c", {}, "'a/b/c' does not name a repository of the hub"),
        ("push RUN a/b --licence 'my own'", {}, "--licence my own is no identifier of the hub's list"),
        ("push RUN a/b", {"HF_TOKEN": ""}, "there is no token for the Hugging Face hub: `hf auth login` stores one"),
        (
            "push RUN a/b",
            {"HF_TOKEN": "hf_wrong"},
            "the hub refused what was asked of a/b: it does not accept the token",
        ),
        ("push RUN others/b", {}, "the token may not write there"),
        ("push EMPTY a/b", {}, "is not a run folder: it has no config.yaml"),
        ("push UNTRAINED a/b", {}, "holds no model: config.json is missing"),
        ("push RUN a/b --out RUN", {}, "exists; choose another"),
        ("pull blobs --out NEW", {}, "'blobs' does not name a repository"),
        ("pull a/nothing --out NEW", {}, "there is no model a/nothing on the hub (the token sees none)"),
        ("pull a/nothing --out NEW", {"HF_TOKEN": ""}, "it may be private, and there is no token"),
        ("pull a/there --out NEW", {}, "a/there on the hub holds no model of evae: config.json or model.safetensors"),
        ("pull a/there --out NEW --revision v9", {}, "a/there has no such --revision"),
        ("pull a/there --out RUN", {}, "exists; choose another"),
    ],
)
def test_bad_input_gets_a_sentence(hub, run, tmp_path, monkeypatch, capsys, command, environment, message):
    hub.repositories["a/there"] = {".gitattributes": b""}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folders = {"RUN": run, "EMPTY": tmp_path / "empty", "UNTRAINED": tmp_path / "untrained", "NEW": tmp_path / "new"}
    for name in ("EMPTY", "UNTRAINED"):
        folders[name].mkdir()
    shutil.copy(run / "config.yaml", folders["UNTRAINED"])
    words = [
        str(folders.get(word, word)).replace("my~own", "my own")
        for word in command.replace("'my own'", "my~own").split()
    ]
    assert main([*words, *(["--device", "cpu"] if words[0] == "push" else [])]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not hub.repositories.get("a/b", {}).get("config.json")


def test_without_a_network(run, tmp_path, hub, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), NAME, "--device", "cpu"]) == 2
    assert main(["pull", NAME, "--out", str(tmp_path / "new")]) == 2
    told = capsys.readouterr().err
    assert told.count("evae: the hub at http://127.0.0.1:9 cannot be reached") == 2


@pytest.mark.slow
def test_in_processes_of_their_own(hub, run, tmp_path):
    """By HF_ENDPOINT, as a user would set it."""
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    for command in (["push", run, NAME], ["pull", NAME, "--out", tmp_path / "back"], ["sample", tmp_path / "back"]):
        subprocess.run([sys.executable, "-m", "evae", *map(str, command)], env=env, check=True)
    assert (tmp_path / "back" / "figures" / "samples.png").exists()
