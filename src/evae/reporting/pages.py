"""HTML pages in one file from templates/: no script, nothing fetched, every text escaped; any width, light or dark."""

from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from evae.reporting.charts import Picture


class Figure(NamedTuple):
    """A picture below its caption; ``alt`` describes it for those who cannot see it."""

    picture: Picture
    alt: str
    caption: str = ""


@cache
def environment() -> Environment:
    """The templates, which escape every text."""
    loader = PackageLoader("evae.reporting")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def page(template: str, **content: Any) -> str:
    """The page of templates/TEMPLATE.html.j2."""
    text = environment().get_template(f"{template}.html.j2").render(content, version=version("evae"))
    return text.encode(errors="replace").decode()  # file names may hold what UTF-8 cannot encode
