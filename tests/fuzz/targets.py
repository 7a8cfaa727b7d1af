"""The readers of evae, each with a valid input: one entry for each in ``TARGETS``."""

import io
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from safetensors.torch import load

from evae import EVAE, compare, evaluate, load_model, open_store, report
from evae.benchmark.cells import cells_of
from evae.benchmark.spec import read_spec
from evae.cli import main
from evae.data.cache import cache
from evae.data.record import FileRecord
from evae.errors import EvaeError, RunError
from evae.files import digest
from evae.inference import load_images
from evae.metrics.command import results_table
from evae.metrics.inception import load_weights as load_feature_weights
from evae.models.fitted import FittedPrior, make_flow, write_prior
from evae.models.second_stage import SecondStage
from evae.models.weights import save_weights
from evae.runs import RunFolder, checkpoints
from evae.runs.evaluation import read_evaluation
from evae.sklearn import VAEOutlierDetector
from tests.fuzz import forms
from tests.fuzz.harness import Target
from tests.fuzz.runs import make_run, network, stepped

_EXIF = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"  # turned
_FORMATS = {
    "png": ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"],
    "jpg": ["L", "RGB", "CMYK"],
    "webp": ["RGB", "RGBA"],
    "tif": ["F", "I;16", "L", "RGB"],
    "gif": ["P"],
    "bmp": ["RGB"],
    "avif": ["RGBA"],
    "jp2": ["RGB"],
    "ico": ["RGBA"],
    "ppm": ["RGB", "L"],
}
_OPTIONS = {
    ("png", "P"): {"transparency": 3},
    ("gif", "P"): {"transparency": 0},
    ("jpg", "RGB"): {"exif": _EXIF},
    ("webp", "RGBA"): {"lossless": True},
    ("tif", "RGB"): {"compression": "tiff_lzw"},
    ("tif", "L"): {"compression": "tiff_adobe_deflate"},
    ("ico", "RGBA"): {"sizes": [(12, 12)]},
}


def _image(mode: str, number: int) -> Image.Image:
    values = np.random.default_rng(number).integers(0, 256, (12, 12, 4), np.uint8)
    if mode == "F":
        return Image.fromarray(values[..., 0].astype(np.float32) / 255)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(values).convert(mode)


def _images(*formats: str):
    """Makes images of some formats, and some that stay whole."""

    def make(folder: Path) -> None:
        for suffix in formats:
            for number, mode in enumerate(_FORMATS[suffix]):
                options = _OPTIONS.get((suffix, mode), {})
                _image(mode, number).save(folder / f"{number}.{suffix}", **options)
        for number in range(4):
            _image("RGB", number).save(folder / f"{number}.dib")

    return make


def _png(number: int) -> bytes:
    _image("L", number).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def _table() -> pa.Table:
    feature = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    images = [{"bytes": _png(i), "path": None} for i in range(23)] + [{"bytes": None, "path": "a.png"}]
    table = pa.table({"image": images, "label": [i % 3 for i in range(24)], "name": [str(i) for i in range(24)]})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})


def _tables(folder: Path) -> None:
    (folder / "a.png").write_bytes(_png(30))
    pq.write_table(_table(), folder / "a.parquet", row_group_size=6)


def _arrow(folder: Path) -> None:
    (folder / "a.arrow").write_bytes(forms.arrow(_table()))


def _saved(folder: Path) -> None:
    """As save_to_disk of datasets writes it: a stream, and two files of JSON."""
    table = _table().slice(0, 20)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "cache-0.arrow").write_bytes((folder / "data-00000-of-00001.arrow").read_bytes())
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def _arrays(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12), np.uint8)
    np.savez_compressed(folder / "a.npz", x_train=images[:16], y_train=np.arange(16) % 3, x_test=images[16:] / 255)


def _array(folder: Path) -> None:
    np.save(folder / "a.npy", np.random.default_rng(0).random((24, 3, 6, 6), np.float32))


def _read(data: Path | str, cache: Path) -> None:
    """All of a data set."""
    os.environ["EVAE_CACHE"] = str(cache)
    store = open_store(data, image_size=8)
    for images in (store.train, store.holdout):
        images.read(slice(0, 50))
        np.asarray(images.labels)
        list(images.names)
    str(store.account)


def _opened(name: str = ".", prefix: str = ""):
    return lambda folder: _read(f"{prefix}{folder / name}", folder.with_suffix(".cache"))


def _cached(folder: Path) -> None:
    _arrays(folder)
    _read(folder / "a.npz", folder / "cache")


