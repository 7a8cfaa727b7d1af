"""A collection of images under a trained model: its codes for other tools, a map to look at, and an audit."""

from typing import TYPE_CHECKING

from evae.imports import on_demand

if TYPE_CHECKING:
    from evae.collection.auditing import audit
    from evae.collection.encoding import encode
    from evae.collection.mapping import map

__all__ = ["audit", "encode", "map"]

__getattr__ = on_demand(__name__, {"audit": "auditing", "encode": "encoding", "map": "mapping"})
