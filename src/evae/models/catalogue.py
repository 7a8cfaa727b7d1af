"""The families, as a table to read: what each is, its hyperparameters, their defaults."""

from inspect import Parameter, signature

from docstring_parser import parse
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evae import models as room
from evae.models.vae import VAE

_EVERY_FAMILY = ("image_shape", "latent_dim", "likelihood", "encoder", "decoder")


def families() -> dict[str, type[VAE]]:
    """The families by name."""
    exported = {name: getattr(room, name) for name in room.__all__}
    return {
        name: cls for name, cls in exported.items() if isinstance(cls, type) and issubclass(cls, VAE) and cls is not VAE
    }


def models() -> None:
    """List the models with their hyperparameters, defaults and sources."""
    console = Console()
    for name, family in families().items():
        console.print(f"[bold]{name}[/bold]  {escape(_summary(family))}")
        table = Table(box=None, show_header=False, padding=(0, 2), pad_edge=True)
        for parameter in signature(family).parameters.values():
            if parameter.name not in _EVERY_FAMILY:
                table.add_row(*map(escape, _row(family, parameter)))
        console.print(table if table.rows else "  [dim]none of its own[/dim]")
    console.print(
        "All of them have latent_dim (64), likelihood (bernoulli, continuous_bernoulli, gaussian) and, from Python, "
        "encoder and decoder. evae train --model NAME --model.HYPERPARAMETER VALUE sets them."
    )


def _summary(family: type[VAE]) -> str:
    return parse(family.__doc__ or "").short_description or ""


def _row(family: type[VAE], parameter: Parameter) -> tuple[str, str, str]:
    described = {p.arg_name: p.description or "" for p in parse(family.__doc__ or "").params}
    default = parameter.default
    shown = f"{default:.6g}" if isinstance(default, float) else str(default)
    return parameter.name, shown, " ".join(described.get(parameter.name, "").split())
