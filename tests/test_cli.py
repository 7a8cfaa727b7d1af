"""The commands as a user types them: what they write, and one sentence and exit code 2 for bad input."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from evae import VAE
from evae.cli import main
from evae.metrics.image import mean_squared_error, sharpness


def evae(*arguments):
    return main([str(a) for a in arguments])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, blobs):
    """Two epochs of an EVAE on blobs: nothing to admire, but a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("runs") / "a"
        options = "--model EVAE --model.latent_dim 3 --epochs 2 --batch-size 16 --image-size 16 --accelerator cpu"
        assert evae("train", "--data", blobs, "--out", out, *options.split()) == 0
    return out


@pytest.fixture
def fails(capsys):
    def check(*arguments):
        """The sentence of a command that has to fail."""
        capsys.readouterr()
        assert evae(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if line.startswith("evae: ")]
        assert len(lines) == 1
        assert "Traceback" not in captured.err
        return lines[0]

    return check


class TestTrain:
    def test_config_reproduces_the_run(self, trained, tmp_path):
        assert evae("train", "--config", trained / "config.yaml", "--out", tmp_path / "b") == 0
        for name in ("model.safetensors", "config.json"):
            assert (tmp_path / "b" / name).read_bytes() == (trained / name).read_bytes()

    def test_config_has_every_setting(self, trained):
        config = yaml.safe_load((trained / "config.yaml").read_text())
        assert config["model"]["class_path"] == "evae.EVAE"
        assert config["model"]["init_args"]["latent_dim"] == 3
        assert config["model"]["init_args"]["n"] is None  # follows --batch-size when the command is repeated
        assert VAE.from_pretrained(trained).hyperparameters["n"] == 16
        assert config["image_size"] == 16
        assert config["learning_rate"] == 3e-4

    def test_options_override_the_config(self, trained, tmp_path):
        options = ("--out", tmp_path / "b", "--epochs", 1, "--model.latent_dim", 4)
        assert evae("train", "--config", trained / "config.yaml", *options) == 0
        assert VAE.from_pretrained(tmp_path / "b").hyperparameters["latent_dim"] == 4

    def test_resume_and_overwrite(self, trained, tmp_path):
        run = shutil.copytree(trained, tmp_path / "a")
        options = ("--config", run / "config.yaml", "--out", run)
        assert evae("train", *options, "--resume", "auto", "--epochs", 3) == 0
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
        assert evae("train", *options, "--overwrite", "--epochs", 2) == 0
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ("--model Nope", "--model: unknown Nope; known are EVAE, BoundedVAE, GaussianVAE, BetaVAE, IWAE"),
            ("--model evae", "--model: unknown evae (did you mean EVAE?); known are EVAE"),
            ("--model nowhere.Nope", "--model nowhere.Nope: 'nowhere' cannot be imported"),
            ("--model evae.load_model", "--model evae.load_model is not a class of models"),
            ("--model evae.models.vae:Terms", "--model evae.models.vae:Terms is not a class of models"),
            ("--model", "--model needs a value"),
            ("--model.kernel nope", "kernel must be one of uniform, epanechnikov, biweight"),
            ("--model.latent_dim 0", "latent_dim must be at least 1, not 0"),
            ("--model.latent_dim 1.5", "--model.latent_dim: expected int, not 1.5"),
            ("--model.support_length nan", "--model.support_length: expected float, one of 'learned', not nan"),
            ("--model.support_length 0", "support_length must be positive"),
            ("--model.support_length -1", "support_length must be positive"),
            ("--model.bandwidth 0", "bandwidth must be positive"),
            ("--model.bandwidth nan", "--model.bandwidth: "),
            ("--model.nope 1", "EVAE has no hyperparameter nope"),
            ("--model.latent-dim 1 --model.kernal x", "EVAE has no hyperparameter kernal (did you mean kernel?)"),
            ("--model.beta 1", "EVAE has no hyperparameter beta (that is one of BetaVAE)"),
            ("--latent_dim 8", "unknown option --latent-dim (did you mean --model.latent_dim?)"),
            ("--learning_rat 1", "unknown option --learning-rat (did you mean --learning-rate?)"),
            ("--model BetaVAE --model.beta 0", "beta must be positive"),
            ("--model IWAE --model.samples 0", "samples must be at least 1, not 0"),
            ("--model IWAE --model.gradient nope", "--model.gradient: expected one of 'standard'"),
            ("--model VampVAE", "the model initialises from 500 training images, but there are only 48"),
            ("--model HVAE --model.latent_dim 1", "latent_dim must be at least 2"),
            ("--nope 1", "--nope"),
            ("--epochs many", "--epochs: expected int, not many"),
            (f"--epochs {'9' * 400}", "--epochs: a number of 400 digits is too large"),
            (f"--epochs -{'9' * 5000}", "--epochs: a number of 5000 digits is too large"),
            (f"--model.bandwidth={'9' * 400}", "--model.bandwidth: a number of 400 digits is too large"),
            ("--out=", "--out is empty"),
            ("--data=", "--data is empty"),
            ("--epoch 3", "--epoch"),
            ("--batch-size 49", "batch_size 49 is larger than the 48 training images"),
            ("--image-size 20", "square images of 16, 32, 64, 128, 256 pixels"),
            ("--image-size 0", "from 1 to 4096"),
            ("--overwrite maybe", "maybe"),
            ("--crop 17", "is 16x16, smaller than the crop of 17 pixels; lower --crop"),
            ("--resume maybe", "--resume: expected one of 'auto', not maybe"),
            ("--config nowhere.yaml", "--config nowhere.yaml cannot be read"),
            ("--config .", "--config . is not a file"),
            ("--config /dev/zero", "--config /dev/zero is not a file"),
            ("--seed -3", "seed must be at least 0, not -3"),
        ],
    )
    def test_bad_options(self, blobs, tmp_path, fails, options, sentence):
        message = fails(
            "train", "--data", blobs, "--out", tmp_path / "run", "--image-size=16", "--batch-size=8", *options.split()
        )
        assert sentence in message
        assert not (tmp_path / "run").exists()

    def test_bad_data(self, tmp_path, fails):
        def sentence(data):
            return fails("train", "--data", data, "--out", tmp_path / "run")

        assert "is no file or folder that exists, nor a built-in name" in sentence(tmp_path / "missing")
        (tmp_path / "empty").mkdir()
        assert "is an empty folder" in sentence(tmp_path / "empty")
        (tmp_path / "text").mkdir()
        (tmp_path / "text" / "notes.txt").write_text("hello")
        assert "no images" in sentence(tmp_path / "text")
        pd.DataFrame({"a": ["x"]}).to_parquet(tmp_path / "t.parquet")
        assert "no column of encoded images" in sentence(tmp_path / "t.parquet")

    def test_bad_image_among_good_ones(self, tmp_path, fails):
        folder = tmp_path / "images"
        folder.mkdir()
        for i in range(20):
            Image.fromarray(np.full((16, 16), i, np.uint8)).save(folder / f"{i}.png")
        (folder / "bad.png").write_text("no image")
        options = ("train", "--data", folder, "--out", tmp_path / "run", "--image-size", 16, "--batch-size", 4)
        assert "1 bad image: bad.png is not an image" in fails(*options, "--on-bad-image", "error")
        assert evae(*options, "--epochs", 1, "--model.latent_dim", 2, "--accelerator", "cpu") == 0

    def test_existing_run_and_other_settings(self, trained, fails):
        config = ("train", "--config", trained / "config.yaml")
        assert "exists: --resume auto continues it" in fails(*config)
        assert "seed: 0 in the run, 1 now" in fails(*config, "--resume", "auto", "--seed", 1)

    def test_missing_options(self, fails):
        assert "data" in fails("train", "--out", "x")


