"""Images from anywhere, as 8-bit arrays (N, C, H, W); knows no model."""

from evae.data.batches import batch_indices, to_float
from evae.data.store import ImageSet, Store, open_store

__all__ = ["ImageSet", "Store", "batch_indices", "open_store", "to_float"]
