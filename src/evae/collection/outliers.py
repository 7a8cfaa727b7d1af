"""How unusual images are to a model that was trained on others: scores, and p-values by two models of two halves."""

from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evae.collection.conformal import p_values
from evae.console import console, progress
from evae.data import Images, to_float
from evae.figures import to_bytes
from evae.metrics.image import mean_squared_error
from evae.models import EVAE, VAE
from evae.models.networks import ImageShape
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.images import own_images
from evae.runs.preprocessing import recoloured
from evae.training.in_memory import fit_arrays
from evae.training.settings import Accelerator, Compute, Recipe

LEAST = 40  # images of a collection whose outliers are sought
_BATCH = 250
_NEIGHBOURS = 5
_KEPT = 0.1  # fraction of a half that tells the usual range of scores, and trains no model
_TRAINED = 64  # images of a step
_MOST = 50_000  # images that train a model
_LATENTS = 32
_STEPS = (300, 2_000)  # at least and at most
_EPOCHS = 15
_RATE = 2e-3
_TINY = 1e-8


class Seen(NamedTuple):
    """What a model makes of N images: codes (N, d), errors (N,) and statistics of the pixels (N, 2)."""

    codes: NDArray[np.float64]
    errors: NDArray[np.float64]
    statistics: NDArray[np.float64]

    def __getitem__(self, rows: NDArray[np.int64]) -> "Seen":  # type: ignore[override]
        return Seen(self.codes[rows], self.errors[rows], self.statistics[rows])


@torch.no_grad()
def see(model: VAE, pixels: NDArray[np.uint8], title: str = "looking at images") -> Seen:
    """What a model makes of 8-bit images (N, C, S, S)."""
    codes, errors, statistics = [], [], []
    with progress() as bar:
        task = bar.add_task(title, total=len(pixels))
        for start in range(0, len(pixels), _BATCH):
            images = to_float(pixels[start : start + _BATCH], model.device)
            code = model.encode(images)
            codes.append(code.cpu().double())
            errors.append(mean_squared_error(model.decode(code).cpu(), images.cpu()).double())
            statistics.append(_statistics(images).cpu().double())
            bar.advance(task, len(images))
    return Seen(*(torch.cat(parts).numpy() for parts in (codes, errors, statistics)))


def _statistics(images: Tensor) -> Tensor:
    """(N, 2): logarithms of the standard deviation of an image's pixels and of the mean squared step between rows."""
    grey = images.mean(1)
    steps = (grey[:, 1:] - grey[:, :-1]).square().mean((1, 2))
    return torch.stack([images.flatten(1).std(1).clamp(min=1e-3).log(), steps.clamp(min=1e-6).log()], 1)


