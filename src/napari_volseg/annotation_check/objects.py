"""Checks of the labels alone: pieces, fragments, holes, gaps and faces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.annotation_check.findings import Finding, count_voxels
from napari_volseg.annotation_check.pieces import (
    Pieces,
    find_pieces,
    find_pockets,
    neighbour_ids,
)

__all__ = ["between_slices", "check_objects", "tiny_size"]

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]

_TINY_SHARE = 0.02
"""Pieces below this share of the median object are fragments."""
_TINY_AT_LEAST = 8
_MANY_GAPS = 5
"""More gaps than this for each object are the style of the annotation."""
_MISSING_SHARE = 0.5
"""Share of an object's smaller neighbouring section that has to be empty."""


def check_objects(
    labels_ZYX: Labels, annotated_ZYX: Mask | None, min_size: int | None = None
) -> Iterator[Finding]:
    """Yield what is odd about the objects.

    Parameters
    ----------
    labels_ZYX
        Ids, 0 where nothing is labelled or annotated.
    annotated_ZYX
        Where labels count; None means everywhere.
    min_size
        Pieces of fewer voxels are fragments; None takes a fiftieth of the median
        object, at least 8.
    """
    pieces = find_pieces(labels_ZYX, annotated_ZYX)
    if pieces.sizes.size < 2:
        return
    ids = _id_of_each(pieces, labels_ZYX)
    tiny = tiny_size(pieces, ids) if min_size is None else min_size
    missing = list(_check_slices(labels_ZYX, annotated_ZYX))
    yield from missing
    # What skips a slice is in two pieces because of that: one finding is enough.
    skip = {finding.label for finding in missing}
    yield from _check_pieces(pieces, ids, labels_ZYX, tiny, skip)
    pockets = list(_check_pockets(labels_ZYX, annotated_ZYX, 4 * tiny))
    gaps = [finding for finding in pockets if finding.kind == "gap"]
    yield from (finding for finding in pockets if finding.kind != "gap")
    n_objects = np.unique(ids).size - 1
    yield from gaps if len(gaps) <= _MANY_GAPS * n_objects else [_sum_up(gaps)]


def tiny_size(pieces: Pieces, ids: NDArray[np.int64]) -> int:
    """Return below how many voxels a piece is a fragment."""
    largest = _largest_of_each_id(pieces, ids)
    median = float(np.median(pieces.sizes[list(largest.values())]))
    return max(_TINY_AT_LEAST, round(_TINY_SHARE * median))


def _id_of_each(pieces: Pieces, labels_ZYX: Labels) -> NDArray[np.int64]:
    ids = np.zeros(pieces.sizes.size, np.int64)
    ids[pieces.pieces_ZYX.reshape(-1)] = labels_ZYX.reshape(-1)
    ids[0] = 0
    return ids


def _largest_of_each_id(pieces: Pieces, ids: NDArray[np.int64]) -> dict[int, int]:
    order = np.argsort(pieces.sizes[1:], kind="stable") + 1
    return {int(ids[piece]): int(piece) for piece in order}


def _check_pieces(
    pieces: Pieces,
    ids: NDArray[np.int64],
    labels_ZYX: Labels,
    tiny: int,
    skip: set[int],
) -> Iterator[Finding]:
    largest = _largest_of_each_id(pieces, ids)
    free = int(ids.max()) + 1
    for piece in range(1, pieces.sizes.size):
        label, size = int(ids[piece]), int(pieces.sizes[piece])
        is_largest = largest[label] == piece
        is_open = bool(pieces.is_open[piece])
        if size < tiny and not is_open:
            yield _fragment(pieces, piece, labels_ZYX, label, size, is_largest)
        elif not is_largest and label not in skip:
            both_open = is_open and bool(pieces.is_open[largest[label]])
            message = f"object {label} has a second piece of {count_voxels(size)}"
            if both_open:
                message += "; the two may be joined where it is not annotated"
            yield Finding(
                "split",
                "info" if both_open else "warning",
                label,
                pieces.inside(piece),
                size,
                message,
                f"give the piece the new id {free}, or paint the bridge",
                free,
            )
            free += 1
        elif is_largest and pieces.at_face[piece]:
            yield Finding(
                "border",
                "info",
                label,
                pieces.inside(piece),
                size,
                f"object {label} reaches a face of the volume and may be cut there",
            )


