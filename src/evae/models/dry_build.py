"""Building a model without images, to find wrong hyperparameters before they are read."""

from collections.abc import Callable

import torch

from evae.errors import ConfigError, EvaeError, first_line
from evae.models.custom import NotCopiedError, copied, copies_of_modules
from evae.models.networks import ImageShape
from evae.models.vae import VAE


def check_buildable(model: Callable[[ImageShape], VAE], image_size: int | None) -> None:
    """Build the model for RGB or grey images, and discard it; the caller's modules and random numbers stay as they are.

    Where it holds a module that cannot be copied, nothing is checked.

    Args:
        model: from the images' shape to a VAE.
        image_size: height and width; None tries 64, then 32.

    Raises:
        ConfigError: it can be built for none of them.
    """
    sizes = (64, 32) if image_size is None else (image_size,)
    errors = []
    for shape in [(channels, size, size) for size in sizes for channels in (3, 1)]:
        try:
            return _build(model, shape)
        except NotCopiedError:
            return None
        except Exception as error:  # anyone's model
            errors.append(error)
    first = next((error for error in errors if isinstance(error, EvaeError)), errors[0])
    if isinstance(first, EvaeError):
        raise first
    raise ConfigError(f"--model cannot be built ({type(first).__name__}: {first_line(first)})") from first


def _build(model: Callable[[ImageShape], VAE], shape: ImageShape) -> None:
    with torch.random.fork_rng(devices=[]), copies_of_modules():
        try:
            with torch.device("meta"):
                copied(model)(shape)
        except NotCopiedError:
            raise
        except Exception:  # not every network can be built without memory
            copied(model)(shape)
