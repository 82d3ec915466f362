"""Any checkpoint into a file: no architecture, no data, one tensor in memory at a time."""

from flyweight.shrink.quantize import Grid
from flyweight.shrink.run import METADATA_PREFIX, ShrinkReport, shrink

__all__ = ["METADATA_PREFIX", "Grid", "ShrinkReport", "shrink"]
