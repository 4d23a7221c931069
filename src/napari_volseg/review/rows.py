"""The rows of single instances, measured again after an edit; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box
from napari_volseg.volume import VoxelSize

__all__ = ["box_of_row", "column_names", "columns_of", "find_box", "measure_instances"]

_AXES = "zyx"


def columns_of(
    index: NDArray[np.int64],
    sums: NDArray[np.int64],
    boxes: NDArray[np.int64],
    shape_ZYX: Sequence[int],
    voxel_size: VoxelSize,
    *,
    has_maps: bool,
) -> dict[str, NDArray[Any]]:
    """Turn sums over instances into the columns of `instance_table`.

    Parameters
    ----------
    index
        The ids.
    sums
        Of each: voxels, z, y, x, mask, boundary, voxels inside, boundary inside,
        and the outer faces along z, y and x.
    boxes
        Of each: start and stop along z, y and x.
    """
    voxels = sums[:, 0]
    start, stop = boxes[:, :3], boxes[:, 3:]
    z, y, x = voxel_size
    areas = np.array([y * x, z * x, z * y]) / 1e6
    unknown = np.full(len(index), np.nan)
    inside = sums[:, 7] / (np.maximum(sums[:, 6], 1) * 255)
    return {
        "index": index,
        "voxels": voxels,
        "volume_um3": voxels * (float(np.prod(voxel_size)) / 1e9),
        **{axis: sums[:, 1 + i] / voxels for i, axis in enumerate(_AXES)},
        **{f"{axis}_start": start[:, i] for i, axis in enumerate(_AXES)},
        **{f"{axis}_stop": stop[:, i] for i, axis in enumerate(_AXES)},
        "mask_mean": sums[:, 4] / (voxels * 255) if has_maps else unknown,
        "boundary_mean": sums[:, 5] / (voxels * 255) if has_maps else unknown,
        "touches_border": (start == 0).any(axis=1) | (stop == shape_ZYX).any(axis=1),
        "boundary_inside": inside if has_maps else unknown,
        "surface_um2": sums[:, 8:11] @ areas,
    }


def column_names() -> frozenset[str]:
    """Return the names of the columns that `columns_of` makes."""
    none = np.zeros((0, 11), np.int64)
    shape, size = (1, 1, 1), (1.0, 1.0, 1.0)
    return frozenset(
        columns_of(none[:, 0], none, none[:, :6], shape, size, has_maps=False)
    )


def measure_instances(
    labels_ZYX: NDArray[np.integer[Any]],
    maps: Sequence[Any] | None,
    boxes: Mapping[int, Box],
    voxel_size: VoxelSize,
) -> dict[str, NDArray[Any]]:
    """Measure some instances, each inside a box that holds all of it.

    Parameters
    ----------
    labels_ZYX
        All labels; read inside the boxes only.
    maps
        Mask and boundary (and more), uint8, each of the shape of the labels; may be
        lazy.
    boxes
        Where each id is looked for. An id that is not found there gets no row.

    Returns
    -------
    dict
        The columns of `instance_table`, without ``shape_outlier`` and ``doubt``.
    """
    ids, sums, found = [], [], []
    for label, box in boxes.items():
        is_inside = np.asarray(labels_ZYX[box.slices]) == label
        tight = find_box(is_inside, box.start)
        if tight is None:
            continue
        ids.append(label)
        found.append([*tight.start, *tight.stop])
        sums.append(_sums(labels_ZYX, maps, label, tight))
    return columns_of(
        np.array(ids, np.int64),
        np.array(sums, np.int64).reshape(-1, 11),
        np.array(found, np.int64).reshape(-1, 6),
        labels_ZYX.shape,
        voxel_size,
        has_maps=maps is not None,
    )


def find_box(
    mask_ZYX: NDArray[np.bool_], start: Sequence[int] = (0, 0, 0)
) -> Box | None:
    """Return the smallest box around what is True; None when nothing is.

    Parameters
    ----------
    start
        Where the mask lies in the volume.
    """
    first, last = [], []
    for axis, offset in enumerate(start):
        others = tuple(i for i in range(3) if i != axis)
        hits = np.flatnonzero(mask_ZYX.any(axis=others))
        if not hits.size:
            return None
        first.append(int(hits[0]) + offset)
        last.append(int(hits[-1]) + 1 + offset)
    return Box((first[0], first[1], first[2]), (last[0], last[1], last[2]))


def box_of_row(table: Mapping[str, NDArray[Any]], row: int) -> Box:
    """Return the box of a row of the table."""
    z0, y0, x0, z1, y1, x1 = (
        int(table[f"{axis}_{end}"][row]) for end in ("start", "stop") for axis in _AXES
    )
    return Box((z0, y0, x0), (z1, y1, x1))


def _sums(
    labels_ZYX: NDArray[np.integer[Any]],
    maps: Sequence[Any] | None,
    label: int,
    box: Box,
) -> list[int]:
    """Return the sums over one instance that fills a box."""
    around = box.grow((1, 1, 1), labels_ZYX.shape)
    is_near = np.asarray(labels_ZYX[around.slices]) == label
    here = box.within(around)
    is_in = is_near[here]
    faces, is_inside = [], is_in.copy()
    for axis in range(3):
        before, after = _neighbours(is_near, axis)
        faces.append(
            int(np.count_nonzero(is_in & ~before[here]))
            + int(np.count_nonzero(is_in & ~after[here]))
        )
        is_inside &= before[here] & after[here]
    n = int(np.count_nonzero(is_in))
    centre = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        counts = np.count_nonzero(is_in, axis=others)
        places = np.arange(box.start[axis], box.stop[axis])
        centre.append(int(counts @ places))
    values = [0, 0, 0, 0]
    if maps is not None:
        mask, boundary = (np.asarray(channel[box.slices]) for channel in maps[:2])
        values = [
            int(mask[is_in].sum(dtype=np.int64)),
            int(boundary[is_in].sum(dtype=np.int64)),
            int(np.count_nonzero(is_inside)),
            int(boundary[is_inside].sum(dtype=np.int64)),
        ]
    return [n, *centre, *values, *faces]


def _neighbours(
    mask: NDArray[np.bool_], axis: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the neighbour before and after along an axis; beyond the faces True.

    The mask reaches one voxel beyond the instance except at the faces of the
    volume, which are no surface.
    """
    before, after = np.ones_like(mask), np.ones_like(mask)
    low = [slice(None)] * 3
    high = [slice(None)] * 3
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    before[tuple(high)] = mask[tuple(low)]
    after[tuple(low)] = mask[tuple(high)]
    return before, after
