"""A table of text, and its forms in Markdown and in LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


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

    def split(self, width: int, header: int | None = None) -> "list[Grid]":
        """Grids of some of the columns, each with those of words, of at most ``width`` characters a line.

        Args:
            width: in characters, 3 between columns. One column of numbers is kept even where it is wider.
            header: a longer text of the header is wrapped at this width.
        """
        cells = [max(len(row[i].text) for row in self.rows) for i in range(len(self.header))]
        sizes = [3 + max(n, len(text[:header])) for n, text in zip(cells, self.header, strict=True)]
        parts = [[*range(self.words)]]
        for i in range(self.words, len(self.header)):
            if len(parts[-1]) > self.words and sum(sizes[j] for j in (*parts[-1], i)) > width:
                parts.append([*range(self.words)])
            parts[-1].append(i)
        return [
            Grid([self.header[i] for i in part], [[row[i] for i in part] for row in self.rows], self.words)
            for part in parts
        ]


_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#~"} | {"\n": " ", "\r": " "})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
    | {"±": r"$\pm$", "≥": r"$\geq$", "\n": " ", "\r": " "}
)
_LATEX_WIDTH = 72  # characters of a line of an article


def markdown(grid: Grid, notes: Sequence[str] = ()) -> str:
    """A pipe table, as GitHub and Pandoc read it, and the notes below it."""

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    rule = ["---" if i < grid.words else "---:" for i in range(len(grid.header))]
    rows = [[_marked(cell, _MARKDOWN, "**", "**") for cell in row] for row in grid.rows]
    table = [line([text.translate(_MARKDOWN) for text in grid.header]), line(rule), *map(line, rows)]
    return "\n\n".join(["\n".join(table), *(note.translate(_MARKDOWN) for note in notes)]) + "\n"


def latex(grid: Grid, notes: Sequence[str] = ()) -> str:
    """Tabular environments that need no package and fit a page, and the notes as comments.

    A table that is too wide for a page is transposed, and split where it is still too wide.
    """
    parts = grid.split(_LATEX_WIDTH)
    if len(parts) > 1:
        parts = grid.transposed().split(_LATEX_WIDTH)
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
