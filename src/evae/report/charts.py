"""Pictures for pages: grids of images and charts, as PNG files in memory."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evae import figures

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

_SIDE = 96  # pixels an image has in a grid at least, so that browsers blur no pixel
_DOTS = 200  # per inch of a chart, of which a page shows 96


class Picture(NamedTuple):
    """A PNG file and the pixels of a page it is made for."""

    png: bytes
    width: int
    height: int


class Curve(NamedTuple):
    """Points to be joined. A curve without a name is left out of the legend."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


class Point(NamedTuple):
    """A named point, round or triangular."""

    name: str
    x: float
    y: float
    triangular: bool = False


def images(pictures: Tensor, columns: int) -> Picture:
    """Images (N, C, H, W) in [0, 1] on a white grid, enlarged by a whole number of times where they are small."""
    grid = figures.image_grid(pictures, columns)
    times = -(-_SIDE // pictures.shape[-1])
    grid = grid.resize((grid.width * times, grid.height * times), Image.Resampling.NEAREST)
    file = io.BytesIO()
    grid.save(file, "PNG", optimize=True)
    return Picture(file.getvalue(), grid.width, grid.height)


def curves(drawn: Sequence[Curve], title: str, xlabel: str, ylabel: str) -> Picture:
    """Curves over whole numbers in one chart; its scale is logarithmic where that shows more."""
    from matplotlib.ticker import MaxNLocator

    figure, axis = _chart()
    for curve in drawn:
        x, y = zip(*curve.points, strict=True)
        style, alpha = ("--", 0.6) if curve.dashed else ("-", 1.0)
        axis.plot(x, y, color=_colour(curve.colour), marker="." if len(x) < 30 else None, linestyle=style, alpha=alpha)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    heights = [y for curve in drawn for _, y in curve.points]
    low, high = min(heights), max(heights)
    if _wide(low, high):
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis, np.log10(high / low))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, [(axis.lines[i], curve.name) for i, curve in enumerate(drawn) if curve.name])
    return _png(figure)


def histogram(values: NDArray[np.floating], title: str, xlabel: str) -> Picture:
    """How often positive values occur; in bins of equal ratios where they differ much."""
    figure, axis = _chart()
    low, high = values.min() * 0.99, values.max() * 1.01
    wide = _wide(low, high)
    bins = (np.geomspace if wide else np.linspace)(low, high, 61)
    axis.hist(values, bins=bins.tolist(), weights=np.full(len(values), 1 / len(values)))
    if wide:
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis, np.log10(high / low))
    axis.set(title=title, xlabel=xlabel, ylabel="share")
    return _png(figure)


def bars(values: Sequence[float], title: str, xlabel: str, ylabel: str) -> Picture:
    """A bar for each value, in their order."""
    figure, axis = _chart()
    axis.bar(range(1, len(values) + 1), values, width=0.9)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return _png(figure)


def plane(points: Sequence[Point], xlabel: str, ylabel: str, kinds: tuple[str, str]) -> Picture:
    """Named points; ``kinds`` says in the legend what the round and the triangular ones are."""
    from matplotlib.lines import Line2D

    figure, axis = _chart()
    axis.margins(0.2)
    for i, point in enumerate(points):
        axis.plot(point.x, point.y, **_marker(point.triangular, _colour(i)))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    shown = sorted({point.triangular for point in points})
    _legend(figure, [(Line2D([], [], **_marker(kind, "grey")), kinds[kind]) for kind in shown])
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}  # over the grid's lines
    labels = [axis.annotate(_plain(p.name), (p.x, p.y), (0, 0), textcoords="offset points", bbox=white) for p in points]
    with _any_sign():
        _place(labels, figure)
    return _png(figure)


def _marker(triangular: bool, colour: str) -> dict[str, Any]:
    shape, face = ("^", "none") if triangular else ("o", colour)
    return {"marker": shape, "linestyle": "", "markersize": 8, "color": colour, "markerfacecolor": face}


def _chart() -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.6), dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    return figure, axis


def _wide(low: float, high: float) -> bool:
    """Whether values are positive and over more than half a power of ten: better seen on a logarithmic scale."""
    return 0 < 5 * low < high


def _plain_ticks(axis: "Axis", decades: float) -> None:
    """Plain numbers along a logarithmic axis, between powers of ten too where there are few of these."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: "Figure", entries: "Sequence[tuple[Artist, str]]") -> None:
    """Beneath the axes, where it hides nothing."""
    if not entries:
        return
    artists, names = zip(*entries, strict=True)
    widest = max(map(len, names))
    columns = max(1, min(len(names), 44 // (widest + 6)))
    figure.legend(artists, [_plain(name) for name in names], loc="outside lower center", ncols=columns)


def _plain(name: str) -> str:
    """A name that matplotlib takes for no formula, and not for one to be left out of legends."""
    text = " ".join(name.split()).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _colour(i: int) -> str:
    return f"C{i % 10}"


# Where a label may stand beside its point: offset in points of type and the side of the text that is there.
_PLACES = [
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (8, 12, "left", "bottom"),
    (-8, 12, "right", "bottom"),
    (8, -12, "left", "top"),
    (-8, -12, "right", "top"),
]


def _place(labels: "Sequence[Annotation]", figure: "Figure") -> None:
    """Put every label where it covers neither another nor a point, if there is such a place."""
    from matplotlib.transforms import Bbox

    for label in labels:
        label.set_in_layout(False)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    centres = [axis.transData.transform(label.xy) for label in labels]
    taken = [Bbox.from_bounds(x - 10, y - 10, 20, 20) for x, y in centres]
    for label in labels:
        for right, up, horizontal, vertical in _PLACES:
            label.xyann = (right, up)
            label.set(ha=horizontal, va=vertical)
            box = label.get_window_extent()
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


@contextmanager
def _any_sign() -> Iterator[None]:
    """No warning of signs in names that the font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _png(figure: "Figure") -> Picture:
    file = io.BytesIO()
    with _any_sign():
        figure.savefig(file, format="png")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(file.getvalue(), width, height)
