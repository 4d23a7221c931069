"""Labels to what a network learns: mask, boundary and distance.

Targets are made once from the whole labelled volume and cropped afterwards, so a
target never depends on where a crop lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

from napari_volseg.volume import VoxelSize

__all__ = ["Targets", "make_targets"]

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Targets:
    """The three maps of a labelled volume, and where they are known."""

    values_CZYX: NDArray[np.uint8]
    """Mask, boundary and distance, 255 being 1."""
    valid_CZYX: Mask
    """True where the annotation determines the value."""


def make_targets(
    labels_ZYX: Labels,
    voxel_size: VoxelSize,
    *,
    boundary: Literal["3d", "2d"] = "3d",
    distance: Literal["3d", "2d"] = "3d",
    annotated_ZYX: Mask | None = None,
) -> Targets:
    """Return mask, boundary and distance of the labels.

    - Mask: 1 in every object.
    - Boundary: 1 on both voxels of each pair of face neighbours with different ids,
      background included. The faces of the volume are no boundary.
    - Distance: in each connected piece of an object, the distance to the nearest
      voxel outside it divided by the largest such distance in the piece; 0 in
      background. The faces of the volume are no surface; a piece without any
      surface, one that fills the volume, is 1.

    What lies beyond the annotated voxels is unknown. A boundary is valid if it is
    found among annotated voxels, or if all neighbours are annotated. A distance is
    valid in annotated background, and in an object if its surface is nearer than
    the nearest unannotated voxel, both at this voxel and where the piece is deepest.

    Parameters
    ----------
    labels_ZYX
        Instance ids, 0 = background; any integer type. Read, never written.
    voxel_size
        Edge lengths (z, y, x) in nm; distances are measured with it.
    boundary, distance
        ``2d`` looks at each z-slice by itself.
    annotated_ZYX
        Where the labels count; None means everywhere.
    """
    # edt and cc3d take nothing that is read-only or not contiguous.
    labels = np.require(labels_ZYX, requirements=["C", "W"])
    if labels.ndim != 3 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers ZYX, not {labels.dtype}")
    if annotated_ZYX is not None:
        labels = np.where(annotated_ZYX, labels, 0)
    values = np.zeros((3, *labels.shape), np.uint8)
    valid = np.empty(values.shape, np.bool_)
    valid[:] = True if annotated_ZYX is None else annotated_ZYX

    np.multiply(labels != 0, 255, out=values[0], casting="unsafe")
    axes = (0, 1, 2) if boundary == "3d" else (1, 2)
    values[1] = np.uint8(255) * _find_boundary(labels, axes, annotated_ZYX)
    if annotated_ZYX is not None:
        valid[1] &= (values[1] != 0) | ~_touches(~annotated_ZYX, axes)
    if distance == "3d":
        _measure(labels, voxel_size, annotated_ZYX, values[2], valid[2])
    else:
        for z, slice_YX in enumerate(labels):
            annotated = None if annotated_ZYX is None else annotated_ZYX[z]
            _measure(slice_YX, voxel_size[1:], annotated, values[2, z], valid[2, z])
    return Targets(values, valid)


def _pairs(axes: Iterable[int]) -> Iterable[tuple[tuple[slice, ...], ...]]:
    """Yield the index of the first and of the second of all neighbours along axes."""
    for axis in axes:
        before = (slice(None),) * axis
        yield (*before, slice(None, -1)), (*before, slice(1, None))


def _find_boundary(labels: Labels, axes: Iterable[int], annotated: Mask | None) -> Mask:
    found = np.zeros(labels.shape, np.bool_)
    for one, other in _pairs(axes):
        differ = labels[one] != labels[other]
        if annotated is not None:
            differ &= annotated[one] & annotated[other]
        found[one] |= differ
        found[other] |= differ
    return found


def _touches(mask: Mask, axes: Iterable[int]) -> Mask:
    """Return where a face neighbour is in the mask."""
    found = np.zeros(mask.shape, np.bool_)
    for one, other in _pairs(axes):
        found[one] |= mask[other]
        found[other] |= mask[one]
    return found


def _measure(
    labels: Labels,
    voxel_size: tuple[float, ...],
    annotated: Mask | None,
    values: NDArray[np.uint8],
    valid: Mask,
) -> None:
    """Fill in the distance of a volume or a slice; `labels` are 0 where unknown."""
    if not labels.any():
        return
    pieces = cc3d.connected_components(
        labels, connectivity=8 if labels.ndim == 2 else 26
    )
    depth = _distances(pieces, voxel_size)
    deepest = np.zeros(int(pieces.max()) + 1, np.float32)
    np.maximum.at(deepest, pieces.reshape(-1), depth.reshape(-1))

    if annotated is not None and not annotated.all():
        known = depth < _distances(annotated, voxel_size)
        fathomed = np.ones(deepest.shape, np.bool_)
        fathomed[pieces[~known & (depth == deepest[pieces])]] = False
        valid &= (known & fathomed[pieces]) | (pieces == 0)

    unbounded = np.isinf(deepest)
    deepest[unbounded] = 1
    deepest[0] = 1
    # Slice by slice, to hold no more arrays of the whole volume than necessary.
    for value, part, id_ in zip(values, depth, pieces, strict=True):
        np.minimum(part, deepest[id_], out=part)
        np.rint(part * (255 / deepest)[id_], out=value, casting="unsafe")


def _distances(
    regions: NDArray[Any], voxel_size: tuple[float, ...]
) -> NDArray[np.float32]:
    """Return the distance of each voxel to the nearest one of another region."""
    distances: NDArray[np.float32] = edt.edt(
        np.require(regions, requirements=["C", "W"]),
        anisotropy=voxel_size,
        black_border=False,
        parallel=1 if regions.size < 500_000 else 0,
    )
    return distances