class TestEvaluate:
    def test_numbers_are_those_of_the_model(self, trained, blobs, capsys):
        assert evae("evaluate", trained, "--latents", "mean") == 0
        result = json.loads((trained / "evaluation.json").read_text())
        about = {"version", "model", "data", "split", "count", "images", "transform", "latents", "seed", "repeats"}
        assert result.keys() == about | {"metrics", "standard_errors", "sections", "weights", "per_image"}
        assert result["sections"].keys() == {"reconstructions", "latents"}
        assert (result["model"], result["data"], result["split"]) == ("EVAE", blobs, "holdout")
        assert (result["count"], result["latents"]) == (16, "mean")
        real = torch.from_numpy(np.load(blobs)["x_test"][:, None] / 255).float()
        rebuilt = VAE.from_pretrained(trained).reconstruct(real)
        metrics = result["metrics"]
        assert metrics["mse"] == pytest.approx(mean_squared_error(rebuilt, real).mean().item(), rel=1e-6)
        assert metrics["sharpness"] == pytest.approx(sharpness(rebuilt).mean().item(), rel=1e-6)
        assert metrics["sharpness_real"] == pytest.approx(sharpness(real).mean().item(), rel=1e-6)
        assert metrics["bce"] == pytest.approx(metrics["reconstruction"], rel=1e-5)
        assert {"psnr", "penalty"} <= metrics.keys()
        table = capsys.readouterr().out
        assert "16 hold-out images" in table
        assert f"{metrics['bce']:.4g}" in table

    def test_samples_by_default_and_the_seed_decides(self, trained):
        def metrics(*options):
            assert evae("evaluate", trained, *options) == 0
            result = json.loads((trained / "evaluation.json").read_text())
            assert result["latents"] == "sample"
            return result["metrics"]

        assert metrics() == metrics()
        assert metrics()["mse"] != metrics("--seed", 1)["mse"]

    def test_an_evaluation_of_other_weights_is_named(self, trained, tmp_path, capsys):
        run = shutil.copytree(trained, tmp_path / "a")
        assert evae("evaluate", run) == 0
        assert evae("report", run) == 0
        assert "was trained further" not in capsys.readouterr().err
        assert evae("train", "--config", run / "config.yaml", "--out", run, "--resume", "auto", "--epochs", 3) == 0
        assert evae("report", run) == 0
        assert "was trained further after it was evaluated; evae evaluate" in capsys.readouterr().err.replace("\n", " ")

    def test_other_images(self, trained, tmp_path):
        np.save(tmp_path / "other.npy", np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8))
        assert evae("evaluate", trained, "--data", tmp_path / "other.npy", "--image-size", 16) == 0

    def test_other_images_are_resized_and_converted(self, trained, tmp_path, fails):
        rng = np.random.default_rng(0)
        np.save(tmp_path / "large.npy", rng.integers(0, 256, (40, 50, 50), np.uint8))
        np.save(tmp_path / "colour.npy", rng.integers(0, 256, (40, 16, 16, 3), np.uint8))
        for name in ("large", "colour"):
            assert evae("evaluate", trained, "--data", tmp_path / f"{name}.npy") == 0
        message = fails("evaluate", trained, "--data", tmp_path / "large.npy", "--image-size", 64)
        assert "large.npy is resized to 64x64, the model expects 16x16; use --image-size 16" in message

    def test_no_run(self, trained, tmp_path, fails):
        assert "is not a run folder: it does not exist" in fails("evaluate", tmp_path / "nowhere")
        assert "holds no model" in fails("evaluate", tmp_path)
        run = shutil.copytree(trained, tmp_path / "a")
        weights = (run / "model.safetensors").read_bytes()
        (run / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        assert "model.safetensors is damaged" in fails("evaluate", run)
        (run / "model.safetensors").write_bytes(weights)
        (run / "config.yaml").unlink()
        assert "has no config.yaml" in fails("evaluate", run)

    def test_device_that_is_not_there(self, trained, fails):
        for name in ("nope", "hpu", "meta"):
            assert f"--device {name} cannot be used" in fails("evaluate", trained, "--device", name)


class TestSample:
    def test_grid_files_and_array(self, trained, tmp_path):
        assert evae("sample", trained, "--count", 9) == 0
        assert pixels(trained / "figures" / "samples.png").shape == (15 * 56, 15 * 56)  # enlarged
        assert evae("sample", trained, "--count", 5, "--out", tmp_path / "each") == 0
        assert len(list((tmp_path / "each").glob("*.png"))) == 5
        assert evae("sample", trained, "--count", 5, "--out", tmp_path / "all.npy") == 0
        array = np.load(tmp_path / "all.npy")
        assert array.shape == (5, 16, 16, 1)
        assert (pixels(tmp_path / "each" / "000003.png") == array[3, :, :, 0]).all()

    def test_seed(self, trained, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            assert evae("sample", trained, "--count", 4, "--seed", seed, "--out", tmp_path / f"{name}.npy") == 0
        a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
        assert (a == b).all()
        assert (a != c).any()

    def test_count(self, trained, fails):
        assert "count must be at least 1" in fails("sample", trained, "--count", 0)


class TestReconstruct:
    def test_files_of_any_kind(self, trained, tmp_path):
        (tmp_path / "in").mkdir()
        for folder in (tmp_path, tmp_path / "in"):
            Image.new("RGB", (40, 30), (200, 10, 10)).save(folder / "photo.png")
        Image.new("L", (16, 16), 7).save(tmp_path / "in" / "grey.jpg")
        out = tmp_path / "out"
        assert evae("reconstruct", trained, tmp_path / "photo.png", tmp_path / "in", "--out", out) == 0
        assert {p.name for p in out.iterdir()} == {"photo.png", "photo-2.png", "grey.png", "comparison.png"}
        assert pixels(out / "photo.png").shape == (16, 16)

    def test_bad_files(self, trained, tmp_path, fails):
        out = ("--out", tmp_path / "out")
        assert "cannot be read (No such file" in fails("reconstruct", trained, tmp_path / "nowhere.png", *out)
        (tmp_path / "text.png").write_text("no image")
        assert "text.png is not an image" in fails("reconstruct", trained, tmp_path / "text.png", *out)
        (tmp_path / "empty").mkdir()
        assert "holds no images" in fails("reconstruct", trained, tmp_path / "empty", *out)

    def test_nested_folders(self, trained, tmp_path):
        for name in ("a/x.png", "b/c/x.png"):
            (tmp_path / "in" / name).parent.mkdir(parents=True)
            Image.new("L", (16, 16), 7).save(tmp_path / "in" / name)
        assert evae("reconstruct", trained, tmp_path / "in", "--out", tmp_path / "out") == 0
        assert {p.name for p in (tmp_path / "out").iterdir()} == {"x.png", "x-2.png", "comparison.png"}


class TestEncode:
    def test_arrays_by_index(self, trained, blobs, tmp_path):
        options = ("--out", tmp_path / "codes.parquet", "--likelihood-samples", 0)
        assert evae("encode", trained, *options) == 0
        codes = pd.read_parquet(tmp_path / "codes.parquet")
        numbers = ["error", "error_percentile", "rate"]
        assert list(codes.columns) == ["index", "split", "label", *numbers, "vector"]
        assert codes["index"].tolist() == list(range(64))
        assert codes["split"].value_counts().to_dict() == {"train": 48, "holdout": 16}
        arrays = np.load(blobs)
        assert codes["label"].tolist() == [*arrays["y_train"], *arrays["y_test"]]
        images = torch.from_numpy(arrays["x_test"][:, None] / 255).float()
        expected = VAE.from_pretrained(trained).encode(images).detach().numpy()
        np.testing.assert_allclose(np.stack(codes["vector"][48:]), expected, rtol=1e-4, atol=1e-6)

    def test_folders_by_file_and_class(self, trained, tmp_path):
        rng = np.random.default_rng(0)
        for i in range(20):
            path = tmp_path / "images" / ("cats" if i % 2 else "dogs") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
        options = ("--data", tmp_path / "images", "--image-size", 16, "--out", tmp_path / "sub" / "codes.parquet")
        assert evae("encode", trained, *options) == 0
        codes = pd.read_parquet(tmp_path / "sub" / "codes.parquet")
        assert (codes["file"].str.split("/").str[0] == codes["label"]).all()
        assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["codes.parquet"]


class TestOverview:
    def test_help_version_and_unknown_commands(self, capsys, fails):
        assert evae("--help") == 0
        overview = capsys.readouterr().out
        for command in ("train", "evaluate", "sample", "reconstruct", "encode"):
            assert f"  {command} " in overview
        assert evae("--version") == 0
        assert capsys.readouterr().out.startswith("evae 0.")
        assert evae() == 2
        assert "unknown command 'trian' (did you mean train?); the commands are train, evaluate" in fails("trian")

    @pytest.mark.parametrize("command", ["train", "evaluate", "sample", "reconstruct", "encode"])
    def test_help_of_commands_is_their_docstring(self, command, capsys):
        with pytest.raises(SystemExit) as stop:
            evae(command, "--help")
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert f"usage: evae {command}" in text
        assert {"train": "number of epochs"}.get(command, "the folder of a trained run") in text

    def test_shipped_configs_are_understood(self, tmp_path, monkeypatch):
        from evae import training

        seen = []
        monkeypatch.setattr(training, "train", _recorder(training.train, seen))
        found = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
        configs = [config for config in found if "\ntrain:" not in config.read_text()]  # those are of evae benchmark
        assert configs
        for config in configs:
            assert evae("train", "--config", config, "--out", tmp_path) == 0
            model = seen[-1]["model"]((1, 32, 32))
            assert isinstance(model, VAE)


def _recorder(function, seen):
    import functools

    @functools.wraps(function)
    def record(**options):
        seen.append(options)

    return record


class TestOddInput:
    """What a hostile newcomer tried."""

    def test_reconstructions_do_not_replace_their_originals(self, trained, tmp_path, fails):
        Image.new("L", (20, 20), 7).save(tmp_path / "photo.png")
        before = (tmp_path / "photo.png").read_bytes()
        assert "would be overwritten" in fails("reconstruct", trained, tmp_path, "--out", tmp_path)
        assert (tmp_path / "photo.png").read_bytes() == before

    def test_overwrite_removes_only_what_evae_wrote(self, trained, tmp_path):
        run = shutil.copytree(trained, tmp_path / "a")
        mine = ("notes.txt", "evaluation-notes.json")
        for name in mine:
            (run / name).write_text("mine")
        assert evae("train", "--config", run / "config.yaml", "--out", run, "--overwrite", "--epochs", 1) == 0
        assert [(run / name).read_text() for name in mine] == ["mine", "mine"]

    def test_two_trainings_into_one_folder(self, trained, tmp_path, fails):
        from evae.runs import RunFolder

        run = shutil.copytree(trained, tmp_path / "a")
        with RunFolder(run).locked():
            message = fails("train", "--config", run / "config.yaml", "--out", run, "--resume", "auto", "--epochs", 3)
        assert "another evae train is writing to" in message

    def test_a_diverging_run_stops_and_keeps_what_was_saved(self, trained, blobs, tmp_path, fails):
        options = "--epochs 30 --batch-size 16 --image-size 16 --accelerator cpu --model.n 1e-320"
        message = fails("train", "--data", blobs, "--out", tmp_path / "a", *options.split())
        assert "the loss is not finite at step" in message
        for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines():
            assert "NaN" not in line

    def test_paths_that_look_like_markup(self, trained, tmp_path, capsys):
        run = shutil.copytree(trained, tmp_path / "a[/x][red]b")
        assert evae("evaluate", run) == 0
        assert evae("sample", run) == 0
        assert "a[/x][red]b" in capsys.readouterr().err.replace("\n", "")

    @pytest.mark.parametrize("content", ["", "\0\0garbage\n", '{"epoch": 1'])
    def test_damaged_metrics(self, trained, tmp_path, content):
        run = shutil.copytree(trained, tmp_path / "a")
        (run / "metrics.jsonl").write_text(content)
        options = ("--out", run, "--resume", "auto", "--epochs", 3)
        assert evae("train", "--config", trained / "config.yaml", *options) == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"model": ["EVAE"]},
            {"model": "VAE"},
            {"image_shape": None},
            {"image_shape": [16, 16]},
            {"image_shape": [1, 16.0, 16]},
            {"latent_dim": "x"},
            {"latent_dim": 10**13},
            {"kernel": []},
            {"prior": {}},
            {"bandwidth": "x"},
            {"encoder": "x"},
            {"likelihood": 3},
        ],
        ids=str,
    )
    def test_hostile_config_json(self, trained, tmp_path, fails, change):
        run = shutil.copytree(trained, tmp_path / "a")
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | change))
        assert fails("evaluate", run)

    @pytest.mark.parametrize("text", ["model: null", "- 1", "epochs: [1]", "a: &a [*a]", "model: 3", "\xff: \x00"])
    def test_odd_config_yaml(self, blobs, tmp_path, fails, text):
        (tmp_path / "c.yaml").write_bytes(text.encode("latin-1"))
        assert fails("train", "--data", blobs, "--out", tmp_path / "a", "--config", tmp_path / "c.yaml")

    def test_networks_on_the_command_line(self, blobs, tmp_path, fails):
        (tmp_path / "c.yaml").write_text(
            "model: {class_path: evae.EVAE, init_args: {encoder: {class_path: torch.nn.Flatten}}}"
        )
        options = ("train", "--data", blobs, "--out", tmp_path / "a", "--config", tmp_path / "c.yaml")
        assert "add --trust-config" in fails(*options)
        assert "cannot be imported" in fails(*options, "--trust-config")

    def test_seeds_and_devices(self, trained, fails):
        for command in ("evaluate", "sample"):
            assert "seed must be at most" in fails(command, trained, "--seed", 2**70)
            assert "--device meta cannot be used" in fails(command, trained, "--device", "meta")

    @pytest.mark.parametrize("content", ["raise RuntimeError('broken')", "def", "def X() -> int: ...", "X = 3"])
    def test_modules_that_define_no_model(self, blobs, tmp_path, fails, monkeypatch, content):
        (tmp_path / "mine.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        assert fails("train", "--data", blobs, "--out", tmp_path / "a", "--model", "mine.X")
        sys.modules.pop("mine", None)

    def test_features_of_a_function_that_takes_no_images(self, trained, fails):
        assert "os:getcwd cannot take images" in fails("evaluate", trained, "--features", "os:getcwd")

    @pytest.mark.parametrize("model", ["--model=GaussianVAE", "--model GaussianVAE", "--model evae.GaussianVAE"])
    def test_help_has_the_hyperparameters_of_the_family(self, capsys, model):
        with pytest.raises(SystemExit):
            evae("train", *model.split(), "--help")
        assert "hyperparameters of GaussianVAE:" in (text := capsys.readouterr().out)
        assert "--model.latent_dim N" in text
        assert "class '" not in text

    def test_a_connection_that_is_refused(self, trained, fails, monkeypatch):
        """No output is blamed for it."""

        def refuse(*arguments):
            raise ConnectionRefusedError(111, "Connection refused")

        monkeypatch.setattr("evae.cli._run", refuse)
        assert fails("evaluate", trained) == "evae: a network connection failed (Connection refused)"

    def test_output_that_cannot_be_written(self, trained, tmp_path, fails):
        (tmp_path / "file").write_text("")
        assert "could not be written" in fails("encode", trained, "--out", tmp_path / "file" / "x.parquet")
        assert "could not be written" in fails("sample", trained, "--out", tmp_path / "file" / "x")

    def test_images_that_moved_or_changed(self, trained, blobs, tmp_path, fails, capsys):
        data = shutil.copy(blobs, tmp_path / "mine.npz")
        options = "--epochs 1 --batch-size 16 --image-size 16 --model.latent_dim 2 --accelerator cpu"
        assert evae("train", "--data", data, "--out", tmp_path / "a", *options.split()) == 0
        arrays = dict(np.load(data))
        arrays["x_test"][0] = 255 - arrays["x_test"][0]
        np.savez(data, **arrays)
        assert evae("evaluate", tmp_path / "a") == 0
        assert "have changed since" in capsys.readouterr().err
        Path(data).unlink()
        assert "was trained on: " in (message := fails("evaluate", tmp_path / "a"))
        assert message.endswith("--data names others")


@pytest.mark.parametrize(
    "model",
    [
        "AE",
        "HVAE",
        "VampVAE --model.pseudo_inputs 8",
        *(
            pytest.param(model, marks=pytest.mark.slow)
            for model in (
                "BetaVAE --model.beta 0.5",
                "IWAE --model.samples 2 --model.gradient doubly-reparameterised",
                "WAE --model.scales [0.5,2]",
                "RAE --model.regularisation gradient-penalty",
                "BoundedVAE --model.prior kernel",
                "PowerSphericalVAE",
                "EVAE --model.kernel spherical_epanechnikov",
            )
        ),
    ],
)
def test_every_family_works_with_every_command(model, blobs, tmp_path, capsys):
    out = tmp_path / "run"
    options = f"--model {model} --batch-size 16 --image-size 16 --accelerator cpu".split()
    options += ["--model.latent_dim", "3", "--data", blobs, "--out", out]
    assert evae("train", *options, "--epochs", 1) == 0
    assert evae("train", *options, "--epochs", 2, "--resume", "auto") == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    name = lines[0].keys() & {"penalty", "kl", "monte_carlo_kl", "mmd"}
    assert len(name) == 1
    assert lines[0].keys() >= {"loss", "reconstruction", "holdout_loss", f"holdout_{name.pop()}"}
    assert evae("evaluate", out, "--likelihood", 3) == 0
    assert evae("evaluate", out, "--latents", "mean") == 0
    assert evae("sample", out, "--count", 4) == 0
    assert evae("encode", out, "--out", tmp_path / "latents.parquet") == 0
    Image.new("L", (20, 20), 90).save(tmp_path / "photo.png")
    assert evae("reconstruct", out, tmp_path / "photo.png", "--out", tmp_path / "rebuilt") == 0
    assert evae("train", "--config", out / "config.yaml", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    capsys.readouterr()


def test_models_are_listed(capsys):
    assert evae("models") == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "HypersphericalVAE Latents",
        "beta 4",
        "samples 5",
        "pseudo_inputs 500",
        "networks auto",
    ):
        assert expected in text
    assert evae("models", "--nope") == 2


class TestKernels:
    def test_table(self, capsys):
        assert evae("kernels", "--draws", 10) == 0
        text = capsys.readouterr().out
        for expected in ("epanechnikov", "0.600000", "0.758947", "[-1, 1]"):
            assert expected in text

    @pytest.mark.slow
    def test_figures(self, tmp_path):
        assert evae("kernels", "--draws", 1000, "--out", tmp_path) == 0
        for name in ("densities.png", "divergences.png"):
            assert pixels(tmp_path / name).std() > 10
        assert evae("kernels", "--draws", 1000, "--out", tmp_path, "--prior", "uniform") == 0

    def test_odd_input(self, tmp_path, fails):
        assert "kernel must be one of uniform" in fails("kernels", "--kernel", "nope")
        assert "draws must be at least 1" in fails("kernels", "--draws", 0)
        assert "bandwidth must be positive" in fails("kernels", "--bandwidth", 0)
        (tmp_path / "file").touch()
        assert "could not be written" in fails("kernels", "--draws", 10, "--out", tmp_path / "file" / "x")
