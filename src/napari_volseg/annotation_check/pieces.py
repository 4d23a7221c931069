"""Connected pieces of labels and of what is unlabelled, and what they touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

__all__ = ["Pieces", "find_pieces", "find_pockets", "neighbour_ids"]

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Connected pieces; piece 0 is everything else."""

    pieces_ZYX: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    """Voxels of each piece."""
    boxes: list[tuple[slice, slice, slice]]
    is_open: Mask
    """Whether a piece reaches a face of the volume or what is not annotated, so
    that it may go on where nobody looked."""
    at_face: Mask
    """Whether a piece reaches a face of the volume."""

    def inside(self, piece: int) -> tuple[int, int, int]:
        """Return the voxel of a piece that is nearest to its centre."""
        box = self.boxes[piece]
        places = np.argwhere(self.pieces_ZYX[box] == piece)
        nearest = ((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()
        z, y, x = places[nearest] + [part.start for part in box]
        return int(z), int(y), int(x)


def find_pieces(labels_ZYX: Labels, annotated_ZYX: Mask | None) -> Pieces:
    """Return the pieces of equal id, joined over faces, edges and corners."""
    return _describe(_connect(labels_ZYX, 26), annotated_ZYX)


def find_pockets(labels_ZYX: Labels, annotated_ZYX: Mask | None) -> Pieces:
    """Return the pieces of annotated background, joined over faces only."""
    empty = labels_ZYX == 0
    if annotated_ZYX is not None:
        empty &= annotated_ZYX
    return _describe(_connect(empty.view(np.uint8), 6), annotated_ZYX)


def neighbour_ids(
    pieces: Pieces, piece: int, labels_ZYX: Labels
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids beside a piece and over how many voxel faces each lies there."""
    box = tuple(
        slice(max(0, part.start - 1), part.stop + 1) for part in pieces.boxes[piece]
    )
    mine = pieces.pieces_ZYX[box] == piece
    labels = labels_ZYX[box]
    found = []
    for one, other in _sides():
        found.append(labels[other][mine[one] & ~mine[other]])
        found.append(labels[one][mine[other] & ~mine[one]])
    ids, counts = np.unique(np.concatenate(found), return_counts=True)
    return ids.astype(np.int64), counts.astype(np.int64)


def _connect(
    values_ZYX: NDArray[Any], connectivity: Literal[6, 26]
) -> NDArray[np.uint32]:
    # cc3d takes nothing that is read-only or not contiguous.
    ready = np.require(values_ZYX, requirements=["C", "W"])
    pieces = cc3d.connected_components(ready, connectivity=connectivity)
    return pieces.astype(np.uint32, copy=False)


def _describe(pieces_ZYX: NDArray[np.uint32], annotated_ZYX: Mask | None) -> Pieces:
    statistics = cc3d.statistics(pieces_ZYX, no_slice_conversion=False)
    sizes = np.asarray(statistics["voxel_counts"], np.int64)
    at_face = np.zeros(sizes.size, np.bool_)
    for axis, length in enumerate(pieces_ZYX.shape):
        # A volume of one slice has no depth to be cut in.
        for end in (0, -1) if length > 1 else ():
            at_face[pieces_ZYX.take(end, axis)] = True
    is_open = at_face.copy()
    if annotated_ZYX is not None and not annotated_ZYX.all():
        for one, other in _sides():
            for mine, beside in ((one, other), (other, one)):
                edge = ~annotated_ZYX[beside]
                is_open[pieces_ZYX[mine][edge]] = True
    return Pieces(pieces_ZYX, sizes, statistics["bounding_boxes"], is_open, at_face)


def _sides() -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield the index of the first and of the second of neighbours along each axis."""
    for axis in range(3):
        before = (slice(None),) * axis
        yield (*before, slice(None, -1)), (*before, slice(1, None))
