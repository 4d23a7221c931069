"""Sums over instances, block by block: sizes, boxes, centroids, maps, surfaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.geometry import Box

__all__ = ["Measures", "add_up", "measure"]

_N_SUMS = 11


@dataclass(frozen=True, slots=True)
class Measures:
    """What adds up over blocks, one row an instance."""

    ids: NDArray[np.int64]
    sums: NDArray[np.int64]
    """Sums over voxels of 1, z, y, x, mask and boundary; over voxels that are not at
    the surface of 1 and boundary; outer faces along z, y and x, without those at the
    faces of the volume."""
    boxes: NDArray[np.int64]
    """First and last + 1 along z, y, x."""


def measure(
    around_ZYX: NDArray[np.int32],
    maps_CZYX: NDArray[np.uint8],
    core: Box,
    rows: NDArray[np.int32],
) -> Measures:
    """Measure the instances of a block.

    Parameters
    ----------
    around_ZYX
        Its labels with one voxel more on every side where the volume goes on.
    maps_CZYX
        Of the block alone.
    core
        Where the block lies in the volume.
    rows
        Zeros, one for every id that there may be; zeros again on return.
    """
    z, y, x = (int(start > 0) for start in core.start)
    d, h, w = core.shape
    # Copies, because kernels are compiled once more for arrays with gaps.
    around_ZYX = np.ascontiguousarray(around_ZYX)
    mask_ZYX, boundary_ZYX = np.ascontiguousarray(maps_CZYX[:2])
    labels_ZYX = np.ascontiguousarray(around_ZYX[z : z + d, y : y + h, x : x + w])
    ids = np.flatnonzero(_number(labels_ZYX, rows)).astype(np.int64)
    rows[ids] = np.arange(1, len(ids) + 1)
    sums = np.zeros((len(ids), _N_SUMS), np.int64)
    boxes = np.zeros((len(ids), 6), np.int64)
    boxes[:, :3] = np.iinfo(np.int64).max
    _measure(
        around_ZYX, (z, y, x), rows, mask_ZYX, boundary_ZYX, core.start, sums, boxes
    )
    rows[ids] = 0
    return Measures(ids, sums, boxes)


def add_up(parts: Iterable[Measures], new_ids: NDArray[np.int64]) -> Measures:
    """Return the measures of whole instances, by rising id.

    Parameters
    ----------
    new_ids
        The final id of every id, 0 where it is dropped.
    """
    n = len(new_ids)
    sums = np.zeros((n, _N_SUMS), np.int64)
    first = np.full((n, 3), np.iinfo(np.int64).max)
    last = np.zeros((n, 3), np.int64)
    for part in parts:
        sums[part.ids] += part.sums
        first[part.ids] = np.minimum(first[part.ids], part.boxes[:, :3])
        last[part.ids] = np.maximum(last[part.ids], part.boxes[:, 3:])
    kept = np.flatnonzero((new_ids > 0) & (sums[:, 0] > 0))
    kept = kept[np.argsort(new_ids[kept])]
    boxes = np.concatenate([first[kept], last[kept]], axis=1)
    return Measures(new_ids[kept], sums[kept], boxes)


@njit(nogil=True, cache=True)
def _number(labels: NDArray[np.int32], rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Mark the ids that there are, except 0."""
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                rows[labels[z, y, x]] = 1
    rows[0] = 0
    return rows


@njit(nogil=True, cache=True)
def _measure(
    labels: NDArray[np.int32],
    margin: tuple[int, int, int],
    rows: NDArray[np.int32],
    mask: NDArray[np.uint8],
    boundary: NDArray[np.uint8],
    start: tuple[int, int, int],
    sums: NDArray[np.int64],
    boxes: NDArray[np.int64],
) -> None:
    n_z, n_y, n_x = labels.shape
    for k in range(mask.shape[0]):
        z, c = start[0] + k, margin[0] + k
        for j in range(mask.shape[1]):
            y, b = start[1] + j, margin[1] + j
            for i in range(mask.shape[2]):
                a = margin[2] + i
                label = labels[c, b, a]
                row = rows[label] - 1
                if row < 0:
                    continue
                x = start[2] + i
                faces_z = int(c > 0 and labels[c - 1, b, a] != label)
                faces_z += int(c + 1 < n_z and labels[c + 1, b, a] != label)
                faces_y = int(b > 0 and labels[c, b - 1, a] != label)
                faces_y += int(b + 1 < n_y and labels[c, b + 1, a] != label)
                faces_x = int(a > 0 and labels[c, b, a - 1] != label)
                faces_x += int(a + 1 < n_x and labels[c, b, a + 1] != label)
                sums[row, 0] += 1
                sums[row, 1] += z
                sums[row, 2] += y
                sums[row, 3] += x
                sums[row, 4] += mask[k, j, i]
                sums[row, 5] += boundary[k, j, i]
                if faces_z + faces_y + faces_x == 0:
                    sums[row, 6] += 1
                    sums[row, 7] += boundary[k, j, i]
                sums[row, 8] += faces_z
                sums[row, 9] += faces_y
                sums[row, 10] += faces_x
                boxes[row, 0] = min(boxes[row, 0], z)
                boxes[row, 1] = min(boxes[row, 1], y)
                boxes[row, 2] = min(boxes[row, 2], x)
                boxes[row, 3] = max(boxes[row, 3], z + 1)
                boxes[row, 4] = max(boxes[row, 4], y + 1)
                boxes[row, 5] = max(boxes[row, 5], x + 1)
