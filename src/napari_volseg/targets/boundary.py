"""Where two ids meet, and how far from there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

__all__ = ["find_boundary", "near_unannotated"]

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Index = tuple[slice, ...]


def find_boundary(
    labels: Labels,
    axes: Sequence[int],
    voxel_size: Sequence[float],
    reach: float,
    annotated: Mask | None,
) -> Mask:
    """Return the voxels at a face between different ids.

    Parameters
    ----------
    axes
        Directions to look for faces in; distances are measured along them only.
    reach
        Greatest distance in nm of the middle of a voxel from a face. The two
        voxels that share the face belong to it at any reach.
    annotated
        Faces count between two of these only; None means everywhere.
    """
    found = np.zeros(labels.shape, np.bool_)
    for axis in axes:
        one, other = _neighbours(axis)
        faces = labels[one] != labels[other]
        if annotated is not None:
            faces &= annotated[one] & annotated[other]
        found[one] |= faces
        found[other] |= faces
        if reach > voxel_size[axis] / 2:
            found |= _near_faces(faces, axis, axes, voxel_size, reach)
    return found


def near_unannotated(
    annotated: Mask, axes: Sequence[int], voxel_size: Sequence[float], reach: float
) -> Mask:
    """Return the voxels that a face on an unannotated voxel would make a boundary."""
    # A hidden face may lie up to half an edge beside the one that hides it.
    reach += max(voxel_size[a] for a in axes) / 2 if reach else 0.0
    return find_boundary(annotated.view(np.uint8), axes, voxel_size, reach, None)


def _neighbours(axis: int) -> tuple[Index, Index]:
    """Return the index of the first and of the second of all neighbours."""
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


def _near_faces(
    faces: Mask,
    axis: int,
    axes: Sequence[int],
    voxel_size: Sequence[float],
    reach: float,
) -> Mask:
    """Return the voxels whose middle is at most `reach` from the middle of a face.

    Between any two voxels along the axis another is put for the face, half as long.
    """
    shape = list(faces.shape)
    shape[axis] += 1
    found = np.zeros(shape, np.bool_)
    if not faces.any():
        return found
    shape[axis] += faces.shape[axis]
    space = np.ones(shape, np.uint8)
    before = (slice(None),) * axis
    space[(*before, slice(1, None, 2))] = ~faces
    edges = [v / 2 if a == axis else v for a, v in enumerate(voxel_size)]
    middles = (*before, slice(None, None, 2))
    limit = reach * (1 + 1e-5)
    if 0 in axes:
        return np.asarray(_distances(space, edges)[middles] <= limit)
    for z, slice_YX in enumerate(space):
        if not slice_YX.all():
            found[z] = _distances(slice_YX, edges[1:])[middles[1:]] <= limit
    return found


def _distances(space: NDArray[np.uint8], edges: Iterable[float]) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = edt.edt(
        np.require(space, requirements=["C", "W"]),
        anisotropy=tuple(edges),
        black_border=False,
        parallel=1 if space.size < 500_000 else 0,
    )
    return distances
