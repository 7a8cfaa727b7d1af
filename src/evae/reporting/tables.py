"""A table of text, and its forms on a terminal, in Markdown and in LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Cell(NamedTuple):
    """A text, perhaps in bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """Rows below a header, all of one length; the first ``words`` columns hold words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1

    def transposed(self) -> "Grid":
        """Columns become rows, named by the header; the first column becomes the header."""
        names, *columns = zip(*self.rows, strict=True)
        rows = [[Cell(title), *column] for title, column in zip(self.header[1:], columns, strict=True)]
        return Grid(["", *(cell.text for cell in names)], rows)

    def split(self, count: int) -> "list[Grid]":
        """Grids of at most ``count`` columns each, besides the first."""
        starts = range(1, len(self.header), count)
        parts = [[0, *range(start, min(start + count, len(self.header)))] for start in starts]
        return [Grid([self.header[i] for i in p], [[row[i] for i in p] for row in self.rows]) for p in parts]


_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#~"} | {"\n": " ", "\r": " "})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
    | {"±": r"$\pm$", "≥": r"$\geq$", "\n": " ", "\r": " "}
)
_LATEX_COLUMNS = 4  # of numbers, which fit the width of an article


def print_grid(grid: Grid) -> None:
    """Print a transposed table, split where the terminal is too narrow."""
    terminal = Console()
    for part in grid.transposed().split(max(1, (terminal.width - 36) // 19)):
        table = Table()
        for i, text in enumerate(part.header):
            table.add_column(Text(text), justify="right" if i else "left", overflow="fold")
        for row in part.rows:
            table.add_row(*(Text(cell.text, "bold" if cell.bold else "") for cell in row))
        terminal.print(table)


def markdown(grid: Grid, notes: Sequence[str] = ()) -> str:
    """A pipe table, as GitHub and Pandoc read it, and the notes below it."""

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    rule = ["---" if i < grid.words else "---:" for i in range(len(grid.header))]
    rows = [[_marked(cell, _MARKDOWN, "**", "**") for cell in row] for row in grid.rows]
    table = [line([text.translate(_MARKDOWN) for text in grid.header]), line(rule), *map(line, rows)]
    return "\n\n".join(["\n".join(table), *(note.translate(_MARKDOWN) for note in notes)]) + "\n"


def latex(grid: Grid, notes: Sequence[str] = ()) -> str:
    """Tabular environments that need no package, and the notes as comments.

    A table too wide for a page is transposed, and split where there are many rows.
    """
    is_wide = len(grid.header) - grid.words > _LATEX_COLUMNS
    parts = grid.transposed().split(_LATEX_COLUMNS) if is_wide else [grid]
    return "\n".join([*map(_tabular, parts), *(f"% {' '.join(note.split())}" for note in notes)]) + "\n"


def _tabular(grid: Grid) -> str:
    def line(texts: Sequence[str]) -> str:
        return " & ".join(texts) + r" \\"

    columns = "l" * grid.words + "r" * (len(grid.header) - grid.words)
    rows = [line([_marked(cell, _LATEX, r"\textbf{", "}") for cell in row]) for row in grid.rows]
    header = line([text.translate(_LATEX) for text in grid.header])
    inside = [r"\hline", header, r"\hline", *rows, r"\hline"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *inside, r"\end{tabular}"])


def _marked(cell: Cell, escapes: dict[int, str], before: str, after: str) -> str:
    text = cell.text.translate(escapes)
    return f"{before}{text}{after}" if cell.bold and text else text
