"""Hyperparameters, saving, loading and the hub: safetensors and JSON, so that loading weights executes no code."""

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from evae.columns import Columns
from evae.errors import ConfigError, RunError, first_line
from evae.files import digest, write_atomically
from evae.imports import import_object
from evae.models.custom import as_json, check_named, is_object
from evae.models.fitted import FittedPrior, read_prior, write_prior
from evae.models.weights import Shapes, load_weights, read_weights, save_weights
from evae.records import RecordError, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
COLUMNS = "columns.json"  # of a model of rows
_MAX_COLUMNS = 2**26  # bytes
HUB_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")

T = TypeVar("T", bound="Pretrained")


class Pretrained(
    nn.Module,
    ModelHubMixin,
    library_name="evae",
    tags=["variational-autoencoder"],
    paper_url="https://arxiv.org/abs/2405.12783",
    model_card_template=(Path(__file__).parent / "card.md").read_text(),
):
    """A module that records its hyperparameters, and is saved and loaded with them.

    Attributes:
        columns: of the rows that it was trained on: what ``columns.restore(rows.numpy())`` needs to give samples and
            reconstructions in the units of the data; None for images, and where none were given.
    """

    columns: Columns | None = None
    _hyperparameters: dict[str, Any]
    _weights_digest = ""
    _prior: FittedPrior | Callable[[], FittedPrior | None] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All arguments that construct the class again, defaults too, as JSON holds them."""
        return dict(self._hyperparameters)

    @property
    def class_path(self) -> str:
        """The import path of its class: "evae.EVAE" for a family of evae, else "package.module.Class"."""
        import evae

        cls = type(self)
        exported = getattr(evae, cls.__name__, None) is cls
        return f"{'evae' if exported else cls.__module__}.{cls.__qualname__}"

    @property
    def weights_digest(self) -> str:
        """Digest of the file that its weights were read from; "" for a model that was not loaded."""
        return self._weights_digest

    def attach_prior(self, prior: FittedPrior | Callable[[], FittedPrior | None] | None) -> None:
        """Set the fitted prior, or the function that reads it when it is first needed."""
        self._prior = prior

    def read_prior(self) -> FittedPrior | None:
        """The fitted prior with its parameters; None where none was fitted.

        Raises:
            RunError: its files are damaged, or it was fitted to other weights.
        """
        if callable(self._prior):
            self._prior = self._prior()
        return self._prior

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = state_tensors(self)
        weights = save_weights(tensors)
        write_atomically(save_directory / WEIGHTS, weights)
        config = {"model": self.class_path, **self.hyperparameters}
        write_atomically(save_directory / CONFIG, json.dumps(config, indent=2) + "\n")
        if self.columns is not None:
            write_json(save_directory / COLUMNS, self.columns)
        prior = self.read_prior()
        # Files of the first version had no digest in them.
        if prior is not None and prior.weights in (digest(weights), digest(save(tensors))):
            write_prior(replace(prior, weights=digest(weights)), save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, map_location: str = "cpu", **model_kwargs: Any
    ) -> Self:
        """A saved model, in evaluation mode, of the class that saved it.

        A local folder may name any importable class and network functions. A model of the hub must be of one of evae's
        classes, with evae's networks, so that no other code is imported.

        Args:
            pretrained_model_name_or_path: a run folder, what ``save_pretrained`` wrote, or a model id of the hub.
            map_location: the device to put it on.
            model_kwargs: constructor's arguments that JSON could not hold (encoder, decoder), or others to override;
                and huggingface_hub's options revision, cache_dir, force_download, local_files_only and token.

        Raises:
            RunError: there is no such model, its files are damaged, or it is not of this class.
        """
        model_id = str(pretrained_model_name_or_path)
        is_local = Path(model_id).is_dir()
        hub = {name: model_kwargs.pop(name) for name in HUB_OPTIONS if name in model_kwargs}

        def fetch(name: str) -> Path:
            try:
                return Path(model_id) / name if is_local else Path(hf_hub_download(model_id, name, **hub))
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                raise RunError(f"{model_id} is neither a folder nor a model on the hub that can be reached") from error

        config = _read_config(fetch(CONFIG))
        family = _find_class(config.pop("model", None), cls, model_id, is_local)
        arguments = _arguments(family, config, model_kwargs, model_id, is_local)
        weights = fetch(WEIGHTS)
        check = partial(_check_shapes, family, arguments, weights, model_id)
        content = _read_weights(weights, check)
        model = _build(family, arguments, model_id).to(map_location)
        _load(model, content, weights)
        model._weights_digest = digest(content)
        if len(getattr(model, "image_shape", ())) == 1:
            with suppress(RunError) if not is_local else nullcontext():
                model.columns = read_columns(fetch(COLUMNS).parent)
        fetch_prior = partial(_read_prior, weights, model_id, None if is_local else hub, model._weights_digest)
        model.attach_prior(fetch_prior)
        return model.eval()


def _read_weights(path: Path, check: Callable[[Shapes], None]) -> bytes:
    try:
        return read_weights(path, check)
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist") from error
    except (RecordError, OSError) as error:
        raise RunError(f"{path} is damaged or not a safetensors file ({first_line(error)})") from error


def read_columns(folder: Path) -> Columns | None:
    """The columns of the model of rows in a folder; None where there are none, as for images.

    Raises:
        RunError: they are damaged.
    """
    path = folder / COLUMNS
    try:
        columns = read_json(path, Columns, _MAX_COLUMNS)
        columns.check()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({first_line(error)})") from error
    return columns


def _load(model: nn.Module, content: bytes, path: Path) -> None:
    """Load the weights of a file into a model."""
    try:
        tensors = load_weights(content)
        _check_finite(tensors, model.state_dict(), path)
        model.load_state_dict(tensors)
    except (SafetensorError, RecordError) as error:
        raise RunError(f"{path} is damaged or not a safetensors file ({first_line(error)})") from error
    except RuntimeError as error:
        raise RunError(f"{path} holds weights of another network than its {CONFIG} describes") from error


def _check_finite(tensors: dict[str, Tensor], initial: dict[str, Tensor], path: Path) -> None:
    """Raise RunError where a value is not finite that is finite in a new model."""
    for name, value in tensors.items():
        bad = ~torch.isfinite(value)
        if bad.any() and name in initial and not is_lazy(initial[name]) and initial[name].shape == value.shape:
            bad &= torch.isfinite(initial[name].cpu())
        if bad.any():
            raise RunError(
                f"{path}: {int(bad.sum())} of the {bad.numel()} values of {name} are NaN or infinite; "
                "take the weights of another checkpoint, or train again"
            )


def _check_shapes(
    family: type[nn.Module], arguments: dict[str, Any], path: Path, model_id: str, shapes: Shapes
) -> None:
    """Raise RunError where the model is another than that of the weights, before either takes memory."""
    if any(isinstance(value, nn.Module) for value in arguments.values()):
        return  # the caller's own, which is not built here
    is_own = family.__module__.split(".")[0] == "evae"
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            own = family(**arguments).state_dict()
    except Exception as error:  # anyone's model
        if is_own and not any(callable(value) for value in arguments.values()):
            raise _unbuilt(family, model_id, error) from error
        return  # not every network can be built without memory
    made = {name: tuple(value.shape) for name, value in own.items() if not is_lazy(value)}
    differing = [name for name in made.keys() & shapes.keys() if made[name] != shapes[name]]
    if is_own:
        differing += own.keys() ^ shapes.keys()
    if differing:
        name = min(differing)
        here, there = (f"{name} {at[name]}" if name in at else f"no {name}" for at in (shapes, made))
        raise RunError(
            f"{path} holds weights of another network than its {CONFIG} describes ({here} in it, {there} in the model)"
        )


def _read_prior(weights: Path, model_id: str, hub: dict[str, Any] | None, written: str) -> FittedPrior | None:
    """The prior beside the weights with digest ``written``, in a local folder (``hub`` None) or on the hub."""

    def fetch(name: str) -> Path | None:
        try:
            path = weights.parent / name if hub is None else Path(hf_hub_download(model_id, name, **hub))
        except (HfHubHTTPError, OSError):
            return None
        return path if path.exists() else None

    return read_prior(fetch, lambda: written, model_id)


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that also records its arguments, and the defaults of those that it passes on by ``**kwargs``.

    What a constructor passes to the one above it by name is its own choice, and no argument of it.
    """
    parameters = signature(init).parameters.values()
    _, *own = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")

    @wraps(init)
    def recorded(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        state = vars(self)
        outermost = "_reachable" not in state
        reachable = outermost or state["_reachable"]
        record = state.setdefault("_hyperparameters", {})
        bound = signature(init).bind(self, *args, **kwargs)
        given = bound.arguments
        bound.apply_defaults()
        for name in own:
            value = as_json(name, bound.arguments[name])
            if outermost if name in given else (reachable and not is_object(value)):
                record.setdefault(name, value)
        state["_reachable"] = reachable and bool(rest)
        init(self, *args, **kwargs)
        if outermost:
            for name, value in given.get(rest, {}).items():
                record.setdefault(name, as_json(name, value))
            del state["_reachable"]

    return recorded


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state for safetensors, which refuses tensors that share memory: a weight with two names is copied."""
    state = model.state_dict()
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path, dict[str, Any])
    except FileNotFoundError as error:
        raise RunError(f"{path.parent} holds no model: {CONFIG} is missing") from error
    except (OSError, RecordError) as error:
        raise RunError(f"{path} is damaged ({first_line(error)})") from error
    return config


def _find_class(name: Any, base: type[T], model_id: str, is_local: bool) -> type[T]:
    """The class that saved the model: one of evae's ("evae.EVAE", or "EVAE" in old files), or an import path."""
    import evae

    short = str(name).removeprefix("evae.")
    if name in (base.__name__, f"{base.__module__}.{base.__qualname__}"):  # also of a class that cannot be imported
        return base
    found = getattr(evae, short) if short in evae.__all__ else None
    if found is None and not is_local:
        only = "only models of evae's own classes load from the hub"
        raise RunError(f"{model_id} on the hub is of class {name!r}; {only}")
    if found is None and "." in short:
        try:
            found = import_object(str(name), "model")
        except ConfigError as error:
            raise RunError(f"{model_id} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise RunError(f"{model_id} holds a model of class {name!r}, which is not {base.__name__} or a subclass of it")
    return found


def _arguments(
    family: type[nn.Module], config: dict[str, Any], overrides: dict[str, Any], model_id: str, is_local: bool
) -> dict[str, Any]:
    """The constructor's arguments; RunError where some were objects, or code that may not be imported."""
    try:
        for name, value in config.items():
            if name in overrides:
                continue
            check_named(name, value)
            if name in ("encoder", "decoder") and value is not None and not is_local:
                raise ConfigError(f"{value!r} is code outside of evae; pass it: from_pretrained(..., {name}=...)")
    except ConfigError as error:
        raise _unbuilt(family, model_id, error) from error
    return config | overrides


def _build(family: type[T], arguments: dict[str, Any], model_id: str) -> T:
    """The model with its initial weights."""
    try:
        with torch.random.fork_rng(devices=[]):  # for the initial weights, which are replaced
            return family(**arguments)
    except Exception as error:  # anyone's model
        raise _unbuilt(family, model_id, error) from error


def _unbuilt(family: type, model_id: str, error: Exception) -> RunError:
    return RunError(f"the {CONFIG} of {model_id} does not make a {family.__name__} ({first_line(error)})")
