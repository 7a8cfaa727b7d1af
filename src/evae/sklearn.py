"""Estimators for scikit-learn: evae's models and training on arrays of features, in pipelines and searches.

Features are standardised inside, x̃ = (x - shift_)/scale_ by mean and standard deviation of each column. With
``image_shape`` a row is an image, flattened, and all pixels share one shift and scale, which take the training data to
[0, 1]. The features of an estimator, and its scores, are those of the posterior's code z(x): its mean, on a sphere its
mean direction.
"""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from evae import checks
from evae.errors import ConfigError, RunError, first_line
from evae.files import write_atomically
from evae.imports import import_object
from evae.models import ALIASES, FAMILIES, VAE
from evae.models.objectives import Elbo, ImportanceWeighted
from evae.numerics import resolve_device
from evae.records import Count, Finite, RecordError, read_json

if TYPE_CHECKING:
    from evae.training.in_memory import Trained

Device = Literal["auto", "cpu", "cuda", "mps"]
Model = str | type[VAE] | Callable[..., VAE]

_RECORD = "estimator.json"
_MAX_RECORD = 2**28  # bytes
_ROWS = 4096  # encoded or decoded at a time


class _VAEEstimator(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: parameters, fitting, codes, scores, and the files of a fitted one."""

    def __init__(
        self,
        model: Model = "BoundedVAE",
        latent_dim: int = 2,
        *,
        hyperparameters: dict[str, Any] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        device: Device = "auto",
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.latent_dim = latent_dim
        self.hyperparameters = hyperparameters
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit the standardisation and train the model.

        Args:
            X: features (N, F), at least 2 rows; with ``image_shape`` (N, C·H·W).
            y: ignored.

        Raises:
            ConfigError, a ValueError: a parameter cannot work.
            DivergedError: the loss is not finite any more.
        """
        self._fit(X)
        return self

    def _fit(self, X: ArrayLike) -> NDArray[Any]:
        """Fit; the features as they were checked."""
        values = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        self._check_shape(values.shape[1])
        self.shift_, self.scale_ = _standardisation(values, self.image_shape is not None)
        rows = self._rows(values)
        rng = check_random_state(self.random_state)
        train, validation = self._split(rows, rng)
        trained = self._train(train, validation, int(rng.randint(2**31 - 1)))
        self.model_, self.history_, self.n_iter_ = trained.model, trained.history, len(trained.history)
        return values

    def _check_shape(self, count: int) -> None:
        if self.image_shape is not None and math.prod(self.image_shape) != count:
            raise ConfigError(f"images of shape {tuple(self.image_shape)} do not have {count} features")

    def _split(self, rows: NDArray[np.float32], rng: Any) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Rows to train on, and those held back for early stopping."""
        if self.patience is None:
            return rows, None
        held = max(1, round(checks.fraction("validation_fraction", _plain(self.validation_fraction)) * len(rows)))
        if len(rows) - held < 2:
            raise ConfigError(f"early stopping leaves fewer than 2 of {len(rows)} rows to train on; set patience=None")
        order = rng.permutation(len(rows))
        return rows[np.sort(order[held:])], rows[np.sort(order[:held])]

    def _train(self, train: NDArray[np.float32], validation: NDArray[np.float32] | None, seed: int) -> "Trained":
        from evae.training.in_memory import fit_arrays  # takes seconds, which loading and transforming are spared
        from evae.training.settings import Compute, Recipe

        batch_size = checks.whole_number("batch_size", _plain(self.batch_size))
        recipe = Recipe(
            epochs=_plain(self.epochs),
            batch_size=min(batch_size, len(train)),
            learning_rate=_plain(self.learning_rate),
            seed=seed,
            patience=_plain(self.patience),
        )
        compute = Compute(accelerator=self.device, compile="off")  # compiling would take longer than most fits
        return fit_arrays(self._build, train, validation, recipe, compute, self.verbose)

    def _build(self, shape: tuple[int, ...]) -> VAE:
        """The model with its initial weights."""
        make = self.model
        if isinstance(make, str):
            name = ALIASES.get(make, make)
            make = import_object(name, "model") if "." in name else FAMILIES[checks.one_of("model", name, FAMILIES)]
        try:
            build: Callable[..., VAE] = make
            return build(shape, latent_dim=_plain(self.latent_dim), **(self.hyperparameters or {}))
        except TypeError as error:
            raise ConfigError(f"the model cannot be made with these hyperparameters: {first_line(error)}") from error

    def _rows(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Features as the model takes them: rows (N, F), or images (N, C, H, W) clipped to [0, 1]."""
        rows = ((values.astype(np.float64) - self.shift_) / self.scale_).astype(np.float32)
        return rows if self.image_shape is None else rows.clip(0, 1).reshape(-1, *self.image_shape)

    def _checked(self, X: ArrayLike) -> NDArray[Any]:
        """Features of a fitted estimator."""
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, dtype=[np.float64, np.float32]))

    @torch.no_grad()
    def _apply(self, function: Callable[[VAE, Tensor], Tensor], rows: NDArray[Any]) -> NDArray[np.float64]:
        """``function`` of the model and rows, some at a time.

        Rows of numbers are computed in double precision, in which a row's result does not depend on the others of its
        batch; images as the model was trained.
        """
        device = resolve_device(self.device)
        is_double = self.image_shape is None and device.type != "mps"
        model = deepcopy(self.model_).to(device, torch.float64 if is_double else torch.float32)
        like = next(model.parameters())
        parts = (torch.from_numpy(rows[start : start + _ROWS]).to(like) for start in range(0, len(rows), _ROWS))
        return np.concatenate([function(model, part).double().cpu().numpy() for part in parts])

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        r"""How well the model explains each row: ln p(x|z) - KL(q(z|x) ‖ p(z)) at the code z of x, in nats, (N,).

        It is deterministic, unlike the ELBO, whose mean over draws z of q(z|x) it takes at the code alone. Models
        without an exact KL have ln p(x|z): EVAE with its penalty, WAE, AE, RAE and VampVAE. It is the density in the
        features' own units, -Σ ln scale_ included; of images that of pixels in [0, 1].

        Args:
            X: features (N, F).
        """
        return self._scores(self._checked(X))

    def _scores(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """See ``score_samples``; of features that were checked."""
        jacobian = np.log(self.scale_).sum() if self.image_shape is None else 0.0
        return self._apply(_explained, self._rows(values)) - jacobian

    def save(self, folder: str | Path) -> None:
        """Write the fitted estimator: the model as ``save_pretrained`` does, and estimator.json; nothing is pickled.

        Args:
            folder: made where there is none.

        Raises:
            RunError: it cannot be written.
        """
        check_is_fitted(self)
        folder = Path(folder)
        record = _Record(
            estimator=type(self).__name__,
            parameters=self._plain_parameters(),
            shift=self.shift_.tolist(),
            scale=self.scale_.tolist(),
            feature_names=[str(name) for name in getattr(self, "feature_names_in_", ())],
            epochs=self.n_iter_,
            offset=float(getattr(self, "offset_", 0.0)),
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.model_.save_pretrained(folder)
        except OSError as error:
            raise RunError(f"{folder} could not be written ({error.strerror or error})") from error
        write_atomically(folder / _RECORD, json.dumps(record.__dict__) + "\n")

    def _plain_parameters(self) -> dict[str, Any]:
        """Parameters as JSON holds them, with the model's class and all its hyperparameters."""
        path = self.model_.class_path
        taken = {k: v for k, v in self.model_.hyperparameters.items() if k not in ("image_shape", "latent_dim")}
        own = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        if not isinstance(own["random_state"], int):
            own["random_state"] = None
        return own | {"model": path.removeprefix("evae."), "hyperparameters": taken}

    @classmethod
    def load(cls, folder: str | Path, **hyperparameters: Any) -> Self:
        """The fitted estimator that ``save`` wrote, without its ``history_``.

        Args:
            folder: what ``save`` wrote.
            hyperparameters: those of the model that JSON could not hold, such as networks.

        Raises:
            RunError: the folder holds no such estimator, or it is damaged.
        """
        folder = Path(folder)
        try:
            record = read_json(folder / _RECORD, _Record, _MAX_RECORD)
        except (OSError, RecordError) as error:
            raise RunError(f"{folder} holds no estimator that was saved ({first_line(error)})") from error
        if record.estimator != cls.__name__:
            raise RunError(f"{folder} holds a {record.estimator}, not a {cls.__name__}")
        model: VAE = VAE.from_pretrained(folder, **hyperparameters)
        try:
            record.check(model)
            shape = record.parameters.get("image_shape")
            estimator = cls(**record.parameters | {"image_shape": shape and tuple(shape)})
        except (TypeError, ValueError) as error:
            raise RunError(f"{folder / _RECORD} is damaged ({first_line(error)})") from error
        estimator.model_, estimator.history_, estimator.n_iter_ = model, [], record.epochs
        estimator.shift_, estimator.scale_ = np.array(record.shift), np.array(record.scale)
        estimator.n_features_in_ = len(record.shift)
        if record.feature_names:
            estimator.feature_names_in_ = np.array(record.feature_names, dtype=object)
        estimator._restore(record)
        return estimator

    def _restore(self, record: "_Record") -> None:
        """What an estimator keeps besides."""


@dataclass(frozen=True)
class _Record:
    """estimator.json."""

    estimator: str
    parameters: dict[str, Any]
    shift: list[Finite]
    scale: list[Finite]
    feature_names: list[str]
    epochs: Count
    offset: Finite
    version: Literal[1] = 1

    def check(self, model: VAE) -> None:
        """Raise ValueError unless it is that of an estimator with this model."""
        count = math.prod(model.image_shape)
        shape = None if len(model.image_shape) == 1 else list(model.image_shape)
        if not len(self.shift) == len(self.scale) == count or self.parameters.get("image_shape") != shape:
            raise ValueError("it is of another model than the one beside it")
        if min(self.scale) <= 0 or len(self.feature_names) not in (0, count):
            raise ValueError("its scales are not positive, or it has another number of names")
        checks.one_of("device", str(self.parameters.get("device")), get_args(Device))


def _plain(value: Any) -> Any:
    """A number of NumPy, as searches over parameters give them, as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _standardisation(values: NDArray[Any], is_image: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shift and scale of each feature (F,): mean and standard deviation; of images their least value and range."""
    values = values.astype(np.float64)
    if is_image:
        shift, scale = np.full(values.shape[1], values.min()), np.full(values.shape[1], np.ptp(values))
    else:
        shift, scale = values.mean(0), values.std(0)
    # Of a constant column rounding alone may make a deviation, which would be no unit.
    return shift, np.where(np.ptp(values, axis=0) > 0, scale, 1.0) if not is_image else np.where(scale > 0, scale, 1.0)


def _explained(model: VAE, rows: Tensor) -> Tensor:
    """ln p(x|z) at the code z, minus the KL where it is exact, (N,)."""
    q = model.posterior(rows)
    log_likelihood = model.likelihood(model.code(q)).log_prob(rows)
    if isinstance(model.objective, Elbo | ImportanceWeighted) and model.objective.divergence_name == "kl":
        return log_likelihood - model.objective.divergence(model, q)
    return log_likelihood


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _VAEEstimator):  # type: ignore[misc]
    """Codes of a variational autoencoder as features: z(x), (N, latent_dim).

    Args:
        model: a family by name ("BoundedVAE", "EVAE", "GaussianVAE", ...; see ``evae models``), an import path of one's
            own, a class, or a function of (shape, latent_dim, ...) that makes a model.
        latent_dim: number of latents, the features that ``transform`` returns.
        hyperparameters: of the model, besides latent_dim, e.g. {"widths": (64, 64), "likelihood": "student"}.
        image_shape: (C, H, W), if rows are images: then convolutional networks and a Bernoulli likelihood are the
            default; H = W one of 16, 32, 64, 128, 256 for these networks, any with {"networks": "mlp"}.
        epochs: passes over the training rows.
        batch_size: rows per optimizer step; all of them where there are fewer.
        learning_rate: of Adam.
        patience: hold back ``validation_fraction`` of the rows, stop after this many epochs without a lower validation
            loss, and take the best epoch; None: train on all rows for all epochs.
        validation_fraction: see ``patience``.
        random_state: seed of weights, batches and noise; an int makes ``fit`` repeatable.
        device: "cpu", "cuda" or "mps"; "auto": a GPU where there is one.
        verbose: print the metrics of every epoch.

    Attributes:
        model_: the trained ``evae.VAE``, which takes standardised rows.
        history_: metrics of every epoch, as in metrics.jsonl.
        n_iter_: number of epochs that were trained.
        shift_: of each feature, (F,), in its own units.
        scale_: of each feature, (F,), in its own units.
        n_features_in_: number of features.
        feature_names_in_: their names, where ``fit`` was given any.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> transformer = VAETransformer(latent_dim=2, epochs=5, random_state=0)
        >>> transformer.fit_transform(load_iris().data).shape
        (150, 2)
    """

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """The codes (N, latent_dim) of features (N, F), of their floating-point type."""
        values = self._checked(X)
        return self._apply(VAE.encode, self._rows(values)).astype(values.dtype)

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Mean features (N, F), in their own units, of codes (N, latent_dim)."""
        check_is_fitted(self)
        codes = check_array(X, dtype=[np.float64, np.float32])
        if codes.shape[1] != self._n_features_out:
            raise ConfigError(f"codes have {self._n_features_out} columns, not {codes.shape[1]}")
        rows = self._apply(VAE.decode, codes).reshape(len(codes), -1)
        return (rows * self.scale_ + self.shift_).astype(codes.dtype)

    @property
    def _n_features_out(self) -> int:
        """Number of latents."""
        return int(self.model_.hyperparameters["latent_dim"])


class VAEOutlierDetector(OutlierMixin, _VAEEstimator):  # type: ignore[misc]
    """Rows that a variational autoencoder explains badly are outliers: those of a low ``score_samples``.

    Args:
        contamination: fraction of the training rows, in (0, 0.5], that are called outliers.
        model: as every other parameter, see ``VAETransformer``.

    Attributes:
        offset_: the score below which a row is an outlier.
        model_: as every other attribute, see ``VAETransformer``.
    """

    def __init__(
        self,
        model: Model = "BoundedVAE",
        latent_dim: int = 2,
        *,
        contamination: float = 0.1,
        hyperparameters: dict[str, Any] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        device: Device = "auto",
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            latent_dim,
            hyperparameters=hyperparameters,
            image_shape=image_shape,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            validation_fraction=validation_fraction,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.contamination = contamination

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """As ``VAETransformer.fit``; then find the offset."""
        contamination = _plain(self.contamination)
        if not 0 < contamination <= 0.5:
            raise ConfigError(f"contamination must be in (0, 0.5], not {contamination}")
        values = self._fit(X)
        self.offset_ = float(np.percentile(self._scores(values), 100 * contamination))
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """score_samples - offset_, (N,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """-1 for outliers, 1 for others, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _restore(self, record: _Record) -> None:
        self.offset_ = record.offset
