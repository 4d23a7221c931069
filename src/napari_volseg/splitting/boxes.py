"""The gap around what is held out."""

from __future__ import annotations

from collections.abc import Sequence

from napari_volseg.geometry import Size

__all__ = ["guard_gap"]


def guard_gap(patch_size: Sequence[int]) -> Size:
    """Return the gap (z, y, x) kept around a held-out box: a 16th of the patch."""
    z, y, x = (max(2, n // 16) if n > 1 else 0 for n in patch_size)
    return z, y, x
