"""Counting and renumbering ids in one pass, without temporary volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["count_voxels", "renumber", "renumbering"]


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


def count_voxels(ids_ZYX: NDArray[Any], n_ids: int) -> NDArray[np.int64]:
    """Return the number of voxels of ids 0…n_ids; those below 0 count as 0."""
    sizes = np.zeros(n_ids + 1, np.int64)
    _count(ids_ZYX, sizes)
    return sizes


def renumber(
    ids_ZYX: NDArray[Any], new_ids: NDArray[np.int32], result_ZYX: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Write the new id of every voxel into the result and return that."""
    _renumber(ids_ZYX, new_ids, result_ZYX)
    return result_ZYX


@njit(nogil=True, cache=True)
def _count(ids: NDArray[Any], sizes: NDArray[np.int64]) -> None:
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            for x in range(ids.shape[2]):
                sizes[max(int(ids[z, y, x]), 0)] += 1


@njit(nogil=True, cache=True)
def _renumber(
    ids: NDArray[Any], new_ids: NDArray[np.int32], result: NDArray[np.int32]
) -> None:
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            for x in range(ids.shape[2]):
                result[z, y, x] = new_ids[max(int(ids[z, y, x]), 0)]
