"""Sizes, boxes, centroids and mean maps of instances, block by block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.volume import VoxelSize

__all__ = ["Measures", "make_table", "measure"]

_N_SUMS = 6


@dataclass(frozen=True, slots=True)
class Measures:
    """What adds up over blocks, one row an instance."""

    ids: NDArray[np.int64]
    sums: NDArray[np.int64]
    """Sums over voxels of 1, z, y, x, mask and boundary."""
    boxes: NDArray[np.int64]
    """First and last + 1 along z, y, x."""


def measure(
    labels_ZYX: NDArray[np.int32],
    maps_CZYX: NDArray[np.uint8],
    start: tuple[int, int, int],
    rows: NDArray[np.int32],
) -> Measures:
    """Measure the instances of a block.

    Parameters
    ----------
    start
        Where the block lies in the volume.
    rows
        Zeros, one for every id that there may be; zeros again on return.
    """
    ids = np.flatnonzero(_number(labels_ZYX, rows)).astype(np.int64)
    rows[ids] = np.arange(1, len(ids) + 1)
    sums = np.zeros((len(ids), _N_SUMS), np.int64)
    boxes = np.zeros((len(ids), 6), np.int64)
    boxes[:, :3] = np.iinfo(np.int64).max
    _measure(labels_ZYX, rows, maps_CZYX[0], maps_CZYX[1], start, sums, boxes)
    rows[ids] = 0
    return Measures(ids, sums, boxes)


def make_table(
    parts: Iterable[Measures],
    new_ids: NDArray[np.int64],
    shape_ZYX: tuple[int, ...],
    voxel_size: VoxelSize,
) -> dict[str, NDArray[Any]]:
    """Return the table of `review.instance_table`.

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
    sums, first, last = sums[kept], first[kept], last[kept]
    voxels = sums[:, 0]
    at_border = (first == 0).any(axis=1) | (last == shape_ZYX).any(axis=1)
    return {
        "index": new_ids[kept],
        "voxels": voxels,
        "volume_um3": voxels * (float(np.prod(voxel_size)) / 1e9),
        **{axis: sums[:, 1 + i] / voxels for i, axis in enumerate("zyx")},
        **{f"{axis}_start": first[:, i] for i, axis in enumerate("zyx")},
        **{f"{axis}_stop": last[:, i] for i, axis in enumerate("zyx")},
        "mask_mean": sums[:, 4] / (voxels * 255),
        "boundary_mean": sums[:, 5] / (voxels * 255),
        "touches_border": at_border,
    }


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
    rows: NDArray[np.int32],
    mask: NDArray[np.uint8],
    boundary: NDArray[np.uint8],
    start: tuple[int, int, int],
    sums: NDArray[np.int64],
    boxes: NDArray[np.int64],
) -> None:
    for k in range(labels.shape[0]):
        z = start[0] + k
        for j in range(labels.shape[1]):
            y = start[1] + j
            for i in range(labels.shape[2]):
                row = rows[labels[k, j, i]] - 1
                if row < 0:
                    continue
                x = start[2] + i
                sums[row, 0] += 1
                sums[row, 1] += z
                sums[row, 2] += y
                sums[row, 3] += x
                sums[row, 4] += mask[k, j, i]
                sums[row, 5] += boundary[k, j, i]
                boxes[row, 0] = min(boxes[row, 0], z)
                boxes[row, 1] = min(boxes[row, 1], y)
                boxes[row, 2] = min(boxes[row, 2], x)
                boxes[row, 3] = max(boxes[row, 3], z + 1)
                boxes[row, 4] = max(boxes[row, 4], y + 1)
                boxes[row, 5] = max(boxes[row, 5], x + 1)
