"""Data with heavy tails for configs/heavy-tails*.yaml, and the figure of docs/heavy-tails.md.

    python benchmarks/heavy_tails.py data [--out heavy-tails] [--train 20000] [--test 100000] [--seed 0]
    python benchmarks/heavy_tails.py figure RESULTS [--data heavy-tails/univariate.npz] [--out tails.png]

``data`` writes an .npz file with x_train and x_test for each set:

    univariate          0.6·t5(-2, 1) + 0.4·t5(2, 1), of t³VAE (Kim et al., ICLR 2024)
    bivariate           z of 0.7·t5(-2, 2) + 0.3·t5(2, 2), x = (z, z + 2 sin(πz/4)) + noise of t6, of the same
    pareto-aA-dD        D independent columns of a Pareto law with index A on [1, ∞), A = 2, 3, 5, 30 and D = 1, 5, 10,
                        of Ziani, Horváth and Ballarini (arXiv 2605.18931)

t_ν(m, s) is Student's t with ν degrees of freedom, centre m and scale s. ``figure`` draws the survival functions of |x|
of the hold-out rows and of samples of every finished cell of seed 0 in RESULTS.
"""

import argparse
import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Rows = NDArray[np.float64]
ALPHAS, DIMS = (2, 3, 5, 30), (1, 5, 10)
_DRAWN = 200_000  # samples of a model in the figure


def univariate(random: Generator, count: int) -> Rows:
    """(count, 1) draws of 0.6·t5(-2, 1) + 0.4·t5(2, 1)."""
    centres = np.where(random.random(count) < 0.6, -2.0, 2.0)
    return (centres + random.standard_t(5, count))[:, None]


def bivariate(random: Generator, count: int) -> Rows:
    """(count, 2) draws about a curve, with noise of t6 in the plane."""
    z = np.where(random.random(count) < 0.7, -2.0, 2.0) + 2 * random.standard_t(5, count)
    noise = random.standard_normal((count, 2)) * np.sqrt(6 / random.chisquare(6, (count, 1)))
    return np.column_stack([z, z + 2 * np.sin(math.pi * z / 4)]) + noise


def pareto(alpha: float, dim: int) -> Callable[[Generator, int], Rows]:
    """A function from a generator to (count, dim) draws whose columns have P(x > t) = t^-α for t ≥ 1."""
    return lambda random, count: 1 + random.pareto(alpha, (count, dim))


SETS: dict[str, Callable[[Generator, int], Rows]] = {
    "univariate": univariate,
    "bivariate": bivariate,
    **{f"pareto-a{alpha}-d{dim}": pareto(alpha, dim) for alpha, dim in product(ALPHAS, DIMS)},
}


def write(out: Path, train: int, test: int, seed: int) -> None:
    """All sets, each from a stream of its own."""
    out.mkdir(parents=True, exist_ok=True)
    for index, (name, draw) in enumerate(SETS.items()):
        random = np.random.default_rng([seed, index])
        np.savez(out / f"{name}.npz", x_train=draw(random, train), x_test=draw(random, test))
        print(out / f"{name}.npz")


def survival(values: Rows) -> tuple[Rows, Rows]:
    """|x| in order, and the fraction of values that are as large."""
    ordered = np.sort(np.abs(values).ravel())
    return ordered, np.arange(len(ordered), 0, -1) / len(ordered)


def figure(results: Path, data: Path, out: Path) -> None:
    """Survival functions of the hold-out rows and of samples of each cell: a panel for each kind of prior."""
    from matplotlib import pyplot

    with np.load(data) as arrays:
        real = survival(arrays["x_test"])
    panels = samples(results, data.stem)
    names = sorted({name for drawn in panels.values() for name in drawn})
    size = {"figsize": (4.6 * len(panels), 4.8), "sharex": True, "sharey": True, "layout": "constrained"}
    whole, axes = pyplot.subplots(1, len(panels), squeeze=False, **size)
    for axis, (prior, drawn) in zip(axes[0], panels.items(), strict=True):
        axis.plot(*real, color="black", lw=3, alpha=0.6, label="hold-out rows")
        for name, rows in sorted(drawn.items()):
            place = names.index(name)
            axis.plot(*survival(rows), color=f"C{place % 10}", ls=("-", "--")[place % 2], label=name, lw=1.5)
        axis.set(xscale="log", yscale="log", xlabel="t", xlim=(0.2, 3 * real[0][-1]), ylim=(5e-6, 1.5), title=prior)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("P(|x| ≥ t)")
    handles = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    whole.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    whole.savefig(out, dpi=110)
    print(out)


def samples(results: Path, data: str) -> dict[str, dict[str, Rows]]:
    """Of each prior, and of each model by name: samples of the finished cells of seed 0."""
    from evae import load_model
    from evae.numerics import seeded

    drawn: dict[str, dict[str, Rows]] = {"samples of the model's prior": {}}
    for path in sorted(results.glob(f"cells/{data}-*/cell.json")):
        train = json.loads(path.read_text())["train"]
        if train["seed"] or not (path.parent / "run" / "evaluation.json").exists():
            continue
        model, name = load_model(path.parent / "run"), title(train["model"])
        assert model.columns is not None
        for prior in ("model", "fitted") if model.read_prior() else ("model",):
            kind = f"samples of a fitted prior: {model.read_prior().kind}" if prior == "fitted" else next(iter(drawn))
            if name not in drawn.setdefault(kind, {}):
                with seeded(0):
                    drawn[kind][name] = model.columns.restore(model.sample(_DRAWN, prior).numpy())
    return drawn


def title(model: dict[str, dict[str, object]]) -> str:
    """The class of a model with its prior and its kernel."""
    arguments = model["init_args"]
    own = [f"{arguments[name]} {name}" for name in ("prior", "kernel") if name in arguments]
    return ", ".join([str(model["class_path"]).rpartition(".")[2], *own])


def main() -> None:
    """Write the data, or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data")
    data.add_argument("--out", type=Path, default=Path("heavy-tails"))
    data.add_argument("--train", type=int, default=20_000)
    data.add_argument("--test", type=int, default=100_000)
    data.add_argument("--seed", type=int, default=0)
    drawn = commands.add_parser("figure")
    drawn.add_argument("results", type=Path)
    drawn.add_argument("--data", type=Path, default=Path("heavy-tails/univariate.npz"))
    drawn.add_argument("--out", type=Path, default=Path("tails.png"))
    options = parser.parse_args()
    if options.command == "data":
        write(options.out, options.train, options.test, options.seed)
    else:
        figure(options.results, options.data, options.out)


if __name__ == "__main__":
    main()
