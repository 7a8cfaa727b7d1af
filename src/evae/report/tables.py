"""A table of text, and what it looks like in Markdown and in LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    """A text, and whether it is to stand out."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """Rows under a header, all of one length; the first ``words`` columns are read, the others compared."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1


_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#~"} | {"\n": " ", "\r": " "})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
    | {"±": r"$\pm$", "≥": r"$\geq$", "\n": " ", "\r": " "}
)


def markdown(grid: Grid) -> str:
    """A pipe table, as GitHub and Pandoc read it."""

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    rule = ["---" if i < grid.words else "---:" for i in range(len(grid.header))]
    rows = [[_marked(cell, _MARKDOWN, "**", "**") for cell in row] for row in grid.rows]
    return "\n".join(map(line, [[text.translate(_MARKDOWN) for text in grid.header], rule, *rows])) + "\n"


def latex(grid: Grid) -> str:
    """A tabular environment, which needs no package."""

    def line(texts: Sequence[str]) -> str:
        return " & ".join(texts) + r" \\"

    columns = "l" * grid.words + "r" * (len(grid.header) - grid.words)
    rows = [line([_marked(cell, _LATEX, r"\textbf{", "}") for cell in row]) for row in grid.rows]
    header = line([text.translate(_LATEX) for text in grid.header])
    inside = [r"\hline", header, r"\hline", *rows, r"\hline"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *inside, r"\end{tabular}"]) + "\n"


def _marked(cell: Cell, escapes: dict[int, str], before: str, after: str) -> str:
    text = cell.text.translate(escapes)
    return f"{before}{text}{after}" if cell.bold and text else text