def _read_cache(folder: Path) -> None:
    os.environ["EVAE_CACHE"] = str(folder / "cache")
    cache()
    _read(folder / "a.npz", folder / "cache")
    cache(verify=True)


def _seal_cache(folder: Path) -> None:
    """Write what the files of the cache are into its meta.json."""
    for path in folder.rglob("meta.json"):
        with suppress(Exception):  # of files that are damaged more
            record = json.loads(path.read_bytes())
            record["files"] = {name: asdict(FileRecord.of(path.with_name(name))) for name in record["files"]}
            path.write_bytes(forms.META.build(record))


def _model(folder: Path) -> None:
    EVAE((1, 16, 16), latent_dim=2).save_pretrained(folder / "model")


def _read_model(folder: Path) -> None:
    model = load_model(folder / "model")
    model.sample(1)
    json.dumps(model.hyperparameters)


def _seal_weights(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    with suppress(Exception):  # of files that are damaged more
        path.write_bytes(save_weights(load(path.read_bytes())))


def _priors(folder: Path) -> None:
    """One prior of each kind, in the folder of a model of its own."""
    model = network()
    settings = {"dim": 2, "transforms": 1, "depth": 1, "width": 4}
    stage = {"dim": 2, "depth": 1, "width": 4}
    made = {
        "gaussian": (
            {"mean": torch.zeros(2), "scale_tril": torch.eye(2), "shift": torch.ones(2), "scale": torch.ones(2)},
            {},
        ),
        "gmm": (
            {"weights": torch.ones(3) / 3, "means": torch.zeros(3, 2), "scale_trils": torch.eye(2).expand(3, 2, 2)},
            {"components": 3},
        ),
        "flow": (make_flow(**settings).state_dict(), settings | {"flow": "maf"}),
        "vae": (SecondStage(**stage).state_dict(), stage),
    }
    for kind, (tensors, options) in made.items():
        model.save_pretrained(folder / kind)
        weights = load_model(folder / kind).weights_digest
        write_prior(FittedPrior(kind, tensors, options, {"seed": 0}, weights), folder / kind)


def _read_priors(folder: Path) -> None:
    for place in folder.iterdir():
        model = load_model(place)
        str(model.read_prior())
        model.sample(1, "fitted")


def _seal_priors(folder: Path) -> None:
    for path in folder.rglob("prior.json"):
        with suppress(Exception):  # of files that are damaged more
            record = json.loads(path.read_bytes())
            record["tensors"] = digest(path.with_suffix(".safetensors").read_bytes())
            path.write_text(forms.dumped(record))


def _resumed(folder: Path) -> None:
    model, run = network(), RunFolder(folder / "run")
    progress = checkpoints.load(run, model, stepped(model), "ff", terms=2)
    assert progress is not None
    run.truncate_metrics(progress)
    run.check_not_shorter(9)
    checkpoints.trained_images(run)


def _seal_checkpoint(folder: Path) -> None:
    path = folder / "run" / "checkpoints" / "last" / "state.json"
    with suppress(Exception):  # of files that are damaged more
        state = forms.STATE.parse(path.read_bytes())
        state["digests"] = {name: digest(path.with_name(name).read_bytes()) for name in state["digests"]}
        path.write_bytes(forms.STATE.build(state))


def _evaluated(folder: Path) -> None:
    """The evaluation is read or measured again, never refused."""
    run = RunFolder(folder / "run")
    with suppress(RunError):
        results_table({"run": read_evaluation(run)})
    try:
        evaluate(run.path, device="cpu")
    except EvaeError as error:
        raise AssertionError("evae evaluate does not write it again") from error


def _seal_evaluation(folder: Path) -> None:
    path = folder / "run" / "evaluation.json"
    with suppress(Exception):  # of files that are damaged more
        record = json.loads(path.read_bytes())
        record["per_image"] = digest(path.with_suffix(".safetensors").read_bytes())
        path.write_text(forms.dumped(record))


def _runs(folder: Path) -> None:
    """Two runs, and an image."""
    make_run(folder)
    shutil.copytree(folder / "run", folder / "other")
    (folder / "a.png").write_bytes(_png(0))


def _compared(folder: Path) -> None:
    report(folder / "run", folder / "report.html", device="cpu")
    compare([folder / "run", folder / "other"], folder / "comparison", device="cpu")


def _used(folder: Path) -> None:
    run = folder / "run"
    RunFolder(run).metrics()
    load_images(run, folder / "a.png")
    evaluate(run, device="cpu", show=False)


def _layer() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


def _feature_weights(folder: Path) -> None:
    state = _layer().state_dict()
    torch.save(state, folder / "a.pth")
    (folder / "a.safetensors").write_bytes(save_weights(state))


def _read_feature_weights(folder: Path) -> None:
    for path in folder.iterdir():
        load_feature_weights(_layer(), path, "a layer")


def _configuration(folder: Path) -> None:
    options = {"data": "mnist5k", "epochs": 3, "learning_rate": 1e-3, "out": "run", "image_size": None}
    model = {"class_path": "evae.EVAE", "init_args": {"latent_dim": 2, "kernel": "epanechnikov"}}
    (folder / "a.yaml").write_text(yaml.safe_dump(options | {"model": model}))


def _command(folder: Path) -> None:
    with suppress(SystemExit):
        main(["train", "--config", str(folder / "a.yaml"), "--print-config"])


def _spec(folder: Path) -> None:
    """A benchmark with every part of a spec."""
    shutil.copyfile(Path(__file__).parents[2] / "configs" / "paper-table1.yaml", folder / "a.yaml")


def _cells(folder: Path) -> None:
    cells_of(read_spec(folder / "a.yaml"))


def _estimator(folder: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 3))
    VAEOutlierDetector(epochs=1, hyperparameters={"widths": (2,)}, device="cpu").fit(rows).save(folder)


