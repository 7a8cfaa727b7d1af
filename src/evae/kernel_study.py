"""evae kernels: constants, sampling speed, densities and divergences of the kernels."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table
from torch import Tensor
from torch.distributions import Normal, Uniform, kl_divergence
from torch.utils.benchmark import Timer

from evae import checks
from evae.console import Console, console
from evae.distributions import KERNELS, Epanechnikov, Kernel, KernelPosterior, chi_square, kernel_penalty, matched_scale
from evae.figures import save_figure
from evae.outputs import check_output_folder, mark

_ROUNDS = 5


def kernels(
    out: Path | None = None,
    kernel: str = "epanechnikov",
    prior: Literal["gaussian", "uniform"] = "gaussian",
    support_length: float = 0.1,
    bandwidth: float = 100 ** (-2 / 9),
    n: float = 100,
    draws: int = 1_000_000,
    overwrite: bool = False,
) -> None:
    """Print a table of the kernels and write two figures: their densities, and penalty, bounds and exact KL against r.

    Args:
        out: folder for densities.png and divergences.png; default: no figures.
        kernel: kernel of the divergence figure.
        prior: prior of the divergence figure; with a uniform one the exact KL is infinite at every r.
        support_length: B, length of the uniform prior's support (its standard deviation is B/√12) or standard deviation
            of the Gaussian prior.
        bandwidth: b.
        n: M of eq. (10).
        draws: number of float32 draws that measure the sampling speed.
        overwrite: replace densities.png and divergences.png also where evae kernels did not write them.

    Raises:
        ConfigError: a setting cannot work.
        RunError: a figure cannot be written, or would replace another file.
    """
    checks.one_of("kernel", kernel, KERNELS)
    for name, value in {"support_length": support_length, "bandwidth": bandwidth, "n": n}.items():
        checks.positive(name, value)
    checks.whole_number("draws", draws, most=2**40)
    if out is not None:
        folder = Path(out)
        check_output_folder(folder, ("densities.png", "divergences.png"), "kernels", overwrite)
        _draw_densities(folder / "densities.png")
        _draw_divergences(folder / "divergences.png", KERNELS[kernel], prior, support_length, bandwidth, n)
        console.print(f"densities.png and divergences.png in {out}", soft_wrap=True)
    Console().print(_table(draws))


def sampling_calls(draws: int, device: str = "cpu") -> dict[str, Callable[[], Tensor]]:
    """For every kernel a call that draws ``draws`` float32 numbers, after randn and rand for comparison."""
    zero, one = torch.zeros((), device=device), torch.ones((), device=device)
    calls: dict[str, Callable[[], Tensor]] = {
        "randn": lambda: torch.randn(draws, device=device),
        "rand": lambda: torch.rand(draws, device=device),
    }
    for name, cls in KERNELS.items():
        calls[name] = lambda cls=cls: cls(zero, one).sample((draws,))  # type: ignore[misc]
    return calls


def _table(draws: int) -> Table:
    timers = {name: Timer("f()", globals={"f": call}, num_threads=1) for name, call in sampling_calls(draws).items()}
    seconds = {name: min(timer.timeit(1).median for _ in range(_ROUNDS)) for name, timer in timers.items()}
    table = Table(caption=f"standard kernels; cost of a draw in multiples of torch.randn ({draws:,}, one thread)")
    columns = ("kernel", "support", "variance", "∫k²", "efficiency", "entropy", "cost")
    for column in columns:
        table.add_column(column, justify="left" if column in ("kernel", "support") else "right")
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for name, cls in KERNELS.items():
        kernel = cls(zero, one)
        numbers = (kernel.variance, kernel.roughness, kernel.efficiency, kernel.entropy())
        cost = f"{seconds[name] / seconds['randn']:.1f}"
        table.add_row(name, "[-1, 1]".replace("[", r"\[") if cls.bounded else "R", *(f"{x:.6f}" for x in numbers), cost)
    return table


def _draw_densities(path: Path) -> None:
    """Every kernel at the variance of the standard Epanechnikov kernel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    linear, logarithmic = figure.subplots(1, 2)
    t = torch.linspace(-2, 2, 2001, dtype=torch.float64)
    for i, (name, cls) in enumerate(KERNELS.items()):
        scale = torch.as_tensor(matched_scale(cls, Epanechnikov.standard_variance), dtype=torch.float64)
        log_density = cls(torch.zeros_like(scale), scale, validate_args=False).log_prob(t)
        for axis, values in ((linear, log_density.exp()), (logarithmic, log_density)):
            style = ":" if i >= 10 else ("-", "--")[i % 2]  # the eleventh has the colour of the first
            axis.plot(t, values, label=name, linestyle=style, linewidth=1.4)
    linear.set(title="densities at variance 1/5", xlabel="t", ylabel="k(t)")
    logarithmic.set(title="their logarithms", xlabel="t", ylabel="ln k(t)", ylim=(-8, 0.5))
    for axis in (linear, logarithmic):
        axis.grid(alpha=0.3)
    linear.legend(fontsize="x-small")
    save_figure(figure, path, mark("kernels"), dpi=110)


def _draw_divergences(path: Path, cls: type[Kernel], prior: str, spread: float, bandwidth: float, n: float) -> None:
    """At μ = 0, for r from 0.01 to 30 times the spread at which kernel and prior are of one width."""
    from matplotlib.figure import Figure

    r = torch.logspace(-2, 2, 41, dtype=torch.float64) * spread / bandwidth
    zero = torch.zeros_like(r)
    p = Normal(zero, spread) if prior == "gaussian" else Uniform(zero - spread / 2, zero + spread / 2)
    kernel = cls(zero, r)
    curves = {f"penalty, eq. 8, n = {n:g}": kernel_penalty(kernel, spread, n)}
    if prior == "gaussian":
        q = KernelPosterior(kernel, p, bandwidth)
        chi = chi_square(q, p)
        curves |= {"χ²": chi, "ln(1 + χ²)": torch.log1p(chi), "KL(q‖p), exact": kl_divergence(q, p)}
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, values in curves.items():
        shown = torch.where(values < 1e9, values, torch.nan)  # χ² leaves the range of floating point
        axis.loglog(r, shown, label=name, linestyle="--" if name.startswith("penalty") else "-")
    note = "" if prior == "gaussian" else "; KL and χ² are infinite"
    axis.set(title=f"{cls.__name__}, {prior} prior, B = {spread:g}, b = {bandwidth:.4g}, μ = 0{note}")
    axis.set(xlabel="r", ylabel="nats per latent", ylim=(1e-8, 1e4))
    axis.title.set_fontsize("medium")
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, path, mark("kernels"), dpi=110)
