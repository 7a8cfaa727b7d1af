"""A page that runs exported networks in a browser: one file of HTML beside the networks, without code on a server."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from evae import figures
from evae.data import Store
from evae.errors import ConfigError
from evae.exporting.directions import Directions, active_latents, centre_of, principal_axes
from evae.exporting.runtime import BINARY, MODULE, SCRIPT, Runtime
from evae.models import VAE
from evae.outputs import page_mark
from evae.reporting import charts, pages
from evae.rounding import counted

PAGE = "index.html"
_DIRECTIONS = 8  # sliders of a kind
_DIGITS = 6  # of numbers on the page


@dataclass(frozen=True)
class Shown:
    """What a page shows of the latent space.

    Attributes:
        codes: (N, d), which give the directions of the sliders.
        images: (E, C, H, W), to interpolate between.
        image_codes: their codes, (E, d).
        on_sphere: whether codes are points of the unit sphere.
        is_drawn: whether the images are decoded draws of the prior instead of hold-out images.
    """

    codes: Tensor
    images: Tensor
    image_codes: Tensor
    on_sphere: bool
    is_drawn: bool


def check_page(model: VAE) -> None:
    """Raise ConfigError unless a page can show the model's images: square, grey, RGB or RGBA."""
    shape = model.image_shape
    if len(shape) != 3 or shape[0] not in (1, 3, 4) or shape[1] != shape[2]:
        raise ConfigError(
            f"--page shows square images of 1, 3 or 4 channels, and this model's are of shape {shape}; "
            "export without --page writes the networks"
        )


def page_of(model: VAE, record: dict[str, Any], shown: Shown, web: Runtime, store: Store | None) -> str:
    """The page.

    Args:
        model: the model.
        record: the content of model.json.
        shown: codes and images.
        web: where onnxruntime-web comes from.
        store: the run's images; None where they are not there.
    """
    css, js = (pages.text(f"generator.{kind}") for kind in ("css", "js"))
    name, latents = type(model).__name__, shown.codes.shape[1]
    data_name = pages.data_name(store.source) if store else None
    size, crop = record["preprocessing"]["size"], record["preprocessing"]["crop"]
    networks = sum(network["bytes"] for network in record["networks"].values())
    trained = f" trained on {counted(len(store.train), 'image')} of {data_name}" if store else ""
    return pages.render(
        "generator.html",
        generator=page_mark("export"),
        policy=_policy(css, js, web),
        title=f"{name} on {data_name}" if store else name,
        about=f"A variational autoencoder ({name}, {counted(latents, 'latent')}){trained}.",
        megabytes=round((networks + web.size) / 1e6),
        latents=latents,
        of_codes="codes of draws" if store is None else "codes of training images",
        prior=record["prior"],
        on_sphere=shown.on_sphere,
        drawn=shown.is_drawn,
        crop=crop,
        size=size,
        channels=model.image_shape[0],
        footer=f"{counted(sum(p.numel() for p in model.parameters()), 'weight')}.",
        css=css,
        js=js,
        script=web.base + SCRIPT,
        integrity=web.digests[SCRIPT],
        data=_data(record, shown, web),
    )


def _data(record: dict[str, Any], shown: Shown, web: Runtime) -> dict[str, Any]:
    """What the page's script reads."""
    centre = centre_of(shown.codes, shown.on_sphere)
    return {
        "record": record,
        "runtime": {
            "module": {"url": web.base + MODULE, "integrity": web.digests[MODULE]},
            "binary": {"url": web.base + BINARY, "integrity": web.digests[BINARY]},
        },
        "centre": _rounded(centre),
        "axes": _directions(principal_axes(shown.codes, centre, _DIRECTIONS)),
        "latents": _directions(active_latents(shown.codes, _DIRECTIONS)),
        "examples": {"images": _pictures(shown.images), "codes": _rounded(shown.image_codes)},
    }


def _pictures(images: Tensor) -> list[str]:
    """Each image as the address of a PNG in itself."""
    return [charts.picture(figures.to_image(pixels)).source for pixels in figures.to_uint8(images)]


def _directions(directions: Directions) -> dict[str, Any]:
    return {
        "names": directions.names,
        **{name: _rounded(getattr(directions, name)) for name in ("vectors", "origin", "low", "high", "share")},
    }


def _rounded(values: Tensor) -> Any:
    """As nested lists of numbers with few digits."""
    array = values.detach().double().numpy()
    scale = 10.0 ** (_DIGITS - np.ceil(np.log10(np.abs(array).max(initial=1e-30))))
    return (np.round(array * scale) / scale).tolist()


def _policy(css: str, js: str, web: Runtime) -> str:
    """What the page may load and run: its own style and script, onnxruntime-web, and the networks beside it."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{pages.digest_of(js.encode())}' {web.source} blob: 'wasm-unsafe-eval'",
            f"style-src '{pages.digest_of(css.encode())}'",
            f"connect-src 'self' {web.source}",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
