"""What a review teaches: labels for the next training, and where they count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, MarkedBlocks
from napari_volseg.review.deltas import Edit
from napari_volseg.volume import VoxelSize

__all__ = ["find_corrected", "make_corrections", "near", "paint_annotation"]

CONFIDENT = 0.25
"""Mask below which a voxel near an accepted instance is taken for background."""
_REACH = 4

Labels = NDArray[np.integer[Any]]


def make_corrections(
    labels_ZYX: Labels,
    accepted: Sequence[int],
    mask_ZYX: NDArray[np.uint8] | None,
    deleted_ZYX: NDArray[np.bool_] | None,
    voxel_size: VoxelSize,
) -> tuple[NDArray[np.int32], int]:
    """Return labels in which everything counts that a person stands for.

    - Accepted and corrected instances are objects.
    - Background next to them is background: whoever accepts an outline says so. The
      nearest voxel in every direction always counts, up to four voxels away those
      whose mask is below 0.25.
    - What was deleted, and holds no other instance now, is background.
    - All else is unlabelled, other instances included: nobody looked at them.

    Parameters
    ----------
    labels_ZYX
        The instances as reviewed.
    accepted
        Ids of the accepted and corrected ones.
    mask_ZYX
        The predicted mask, uint8; without it only the nearest background counts.
    deleted_ZYX
        Voxels of instances that were deleted.
    voxel_size
        Edge lengths (z, y, x) in nm; the four voxels are those of the finest axis.

    Returns
    -------
    labels, background
        Instances 1…n, the id of background n + 1, and 0 where nothing counts.

    Raises
    ------
    DataError
        If nothing was accepted or corrected.
    """
    from scipy import ndimage

    # Of the type of the labels: 64 bits of both signs meet in floating point.
    ids = np.unique(np.asarray(accepted, labels_ZYX.dtype))
    index = np.minimum(np.searchsorted(ids, labels_ZYX), max(len(ids) - 1, 0))
    is_good = ids[index] == labels_ZYX if len(ids) else np.zeros(labels_ZYX.shape, bool)
    if not is_good.any():
        raise DataError("nothing is accepted or corrected yet: review some instances")
    result = np.where(is_good, index + 1, 0).astype(np.int32)
    background = len(ids) + 1
    is_free = labels_ZYX == 0
    counts = ndimage.binary_dilation(is_good, np.ones((3, 3, 3), bool))
    if mask_ZYX is not None:
        reach = _REACH * min(voxel_size)
        away = ndimage.distance_transform_edt(~is_good, sampling=voxel_size)
        counts |= (away <= reach) & (mask_ZYX < CONFIDENT * 255)
    if deleted_ZYX is not None:
        counts |= deleted_ZYX
    result[counts & is_free] = background
    return result, background


def find_corrected(
    edits: Iterable[Edit], painted_N: NDArray[np.int64], shape_ZYX: Sequence[int]
) -> tuple[Box, ...]:
    """Return blocks that hold a voxel which a person changed.

    Parameters
    ----------
    edits
        What was done in the review and not taken back.
    painted_N
        Flat indices of the voxels that were painted with other tools.
    shape_ZYX
        Shape of the labels.
    """
    marked = MarkedBlocks(shape_ZYX)
    for edit in edits:
        for patch in edit.patches:
            marked.mark(patch.box, patch.mask_ZYX())
    marked.mark_voxels(painted_N)
    return marked.boxes()


def paint_annotation(
    labels_ZYX: Labels, annotated_ZYX: NDArray[np.bool_] | None
) -> tuple[NDArray[np.signedinteger[Any]], int]:
    """Return labels that say by themselves where they count.

    Returns
    -------
    labels, background
        Instances as they are, the id painted where annotated background is, and 0
        where nothing counts; int32, or int64 where ids need it.
    """
    background = int(labels_ZYX.max(initial=0)) + 1
    if background >= 2**63:
        raise DataError("the labels have ids beyond 63 bits: renumber them")
    dtype = np.int32 if background < 2**31 else np.int64
    painted: NDArray[np.signedinteger[Any]] = labels_ZYX.astype(dtype)
    painted[painted <= 0] = background
    if annotated_ZYX is not None:
        painted[~annotated_ZYX] = 0
    return painted, background


def near(mask_ZYX: NDArray[np.bool_], reach: Sequence[int]) -> NDArray[np.bool_]:
    """Return which voxels lie in a mask or within `reach` (z, y, x) of it."""
    from scipy import ndimage

    grown = mask_ZYX.astype(np.uint8)
    for axis, n in enumerate(reach):
        grown = ndimage.maximum_filter1d(grown, 2 * n + 1, axis)
    return grown.view(np.bool_)
