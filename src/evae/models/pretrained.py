"""Hyperparameters, saving, loading and the hub: safetensors and JSON, so that loading weights executes no code."""

import json
from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from evae.errors import ConfigError, RunError, first_line
from evae.files import digest, write_atomically
from evae.imports import import_object
from evae.models.custom import as_json, check_named, is_object
from evae.models.fitted import FittedPrior, read_prior, write_prior

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
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
    """A module that records its hyperparameters, and is saved and loaded with them."""

    _hyperparameters: dict[str, Any]
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
        weights = save(state_tensors(self))
        write_atomically(save_directory / WEIGHTS, weights)
        config = {"model": self.class_path, **self.hyperparameters}
        write_atomically(save_directory / CONFIG, json.dumps(config, indent=2) + "\n")
        prior = self.read_prior()
        if prior is not None and prior.weights == digest(weights):
            write_prior(prior, save_directory)

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
        model = _build(family, config, model_kwargs, model_id, is_local).to(map_location)
        weights = fetch(WEIGHTS)
        model.attach_prior(partial(_read_prior, weights, model_id, None if is_local else hub))
        try:
            model.load_state_dict(load_file(weights, device=map_location))
        except FileNotFoundError as error:
            raise RunError(f"{weights} does not exist") from error
        except (SafetensorError, OSError) as error:
            raise RunError(f"{weights} is damaged or not a safetensors file ({error})") from error
        except RuntimeError as error:
            raise RunError(f"{weights} holds weights of another network than its {CONFIG} describes") from error
        return model.eval()


def _read_prior(weights: Path, model_id: str, hub: dict[str, Any] | None) -> FittedPrior | None:
    """The prior beside the weights, in a local folder (``hub`` None) or on the hub, if it is of these weights."""

    def fetch(name: str) -> Path | None:
        try:
            path = weights.parent / name if hub is None else Path(hf_hub_download(model_id, name, **hub))
        except (HfHubHTTPError, OSError):
            return None
        return path if path.exists() else None

    return read_prior(fetch, lambda: digest(weights.read_bytes()), model_id)


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
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{path.parent} holds no model: {CONFIG} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error})") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is damaged (not a JSON object)")
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


def _build(family: type[T], config: dict[str, Any], overrides: dict[str, Any], model_id: str, is_local: bool) -> T:
    """The model with its initial weights."""
    try:
        for name, value in config.items():
            if name in overrides:
                continue
            check_named(name, value)
            if name in ("encoder", "decoder") and value is not None and not is_local:
                raise ConfigError(f"{value!r} is code outside of evae; pass it: from_pretrained(..., {name}=...)")
        with torch.random.fork_rng(devices=[]):  # for the initial weights, which are replaced
            return family(**(config | overrides))
    except Exception as error:  # anyone's model
        raise RunError(f"the {CONFIG} of {model_id} does not make a {family.__name__} ({first_line(error)})") from error
