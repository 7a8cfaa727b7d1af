"""``evae models``: the families, their hyperparameters and the defaults."""

from collections.abc import Iterable
from inspect import Parameter, signature

from docstring_parser import parse
from rich.markup import escape
from rich.table import Table

from evae.console import Console
from evae.models.families import FAMILIES, GaussianVAE
from evae.models.family import Family, Networks
from evae.models.vae import VAE

_SHARED = ("latent_dim", *Networks.__annotations__)


def families() -> dict[str, type[VAE]]:
    """The families by name."""
    return dict(FAMILIES)


def models() -> None:
    """List the models with their hyperparameters, defaults and sources."""
    console = Console()
    for name, family in FAMILIES.items():
        console.print(f"[bold]{name}[/bold]  {escape(parse(family.__doc__ or '').short_description or '')}")
        own = [p for p in signature(family).parameters.values() if p.name not in ("image_shape", "shared", *_SHARED)]
        console.print(_table(own, family) if own else "  [dim]none of its own[/dim]")
    console.print("[bold]All of them[/bold]  evae train --model NAME --model.HYPERPARAMETER VALUE sets these, too")
    parameters = {**signature(Family).parameters, **signature(GaussianVAE).parameters}
    console.print(_table([parameters[name] for name in _SHARED], GaussianVAE, Networks))


def _table(parameters: Iterable[Parameter], *documented: type) -> Table:
    described = {p.arg_name: p.description or "" for cls in documented for p in parse(cls.__doc__ or "").params}
    table = Table(box=None, show_header=False, padding=(0, 2), pad_edge=True)
    for parameter in parameters:
        default = parameter.default
        shown = f"{default:.6g}" if isinstance(default, float) else str(default)
        table.add_row(*map(escape, (parameter.name, shown, " ".join(described.get(parameter.name, "").split()))))
    return table
