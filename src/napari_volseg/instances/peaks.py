"""Tell apart the peaks of the distance map, however shallow the level they share.

Voxels are visited from the greatest distance down. A voxel without visited
neighbours begins a peak; one between two peaks is their saddle, and there the
lower peak joins the higher one unless it rises far enough above the saddle (its
*dynamics*, Grimaud 1992, doi:10.1117/12.60650).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["separate_peaks"]


def separate_peaks(
    distance_ZYX: NDArray[np.uint8],
    chosen_ZYX: NDArray[np.bool_],
    depth: int,
    min_size: int,
) -> NDArray[np.int32]:
    """Divide the chosen voxels into one 26-connected region a peak.

    Parameters
    ----------
    distance_ZYX
        Any heights; higher is deeper inside an object.
    chosen_ZYX
        Voxels to divide; read, never written.
    depth
        Least height of a peak above the saddle to a higher one. Above 255 peaks
        are never told apart: regions are connected components.
    min_size
        A peak of fewer voxels above the saddle joins the higher one; a region of
        fewer voxels is dropped.

    Returns
    -------
    NDArray
        Regions 1…n in raster order of their first voxel, 0 elsewhere; (Z, Y, X).
    """
    regions_ZYX = np.zeros(chosen_ZYX.shape, np.int32)
    order = _descending(distance_ZYX, chosen_ZYX)
    if order.size:
        parents, sizes = _climb_down(
            distance_ZYX, order, max(depth, 1), max(min_size, 1), regions_ZYX
        )
        _number(regions_ZYX, parents, sizes, max(min_size, 1))
    return regions_ZYX


@njit(nogil=True, cache=True)
def _descending(
    distance: NDArray[np.uint8], chosen: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the flat indices of the chosen voxels, greatest distance first."""
    n_z, n_y, n_x = chosen.shape
    places = np.zeros(257, np.int64)
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                if chosen[z, y, x]:
                    places[256 - distance[z, y, x]] += 1
    for level in range(256):
        places[level + 1] += places[level]
    order = np.empty(places[256], np.int64)
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                if chosen[z, y, x]:
                    level = 255 - distance[z, y, x]
                    order[places[level]] = (z * n_y + y) * n_x + x
                    places[level] += 1
    return order


@njit(nogil=True, cache=True)
def _root(parents: NDArray[np.int32], peak: int) -> int:
    while parents[peak] != peak:
        parents[peak] = parents[parents[peak]]
        peak = parents[peak]
    return peak


@njit(nogil=True, cache=True)
def _longer(array: NDArray[np.int32]) -> NDArray[np.int32]:
    longer = np.zeros(2 * array.size, np.int32)
    longer[: array.size] = array
    return longer


@njit(nogil=True, cache=True)
def _climb_down(
    distance: NDArray[np.uint8],
    order: NDArray[np.int64],
    depth: int,
    min_size: int,
    regions: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    n_z, n_y, n_x = regions.shape
    parents = np.zeros(1024, np.int32)
    tops = np.zeros(1024, np.int32)
    sizes = np.zeros(1024, np.int32)
    n_peaks = 0
    for index in order:
        z, y, x = index // (n_y * n_x), (index // n_x) % n_y, index % n_x
        height = np.int32(distance[z, y, x])
        mine = 0
        for near_z in range(max(z - 1, 0), min(z + 2, n_z)):
            for near_y in range(max(y - 1, 0), min(y + 2, n_y)):
                for near_x in range(max(x - 1, 0), min(x + 2, n_x)):
                    if regions[near_z, near_y, near_x] == 0:
                        continue
                    other = _root(parents, regions[near_z, near_y, near_x])
                    if mine == 0 or mine == other:
                        mine = other
                        continue
                    high, low = mine, other
                    if (tops[low], sizes[low]) > (tops[high], sizes[high]):
                        high, low = low, high
                    if tops[low] - height < depth or sizes[low] < min_size:
                        parents[low] = high
                        sizes[high] += sizes[low]
                        mine = high
        if mine == 0:
            n_peaks += 1
            if n_peaks == parents.size:
                parents, tops, sizes = _longer(parents), _longer(tops), _longer(sizes)
            mine = n_peaks
            parents[mine] = mine
            tops[mine] = height
        regions[z, y, x] = mine
        sizes[mine] += 1
    return parents, sizes


@njit(nogil=True, cache=True)
def _number(
    regions: NDArray[np.int32],
    parents: NDArray[np.int32],
    sizes: NDArray[np.int32],
    min_size: int,
) -> None:
    numbers = np.zeros(parents.size, np.int32)
    n = 0
    for z in range(regions.shape[0]):
        for y in range(regions.shape[1]):
            for x in range(regions.shape[2]):
                if regions[z, y, x] == 0:
                    continue
                root = _root(parents, regions[z, y, x])
                if sizes[root] < min_size:
                    regions[z, y, x] = 0
                    continue
                if numbers[root] == 0:
                    n += 1
                    numbers[root] = n
                regions[z, y, x] = numbers[root]
