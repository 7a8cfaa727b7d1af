"""The templates of pages (HTML in one file: nothing fetched, all text escaped, scripts named by hash) and of tables."""

import shlex
from base64 import b64encode
from functools import cache
from hashlib import sha384
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from evae.data.streams import PREFIX
from evae.files import utf8
from evae.reporting import charts
from evae.rounding import counted

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#~"} | {"\n": " ", "\r": " "})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
    | {"±": r"$\pm$", "≥": r"$\geq$", "≈": r"$\approx$", "↓": r"$\downarrow$", "↑": r"$\uparrow$"}
    | {"\n": " ", "\r": " "}
)


def render(template: str, **content: Any) -> str:
    """The text of templates/TEMPLATE.j2; templates draw with ``charts``."""
    text = _environment().get_template(f"{template}.j2").render(content, charts=charts, version=version("evae"))
    return utf8(text)


def text(name: str) -> str:
    """A file of the templates as it is: the script or the style of a page."""
    return files("evae.reporting").joinpath("templates", name).read_text("utf-8")


def digest_of(content: bytes) -> str:
    """The SHA-384 of a file, as browsers check it (Subresource Integrity, Content Security Policy)."""
    return f"sha384-{b64encode(sha384(content).digest()).decode()}"


def data_name(data: str) -> str:
    """The name of a data set, of local files the last part of their path: pages are shared, paths are private."""
    path = Path(data.removeprefix(PREFIX))
    return path.name or data if path.is_absolute() else data


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evae.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    environment.filters["data_name"] = data_name
    environment.filters["counted"] = counted
    environment.filters["markdown"] = lambda text: text.translate(_MARKDOWN)
    environment.filters["latex"] = lambda text: text.translate(_LATEX)
    return environment
