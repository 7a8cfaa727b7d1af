"""Specs: which cells they have and what these are called; one sentence for bad ones, before anything runs."""

from itertools import product
from pathlib import Path

import pytest

from evae.benchmark.spec import places
from evae.cli import main
from evae.errors import ConfigError

DIMENSIONS = "latent_dim: {grid: [2, 3]}"
MANY = f"{{grid: {list(range(1, 72))}}}"
LAYOUT = "table: {rows: model.latent_dim, over: seed, columns: [bce, mse, sharpness]}"


class TestCells:
    def test_are_the_product_of_the_grids(self, spec, cells):
        found = cells(spec())
        assert [(c.train["seed"], c.train["model"]["init_args"]["latent_dim"]) for c in found] == list(
            product([0, 1], [2, 3])
        )
        assert [c.index for c in found] == [0, 1, 2, 3]
        assert len({c.name for c in found}) == 4
        assert all(c.train["epochs"] == 1 and c.evaluate["device"] == "cpu" for c in found)

    def test_grids_in_one_model_alone(self, spec, cells):
        models = "{grid: [GaussianVAE, {class_path: EVAE, init_args: {support_length: {grid: [0.1, 10]}, n: 7}}]}"
        path = spec(
            (f"{{class_path: EVAE, init_args: {{{DIMENSIONS}}}}}", models),
            ("rows: model.latent_dim", "rows: [model, model.support_length]"),
        )
        found = cells(path)[:3]
        assert [(c.value("model"), c.value("model.support_length")) for c in found] == [
            ("GaussianVAE", ""),
            ("EVAE, n 7", "0.1"),
            ("EVAE, n 7", "10"),
        ]
        assert [c.train["model"]["init_args"].get("support_length") for c in found] == [None, 0.1, 10.0]

    @pytest.mark.parametrize(
        "change",
        [
            ("batch_size: 16", "batch-size: 16"),
            ("EVAE", "evae.EVAE"),
            ("accelerator: cpu", "accelerator: auto"),
            ("evaluate: {device: cpu}", "evaluate:"),
            ("image_size: 16", "image_size: 16\n  learning_rate: 3e-4"),
            ("latent_dim:", "bandwidth: 0.35938136638046275, latent_dim:"),
            (LAYOUT, ""),
        ],
    )
    def test_that_are_equal_have_one_name(self, spec, cells, change):
        assert [c.name for c in cells(spec())] == [c.name for c in cells(spec(change))]

    @pytest.mark.parametrize(
        "change",
        [
            ("batch_size: 16", "batch_size: 8"),
            ("EVAE", "GaussianVAE"),
            ("evaluate: {device: cpu}", "evaluate: {repeats: 2}"),
            ("evaluate:", "fit_prior: {}\nevaluate:"),
            ("data: blobs", "data: mnist5k"),
            (DIMENSIONS, f"kernel: uniform, {DIMENSIONS}"),
        ],
    )
    def test_that_differ_have_others(self, spec, cells, change):
        before = cells(spec())
        change = [change] if "mnist5k" not in change[1] else [change, ("data: {blobs", "# {blobs")]
        assert not {c.name for c in before} & {c.name for c in cells(spec(*change))}

    def test_do_not_depend_on_where_named_data_are(self, spec, cells, blobs, tmp_path):
        (tmp_path / "moved.npz").write_bytes(Path(blobs).read_bytes())
        moved = cells(spec((blobs, str(tmp_path / "moved.npz"))))
        assert {c.train["data"] for c in moved} == {str(tmp_path / "moved.npz")}
        assert [c.name for c in moved] == [c.name for c in cells(spec())]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("epochs: 1", "epoch: {grid: [1, 2]}"), "(table): the grid of epoch is in none of rows, by and over"),
        (("epochs: 1", "epoch: 1"), "(train): unknown option epoch (did you mean epochs?)"),
        (("rows: model.latent_dim", "rows: [model.latent_dim, epochs]"), None),
        (("rows: model.latent_dim", "rows: model.latents"), "the grid of model.latent_dim is in none of rows"),
        (("over: seed", "over: [seed, model.latent_dim]"), "the grid of model.latent_dim is in two of rows"),
        (
            ("rows: model.latent_dim", "rows: [model.latent_dim, kernl]"),
            "(table): no setting kernl is in the part train",
        ),
        ((LAYOUT, "table: {colums: [bce]}"), "(table): object contains unknown field `colums`"),
        ((LAYOUT, "tabel: {}"), "unknown part tabel (did you mean table?)"),
        (("seed: {grid: [0, 1]}", "seed: {grid: []}"), "(train): the grid of seed must be a list of values"),
        (("seed: {grid: [0, 1]}", "seed: {grid: 3}"), "(train): the grid of seed must be a list of values"),
        (("seed: {grid: [0, 1]}", "seed: {grid: [0, 0]}"), "(train): the grid of seed has 0 twice"),
        (
            ("grid: [2, 3]", "grid: [2, 0]"),
            "2 of 4 cells cannot be run, and none was started: latent_dim must be at least",
        ),
        (
            ("grid: [2, 3]", "grid: [2, x]"),
            "2 of 4 cells cannot be run, and none was started: --model.latent_dim: expected",
        ),
        (
            ("grid: [0, 1]", "grid: [0, -1]"),
            "2 of 4 cells cannot be run, and none was started: seed must be at least 0",
        ),
        (("latent_dim:", "kernel: {grid: [no, so]}, latent_dim:"), "the grid of model.kernel is in none of rows"),
        (("class_path: EVAE", "class_path: EVEA"), "--model: unknown EVEA (did you mean EVAE?)"),
        (
            ("class_path: EVAE", "class_path: mine.VAE"),
            "names mine.VAE, code that is not evae's and would be run; add --trust-spec",
        ),
        (("evaluate: {", "evaluate: {features: mine:net, "), "(evaluate) names mine:net, code that is not evae's"),
        (("evaluate: {", "evaluate: {repeat: 2, "), "(evaluate): unknown option repeat (did you mean repeats?)"),
        (("evaluate: {", "evaluate: {data: mnist, "), "(evaluate): data is set by the benchmark; leave it out"),
        (("epochs: 1", "epochs: 1\n  out: here"), "(train): out is set by the benchmark; leave it out"),
        (("  data: blobs\n", ""), "(train): data is missing"),
        (("  data: blobs\n", "  data: blob\n"), "no cell has the data blobs (did you mean blob?); the cells have blob"),
        (("blobs.npz", "nothing.npz"), "the data blobs: there is no '"),
        ((DIMENSIONS, f"latent_dim: {MANY}, n: {MANY}"), "its grids make more than 10,000 cells"),
        (
            ("evaluate:", "claims: [{metric: bce, better: lower, winner: EVAE, loser: AE}]\nevaluate:"),
            "model is neither in the",
        ),
        (
            ("evaluate:", "published: [{metric: bce, source: a, protocol: b, figures: {2: x}}]\nevaluate:"),
            "the figure of 2 must",
        ),
        (
            ("evaluate:", "published: [{metric: bce, figures: {2: 3}}]\nevaluate:"),
            "(published): object missing required field",
        ),
        (("evaluate:", "evaluate: &a"), "aliases, anchors and tags"),
        (("train:", "train"), "is not a YAML file of options"),
    ],
)
def test_bad_specs(spec, tmp_path, capsys, change, sentence):
    code = main(["benchmark", str(spec(change)), "--out", str(tmp_path / "results"), "--table"])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evae: ")]
    if sentence is None:
        assert code == 0
        return
    if "latent_dim must" in sentence:  # what only building the model tells
        code = main(["benchmark", str(spec(change)), "--out", str(tmp_path / "results")])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evae: ")]
    assert code == 2
    assert len(errors) == 1
    assert sentence in errors[0]
    assert not list((tmp_path / "results").glob("cells/*"))


