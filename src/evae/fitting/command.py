"""``evae fit-prior``: fit a prior to the codes of a run's training images, and save it with the run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evae import checks
from evae.console import console, warn
from evae.data import ImageOptions
from evae.errors import ConfigError
from evae.files import remove_leftovers
from evae.fitting.codes import Codes, encode_all
from evae.fitting.kinds import fit
from evae.fitting.settings import PRESETS, Density, Preset
from evae.models.fitted import FittedPrior, write_prior
from evae.numerics import resolve_device
from evae.runs import RunFolder
from evae.runs.images import images_for
from evae.settings import flat

_CHUNK = 1_000  # codes whose densities are evaluated at a time


@flat
def fit_prior(
    run_folder: Path,
    density: Density = Density(),
    preset: Preset | None = None,
    data: str | None = None,
    images: ImageOptions = ImageOptions(),
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Fit a prior to the codes of a run's training images, for samples and bounds; it is saved in RUN/prior.

    A tenth of the codes is held out; their mean log-density is printed. evae sample, evaluate and report use the prior.

    Args:
        run_folder: the folder of a trained run.
        density: what is fitted, and to which codes.
        preset: a published protocol instead of the options of the density: rae-gmm10 (Ghosh et al. 2020), dai-wipf
            (Dai and Wipf 2019) or pythae-maf.
        data: fit to the training images of these data instead of the run's own; as in evae train.
        images: how other images are read.
        seed: seed of the choice of held-out codes, of the samples and of the fit.
        device: cpu, cuda or mps; auto: a GPU where there is one.

    Returns:
        The folder of the prior.

    Raises:
        RunError: the folder is no run, its weights are damaged, or the prior cannot be written.
        DataError: the images cannot be used.
        ConfigError: a setting cannot work: a kind without a density, too few images, a package that is not installed.
    """
    run, where = RunFolder(run_folder), resolve_device(device)
    density = with_preset(density, preset)
    checks.seed(seed)
    run.check_inside()
    remove_leftovers(run.path / "prior")
    model = run.model().to(where)
    store = images_for(run, model, data, images)
    codes = encode_all(model, store.train, density.codes, seed)
    prior = replace(best_prior(codes, density, where), weights=model.weights_digest)
    about = {"images": store.fingerprint, "data": store.source, "preset": preset or "", **prior.about}
    write_prior(replace(prior, about=about), run.path)
    console.print(f"{run.path / 'prior'}: {prior}; evae sample {run} draws from it", soft_wrap=True)
    return run.path / "prior"


def with_preset(density: Density, preset: Preset | None) -> Density:
    """The settings of a preset; ConfigError where others were given besides, but for the number of epochs."""
    if preset is None:
        return density
    settings = PRESETS[checks.one_of("preset", preset, PRESETS)]
    defaults = Density()
    given = {name for name in vars(density) if getattr(density, name) != getattr(defaults, name)}
    if given - {"fit_epochs"}:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given - {"fit_epochs"}))
        raise ConfigError(f"--preset {preset} sets the density; without it {options} can be given")
    return replace(defaults, **(settings | {name: getattr(density, name) for name in given}))


def best_prior(codes: Codes, density: Density, device: torch.device) -> FittedPrior:
    """The prior of the kind that was asked for; with "auto" the one of the highest mean held-out log-density."""
    found: list[tuple[float, FittedPrior]] = []
    for kind in density.kinds:
        try:
            prior = fit(kind, codes, density, device)
        except ConfigError as error:
            if density.kind != "auto":
                raise
            warn(f"no {kind}: {error}")
            continue
        score, spread = held_out_log_density(prior, codes)
        fitted, held_out = (rows.stop - rows.start for rows in (codes.fitted, codes.held_out))
        about: dict[str, Any] = {"codes": codes.latents, "seed": codes.seed, "fitted": fitted, "held_out": held_out}
        if score is not None:
            about |= {"held_out_log_density": score, "standard_error": spread}
            console.print(
                f"{prior}: held-out log-density {score:.5g} ± {spread:.2g} nats per code "
                f"({fitted:,} codes fitted, {held_out:,} held out)",
                soft_wrap=True,
            )
        found.append((-math.inf if score is None else score, replace(prior, about=about)))
    if not found:
        raise ConfigError("no kind of prior can be fitted to these codes")
    return max(found, key=lambda pair: pair[0])[1]


@torch.no_grad()
def held_out_log_density(prior: FittedPrior, codes: Codes) -> tuple[float | None, float | None]:
    """Mean log-density of the held-out codes in nats, and its standard error; None for a prior without a density."""
    rows = codes.drawn_codes(codes.held_out)
    distribution = prior.distribution(lambda: codes.posterior, rows)
    try:
        values = [distribution.log_prob(part).double() for part in rows.split(_CHUNK)]
    except NotImplementedError:
        return None, None
    log_density = torch.cat(values)
    return log_density.mean().item(), log_density.std().item() / len(log_density) ** 0.5
