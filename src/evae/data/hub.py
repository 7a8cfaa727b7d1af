"""Datasets of the Hugging Face hub: asked for quietly, and one sentence where they cannot be had."""

from collections.abc import Callable
from typing import TypeVar

from evae.errors import DataError, first_line

T = TypeVar("T")


def from_hub(load: Callable[[], T], failure: str, advice: str = "") -> T:
    """What ``load`` gets from the hub.

    Args:
        load: asks for it.
        failure, advice: what to say before and after the reason where that fails.

    Raises:
        DataError: it fails.
    """
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # one sentence at the end instead of a line for each attempt
    try:
        return load()
    except Exception as error:  # of the network, of the hub, of datasets, of what is written in the dataset
        raise DataError(f"{failure} ({first_line(error)}){advice}") from error
