"""HTML pages in one file: no script, nothing fetched, every text escaped; wide or narrow, light or dark."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from typing import NewType

from evae.report.charts import Picture
from evae.report.tables import Cell, Grid

Html = NewType("Html", str)  # what is escaped already

# The policy keeps the page from fetching or running anything, whatever gets into it.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
<footer>Written by evae {version}.</footer>
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c1e21; --faint: #5c6370; --line: #d8dbe0; --block: #f3f4f6 }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181c; --text: #e4e6ea; --faint: #a0a6b0; --line: #3a3f47; --block: #22252b }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text); font: 1rem/1.5 system-ui, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 1rem }
h1, h2, p, li, figcaption { overflow-wrap: anywhere }
h1 { font-size: 1.7rem; line-height: 1.2 }
h2 { font-size: 1.25rem; line-height: 1.2; margin: 2.2rem 0 .8rem }
section { border-top: 1px solid var(--line); margin-top: 2.2rem }
p { max-width: 46rem }
figure { margin: 0 }
figcaption, footer { color: var(--faint); font-size: .875rem }
figcaption { margin-bottom: .3rem }
footer { margin-top: 3rem }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px }
summary { cursor: pointer }
code, pre { font: .875rem/1.45 ui-monospace, monospace; background: var(--block); border-radius: 4px }
code { padding: .1em .3em; overflow-wrap: anywhere }
pre { margin: .8rem 0; padding: .8rem; overflow-x: auto }
.box { overflow-x: auto; margin: .8rem 0 }
.row { display: grid; gap: 1.2rem; margin: .8rem 0 }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)) }
.charts figure { max-width: 36rem }
.strips { grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)) }
.columns { display: flex; gap: .8rem; align-items: flex-end; width: max-content }
.columns figure { width: 6rem; flex: none }
.columns figcaption { color: var(--text) }
.row img { width: 100% }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { vertical-align: bottom; font-weight: 600; white-space: normal }
.word { text-align: left }
tbody .word { white-space: normal; max-width: min(18rem, 40vw); overflow-wrap: break-word }
.word:first-child { position: sticky; left: 0; background: var(--page) }
"""


def page(title: str, content: Sequence[Html]) -> str:
    """A whole page."""
    text = _PAGE.format(title=escape(title), style=_STYLE, content="\n".join(content), version=version("evae"))
    return text.encode(errors="replace").decode()  # names of files may hold what UTF-8 has no place for


def section(title: str, *content: Html) -> Html:
    """A heading and what belongs to it."""
    return Html("\n".join([f"<section>\n<h2>{escape(title)}</h2>", *content, "</section>"]))


def paragraph(text: str) -> Html:
    """A paragraph of plain text; what stands between backticks in it is code."""
    parts = escape(text).split("`")
    return Html("<p>" + "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)) + "</p>")


def block(text: str) -> Html:
    """Text as it is, in lines that scroll where they are too long."""
    return Html(f'<pre tabindex="0">{escape(text)}</pre>')


def details(summary: str, *content: Html) -> Html:
    """What is shown when it is asked for."""
    return Html("\n".join([f"<details>\n<summary>{escape(summary)}</summary>", *content, "</details>"]))


def table(grid: Grid, name: str) -> Html:
    """A table that scrolls inside its own box; ``name`` is what it is called aloud."""

    def line(cells: Sequence[Cell], tag: str) -> str:
        return "".join(_cell(cell, tag, word=i < grid.words) for i, cell in enumerate(cells))

    header = line([Cell(text) for text in grid.header], 'th scope="col"')
    rows = [line(row, "td") for row in grid.rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    whole = f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return _scrolling(Html(whole), name)


def _cell(cell: Cell, tag: str, word: bool) -> str:
    text = escape(cell.text).replace("_", "_<wbr>")  # where a long name may go on in the next line
    if cell.bold:
        text = f"<strong>{text}</strong>"
    opening = f'{tag} class="word"' if word else tag
    return f"<{opening}>{text}</{tag[:2]}>"


def figure(picture: Picture, alt: str, caption: str = "") -> Html:
    """A picture under its caption; ``alt`` is for those who cannot see it."""
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    image = f'<img src="{source}" width="{picture.width}" height="{picture.height}" alt="{escape(alt)}">'
    return Html(f"<figure>{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}{image}</figure>")


def charts(*figures: Html) -> Html:
    """Charts side by side where there is room."""
    return Html(f'<div class="row charts">{"".join(figures)}</div>')


def strips(*figures: Html) -> Html:
    """Strips of images, two side by side where there is room."""
    return Html(f'<div class="row strips">{"".join(figures)}</div>')


def columns(figures: Sequence[Html], name: str) -> Html:
    """Narrow pictures side by side in a box that scrolls."""
    return _scrolling(Html(f'<div class="columns">{"".join(figures)}</div>'), name)


def _scrolling(content: Html, name: str) -> Html:
    """With a place for the keyboard, which has to reach what scrolls."""
    return Html(f'<div class="box" role="region" tabindex="0" aria-label="{escape(name)}">\n{content}\n</div>')
