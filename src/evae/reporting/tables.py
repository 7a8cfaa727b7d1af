"""A table of text, and its forms on a terminal, in Markdown and in LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from evae.console import Console
from evae.reporting.pages import render

_LONGEST = 24  # characters of a line in headers and names on a terminal
_LATEX_WIDTH = 68  # small digits, bold ones too, in the 345 points of an article's text
_LATEX_GAP = 1.7
_LATEX_LINES = 12


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

    def fitting(self, width: float, gap: float, lines: int, longest: int | None = None) -> "list[Grid]":
        """This grid or its transpose, whichever takes fewer lines, in parts of columns that fit a width.

        Args:
            width: of a line, in characters.
            gap: between columns.
            lines: that each part takes besides its rows.
            longest: that headers and the first column may be, without being wrapped; None: as long as they are.
        """
        both = [grid._parts(width, gap, longest) for grid in (self, self.transposed())]
        return min(both, key=lambda parts: sum(len(part.rows) + lines for part in parts))

    def widths(self, longest: int | None = None) -> list[int]:
        """The width of each column, with headers that are wrapped at spaces where they may not be as long."""
        columns = zip(*([cell.text for cell in row] for row in self.rows), strict=True)
        return [
            max(_wrapped(title, longest), *(_wrapped(text, longest if i == 0 else None) for text in texts))
            for i, (title, texts) in enumerate(zip(self.header, columns, strict=True))
        ]

    def _parts(self, width: float, gap: float, longest: int | None) -> "list[Grid]":
        """Parts of columns that fit, the first in each; a part has at least one more."""
        first, *widths = self.widths(longest)
        starts, used = [1], first + gap
        for i, needed in enumerate(widths, start=1):
            if i > starts[-1] and used + needed + gap > width:
                starts.append(i)
                used = first + gap
            used += needed + gap
        return [self._part(slice(*ends)) for ends in pairwise([*starts, len(self.header)])]

    def _part(self, columns: slice) -> "Grid":
        """The first column and some others."""
        words = 1 + max(0, min(self.words, columns.stop) - columns.start)
        rows = [[row[0], *row[columns]] for row in self.rows]
        return Grid([self.header[0], *self.header[columns]], rows, words)


def _wrapped(text: str, longest: int | None) -> int:
    """The width of a text, wrapped at spaces, and in words that are longer than may be."""
    if longest is None or cell_len(text) <= longest:
        return cell_len(text)
    return min(longest, max(cell_len(word) for word in text.split()))


def print_grid(grid: Grid) -> None:
    """Print a table, whichever way takes fewer lines, split where the terminal is too narrow."""
    terminal = Console()
    for part in grid.fitting(terminal.width - 1, 3, 4, _LONGEST):
        table = Table()
        for i, (text, width) in enumerate(zip(part.header, part.widths(_LONGEST), strict=True)):
            table.add_column(Text(text), width=width, justify="right" if i >= part.words else "left", overflow="fold")
        for row in part.rows:
            table.add_row(*(Text(cell.text, "bold" if cell.bold else "") for cell in row))
        terminal.print(table)


def markdown(grid: Grid, notes: Sequence[str] = ()) -> str:
    """A pipe table, as GitHub and Pandoc read it, and the notes below it."""
    return render("table.md", grid=grid, notes=notes)


def latex(grid: Grid, notes: Sequence[str] = (), caption: str = "", label: str = "comparison") -> str:
    """Tables for the package booktabs that fit the text of an article, the notes below them as comments.

    Rows and columns are exchanged where that takes fewer lines, and a table that is too wide is split.
    """
    grids = grid.fitting(_LATEX_WIDTH, _LATEX_GAP, _LATEX_LINES)
    return render("table.tex", grids=grids, notes=notes, caption=caption, label=label)
