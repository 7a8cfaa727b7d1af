"""``evae export``: the networks of a run as ONNX files, a record of them, and a page that runs them in a browser."""

import json
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae import checks
from evae.console import console, warn
from evae.data import Images, Store, to_float
from evae.data.images import Subset
from evae.distributions import HypersphericalUniform
from evae.errors import ConfigError, DataError
from evae.exporting.graphs import Graph, check_extra, decoder_graph, encoder_graph, noise_for, prior_graph
from evae.exporting.page import PAGE, Shown, check_page, page_of
from evae.exporting.record import preprocessing_of, record_of, standardisation_of
from evae.exporting.runtime import runtime_of
from evae.exporting.samplers import Sampler, sampler_of
from evae.files import write_atomically
from evae.models import VAE
from evae.models.vae import Prior
from evae.numerics import seeded
from evae.outputs import EXPORT_RECORD, check_output_folder, data_of
from evae.runs import RunFolder
from evae.runs.images import batches, check_is_of_images, columns_of, own_images, preprocessing

_NAMES = ("encoder.onnx", "decoder.onnx", "prior.onnx", EXPORT_RECORD)
_COMPARED = 100  # images and draws that networks are compared on
_MAX_CODES = 10_000  # training images whose codes give the directions of a page


def export(
    run_folder: Path,
    out: Path,
    page: bool = False,
    runtime: Path | None = None,
    examples: int = 24,
    prior: Prior = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write the networks of a run as ONNX files, each compared with torch, and a record of what they take.

    encoder.onnx turns images, or rows of numbers, into codes, decoder.onnx codes into images, prior.onnx noise into
    codes; all for any batch size. model.json names inputs, outputs, shapes and ranges, and how images are prepared, or
    rows standardised. With --page, index.html runs
    the networks in a browser: it moves through the latent space, draws samples, interpolates and reconstructs images of
    its visitors. The folder works from any static web server.

    Args:
        run_folder: the folder of a trained run.
        out: folder for the files.
        page: also write index.html.
        runtime: a folder of the npm package onnxruntime-web, copied beside the page, which loads it from a public
            network (cdn.jsdelivr.net) otherwise.
        examples: hold-out images that are put on the page; 0 puts decoded draws of the prior in their place.
        prior: fitted, that of evae fit-prior; model, the one the model was trained with; auto, the fitted one where
            there is one.
        seed: seed of the noise for the comparison, and of the choice of images.
        overwrite: replace files of out also where they are not an exported model by evae.

    Returns:
        The folder.

    Raises:
        ConfigError: onnx, onnxruntime or onnxscript is not installed, a network or the prior cannot be exported, or a
            setting cannot work.
        RunError: the folder is not a run, onnxruntime computes something else than torch, or the output cannot be
            written or would replace other files.
    """
    checks.one_of("prior", prior, get_args(Prior))
    checks.whole_number("examples", examples, least=0, most=1000)
    checks.seed(seed)
    if runtime is not None and not page:
        raise ConfigError("--runtime is for the page that --page writes")
    check_extra()
    run, out = RunFolder(run_folder), Path(out)
    check_output_folder(out, [*_NAMES, PAGE] if page else _NAMES, "export", overwrite, data_of(run))
    model = run.model()
    if page:
        check_is_of_images(run, model, "export --page")
        check_page(model)
    web = runtime_of(runtime) if page else None
    with torch.no_grad():
        law = _law(model, prior)
        sampler = sampler_of(law)
    prepared = standardisation_of(columns_of(model)) if model.is_row else preprocessing_of(preprocessing(run, model))
    on_sphere = isinstance(model.prior(), HypersphericalUniform)
    store = _store(run)
    graphs = _graphs(model, sampler, store, seed)
    described = _described(model, prior, sampler)
    record = record_of(model, graphs, prepared, described, on_sphere)
    write_atomically(out / EXPORT_RECORD, json.dumps(record, indent=2) + "\n")  # first: it marks the files beside it
    for graph in graphs:
        write_atomically(out / f"{graph.name}.onnx", graph.content)
    if web is not None:
        with seeded(seed):
            shown = _shown(model, store, law, examples, on_sphere)
        web.write(out)
        write_atomically(out / PAGE, page_of(model, record, shown, web, store))
    serve = f"; python -m http.server --directory {out} shows {PAGE} on this machine" if page else ""
    console.print(f"networks, {EXPORT_RECORD}{' and the page' if page else ''} in {out}{serve}", soft_wrap=True)
    return out


def _graphs(model: VAE, sampler: Sampler, store: Store | None, seed: int) -> list[Graph]:
    """The networks, compared with torch on images and noise; the largest differences are printed."""
    with seeded(seed), torch.no_grad():
        images = _some_images(model, store)
        codes = model.encode(images)
        noise = noise_for(sampler, _COMPARED)
    makers = (
        partial(encoder_graph, model, images),
        partial(decoder_graph, model, codes),
        partial(prior_graph, sampler, noise),
    )
    graphs = []
    for make in makers:
        graph = make()
        console.print(f"{graph.name}.onnx: largest difference to torch {graph.difference:.2g}", soft_wrap=True)
        graphs.append(graph)
    return graphs


def _law(model: VAE, prior: Prior) -> Distribution:
    """The distribution of codes to draw from."""
    fitted = None if prior == "model" else model.fitted_prior
    if fitted is None and prior == "fitted":
        raise ConfigError(
            "no prior was fitted to this model's codes; evae fit-prior RUN does, --prior model needs none"
        )
    return model.prior() if fitted is None else fitted


def _described(model: VAE, prior: Prior, sampler: Sampler) -> str:
    """The prior in words; a warning tells where the sampler has another law."""
    fitted = None if prior == "model" else model.read_prior()
    name = f"fitted prior, {fitted}" if fitted else "prior that the model was trained with"
    if sampler.note:
        warn(f"the sampler is that {sampler.note}")
        name += f", {sampler.note}"
    return name


def _store(run: RunFolder) -> Store | None:
    """The run's images; None, with a warning where it is a run, if they are not there."""
    if not run.is_run:
        return None
    try:
        return own_images(run)
    except DataError as error:
        warn(f"{error}; draws of the prior stand for them")
        return None


def _some_images(model: VAE, store: Store | None) -> Tensor:
    """Hold-out images or rows, or noise, to compare networks on."""
    if store is None or not len(store.holdout):
        return (torch.randn if model.is_row else torch.rand)(_COMPARED, *model.image_shape)
    return to_float(_some(store.holdout, _COMPARED).read(slice(None)))


def _some(images: Images, count: int) -> Subset:
    """At most ``count`` of the images, at random."""
    return Subset(images, torch.randperm(len(images))[:count].numpy(), images.split)


@torch.no_grad()
def _shown(model: VAE, store: Store | None, law: Distribution, examples: int, on_sphere: bool) -> Shown:
    """What a page shows: codes that give the directions, and images with theirs."""
    if store is None:
        codes = law.sample((_MAX_CODES,))
    else:
        codes = torch.cat([model.encode(b) for b in batches(_some(store.train, _MAX_CODES), model.device, "encoding")])
    if store is None or not examples or not len(store.holdout):
        drawn = law.sample((examples or 24,))
        return Shown(codes, model.decode(drawn), drawn, on_sphere, is_drawn=True)
    images = to_float(_some(store.holdout, examples).read(slice(None)))
    return Shown(codes, images, model.encode(images), on_sphere, is_drawn=False)
