"""The spec of a trade-off: a curve for each hyperparameter that trades rate for distortion."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

_WEIGHTS = [0.03, 0.1, 0.3, 1.0, 3.0]

# What is left out of a name has its default; what distinguishes two curves of one class is named.
CURVES: Mapping[str, tuple[str, dict[str, Any]]] = MappingProxyType(
    {
        "beta": ("BetaVAE", {"beta": {"grid": [*_WEIGHTS]}}),
        "support-length": ("EVAE", {"support_length": {"grid": [0.1, 0.3, 1.0, 3.0, 10.0]}}),
        "bandwidth": ("EVAE", {"support_length": 1.0, "bandwidth": {"grid": [0.03, 0.1, 0.3, 1.0]}}),
        "weight": ("BoundedVAE", {"kernel": "epanechnikov", "prior": "kernel", "weight": {"grid": [*_WEIGHTS]}}),
        "kernels": (
            "BoundedVAE",
            {
                "prior": "kernel",
                "kernel": {"grid": ["uniform", "biweight", "triweight"]},
                "weight": {"grid": _WEIGHTS[1:-1]},
            },
        ),
    }
)


def spec_text(data: str, curves: Sequence[str], latent_dim: int, seeds: int, **train: int | str) -> str:
    """The file of a benchmark whose cells are the points of the curves; ``train`` are other options of evae train.

    A prior is fitted to the codes of each run: under it every posterior with a density has a finite rate, also that of
    an EVAE with a uniform prior.
    """
    models = [
        {"class_path": family, "init_args": {"latent_dim": latent_dim, **arguments}}
        for family, arguments in (CURVES[name] for name in curves)
    ]
    spec = {
        "train": {"data": data, **train, "seed": {"grid": list(range(seeds))}, "model": {"grid": models}},
        "fit_prior": {"kind": "gaussian"},
        "evaluate": {"likelihood": 16},
        "table": {"over": "seed", "columns": ["bce", "rate, fitted prior", "sharpness"]},
    }
    return yaml.safe_dump(spec, sort_keys=False, default_flow_style=None, width=110)
