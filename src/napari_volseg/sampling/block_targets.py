"""Targets of a volume larger than memory, equal to those of the whole volume.

Mask and boundary of a voxel, and a signed distance outside of objects, depend on
what is near only. Distance is relative to
the deepest voxel of each connected piece of an object, however far away that is:
pieces are found block by block and joined over the faces of the blocks, the depth of
each voxel is measured with a halo that is doubled until it provably suffices, and
only then is it divided by the deepest of its piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size, iter_boxes
from napari_volseg.io.scratch import new_array
from napari_volseg.targets import (
    DistanceKind,
    encode_depth,
    make_targets,
    targets_reach,
)
from napari_volseg.volume import VoxelSize

__all__ = ["make_targets_by_block"]

_BLOCK: Size = (64, 256, 256)
_HALO = 16
"""First halo in voxels of the shortest edge."""

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


def make_targets_by_block(
    labels_ZYX: Labels,
    voxel_size: VoxelSize,
    *,
    boundary: Literal["3d", "2d"] = "3d",
    distance: Literal["3d", "2d"] = "3d",
    boundary_nm: float = 0.0,
    distance_kind: DistanceKind = "depth",
    annotated_ZYX: Mask | None = None,
    folder: Path | None = None,
    block: Size = _BLOCK,
) -> tuple[NDArray[np.uint8], Mask]:
    """Return values and validity as `make_targets` does, in bounded memory.

    Values of the distance may differ by one of 255 levels from those of the whole
    volume, because distances are rounded; nothing else differs.

    Parameters
    ----------
    labels_ZYX, annotated_ZYX
        Arrays in memory or mapped from a file; read block by block.
    folder
        Where the results, and what is kept meanwhile, are mapped from nameless
        files; None keeps all of it in memory.
    block
        Voxels (z, y, x) worked on at once. Memory grows with it, and with the
        depth in voxels of the deepest object.

    Returns
    -------
    values_CZYX, valid_CZYX
        Three channels of uint8 and bool.

    Raises
    ------
    DataError
        For the ``skeleton`` distance in 3d: it needs whole objects.
    """
    if distance_kind == "skeleton" and distance == "3d":
        raise DataError(
            "data.targets.distance_kind is skeleton, which needs each volume in "
            "memory: set data.cache=ram, data.targets.distance=2d, or another kind"
        )
    shape = labels_ZYX.shape
    values = new_array((3, *shape), np.uint8, folder)
    valid = new_array((3, *shape), np.bool_, folder)
    work = _Work(labels_ZYX, annotated_ZYX, voxel_size)
    if distance == "2d":
        # A slice is measured whole, however many there are.
        block = (block[0], shape[1], shape[2])
    nearby = targets_reach(voxel_size, boundary_nm, distance_kind)
    halo = [int(np.ceil(nearby / edge)) + 1 for edge in voxel_size]
    for box in iter_boxes(shape, block):
        outer = box.grow(halo, shape)
        targets = make_targets(
            labels_ZYX[outer.slices],
            voxel_size,
            boundary=boundary,
            # Of a depth in space nothing is used: the quicker one will do.
            distance=distance if distance_kind == "signed" else "2d",
            boundary_nm=boundary_nm,
            distance_kind=distance_kind,
            annotated_ZYX=work.annotated_in(outer),
        )
        inner = (slice(None), *box.within(outer))
        values[(slice(None), *box.slices)] = targets.values_CZYX[inner]
        valid[(slice(None), *box.slices)] = targets.valid_CZYX[inner]
    if distance == "3d":
        _measure(work, values[2], valid[2], distance_kind, folder, block)
    return values, valid


class _Work:
    """Labels read in parts, 0 where they are unknown."""

    def __init__(
        self, labels: Labels, annotated: Mask | None, voxel_size: VoxelSize
    ) -> None:
        self._labels = labels
        self._annotated = annotated
        self.voxel_size = voxel_size
        self.shape = labels.shape

    def annotated_in(self, box: Box) -> Mask | None:
        if self._annotated is None:
            return None
        return np.asarray(self._annotated[box.slices])

    def labels_in(self, index: tuple[Any, ...]) -> Labels:
        labels = np.asarray(self._labels[index])
        if self._annotated is not None:
            labels = np.where(self._annotated[index], labels, 0)
        return labels


def _measure(
    work: _Work,
    values: NDArray[np.uint8],
    valid: Mask,
    kind: DistanceKind,
    folder: Path | None,
    block: Size,
) -> None:
    """Fill in the distance in objects; that of the background stays."""
    pieces = new_array(work.shape, np.uint32, folder)
    dense = _find_pieces(work, pieces, block)
    depth = new_array(work.shape, np.float32, folder)
    deepest = np.zeros(int(dense.max(initial=0)) + 1, np.float32)
    for box in iter_boxes(work.shape, block):
        regions = dense[pieces[box.slices]]
        depth[box.slices], known = _measure_block(work, pieces, dense, box)
        valid[box.slices] = np.where(regions > 0, known, valid[box.slices])
        np.maximum.at(deepest, regions.ravel(), depth[box.slices].ravel())
    fathomed = np.ones(deepest.shape, np.bool_)
    for box in iter_boxes(work.shape, block):
        regions = dense[pieces[box.slices]]
        doubtful = ~valid[box.slices] & (depth[box.slices] == deepest[regions])
        fathomed[regions[doubtful]] = False
    fathomed[0] = True
    deepest[np.isinf(deepest)] = 1
    deepest[0] = 1
    for box in iter_boxes(work.shape, block):
        regions = dense[pieces[box.slices]]
        part = np.minimum(depth[box.slices], deepest[regions])
        inside = regions > 0
        values[box.slices][inside] = encode_depth(part, deepest[regions], kind)[inside]
        known = valid[box.slices] & fathomed[regions]
        annotated = work.annotated_in(box)
        valid[box.slices] = known if annotated is None else known & annotated


def _find_pieces(
    work: _Work, pieces: NDArray[np.uint32], block: Size
) -> NDArray[np.int32]:
    """Give each piece of each block a number; return those of the joined pieces."""
    count = 0
    for box in iter_boxes(work.shape, block):
        labels = np.require(work.labels_in(box.slices), requirements=["C", "W"])
        part, n = cc3d.connected_components(labels, connectivity=26, return_N=True)
        pieces[box.slices] = np.where(part > 0, part + np.uint32(count), 0)
        count += int(n)
    pairs = [np.zeros((0, 2), np.uint32)]
    pairs += [
        found
        for axis in range(3)
        for place in range(block[axis], work.shape[axis], block[axis])
        for found in _meeting(work, pieces, axis, place)
    ]
    one, other = np.concatenate(pairs).T
    links = sparse.coo_matrix(
        (np.ones(one.size, np.bool_), (one, other)), (count + 1, count + 1)
    )
    _, dense = sparse.csgraph.connected_components(links, directed=False)
    # Background is piece 0, whatever number its component got.
    swap = dense[0]
    result: NDArray[np.int32] = np.where(
        dense == swap, 0, np.where(dense == 0, swap, dense)
    )
    return result.astype(np.int32)


def _meeting(
    work: _Work, pieces: NDArray[np.uint32], axis: int, place: int
) -> Iterator[NDArray[np.uint32]]:
    """Yield pairs of pieces of one id that meet between two blocks, corners too."""
    planes = []
    for at in (place - 1, place):
        index: tuple[Any, ...] = (*(slice(None),) * axis, at)
        planes.append((work.labels_in(index), np.asarray(pieces[index])))
    (ids, one), (other_ids, other) = planes
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            here = (_shifted(dy, ids.shape[0]), _shifted(dx, ids.shape[1]))
            there = (_shifted(-dy, ids.shape[0]), _shifted(-dx, ids.shape[1]))
            same = (ids[here] == other_ids[there]) & (ids[here] != 0)
            if same.any():
                found = np.stack([one[here][same], other[there][same]], axis=1)
                yield np.unique(found, axis=0)


def _shifted(step: int, n: int) -> slice:
    """Return the indices whose neighbour `step` further is inside too."""
    return slice(max(0, -step), n - max(0, step))


def _measure_block(
    work: _Work, pieces: NDArray[np.uint32], dense: NDArray[np.int32], box: Box
) -> tuple[NDArray[np.float32], Mask]:
    """Return the depth of each voxel of a block, and where the annotation decides it.

    A depth is exact when it is below the distance to where the halo ends: nothing
    beyond can be nearer.
    """
    shortest = min(work.voxel_size)
    halo = _HALO * shortest
    while True:
        margin = [max(1, int(np.ceil(halo / size))) for size in work.voxel_size]
        outer = box.grow(margin, work.shape)
        inner = box.within(outer)
        regions = np.require(dense[pieces[outer.slices]], requirements=["C", "W"])
        if not regions[inner].any():
            return np.zeros(box.shape, np.float32), np.ones(box.shape, np.bool_)
        depth = _distances(regions, work.voxel_size)[inner]
        exact = depth < _distance_to_end(box, outer, work)
        if (exact | (regions[inner] == 0)).all() or outer.shape == work.shape:
            break
        halo *= 2
    annotated = work.annotated_in(outer)
    if annotated is None:
        return depth, np.ones(box.shape, np.bool_)
    known = depth < _distances(annotated, work.voxel_size)[inner]
    return depth, known


def _distance_to_end(box: Box, outer: Box, work: _Work) -> NDArray[np.float32]:
    """Return how far each voxel is from the first one outside the halo."""
    distance = np.full(box.shape, np.inf, np.float32)
    for axis in range(3):
        index = np.arange(box.start[axis], box.stop[axis])
        ends = np.full(index.size, np.inf)
        if outer.start[axis] > 0:
            ends = np.minimum(ends, index - outer.start[axis] + 1)
        if outer.stop[axis] < work.shape[axis]:
            ends = np.minimum(ends, outer.stop[axis] - index)
        shape = [1, 1, 1]
        shape[axis] = index.size
        np.minimum(
            distance,
            (ends * work.voxel_size[axis]).reshape(shape).astype(np.float32),
            out=distance,
        )
    return distance


def _distances(regions: NDArray[Any], voxel_size: VoxelSize) -> NDArray[np.float32]:
    """Return the distance of each voxel to the nearest one of another region."""
    distances: NDArray[np.float32] = edt.edt(
        np.require(regions, requirements=["C", "W"]),
        anisotropy=voxel_size,
        black_border=False,
        parallel=1 if regions.size < 500_000 else 0,
    )
    return distances
