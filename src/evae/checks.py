"""Checks of settings. Each returns the value it was given, or raises ConfigError with one sentence that names it."""

from collections.abc import Collection
from typing import TypeVar

from evae.errors import ConfigError

MAX_NUMBER = 1e12
MAX_COUNT = 2**20

T = TypeVar("T", bound=str)


def one_of(name: str, value: T, choices: Collection[str]) -> T:
    """``value``, one of ``choices``."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def whole_number(name: str, value: int, least: int = 1, most: int = MAX_COUNT) -> int:
    """``value``, a whole number in [least, most]."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, not {value}")
    if value > most:
        raise ConfigError(f"{name} must be at most {most}, not {value}")
    return value


def positive(name: str, value: float, most: float = MAX_NUMBER) -> float:
    """``value`` as a float in (0, most]."""
    if not _is_number(value) or not 0 < value <= most:
        raise ConfigError(f"{name} must be positive and at most {most:g}, not {value}")
    return float(value)


def not_negative(name: str, value: float, most: float = MAX_NUMBER) -> float:
    """``value`` as a float in [0, most]."""
    if not _is_number(value) or not 0 <= value <= most:
        raise ConfigError(f"{name} must be 0 or positive and at most {most:g}, not {value}")
    return float(value)


def fraction(name: str, value: float) -> float:
    """``value`` as a float in (0, 1), both excluded."""
    if not _is_number(value) or not 0 < value < 1:
        raise ConfigError(f"{name} must be between 0 and 1, not {value}")
    return float(value)


def seed(value: int) -> int:
    """``value``, a seed of at most 63 bits."""
    return whole_number("seed", value, 0, 2**63 - 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
