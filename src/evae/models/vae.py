"""A variational autoencoder: encoder, prior, decoder, likelihood and objective, put together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributions import Distribution

from evae.errors import ConfigError, RunError, check_choice, first_line
from evae.files import write_atomically
from evae.models.objectives import Objective, Terms

Latents = Literal["sample", "mean"]
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class VAE(
    nn.Module,
    ModelHubMixin,
    library_name="evae",
    tags=["variational-autoencoder"],
    paper_url="https://arxiv.org/abs/2405.12783",
):
    """Images x and latents z: posterior q(z|x), prior p(z), likelihood p(x|z), and what is minimised.

    The families (EVAE, GaussianVAE, ...) are this class with their parts chosen; use it directly for parts of
    your own.

    Args:
        image_shape: (C, H, W).
        encoder: images (N, C, H, W) in [0, 1] to a Distribution over (N, d), event shape (d,).
        prior: a module whose call returns a Distribution with event shape (d,).
        decoder: latents (N, d) to maps (N, C, H, W).
        pixels: decoder maps to a Distribution over images (N, C, H, W), event shape (C, H, W).
        objective: (model, images) to Terms.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        encoder: nn.Module,
        prior: nn.Module,
        decoder: nn.Module,
        pixels: nn.Module,
        objective: Objective,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.encoder, self.prior, self.decoder, self.pixels = encoder, prior, decoder, pixels
        self.objective = objective

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments, those that JSON can hold."""
        return dict(self._hub_mixin_config or {})  # type: ignore[arg-type]

    def posterior(self, images: Tensor) -> Distribution:
        """q(z|x), batch shape (N,) and event shape (d,).

        Raises:
            ConfigError: ``images`` are not floating point of shape (N, C, H, W).
        """
        self.check_images(images)
        q: Distribution = self.encoder(images)
        return q

    def check_images(self, images: Tensor) -> None:
        """Raise ConfigError unless ``images`` are floating point of shape (N, C, H, W)."""
        if images.shape[1:] != self.image_shape or not images.is_floating_point():
            raise ConfigError(
                f"this {type(self).__name__} takes floating-point images in [0, 1] of shape "
                f"(N, {', '.join(map(str, self.image_shape))}), not {images.dtype} of shape {tuple(images.shape)}"
            )

    def likelihood(self, latents: Tensor) -> Distribution:
        """p(x|z) for latents (N, d), batch shape (N,) and event shape (C, H, W)."""
        maps = self.decoder(latents)
        p: Distribution = self.pixels(maps.to(torch.promote_types(maps.dtype, torch.float32)))
        return p

    def forward(self, images: Tensor, warmth: float | Tensor = 1.0) -> Terms:
        """The objective's terms for images (N, C, H, W); during a warm-up its divergence counts ``warmth`` of 1."""
        return self.objective(self, images, warmth)

    def centre(self, q: Distribution) -> Tensor:
        """The point (N, d) that stands for a posterior: its mean, or on a sphere its mean direction."""
        return q.mean

    def encode(self, images: Tensor) -> Tensor:
        """The posterior's centre (N, d), deterministic."""
        return self.centre(self.posterior(images))

    def decode(self, latents: Tensor) -> Tensor:
        """The mean image (N, C, H, W) in [0, 1] of latents (N, d)."""
        return self.likelihood(latents).mean

    def initialise(self, draw: Callable[[int], Tensor]) -> None:
        """Called once before training. A family whose parameters start from data does so here.

        Args:
            draw: gives so many training images, (count, C, H, W).
        """

    @torch.no_grad()
    def reconstruct(self, images: Tensor, latents: Latents = "mean") -> Tensor:
        """Mean images decoded from the posterior's mean, or from one sample of it; (N, C, H, W), no gradient."""
        check_choice("latents", latents, get_args(Latents))
        q = self.posterior(images)
        return self.decode(self.centre(q) if latents == "mean" else q.sample())

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Mean images (count, C, H, W) decoded from draws of the prior, no gradient."""
        return self.decode(self.prior().sample((count,)))

    # Saving and loading: safetensors and JSON, nothing that is executed -------------------------------------

    def _save_pretrained(self, save_directory: Path) -> None:
        write_atomically(save_directory / WEIGHTS, save(state_tensors(self)))
        config = {"model": type(self).__name__, **self.hyperparameters}
        write_atomically(save_directory / CONFIG, json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        map_location: str = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **model_kwargs: Any,
    ) -> "VAE":
        """A saved model, in evaluation mode, of the family that saved it.

        Args:
            pretrained_model_name_or_path: a run folder, what ``save_pretrained`` wrote, or a model id of the hub.
            map_location: the device to put it on.
            revision, cache_dir, force_download, local_files_only, token: of the hub, see huggingface_hub.
            model_kwargs: constructor's arguments that JSON could not hold (encoder, decoder), or others to override.

        Raises:
            RunError: there is no such model, its files are damaged, or it is not of this family.
        """
        model_id = str(pretrained_model_name_or_path)

        def fetch(name: str) -> Path:
            if Path(model_id).is_dir():
                return Path(model_id) / name
            try:
                path = hf_hub_download(
                    model_id,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                raise RunError(f"{model_id} is neither a folder nor a model on the hub that can be reached") from error
            return Path(path)

        config = _read_config(fetch(CONFIG))
        family = cls._family(config.get("model"), model_id)
        known = {k: v for k, v in config.items() if k in family._hub_mixin_init_parameters}
        try:
            model = family(**(known | model_kwargs)).to(map_location)
        except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
            reason = first_line(error)
            raise RunError(f"the {CONFIG} of {model_id} does not make a {family.__name__} ({reason})") from error
        weights = fetch(WEIGHTS)
        try:
            model.load_state_dict(load_file(weights, device=map_location))
        except FileNotFoundError as error:
            raise RunError(f"{weights} does not exist") from error
        except (SafetensorError, OSError) as error:
            raise RunError(f"{weights} is damaged or not a safetensors file ({error})") from error
        except RuntimeError as error:
            raise RunError(f"{weights} holds weights of another network than its {CONFIG} describes") from error
        return model.eval()

    @classmethod
    def _family(cls, name: Any, model_id: str) -> "type[VAE]":
        """The class that saved the model: this one or one of its subclasses, by name."""
        families = {family.__name__: family for family in _descendants(cls)}
        if not isinstance(name, str) or name not in families:
            raise RunError(f"{model_id} holds a model of class {name!r}, which is not {' or '.join(families)}")
        return families[name]


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state for safetensors, which refuses tensors that share memory: a weight with two names is copied."""
    state = model.state_dict()
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def _descendants(cls: type[VAE]) -> list[type[VAE]]:
    return [cls, *(d for sub in cls.__subclasses__() for d in _descendants(sub))]


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
