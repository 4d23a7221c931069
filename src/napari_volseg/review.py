"""What there is to know about each instance, as a table."""

from __future__ import annotations

import csv
import io as text_io
import os
from collections.abc import Mapping
from typing import Any

import fastremap
import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.io import write_text
from napari_volseg.volume import VoxelSize

__all__ = ["instance_table", "write_table"]


def instance_table(
    labels_ZYX: NDArray[np.integer[Any]],
    maps_CZYX: NDArray[np.uint8],
    voxel_size: VoxelSize,
) -> dict[str, NDArray[Any]]:
    """Measure every instance.

    Parameters
    ----------
    labels_ZYX
        Instance ids, 0 = background.
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1.
    voxel_size
        Edge lengths (z, y, x) in nm.

    Returns
    -------
    dict
        Columns of equal length, one row an instance, by rising id: ``index`` (the
        id), ``voxels``, ``volume_um3``, the centroid ``z``, ``y``, ``x`` and the box
        ``z_start`` … ``x_stop`` (half-open), both in voxels, ``mask_mean`` and
        ``boundary_mean`` (0 to 1) and ``touches_border`` (lies at a face of the
        volume, where it may be cut).
    """
    if maps_CZYX.shape[1:] != labels_ZYX.shape:
        raise ValueError(f"maps {maps_CZYX.shape} do not fit {labels_ZYX.shape}")
    dense_ZYX, names = fastremap.renumber(np.ascontiguousarray(labels_ZYX))
    rows_ZYX = dense_ZYX.astype(np.int32, copy=False)
    index = np.array(sorted((row, name) for name, row in names.items() if row))
    index = index.reshape(-1, 2)[:, 1].astype(np.int64)
    sums, boxes = _measure(rows_ZYX, maps_CZYX[0], maps_CZYX[1], len(index))
    order = np.argsort(index)
    sums, boxes = sums[order], boxes[order]
    voxels = sums[:, 0]
    start, stop = boxes[:, :3], boxes[:, 3:]
    at_border = (start == 0).any(axis=1) | (stop == labels_ZYX.shape).any(axis=1)
    return {
        "index": index[order],
        "voxels": voxels,
        "volume_um3": voxels * (float(np.prod(voxel_size)) / 1e9),
        **{axis: sums[:, 1 + i] / voxels for i, axis in enumerate("zyx")},
        **{f"{axis}_start": start[:, i] for i, axis in enumerate("zyx")},
        **{f"{axis}_stop": stop[:, i] for i, axis in enumerate("zyx")},
        "mask_mean": sums[:, 4] / (voxels * 255),
        "boundary_mean": sums[:, 5] / (voxels * 255),
        "touches_border": at_border,
    }


def write_table(
    path: str | os.PathLike[str], table: Mapping[str, NDArray[Any]]
) -> None:
    """Write the columns as CSV with a header, whole or not at all.

    Numbers have up to six digits, truth values are 0 and 1.
    """
    text = text_io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(
        zip(*([_written(v) for v in column] for column in table.values()), strict=True)
    )
    write_text(path, text.getvalue())


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, np.floating) else str(int(value))


@njit(nogil=True, cache=True)
def _measure(
    rows: NDArray[np.int32],
    mask: NDArray[np.uint8],
    boundary: NDArray[np.uint8],
    n: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, of each row, sums of 1, z, y, x, mask and boundary; and its box."""
    sums = np.zeros((n, 6), np.int64)
    boxes = np.zeros((n, 6), np.int64)
    for z in range(rows.shape[0]):
        for y in range(rows.shape[1]):
            for x in range(rows.shape[2]):
                i = int(rows[z, y, x]) - 1
                if i < 0:
                    continue
                if sums[i, 0] == 0:
                    boxes[i, 0], boxes[i, 1], boxes[i, 2] = z, y, x
                sums[i, 0] += 1
                sums[i, 1] += z
                sums[i, 2] += y
                sums[i, 3] += x
                sums[i, 4] += mask[z, y, x]
                sums[i, 5] += boundary[z, y, x]
                boxes[i, 1] = min(boxes[i, 1], y)
                boxes[i, 2] = min(boxes[i, 2], x)
                boxes[i, 3] = z + 1
                boxes[i, 4] = max(boxes[i, 4], y + 1)
                boxes[i, 5] = max(boxes[i, 5], x + 1)
    return sums, boxes
