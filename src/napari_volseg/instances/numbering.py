"""Counting and renumbering ids in one pass, without temporary volumes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.instances.tiles import map_slabs

__all__ = [
    "count_voxels",
    "note_firsts",
    "number",
    "raster_numbers",
    "renumber",
    "renumbering",
    "take_ids",
]


def renumbering(sizes: NDArray[np.int64], min_size: int) -> NDArray[np.int32]:
    """Return the new id of each id: 1…n for those large enough, 0 for the others.

    Parameters
    ----------
    sizes
        Number of voxels of ids 0, 1, 2…; ids without voxels are dropped too.
    """
    kept = sizes >= max(min_size, 1)
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)


def count_voxels(
    ids_ZYX: NDArray[np.int32], n_ids: int, threads: int
) -> NDArray[np.int64]:
    """Return the number of voxels of ids 0…n_ids."""
    total = np.zeros(n_ids + 1, np.int64)
    for sizes in map_slabs(
        lambda a, b: _count(ids_ZYX[a:b], n_ids), ids_ZYX.shape[0], threads
    ):
        total += sizes
    return total


def raster_numbers(
    ids_ZYX: NDArray[np.int32], n_ids: int, threads: int
) -> NDArray[np.int32]:
    """Return for each of the ids 0…n_ids its place in raster order of first voxels.

    Ids without voxels come last.
    """
    return number(
        map_slabs(
            lambda a, b: _list_ids(ids_ZYX[a:b], n_ids), ids_ZYX.shape[0], threads
        ),
        n_ids,
    )


def number(found: Iterable[NDArray[np.int32]], n_ids: int) -> NDArray[np.int32]:
    """Return for each of the ids 0…n_ids at which place it was found first."""
    numbers = np.zeros(n_ids + 1, np.int32)
    n = 0
    for ids in found:
        new = ids[numbers[ids] == 0]
        numbers[new] = np.arange(n + 1, n + 1 + len(new))
        n += len(new)
    absent = np.flatnonzero(numbers[1:] == 0) + 1
    numbers[absent] = np.arange(n + 1, n + 1 + len(absent))
    return numbers


def note_firsts(
    ids_ZYX: NDArray[np.int32],
    start: Sequence[int],
    shape_ZYX: Sequence[int],
    firsts: NDArray[np.int64],
) -> None:
    """Lower, for each id of a block, the place of its first voxel in the volume."""
    _, n_y, n_x = shape_ZYX
    _note(ids_ZYX, start[0], start[1], start[2], n_y, n_x, firsts)


def renumber(
    ids_ZYX: NDArray[np.int32], new_ids: NDArray[np.int32], threads: int
) -> NDArray[np.int32]:
    """Give every voxel its new id, in place, and return the volume."""
    return take_ids(ids_ZYX, new_ids, ids_ZYX, threads)


def take_ids(
    ids_ZYX: NDArray[np.int32],
    new_ids: NDArray[np.int32],
    out_ZYX: NDArray[np.int32],
    threads: int,
) -> NDArray[np.int32]:
    """Write the new id of every voxel into another volume, and return that."""

    def take(a: int, b: int) -> None:
        _take(ids_ZYX[a:b], new_ids, out_ZYX[a:b])

    map_slabs(take, ids_ZYX.shape[0], threads)
    return out_ZYX


@njit(nogil=True, cache=True)
def _count(ids: NDArray[np.int32], n_ids: int) -> NDArray[np.int64]:
    sizes = np.zeros(n_ids + 1, np.int64)
    # In runs: neighbours are of one id mostly.
    run, n = 0, 0
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            for x in range(ids.shape[2]):
                if ids[z, y, x] != run:
                    sizes[run] += n
                    run, n = ids[z, y, x], 0
                n += 1
    sizes[run] += n
    return sizes


@njit(nogil=True, cache=True)
def _list_ids(ids: NDArray[np.int32], n_ids: int) -> NDArray[np.int32]:
    """Return the ids above 0 in raster order of their first voxels."""
    is_listed = np.zeros(n_ids + 1, np.bool_)
    is_listed[0] = True
    found, n = np.empty(n_ids, np.int32), 0
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            for x in range(ids.shape[2]):
                id_ = ids[z, y, x]
                if not is_listed[id_]:
                    is_listed[id_] = True
                    found[n] = id_
                    n += 1
    return found[:n].copy()


@njit(nogil=True, cache=True)
def _note(
    ids: NDArray[np.int32],
    z0: int,
    y0: int,
    x0: int,
    n_y: int,
    n_x: int,
    firsts: NDArray[np.int64],
) -> None:
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            row = ((z0 + z) * n_y + y0 + y) * n_x + x0
            for x in range(ids.shape[2]):
                id_ = ids[z, y, x]
                if id_ > 0:
                    firsts[id_] = min(firsts[id_], row + x)


@njit(nogil=True, cache=True)
def _take(
    ids: NDArray[np.int32], new_ids: NDArray[np.int32], out: NDArray[np.int32]
) -> None:
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            for x in range(ids.shape[2]):
                out[z, y, x] = new_ids[ids[z, y, x]]