@pytest.mark.parametrize("data", ["blobs", "=x", "blobs="])
def test_places_of_data_have_a_name_and_a_path(data):
    with pytest.raises(ConfigError, match="--data takes NAME=PATH"):
        places([data])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--shard 2/2", "--shard takes i/n, i from 0 to n - 1, not 2/2"),
        ("--workers 0", "workers must be at least 1"),
        ("--data blobs=/nowhere/at/all", "the data blobs: there is no '/nowhere/at/all'"),
        ("--out {file}", "is no folder"),
        ("--out {run}", "is a run folder"),
    ],
)
def test_bad_options(spec, tmp_path, capsys, options, sentence):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    words = options.format(file=tmp_path / "file", run=tmp_path / "run").split()
    assert main(["benchmark", str(spec()), "--out", str(tmp_path / "results"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_tables_of_others_are_kept(spec, tmp_path, capsys):
    (tmp_path / "table.md").write_text("mine")
    assert main(["benchmark", str(spec()), "--out", str(tmp_path), "--table"]) == 2
    assert "evae did not write it as a table of a benchmark" in capsys.readouterr().err
    assert main(["benchmark", str(spec()), "--out", str(tmp_path), "--table", "--overwrite"]) == 0
    assert main(["benchmark", str(spec()), "--out", str(tmp_path), "--table"]) == 0
