"""Charts of rows of numbers: a small panel for each of a few columns, in the units of the data."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evae.columns import Columns
from evae.reporting.charts import Picture, plain, png

_PANELS, _ACROSS = 12, 4  # columns that are shown, and panels side by side
_DOTS = 200  # per inch
_QUANTILES = (0.001, 0.999)  # beyond them a histogram's values are put into its first and last bin


def against_originals(real: NDArray[np.float64], rebuilt: NDArray[np.float64], columns: Columns) -> Picture:
    """Reconstructed over original values (N, F), with the diagonal, for at most 12 columns spread over all."""

    def draw(axes: Axes, column: int) -> None:
        x, y = real[:, column], rebuilt[:, column]
        axes.scatter(x, y, s=6, alpha=0.5, linewidths=0)
        axes.axline((float(x.mean()), float(x.mean())), slope=1, color="0.5", linewidth=0.8)
        share = 1 - ((x - y) ** 2).mean() / x.var() if x.var() > 0 else math.nan
        axes.set_title(f"{plain(columns.names[column])[:28]}\nR² {share:.2f}", fontsize="small")

    return _panels(columns, draw, "original", "reconstruction")


def distributions(sets: Mapping[str, NDArray[np.float64]], columns: Columns) -> Picture:
    """Histograms of the values of each set (N, F), over the same bins, for at most 12 columns spread over all."""

    def draw(axes: Axes, column: int) -> None:
        pooled = np.concatenate([values[:, column] for values in sets.values()])
        low, high = np.quantile(pooled, _QUANTILES)
        bins = np.linspace(low, high if high > low else low + 1, 31)
        for i, (name, values) in enumerate(sets.items()):
            x = values[:, column].clip(bins[0], bins[-1])
            weights = np.full(len(x), 1 / max(1, len(x)))
            axes.hist(x, bins.tolist(), weights=weights, histtype="step", color=f"C{i}", label=name, linewidth=1.4)
        axes.set_title(plain(columns.names[column])[:28], fontsize="small")

    return _panels(columns, draw, "value", "fraction", list(sets))


def _panels(
    columns: Columns, draw: Callable[[Axes, int], None], xlabel: str, ylabel: str, names: list[str] | None = None
) -> Picture:
    shown = np.unique(np.linspace(0, len(columns) - 1, min(_PANELS, len(columns))).round().astype(int)).tolist()
    across = min(_ACROSS, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(2.4 * across + 0.4, 2.2 * down + 0.4), dpi=_DOTS, layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).ravel())
    for axis, column in zip(axes, shown, strict=False):
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize="x-small")
        draw(axis, column)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    figure.supxlabel(xlabel, fontsize="small")
    figure.supylabel(ylabel, fontsize="small")
    if names and len(names) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(names), fontsize="small")
    return png(figure)
