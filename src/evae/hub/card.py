"""The model card: README.md of a repository, with the measurements as ``model-index``, each with its recipe."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from docstring_parser import parse
from huggingface_hub import EvalResult, ModelCardData

from evae import figures
from evae.data import Account
from evae.data.builtin import ON_HUB
from evae.metrics.legend import legend
from evae.models import VAE
from evae.reporting.pages import render
from evae.rounding import counted, rounded
from evae.runs.evaluation import Evaluation, Number, Section
from evae.runs.images import UNPUBLISHED

TASK = "unconditional-image-generation"
_RECIPE = (
    *("epochs", "batch_size", "learning_rate", "seed", "validation", "warmup", "decay", "divergence_warmup"),
    *("gradient_clip", "ema", "patience", "precision"),
)
_OFF = (None, 0.0, "none")


@dataclass(frozen=True)
class Published:
    """What a card tells of a run.

    Attributes:
        repository: owner/name.
        model: the trained model.
        config: the resolved command, without what is private.
        data: the public name of the data, "" where it has none.
        account: what was read of them; None where the run has no account.
        evaluation: what was measured on its hold-out images, without what is private; None where nothing was.
        pictures: captions of the pictures, by name.
        licence: an identifier of the hub's list, None where none was given.
        labels: tell the names of the classes, too.
    """

    repository: str
    model: VAE
    config: dict[str, Any]
    data: str
    account: Account | None
    evaluation: Evaluation | None
    pictures: dict[str, str]
    licence: str | None
    labels: bool


def card(run: Published) -> str:
    """The text of README.md: metadata in YAML, and what people read."""
    model, evaluation = run.model, run.evaluation
    sections = _sections(evaluation)
    content = {
        "run": run,
        "metadata": _metadata(run).to_yaml(),
        "family": type(model).__name__,
        "summary": parse(type(model).__doc__ or "").short_description or "",
        "is_own": not model.class_path.startswith("evae."),
        "own_networks": [name for name in ("encoder", "decoder") if model.hyperparameters.get(name) is not None],
        "taken": f"(N, {', '.join(map(str, model.image_shape))})",
        "hyperparameters": {k: _shown(v) for k, v in model.hyperparameters.items() if v is not None},
        "weights": sum(p.numel() for p in model.parameters()),
        "data": _data(run),
        "recipe": {k: _shown(run.config[k]) for k in _RECIPE if k == "seed" or run.config.get(k) not in _OFF},
        "sections": sections,
        "about": _about(evaluation) if evaluation else "",
        "legend": legend(number for section in sections for number in section.numbers),
        "evae": version("evae"),
    }
    return render("card.md", **content)


def _shown(value: Any) -> str:
    """A setting as people read it."""
    return rounded(value) if isinstance(value, float) else str(value)


def _metadata(run: Published) -> ModelCardData:
    """What the hub reads of a card."""
    dataset = ON_HUB[run.data].id if run.data in ON_HUB else run.data if "/" in run.data else None
    results = [result for section in _sections(run.evaluation) for result in _results(run, section)]
    return ModelCardData(
        library_name="evae",
        license=run.licence,
        pipeline_tag=TASK,
        tags=["variational-autoencoder", type(run.model).__name__, "arxiv:2405.12783"],
        datasets=[dataset] if dataset else None,
        model_name=run.repository.rpartition("/")[2],
        eval_results=results or None,
    )


class _Measured:
    """The finite numbers of a section of an evaluation, and their recipes: all they depend on besides the model."""

    def __init__(self, section: Section, evaluation: Evaluation) -> None:
        self.name, self.settings = section.name, section.settings
        self.numbers = [number for number in section.numbers if math.isfinite(number.value)]
        self._shared = {"latents": evaluation.latents, "repeats": evaluation.repeats, "seed": evaluation.seed}
        self._shared["images"] = evaluation.count

    def recipe(self, number: Number) -> dict[str, Any]:
        """Of one number: a setting "model prior: count" is of the numbers whose names begin with "model prior: "."""
        own = {name.rpartition(": "): value for name, value in self.settings.items()}
        return self._shared | {
            name: v for (group, _, name), v in own.items() if number.name.startswith(f"{group}: ") or not group
        }


def _sections(evaluation: Evaluation | None) -> list[_Measured]:
    """The sections that have numbers."""
    measured = [_Measured(section, evaluation) for section in evaluation.sections.values()] if evaluation else []
    return [section for section in measured if section.numbers]


def _results(run: Published, section: _Measured) -> Iterator[EvalResult]:
    """The numbers of a section as ``model-index`` holds them."""
    for number in section.numbers:
        about = {"standard_error": number.error, "better": number.better}
        yield EvalResult(
            task_type=TASK,
            dataset_type=run.data or "other",
            dataset_name=run.data or UNPUBLISHED,
            dataset_split="holdout",
            metric_type=number.name,
            metric_value=number.value,
            metric_name=number.title,
            metric_args={k: v for k, v in about.items() if v is not None} | section.recipe(number),
        )


def _about(evaluation: Evaluation) -> str:
    """What all numbers were measured on."""
    images = counted(evaluation.count, "hold-out image")
    return f"{images}, latents: {evaluation.latents}, repeats: {evaluation.repeats}, seed {evaluation.seed}"


def _data(run: Published) -> list[str]:
    """What the card tells of the images: never names of files, names of classes where they are asked for."""
    crop = run.config.get("crop")
    lines = [f"centre crop of {crop} pixels" if crop else "largest centre square", *_size(run)]
    if (account := run.account) is not None:
        noun = {"holdout": "hold-out image"}
        counts = [counted(count, noun.get(split, "training image")) for split, count in account.splits.items()]
        lines = [*counts, *lines, f"values: {account.values}"]
        if run.labels and account.classes:
            lines.append(f"classes: {', '.join(account.classes)}")
    return lines


def _size(run: Published) -> list[str]:
    channels, height, width = run.model.image_shape
    return [f"{width}x{height} pixels", figures.kind(channels)]
