"""A table of text, and its forms on a terminal, in Markdown and in LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from evae.console import Console
from evae.reporting.pages import render

_LATEX_COLUMNS = 4  # of numbers, which fit the width of an article


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
        parts = [slice(start, start + count) for start in range(1, len(self.header), count)]
        return [Grid([self.header[0], *self.header[p]], [[row[0], *row[p]] for row in self.rows]) for p in parts]


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
    return render("table.md", grid=grid, notes=notes)


def latex(grid: Grid, notes: Sequence[str] = ()) -> str:
    """Tabular environments that need no package, and the notes as comments.

    A table too wide for a page is transposed, and split where there are many rows.
    """
    is_wide = len(grid.header) - grid.words > _LATEX_COLUMNS
    return render("table.tex", grids=grid.transposed().split(_LATEX_COLUMNS) if is_wide else [grid], notes=notes)
