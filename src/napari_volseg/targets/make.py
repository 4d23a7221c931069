"""Targets of a labelled volume.

They are made once from the whole labelled volume and cropped afterwards, so a
target never depends on where a crop lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_volseg.targets.boundary import find_boundary, near_unannotated
from napari_volseg.targets.distance import DistanceKind, measure, signed_reach
from napari_volseg.volume import VoxelSize

__all__ = ["Targets", "make_targets", "surface_of", "targets_reach"]

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Targets:
    """The three maps of a labelled volume, and where they are known."""

    values_CZYX: NDArray[np.uint8]
    """Mask, boundary and distance, 255 being 1."""
    valid_CZYX: Mask
    """True where the annotation determines the value."""


def surface_of(kind: DistanceKind) -> float:
    """Return the distance above which a voxel lies in an object."""
    return 0.5 if kind == "signed" else 0.0


def targets_reach(
    voxel_size: VoxelSize, boundary_nm: float, kind: DistanceKind
) -> float:
    """Return from how far in nm the targets of a background voxel are decided."""
    outside = signed_reach(voxel_size) if kind == "signed" else 0.0
    return max(outside, boundary_nm / 2 + max(voxel_size) / 2)


def make_targets(
    labels_ZYX: Labels,
    voxel_size: VoxelSize,
    *,
    boundary: Literal["3d", "2d"] = "3d",
    distance: Literal["3d", "2d"] = "3d",
    boundary_nm: float = 0.0,
    distance_kind: DistanceKind = "depth",
    annotated_ZYX: Mask | None = None,
) -> Targets:
    """Return mask, boundary and distance of the labels.

    - Mask: 1 in every object.
    - Boundary: 1 on both voxels of each pair of face neighbours with different ids,
      background included, and on every voxel whose middle is at most half of
      `boundary_nm` from the face between them. The faces of the volume are no
      boundary.
    - Distance: in each connected piece of an object, the distance to the nearest
      voxel outside it divided by the largest such distance in the piece; 0 in
      background. The faces of the volume are no surface; a piece without any
      surface, one that fills the volume, is 1. What follows from it for the other
      kinds says `distance.measure`.

    What lies beyond the annotated voxels is unknown. A boundary is valid if it is
    found among annotated voxels, or if all voxels that could make it one are
    annotated. A distance is valid in annotated background, and in an object if its
    surface is nearer than the nearest unannotated voxel, both at this voxel and
    where the piece is deepest.

    Parameters
    ----------
    labels_ZYX
        Instance ids, 0 = background; any integer type. Read, never written.
    voxel_size
        Edge lengths (z, y, x) in nm; distances are measured with it.
    boundary, distance
        ``2d`` looks at each z-slice by itself.
    boundary_nm
        Thickness of the boundary in nm; at least one voxel on either side.
    distance_kind
        ``depth``, ``signed`` or ``skeleton``.
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
    reach = boundary_nm / 2
    values[1] = np.uint8(255) * find_boundary(
        labels, axes, voxel_size, reach, annotated_ZYX
    )
    if annotated_ZYX is not None:
        unsure = near_unannotated(annotated_ZYX, axes, voxel_size, reach)
        valid[1] &= (values[1] != 0) | ~unsure
    if distance == "3d":
        measure(labels, voxel_size, distance_kind, annotated_ZYX, values[2], valid[2])
    else:
        for z, slice_YX in enumerate(labels):
            annotated = None if annotated_ZYX is None else annotated_ZYX[z]
            measure(
                slice_YX,
                voxel_size[1:],
                distance_kind,
                annotated,
                values[2, z],
                valid[2, z],
            )
    return Targets(values, valid)
