"""Charts and image grids, as PNG files in memory."""

import io
import math
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evae import figures
from evae.models import VAE
from evae.runs import RunFolder

_SIDE = 96  # least pixels per image of a grid, so that browsers blur no pixel
_ENTRY = 0.21  # inches, height of a line of a legend
_DOTS = 200  # per inch of a chart, of which a page shows 96
_SPLITS = {"training": "", "validation": "validation_", "hold-out": "holdout_"}  # prefixes in metrics.jsonl


class Picture(NamedTuple):
    """A PNG file and its size on a page in pixels."""

    png: bytes
    width: int
    height: int

    @property
    def source(self) -> str:
        """The file as a data URI."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


class Curve(NamedTuple):
    """Points in matplotlib's style: joined ("-", "--") or not ("o", "^"). Without a name it is not in the legend.

    ``labels`` stand beside the points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    style: str = "-"
    labels: Sequence[str] = ()


class Panel(NamedTuple):
    """Curves in one pair of axes."""

    curves: Sequence[Curve]
    title: str
    xlabel: str = "epoch"
    ylabel: str = ""
    styles: Mapping[str, str] = MappingProxyType({})  # meanings of lines' styles, for the legend


def points(lines: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """(epoch, value) of each line of metrics.jsonl with a finite value."""
    return [(line["epoch"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]


def training_panels(run: RunFolder, model: VAE) -> list[Panel]:
    """Loss, reconstruction and divergence by epoch, on training, validation and hold-out images where recorded."""
    lines, panels = run.epochs(), []
    for name in ("loss", "reconstruction", model.objective.divergence_name):
        recorded = {split: points(lines, prefix + name) for split, prefix in _SPLITS.items()}
        curves = [Curve(s, p, i, "-" if i else "--") for i, (s, p) in enumerate(recorded.items()) if p]
        if curves:
            panels.append(Panel(curves, name, ylabel="" if name == "mmd" else "nats per image"))
    return panels


def images(pictures: Tensor, columns: int) -> Picture:
    """Images (N, C, H, W) in [0, 1] on a white grid; small ones are enlarged by a whole factor."""
    grid = figures.magnified(figures.image_grid(pictures, columns), -(-_SIDE // pictures.shape[-1]))
    return picture(grid)


def picture(image: Image.Image) -> Picture:
    """An image of Pillow, pixel by pixel."""
    return Picture(figures.png(image, optimize=True), image.width, image.height)


def curves(*panels: Panel) -> Picture:
    """Panels from left to right, with one legend for all; few joined points have dots."""
    figure, axes = _chart(len(panels))
    entries: dict[str, Artist] = {}
    for axis, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            x, y = zip(*curve.points, strict=True)
            dots = "." if len(x) < 30 and "-" in curve.style else ""
            (entries[curve.name],) = axis.plot(x, y, f"{dots}{curve.style}", color=f"C{curve.colour % 10}")
            for label, point in zip(curve.labels, curve.points, strict=False):
                axis.annotate(
                    plain(label), point, (3, 3), textcoords="offset points", fontsize=7, color=f"C{curve.colour % 10}"
                )
        heights = [y for curve in panel.curves for _, y in curve.points]
        is_logarithmic = _logarithmic(axis, "y", min(heights), max(heights))
        ylabel = f"{panel.ylabel} (log scale)".strip() if is_logarithmic else panel.ylabel
        axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=ylabel)
        for style, meaning in panel.styles.items():
            entries[meaning] = Line2D([], [], color="0.4", linestyle="--" if style == "--" else "-")
        if panel.xlabel == "epoch":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, entries)
    return png(figure)


def histogram(values: NDArray[np.floating], title: str, xlabel: str) -> Picture:
    """Relative frequencies of positive values; where they differ much, in bins of equal ratios."""
    figure, (axis,) = _chart()
    low, high = values.min() * 0.99, values.max() * 1.01
    space = np.geomspace if _logarithmic(axis, "x", low, high) else np.linspace
    axis.hist(values, bins=space(low, high, 61).tolist(), weights=np.full(len(values), 1 / len(values)))
    axis.set(title=title, xlabel=xlabel, ylabel="fraction")
    return png(figure)


def bars(values: Sequence[float], title: str, xlabel: str, ylabel: str) -> Picture:
    """A bar for each value, in their order."""
    figure, (axis,) = _chart()
    axis.bar(range(1, len(values) + 1), values, width=0.9)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return png(figure)


def _chart(panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.6 * panels, 3.6), dpi=_DOTS, layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes


def _logarithmic(axes: Axes, name: str, low: float, high: float) -> bool:
    """Make an axis logarithmic, with plain numbers, where values are positive and differ by more than a factor of 5."""
    if not 0 < 5 * low < high:
        return False
    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
    return True


def _legend(figure: Figure, entries: dict[str, Artist]) -> None:
    """Below the axes, which keep their height, in as many columns as the names leave space for."""
    entries = {plain(name): artist for name, artist in entries.items() if name}
    if entries:
        columns = round(figure.get_figwidth() * 9.6) // (max(map(len, entries)) + 6)
        figure.set_figheight(figure.get_figheight() + _ENTRY * (math.ceil(len(entries) / max(1, columns)) - 1))
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=max(1, columns))


def plain(name: str) -> str:
    """A name that matplotlib does not take for a formula, nor leaves out of legends because it begins with "_"."""
    text = " ".join(name.split()).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def png(figure: Figure) -> Picture:
    """A figure as a PNG file in memory."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # names of runs may be in any script
        figure.savefig(file, format="png")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(file.getvalue(), width, height)