def _fragment(
    pieces: Pieces,
    piece: int,
    labels_ZYX: Labels,
    label: int,
    size: int,
    is_whole: bool,
) -> Finding:
    beside, counts = neighbour_ids(pieces, piece, labels_ZYX)
    winner = int(beside[counts.argmax()])
    what = f"object {label} has only" if is_whole else f"a piece of {label} has only"
    fix = f"give it to object {winner}" if winner else "remove it"
    return Finding(
        "fragment",
        "warning",
        label,
        pieces.inside(piece),
        size,
        f"{what} {count_voxels(size)}",
        fix,
        winner,
    )


def _check_pockets(
    labels_ZYX: Labels, annotated_ZYX: Mask | None, largest_gap: int
) -> Iterator[Finding]:
    pockets = find_pockets(labels_ZYX, annotated_ZYX)
    for pocket in np.flatnonzero(~pockets.is_open):
        if pocket == 0 or not pockets.sizes[pocket]:
            continue
        size = int(pockets.sizes[pocket])
        beside, counts = neighbour_ids(pockets, int(pocket), labels_ZYX)
        winner = int(beside[counts.argmax()])
        if beside.size == 1:
            yield Finding(
                "hole",
                "warning",
                winner,
                pockets.inside(int(pocket)),
                size,
                f"object {winner} has an unlabelled hole of {count_voxels(size)}",
                f"fill it with {winner}",
                winner,
            )
        elif size <= largest_gap:
            yield Finding(
                "gap",
                "warning",
                winner,
                pockets.inside(int(pocket)),
                size,
                f"a gap of {count_voxels(size)} lies enclosed between {beside.size} "
                "objects",
                f"give them to object {winner}, which touches them most",
                winner,
            )


def _sum_up(gaps: Sequence[Finding]) -> Finding:
    largest = max(gaps, key=lambda finding: finding.size)
    return Finding(
        "gap",
        "info",
        0,
        largest.position,
        sum(finding.size for finding in gaps),
        f"{len(gaps)} unlabelled gaps lie between the objects, so many that membranes "
        "seem to be left unlabelled: right if the network shall learn them as "
        "background",
    )


def _check_slices(labels_ZYX: Labels, annotated_ZYX: Mask | None) -> Iterator[Finding]:
    """Find objects that skip a slice."""
    for z in range(1, labels_ZYX.shape[0] - 1):
        absent = between_slices(labels_ZYX, annotated_ZYX, z)
        if not absent.any():
            continue
        ids, counts = np.unique(labels_ZYX[z - 1][absent], return_counts=True)
        for label, count in zip(ids.tolist(), counts.tolist(), strict=True):
            areas = [int((labels_ZYX[k] == label).sum()) for k in (z - 1, z + 1)]
            if (labels_ZYX[z] == label).any() or count < _MISSING_SHARE * min(areas):
                continue
            places = np.argwhere(absent & (labels_ZYX[z - 1] == label))
            off = ((places - places.mean(axis=0)) ** 2).sum(axis=1)
            y, x = places[off.argmin()]
            yield Finding(
                "missing",
                "warning",
                label,
                (z, int(y), int(x)),
                count,
                f"object {label} is missing in slice {z} between two where it is",
                "fill the slice where both neighbours have it",
                label,
            )


def between_slices(labels_ZYX: Labels, annotated_ZYX: Mask | None, z: int) -> Mask:
    """Return where slice `z` is unlabelled between two slices of one object."""
    before, after = labels_ZYX[z - 1], labels_ZYX[z + 1]
    absent: Mask = (before == after) & (before != 0) & (labels_ZYX[z] == 0)
    return absent if annotated_ZYX is None else absent & annotated_ZYX[z]
