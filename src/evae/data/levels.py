"""The range of values of a data set, and the one rule by which all of its images become 8 bits."""

from dataclasses import dataclass, field

from evae.errors import DataError

_DARK = 64  # a data set whose brightest pixel is below uses less than a quarter of the range
_ROUNDING = 0.5 / 255  # beyond [0, 1] that rounds to 0 or 255
WORD = 65535  # largest value of 16 bits
_LOST = 1e-3  # rounding to 8 bits, in their steps, that is more than that of floating-point numbers


@dataclass(frozen=True)
class Scaling:
    """How values become [0, 255]: factors of 8-bit (255 where all are 0 or 1) and of floating-point values (1 or 255).

    ``words`` is the 16-bit value that becomes 255: 65,535, or less where all values of the data set are small.
    """

    bytes: int = 1
    floats: int = 255
    words: int = WORD


@dataclass
class Levels:
    """What values the images of a data set have, before they are scaled.

    Attributes:
        images: number of images of each kind of values: "8-bit", "16-bit", "floating-point".
        byte: largest 8-bit value, exact up to 63.
        word: largest 16-bit value.
        low, high: least and largest floating-point value.
        lost: largest rounding of 16-bit and floating-point values, in steps of the 8 bits that are kept.
    """

    images: dict[str, int] = field(default_factory=dict)
    byte: int = 0
    word: int = 0
    low: float = 0.0
    high: float = 0.0
    lost: float = 0.0

    @property
    def is_dark(self) -> bool:
        """Whether all 8-bit values so far are small, so that the next image has to be looked at."""
        return self.byte < _DARK

    def count(self, kind: str) -> None:
        """One more image with this kind of values."""
        self.images[kind] = self.images.get(kind, 0) + 1

    def add(self, other: "Levels") -> None:
        """Take in what other images of the same data set have."""
        for kind, number in other.images.items():
            self.images[kind] = self.images.get(kind, 0) + number
        self.byte, self.word = max(self.byte, other.byte), max(self.word, other.word)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.lost = max(self.lost, other.lost)

    def scaling(self, data: str) -> Scaling:
        """The rule for all images: 8-bit values of 0 and 1 only, and floating-point values of [0, 1], times 255.

        16-bit values are divided by 257, or, where all are below 64·257, multiplied by 255 / (2^k - 1), of the least k
        of 1, 8, 9, ... that leaves none above 255.

        Raises:
            DataError: floating-point values are neither in [0, 1] nor in [0, 255].
        """
        if self.low < -_ROUNDING or self.high > 255.5:
            raise DataError(
                f"--data {data}: floating-point images have values from {self.low!r} to {self.high!r}; "
                "scale them to [0, 1] or [0, 255]"
            )
        floats = 255 if self.high <= 1 + _ROUNDING else 1
        return Scaling(255 if self.byte == 1 else 1, floats, white_of(self.word) if "16-bit" in self.images else WORD)

    def described(self, scaling: Scaling) -> str:
        """The kinds of values and what was done to them."""
        floats = f"times {scaling.floats}" if scaling.floats > 1 else "rounded"
        words = "divided by 257" if scaling.words == WORD else f"times 255/{scaling.words:,}"
        done = {
            "8-bit": "0 and 1 only, times 255" if scaling.bytes == 255 else "as they are",
            "16-bit": f"up to {self.word:,}, {words}",
            "floating-point": f"from {self.low:.4g} to {self.high:.4g}, {floats}",
        }
        return "; ".join(f"{kind} ({done[kind]})" for kind in done if kind in self.images)

    def loss(self) -> str:
        """What is lost of the values, "" where nothing is."""
        if self.lost < _LOST:
            return ""
        return "8 bits are kept of each value: differences below 1/255 of the range are lost"


def white_of(largest: int) -> int:
    """The 16-bit value that becomes 255, where the largest value of the data set is this one."""
    if largest >= _DARK * 257:
        return WORD
    return 1 if largest == 1 else int(2 ** max(8, largest.bit_length())) - 1


def too_dark(brightest: dict[str, int]) -> str:
    """What to warn of the brightest pixel of each split, "" where the range of 8 bits is used."""
    dark = {split: value for split, value in brightest.items() if value < _DARK}
    if not dark:
        return ""
    named = " and ".join(f"{value} in the {split} split" for split, value in dark.items())
    return f"the brightest pixel of 255 is only {named}: scale the images (of class numbers, say) first"
