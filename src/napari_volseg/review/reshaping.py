"""New outlines for instances, from the maps: what runs in a process of its own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.volume import VoxelSize

__all__ = [
    "cut_by_line",
    "fill",
    "grow",
    "mark_points",
    "mark_sides",
    "segment_again",
    "shrink",
    "split",
]

Mask = NDArray[np.bool_]


def split(
    object_ZYX: Mask,
    markers_ZYX: NDArray[np.integer[Any]],
    maps_CZYX: NDArray[np.uint8] | None,
    voxel_size: VoxelSize,
) -> NDArray[np.int32]:
    """Divide an object between markers, along the ridges of the maps.

    Parameters
    ----------
    object_ZYX
        The object.
    markers_ZYX
        Ids 1…n of the parts; those outside the object are ignored.
    maps_CZYX
        Mask, boundary and distance, uint8; without them the ridge is where the
        object is thinnest.
    voxel_size
        Edge lengths (z, y, x) in nm.

    Returns
    -------
    NDArray
        Pieces 1…n; fragments of the object without a marker go to the piece that
        lies nearest.

    Raises
    ------
    DataError
        If fewer than two markers lie in the object.
    """
    from napari_volseg.instances import watershed
    from napari_volseg.instances.segmentation import make_height

    markers = np.where(object_ZYX, markers_ZYX, 0).astype(np.int32)
    if np.count_nonzero(np.bincount(markers.ravel())[1:]) < 2:
        raise DataError(
            "fewer than two points lie in the instance: click on two of its parts"
        )
    if maps_CZYX is None:
        depth = ndimage.distance_transform_edt(
            np.pad(object_ZYX, 1), sampling=voxel_size
        )[1:-1, 1:-1, 1:-1]
        height = np.uint8(255) - (depth / depth.max() * 255).astype(np.uint8)
    else:
        height = make_height(np.ascontiguousarray(maps_CZYX))
    pieces = watershed(height, markers, object_ZYX)
    rest = object_ZYX & (pieces == 0)
    if rest.any():
        nearest = ndimage.distance_transform_edt(
            pieces == 0,
            sampling=voxel_size,
            return_distances=False,
            return_indices=True,
        )
        pieces[rest] = pieces[tuple(nearest)][rest]
    return pieces


def mark_points(object_ZYX: Mask, points_N3: NDArray[Any]) -> NDArray[np.int32]:
    """Return markers of points; one beside the object marks its nearest voxel.

    Raises
    ------
    DataError
        If two points mark the same voxel.
    """
    markers = np.zeros(object_ZYX.shape, np.int32)
    inside = np.argwhere(object_ZYX)
    for number, point in enumerate(np.asarray(points_N3, float), start=1):
        nearest = inside[int(((inside - point) ** 2).sum(axis=1).argmin())]
        if markers[tuple(nearest)]:
            raise DataError("two points lie at the same place: set them apart")
        markers[tuple(nearest)] = number
    return markers


def mark_sides(
    object_ZYX: Mask, line_N3: NDArray[np.float64], axis: int, index: int
) -> NDArray[np.int32]:
    """Return markers of the two sides of a line drawn across one slice of an object.

    Parameters
    ----------
    line_N3
        Corners of the line in voxels of the object's box.
    axis, index
        The slice: which axis goes through it, and where along that it lies.

    Raises
    ------
    DataError
        If the line does not cross the object.
    """
    markers = np.zeros(object_ZYX.shape, np.int32)
    plane = np.moveaxis(object_ZYX, axis, 0)[index]
    line_N2 = np.delete(line_N3, axis, axis=1)
    np.moveaxis(markers, axis, 0)[index] = cut_by_line(plane, line_N2)
    return markers


def cut_by_line(object_YX: Mask, line_N2: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return markers of the two sides of a line drawn across a slice of an object.

    Parameters
    ----------
    line_N2
        Corners of the line in voxels of the slice; it is prolonged by one voxel at
        both ends.

    Raises
    ------
    DataError
        If the line does not cross the object.
    """
    corners = np.asarray(line_N2, float)
    if len(corners) < 2:
        raise DataError("the line has no length: draw it across the instance")
    wall = _draw(object_YX.shape, corners)
    sides, n = ndimage.label(object_YX & ~wall)
    if n < 2:
        raise DataError(
            "the line does not cross the instance in this slice: draw it from one "
            "side to the other"
        )
    sizes = np.bincount(sides.ravel())
    # Crumbs beside the line are no sides: the two largest are.
    first, second = np.argsort(sizes[1:])[::-1][:2] + 1
    markers = np.zeros(object_YX.shape, np.int32)
    markers[sides == first] = 1
    markers[sides == second] = 2
    return markers


def grow(
    object_ZYX: Mask,
    free_ZYX: Mask,
    mask_ZYX: NDArray[np.uint8],
    threshold: float,
    reach: int,
) -> Mask:
    """Let an object grow into free voxels of the mask, voxel by voxel.

    Parameters
    ----------
    free_ZYX
        Where no other instance is.
    mask_ZYX
        The mask, uint8, 255 being 1.
    threshold
        Mask above which a voxel is taken, 0 to 1.
    reach
        How many voxels it may grow.
    """
    room = object_ZYX | (free_ZYX & (mask_ZYX > threshold * 255))
    grown: Mask = ndimage.binary_dilation(object_ZYX, iterations=reach, mask=room)
    return grown


def shrink(object_ZYX: Mask, mask_ZYX: NDArray[np.uint8], threshold: float) -> Mask:
    """Take away the voxels of an object whose mask is below a threshold.

    Raises
    ------
    DataError
        If nothing would be left.
    """
    rest = object_ZYX & (mask_ZYX > threshold * 255)
    if not rest.any():
        raise DataError(
            "nothing would be left of the instance: lower the threshold, or delete it"
        )
    return rest


def fill(object_ZYX: Mask) -> Mask:
    """Fill what an object encloses: holes in space, and in each of its slices."""
    filled = ndimage.binary_fill_holes(object_ZYX)
    for slice_YX in filled:
        if slice_YX.any():
            slice_YX[:] = ndimage.binary_fill_holes(slice_YX)
    result: Mask = filled
    return result


def segment_again(
    maps_CZYX: NDArray[np.uint8], free_ZYX: Mask, config: InstancesConfig
) -> NDArray[np.int32]:
    """Return instances of a box, made with other thresholds.

    Parameters
    ----------
    free_ZYX
        Where the new instances may lie; elsewhere the maps are taken for background.
    """
    from napari_volseg.instances import segment

    maps = np.where(free_ZYX, maps_CZYX, np.uint8(0))
    return segment(np.ascontiguousarray(maps), config)


def _draw(shape: tuple[int, ...], corners_N2: NDArray[np.float64]) -> Mask:
    """Return the voxels that a line passes, thick enough to part face neighbours."""
    ends = corners_N2.copy()
    for end, other in ((0, 1), (-1, -2)):
        way = ends[end] - ends[other]
        ends[end] += way / max(float(np.linalg.norm(way)), 1e-9)
    wall = np.zeros(shape, np.bool_)
    for start, stop in pairwise(ends):
        # Four points a voxel, each rounded, leave no diagonal gap to slip through.
        n = int(4 * np.abs(stop - start).max()) + 2
        points = np.rint(np.linspace(start, stop, n)).astype(int)
        inside = ((points >= 0) & (points < shape)).all(axis=1)
        wall[tuple(points[inside].T)] = True
    return wall