class Scorer:
    r"""How unusual images are: s = ln Σ_k exp z_k, a smooth maximum of four robust z-values.

    They are those of the logarithms of the reconstruction error, of the distance from the code to its fifth nearest
    code among the images that trained the model, of the code's Mahalanobis distance to these codes, and of the
    Mahalanobis distance of error, code distance and two statistics of the pixels. The last one is also large where an
    image is too simple: errors of empty images are small. z is (value - median) · 1.349 / (difference of quartiles),
    over ``usual`` images.

    The score is a fixed function given ``trained`` and ``usual``, so that it is exchangeable over all other images.

    Args:
        trained: what the model makes of the images that trained it.
        usual: of others like them, or of the same, which tell the usual range.
        same: whether ``usual`` are the same images.
    """

    def __init__(self, trained: Seen, usual: Seen, same: bool = False) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._neighbours = NearestNeighbors().fit(trained.codes)
        self._most = len(trained.codes)
        self._codes = _Gaussian(trained.codes)
        logs = self._logs(usual, np.full(len(usual.codes), same))
        self._all = _Gaussian(np.column_stack([logs, usual.statistics]))
        low, middle, high = np.quantile(self._values(usual, logs), [0.25, 0.5, 0.75], axis=0)
        self._middle, self._spread = middle, np.maximum((high - low) / 1.349, _TINY)

    def __call__(self, seen: Seen, own: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """The scores (N,); ``own`` tells which images are among those that trained the model."""
        logs = self._logs(seen, np.zeros(len(seen.codes), bool) if own is None else own)
        z = (self._values(seen, logs) - self._middle) / self._spread
        scores: NDArray[np.float64] = np.logaddexp.reduce(z, axis=1)
        return scores

    def _logs(self, seen: Seen, own: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(N, 2): logarithms of the error and of the distance to the fifth neighbour, itself left out."""
        count = min(_NEIGHBOURS + 1, self._most)
        distances = self._neighbours.kneighbors(seen.codes, count)[0]
        fifth = distances[np.arange(len(own)), np.minimum(_NEIGHBOURS - 1 + own, count - 1)]
        return np.log(np.column_stack([seen.errors, fifth]) + _TINY)

    def _values(self, seen: Seen, logs: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 4): the values whose z are summed."""
        return np.column_stack([logs, self._codes(seen.codes), self._all(np.column_stack([logs, seen.statistics]))])


class _Gaussian:
    """The logarithm of the Mahalanobis distance to points (N, d), whose covariance has a small ridge."""

    def __init__(self, points: NDArray[np.float64]) -> None:
        self._centre = points.mean(0)
        covariance = np.atleast_2d(np.cov(points.T))
        ridge = 1e-3 * np.trace(covariance) / len(covariance) + _TINY**2
        self._precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        offset = points - self._centre
        squared: NDArray[np.float64] = np.einsum("ij,ij->i", offset @ self._precision, offset)
        return 0.5 * np.log(squared + _TINY)


@dataclass
class Judged:
    """What was found of M images.

    Attributes:
        scores, errors, p_values: (M,).
        models: the models that judged them.
        judge: which one judged each, (M,).
        pixels: of the images, (M, C, S, S).
        about: where the p-values come from, in words.
    """

    scores: NDArray[np.float64]
    errors: NDArray[np.float64]
    p_values: NDArray[np.float64]
    models: list[VAE]
    judge: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    about: str

    @torch.no_grad()
    def rebuilt(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The reconstructions of some images, 8 bit."""
        found = []
        for row in rows.tolist():
            model = self.models[self.judge[row]]
            image = model.reconstruct(to_float(self.pixels[row : row + 1], model.device))
            found.append(to_bytes(image).cpu().numpy()[0])
        return np.stack(found)


def by_halves(pixels: NDArray[np.uint8], distinct: NDArray[np.int64], seed: int, device: torch.device) -> Judged:
    """Judge each random half of the distinct images by a model that the other half has trained.

    Given a model, the images of the half that it judges are exchangeable, whatever they are: each is compared with all
    others of its half. Copies go where the image is that they are copies of, and are no calibration images: that they
    are similar says nothing of how usual they are.

    Args:
        pixels: (M, C, S, S), 8 bit.
        distinct: (M,), of each image the one it is a copy of, or itself.
        seed: of the halves and of the models.
        device: of the models.
    """
    images = np.unique(distinct)
    order = np.random.default_rng(seed).permutation(images)
    half = np.zeros(len(pixels), np.int64)
    half[order[: len(order) // 2]] = 1
    half = half[distinct]
    alone = distinct == np.arange(len(pixels))
    scores, errors, p = (np.empty(len(pixels)) for _ in range(3))
    models = []
    for k in (0, 1):
        others = np.sort(order[half[order] != k])
        kept = np.zeros(len(others), bool)
        kept[np.random.default_rng([seed, k]).permutation(len(others))[: max(10, round(_KEPT * len(others)))]] = True
        model = _trained(pixels[others[~kept]], seed + k, device, f"training model {k + 1} of 2")
        models.append(model)
        scorer = Scorer(see(model, pixels[others[~kept]]), see(model, pixels[others[kept]]))
        rows = np.flatnonzero(half == k)
        seen = see(model, pixels[rows])
        scores[rows], errors[rows] = scorer(seen), seen.errors
        p[rows] = p_values(scores[rows], scores[rows[alone[rows]]], alone[rows])
    count = len(images)
    about = (
        f"Two small models were trained, each on a random half of the {count:,} different images, and each judged the "
        "half that it had not seen. The p-value of an image is the fraction of images of its half, itself included, "
        "that are at least as unusual."
    )
    return Judged(scores, errors, p, models, half, pixels, about)


def by_run(run: RunFolder, model: VAE, pixels: NDArray[np.uint8], distinct: NDArray[np.int64]) -> Judged:
    """Judge images by a trained model, compared with the run's hold-out images, which did not train it.

    Images that trained the model are known by their pixels. Their errors are smaller, so that they are compared with
    each other: the training is symmetric in them. An image that is itself a hold-out image is compared with the others.

    Args:
        run, model: the run and its model.
        pixels: (M, C, S, S), 8 bit, as the model takes them.
        distinct: (M,), of each image the one it is a copy of, or itself.

    Raises:
        DataError: the run's images are not there any more.
        RunError: the folder is not a run.
    """
    store = own_images(run)
    trained, holdout = (_pixels(images, model) for images in (store.train, store.holdout))
    seen_trained = see(model, trained, "looking at training images")
    scorer = Scorer(seen_trained, seen_trained, same=True)
    usual = scorer(see(model, holdout, "looking at hold-out images"))
    digests = [_digest(image) for image in pixels]
    taught = {_digest(image) for image in trained}
    if store.validation is not None:  # they have chosen the epoch
        taught |= {_digest(image) for image in _pixels(store.validation, model)}
    held = {_digest(image) for image in holdout} - taught
    is_own = np.array([digest in taught for digest in digests])
    is_held = np.array([digest in held for digest in digests])
    seen = see(model, pixels)
    scores = scorer(seen, is_own)
    p = p_values(scores, usual, is_held)
    alone = distinct == np.arange(len(pixels))
    p[is_own] = p_values(scores[is_own], scores[is_own & alone], alone[is_own])
    about = f"The model of {run} judged the images, compared with its {len(holdout):,} hold-out images."
    if is_own.any():
        about += (
            f" The {int(is_own.sum()):,} images that trained it were compared with each other, as it knows them: "
            "outliers among them are found less often."
        )
    return Judged(scores, seen.errors, p, [model], np.zeros(len(pixels), np.int64), pixels, about)


def _pixels(images: Images, model: VAE) -> NDArray[np.uint8]:
    return recoloured(images.read(slice(0, len(images))), model.image_shape[0])


def _digest(image: NDArray[np.uint8]) -> bytes:
    return blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


class _Body(nn.Sequential):
    """Images (N, C, S, S) to features (N, 128), by three convolutions of stride 2."""

    def __init__(self, image_shape: ImageShape, width: int = 16) -> None:
        channels, size, _ = image_shape
        widths = [channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * (size // 8) ** 2, 128), nn.ReLU(inplace=True))


class _Picture(nn.Sequential):
    """Latents (N, d) to maps (N, C, S, S)."""

    def __init__(self, image_shape: ImageShape, latent_dim: int, width: int = 16) -> None:
        channels, size, _ = image_shape
        widths, small = [4 * width, 2 * width, width], size // 8
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widths[0] * small**2, bias=False),
            nn.Unflatten(1, (widths[0], small, small)),
        ]
        for i, o in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(i), nn.ReLU(inplace=True), nn.ConvTranspose2d(i, o, 4, 2, 1)]
        super().__init__(*layers)


def _trained(pixels: NDArray[np.uint8], seed: int, device: torch.device, title: str) -> VAE:
    """A small EVAE of 32 latents, trained for some hundred steps, on at most 50,000 of the images."""
    rows = np.random.default_rng([seed, 2]).permutation(len(pixels))[:_MOST]
    values = to_float(pixels[np.sort(rows)]).numpy()
    size = min(_TRAINED, len(values))
    steps = min(max(_STEPS[0], _EPOCHS * len(values) // size), _STEPS[1])
    epochs = max(1, round(steps / (len(values) // size)))
    console.print(f"{title}: {len(values):,} images, {counted(epochs, 'epoch')}")
    recipe = Recipe(epochs=epochs, batch_size=size, learning_rate=_RATE, decay="cosine", seed=seed)
    make = partial(EVAE, latent_dim=_LATENTS, encoder=_Body, decoder=_Picture)
    compute = Compute(accelerator=cast(Accelerator, device.type))
    return fit_arrays(make, values, None, recipe, compute, verbose=True).model.to(device)
