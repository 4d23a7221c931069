"""What there is to know about each instance, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fastremap
import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.instances import BlockwiseResult
from napari_volseg.review.doubt import add_doubt
from napari_volseg.review.rows import columns_of
from napari_volseg.volume import VoxelSize

__all__ = ["instance_table", "table_of_blocks"]


def instance_table(
    labels_ZYX: NDArray[np.integer[Any]],
    maps_CZYX: NDArray[np.uint8] | None,
    voxel_size: VoxelSize,
) -> dict[str, NDArray[Any]]:
    """Measure every instance.

    Parameters
    ----------
    labels_ZYX
        Instance ids, 0 = background.
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1; None when there are none.
    voxel_size
        Edge lengths (z, y, x) in nm.

    Returns
    -------
    dict
        Columns of equal length, one row an instance, by rising id: ``index`` (the
        id), ``voxels``, ``volume_um3``, the centroid ``z``, ``y``, ``x`` and the box
        ``z_start`` … ``x_stop`` (half-open), both in voxels, ``mask_mean`` and
        ``boundary_mean`` (0 to 1), ``touches_border`` (lies at a face of the
        volume, where it may be cut), ``boundary_inside`` (mean boundary of the
        voxels that are not at its surface; 0 without any), ``surface_um2`` (area of
        its voxels' outer faces, those at the faces of the volume left out),
        and ``shape_outlier`` and ``doubt`` of `add_doubt`. What maps would tell is
        NaN without them.

    Raises
    ------
    DataError
        If an id has more than 63 bits.
    """
    if maps_CZYX is not None and maps_CZYX.shape[1:] != labels_ZYX.shape:
        raise ValueError(f"maps {maps_CZYX.shape} do not fit {labels_ZYX.shape}")
    dense_ZYX, names = fastremap.renumber(np.ascontiguousarray(labels_ZYX))
    if max(names, default=0) >= 2**63:
        raise DataError("the labels have ids beyond 63 bits: renumber them")
    rows_ZYX = dense_ZYX.astype(np.int32, copy=False)
    index = np.array(sorted((row, name) for name, row in names.items() if row))
    index = index.reshape(-1, 2)[:, 1].astype(np.int64)
    none = np.zeros((0, 0, 0), np.uint8)
    mask_ZYX, boundary_ZYX = (none, none) if maps_CZYX is None else maps_CZYX[:2]
    sums, boxes = _measure(rows_ZYX, mask_ZYX, boundary_ZYX, len(index))
    order = np.argsort(index)
    return add_doubt(
        columns_of(
            index[order],
            sums[order],
            boxes[order],
            labels_ZYX.shape,
            voxel_size,
            has_maps=maps_CZYX is not None,
        )
    )


def table_of_blocks(
    result: BlockwiseResult, shape_ZYX: Sequence[int], voxel_size: VoxelSize
) -> dict[str, NDArray[Any]]:
    """Return the same table from what `segment_blocks` measured in passing."""
    found = result.measures
    return add_doubt(
        columns_of(
            found.ids, found.sums, found.boxes, shape_ZYX, voxel_size, has_maps=True
        )
    )


@njit(nogil=True, cache=True)
def _measure(
    rows: NDArray[np.int32],
    mask: NDArray[np.uint8],
    boundary: NDArray[np.uint8],
    n: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, of each row, the sums that `columns_of` takes, and its box."""
    sums = np.zeros((n, 11), np.int64)
    boxes = np.zeros((n, 6), np.int64)
    has_maps = mask.size > 0
    n_z, n_y, n_x = rows.shape
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                row = rows[z, y, x]
                i = int(row) - 1
                if i < 0:
                    continue
                if sums[i, 0] == 0:
                    boxes[i, 0], boxes[i, 1], boxes[i, 2] = z, y, x
                sums[i, 0] += 1
                sums[i, 1] += z
                sums[i, 2] += y
                sums[i, 3] += x
                boxes[i, 1] = min(boxes[i, 1], y)
                boxes[i, 2] = min(boxes[i, 2], x)
                boxes[i, 3] = z + 1
                boxes[i, 4] = max(boxes[i, 4], y + 1)
                boxes[i, 5] = max(boxes[i, 5], x + 1)
                faces_z = int(z > 0 and rows[z - 1, y, x] != row)
                faces_z += int(z + 1 < n_z and rows[z + 1, y, x] != row)
                faces_y = int(y > 0 and rows[z, y - 1, x] != row)
                faces_y += int(y + 1 < n_y and rows[z, y + 1, x] != row)
                faces_x = int(x > 0 and rows[z, y, x - 1] != row)
                faces_x += int(x + 1 < n_x and rows[z, y, x + 1] != row)
                sums[i, 8] += faces_z
                sums[i, 9] += faces_y
                sums[i, 10] += faces_x
                if has_maps:
                    sums[i, 4] += mask[z, y, x]
                    sums[i, 5] += boundary[z, y, x]
                    if faces_z + faces_y + faces_x == 0:
                        sums[i, 6] += 1
                        sums[i, 7] += boundary[z, y, x]
    return sums, boxes
