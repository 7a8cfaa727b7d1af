"""Images from anywhere, as 8-bit arrays (N, C, H, W); knows no model."""

from evae.data.account import Account
from evae.data.batches import batch_indices, to_float
from evae.data.images import Images, ImageSet
from evae.data.sources import absolute
from evae.data.store import ImageOptions, Store, open_store

__all__ = [
    "Account",
    "ImageOptions",
    "ImageSet",
    "Images",
    "Store",
    "absolute",
    "batch_indices",
    "open_store",
    "to_float",
]
