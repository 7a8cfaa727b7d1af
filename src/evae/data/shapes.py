"""Generated images whose factors are exact: one white shape on black, of some position, size and orientation."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evae.data.factors import Factors
from evae.data.images import Split
from evae.data.rows import Findings, Row, Source

SHAPES = ("square", "ellipse", "heart")
FACTORS = ("shape", "x", "y", "size", "orientation")
SIDE = 64  # pixels
_COUNT, _HELD_OUT, _SEED = 5000, 1000, 0
# Of x, y and size, as fractions of the side, and of the orientation: below a quarter turn, after which a square is the
# same again, so that an image has one value of each factor. No shape leaves the image.
_RANGES = ((0.25, 0.75), (0.25, 0.75), (0.1, 0.24), (0.0, np.pi / 2))
# Of a heart made of a square of half-width 1 and discs of radius 1: the centre (t, t) of the smallest circle around it,
# t = (√2 - 1)/(3 - √2), and its radius √2 (1 + t).
_CENTRE, _RADIUS = 0.2612038749637415, 1.7836116248912244


def draw_factors(count: int, seed: int = _SEED) -> NDArray[np.float64]:
    """Independent draws of the factors (count, 5), in the order of ``FACTORS``.

    The shape is one of 0, 1 and 2 with equal probabilities; x and y, the position of the centre from the left and from
    the top, are uniform on [0.25, 0.75], the size, the radius of the smallest circle around the shape, on [0.1, 0.24],
    as fractions of the image's side; the orientation is uniform on [0, π/2), in radians.
    """
    random = np.random.default_rng(seed)
    shapes = random.integers(len(SHAPES), size=count)
    low, high = np.transpose(_RANGES)
    return np.column_stack([shapes, random.uniform(low, high, (count, len(_RANGES)))])


def render(shape: int, x: float, y: float, size: float, orientation: float, side: int = SIDE) -> NDArray[np.uint8]:
    """One image (side, side) of ``FACTORS``: 255 inside the shape, 0 outside.

    A pixel's value is 255·clip(½ - δ, 0, 1), with δ the signed distance of its centre from the outline in pixels, for
    the ellipse to first order, f/‖∇f‖ (Taubin 1994).
    """
    centres = (np.arange(side) + 0.5) / side
    across, down = centres - x, centres[:, None] - y
    cos, sin = np.cos(orientation), np.sin(orientation)
    u, v = (cos * across + sin * down) / size, (cos * down - sin * across) / size
    distance = (_square, _ellipse, _heart)[int(shape)](u, v)
    return np.rint(255 * np.clip(0.5 - distance * size * side, 0, 1)).astype(np.uint8)


def _box(u: NDArray[np.float64], v: NDArray[np.float64], half: float) -> NDArray[np.float64]:
    """Signed distance from a square of half-width ``half`` around 0."""
    over_u, over_v = np.abs(u) - half, np.abs(v) - half
    outside: NDArray[np.float64] = np.hypot(np.maximum(over_u, 0), np.maximum(over_v, 0))
    return outside + np.minimum(np.maximum(over_u, over_v), 0)


def _square(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return _box(u, v, np.sqrt(0.5))


def _ellipse(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-axes 1 and ½."""
    f, slope = u**2 + 4 * v**2 - 1, 2 * np.sqrt(u**2 + 16 * v**2)
    return f / np.maximum(slope, 1e-9)


def _heart(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """A square on its tip, and discs around the middles of its two upper sides."""
    p, q = ((sign * u - v) * np.sqrt(0.5) * _RADIUS + _CENTRE for sign in (1, -1))
    lobes = np.minimum(np.hypot(p - 1, q), np.hypot(p, q - 1)) - 1
    heart: NDArray[np.float64] = np.minimum(_box(p, q, 1.0), lobes) / _RADIUS
    return heart


def shapes() -> Source:
    """4,000 training and 1,000 hold-out images, drawn with a fixed seed; labels are the shapes."""
    factors = draw_factors(_COUNT)
    known = Factors(FACTORS, factors, (True, *(False for _ in _RANGES)), {str(i): i for i in range(_COUNT)})

    def rows() -> Iterator[Row]:
        for i, (shape, *place) in enumerate(factors.tolist()):
            split: Split = "train" if i < _COUNT - _HELD_OUT else "holdout"
            yield Row(str(i), render(int(shape), *place), int(shape), split)

    found = Findings(
        files={"rendered shapes": _COUNT}, splits_from=f"the last {_HELD_OUT:,} held out", labels_from="the shape"
    )
    return Source("shapes", "shapes 1", _COUNT, rows, SHAPES, 32, found=found, factors=known)
