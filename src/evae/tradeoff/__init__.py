"""Rate, distortion and sharpness of several models, compared at equal rate."""

from evae.tradeoff.command import tradeoff

__all__ = ["tradeoff"]
