"""Tiles of a volume, and threads that work on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from napari_volseg.geometry import Box, iter_boxes

__all__ = ["map_slabs", "map_tiles", "tile_grid"]

_SLAB = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_tiles(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> list[Result]:
    """Return what `work` makes of each item, in their order."""
    items = list(items)
    if threads <= 1 or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(work, items))


def map_slabs(
    work: Callable[[int, int], Result], n_slices: int, threads: int
) -> list[Result]:
    """Return what `work` makes of slices a to b, for slabs that cover all slices."""
    starts = range(0, n_slices, _SLAB)
    return map_tiles(lambda z: work(z, min(z + _SLAB, n_slices)), starts, threads)


def tile_grid(box: Box, edge: Sequence[int]) -> list[Box]:
    """Return the tiles of a box in raster order."""
    if box.size == 0:
        return []
    return [
        Box(
            tuple(a + o for a, o in zip(tile.start, box.start, strict=True)),  # type: ignore[arg-type]
            tuple(b + o for b, o in zip(tile.stop, box.start, strict=True)),  # type: ignore[arg-type]
        )
        for tile in iter_boxes(box.shape, edge)
    ]
