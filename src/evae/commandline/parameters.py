"""Parameters of functions and classes as options: type, default and help of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import Parameter as Signed
from inspect import Signature, signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin, is_typeddict

from docstring_parser import parse

from evae.commandline.declarations import is_absent
from evae.errors import EvaeError


class UsageError(EvaeError):
    """Options that cannot be understood."""


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, type, default (``Signature.empty`` for none) and help."""

    name: str
    hint: Any
    default: Any
    help: str

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is Signature.empty

    @property
    def text(self) -> type | None:
        """Path or str where its value is a text, taken as it is written; else None."""
        kinds = {Path if kind is Path else str if kind is str else _without(kind) for kind in self._kinds}
        texts = kinds & {Path, str}
        return (str if str in texts else Path) if texts and kinds <= {*texts, NoneType} else None

    @property
    def is_repeated(self) -> bool:
        """Whether its value is a list of texts, each given by an option of its own."""
        return list[str] in self._kinds

    @property
    def choices(self) -> tuple[str, ...]:
        """Its possible values, where only some are."""
        literals = [value for kind in self._kinds if get_origin(kind) is Literal for value in get_args(kind)]
        return tuple(map(str, literals))

    @property
    def _kinds(self) -> tuple[Any, ...]:
        """The members of a union, or the type itself."""
        is_union = get_origin(self.hint) is Union or type(self.hint).__name__ == "UnionType"
        return get_args(self.hint) if is_union else (self.hint,)


def _without(kind: Any) -> Any:
    """None for a type of objects that only Python can give, which no option takes."""
    is_protocol = getattr(kind, "_is_protocol", False)
    return NoneType if is_absent(kind) or is_protocol or _PYTHON & {kind, get_origin(kind)} else kind


_PYTHON = {get_origin(Callable[..., Any]), Sequence}


def parameters(of: Callable[..., Any], *documented: type) -> list[Parameter]:
    """The parameters of a function or class, and those that it passes on as ``**name: Unpack[TypedDict]``.

    Their help is that of its docstring, or else of the classes ``documented``.
    """
    helps = _helps(of, *documented)
    return [
        Parameter(signed.name, signed.annotation, signed.default, helps.get(signed.name, ""))
        for signed in signature(of).parameters.values()
        if signed.kind not in (Signed.VAR_KEYWORD, Signed.VAR_POSITIONAL)
    ] + list(_passed_on(of))


def _passed_on(of: Callable[..., Any]) -> Iterator[Parameter]:
    for signed in signature(of).parameters.values():
        for unpacked in get_args(signed.annotation) if signed.kind is Signed.VAR_KEYWORD else ():
            if is_typeddict(unpacked):
                helps = _helps(unpacked)
                for name, hint in unpacked.__annotations__.items():
                    yield Parameter(name, hint, None, helps.get(name, ""))


def _helps(*documented: Any) -> dict[str, str]:
    """What docstrings say of parameters; the first that does counts."""
    docs = [parameter for one in reversed(documented) for parameter in parse(one.__doc__ or "").params]
    return {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in docs}


def title(cls: type) -> str:
    """The first words of a class's docstring, up to a colon."""
    return (parse(cls.__doc__ or "").short_description or cls.__name__).partition(":")[0].lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The ending " (did you mean NAME?)" of a sentence, where one of ``known`` is nearly ``name``; else nothing.

    Case, dashes and what stands before the last dot do not count.
    """
    plain = {other.lower().rpartition(".")[2].replace("-", "_").lstrip("_"): other for other in known}
    asked = name.lower().rpartition(".")[2].replace("-", "_").lstrip("_")
    close = get_close_matches(asked, plain, n=1, cutoff=0.7)
    return f" (did you mean {plain[close[0]]}?)" if close else ""