def _detected(folder: Path) -> None:
    VAEOutlierDetector.load(folder).predict(np.ones((2, 3)))


TARGETS = {
    "png": Target(_images("png"), _opened(), {"*.png": forms.PNG}),
    "jpg": Target(_images("jpg"), _opened(), {"*.jpg": forms.BYTES}, quick=0),
    "tif": Target(_images("tif"), _opened(), {"*.tif": forms.BYTES}, quick=0),
    "webp": Target(_images("webp"), _opened(), {"*.webp": forms.BYTES}, quick=0),
    "avif, jp2": Target(_images("avif", "jp2"), _opened(), {"*.avif": forms.BYTES, "*.jp2": forms.BYTES}, quick=0),
    "gif, bmp": Target(
        _images("gif", "bmp", "ico", "ppm"),
        _opened(),
        {"*.gif": forms.BYTES, "*.bmp": forms.BYTES, "*.ico": forms.BYTES, "*.ppm": forms.BYTES},
    ),
    "parquet": Target(_tables, _opened("a.parquet"), {"*.parquet": forms.PARQUET}),
    "parquet streamed": Target(_tables, _opened("a.parquet", "hf-stream:"), {"*.parquet": forms.PARQUET}),
    "arrow": Target(_arrow, _opened(), {"*.arrow": forms.ARROW}),
    "save_to_disk": Target(_saved, _opened(), {"*.json": forms.JSON, "*.arrow": forms.BYTES}),
    "npz": Target(_arrays, _opened("a.npz"), {"*.npz": forms.ARCHIVE}),
    "npy": Target(_array, _opened("a.npy"), {"*.npy": forms.ARRAY}),
    "cache": Target(
        _cached,
        _read_cache,
        {"meta.json": forms.META, "*.json": forms.JSON, "*.npy": forms.ARRAY, "*.u8": forms.BYTES},
        _seal_cache,
    ),
    "model": Target(_model, _read_model, {"config.json": forms.JSON, "*.safetensors": forms.TENSORS}, _seal_weights),
    "prior": Target(
        _priors, _read_priors, {"prior.json": forms.JSON, "prior.safetensors": forms.TENSORS}, _seal_priors, quick=2
    ),
    "checkpoint": Target(
        _runs,
        _resumed,
        {
            "run/**/state.json": forms.STATE,
            "run/**/last/*.safetensors": forms.TENSORS,
            "run/metrics.jsonl": forms.LINES,
        },
        _seal_checkpoint,
    ),
    "evaluation": Target(
        _runs,
        _evaluated,
        {"run/evaluation.json": forms.JSON, "run/evaluation.safetensors": forms.TENSORS},
        _seal_evaluation,
        quick=2,
    ),
    "run": Target(_runs, _used, {"run/config.yaml": forms.YAML, "run/metrics.jsonl": forms.LINES}, quick=0),
    "pages": Target(
        _runs,
        _compared,
        {"run/config.yaml": forms.YAML, "run/metrics.jsonl": forms.LINES, "run/evaluation.json": forms.JSON},
        quick=0,
    ),
    "weights of features": Target(
        _feature_weights, _read_feature_weights, {"*.pth": forms.BYTES, "*.safetensors": forms.TENSORS}
    ),
    "estimator": Target(_estimator, _detected, {"estimator.json": forms.JSON}),
    "config": Target(_configuration, _command, {"*.yaml": forms.YAML}),
    "spec": Target(_spec, _cells, {"*.yaml": forms.YAML}),
}
