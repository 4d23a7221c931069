"""Edits that need nothing but the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review.deltas import Edit, Patch, difference

__all__ = ["check_id", "delete", "merge", "place_pieces", "renumber"]

Labels = NDArray[np.integer[Any]]


def merge(labels_ZYX: Labels, boxes: Mapping[int, Box], into: int) -> Edit:
    """Return the edit that gives several instances one id; nothing is changed.

    Parameters
    ----------
    boxes
        The instances, each with a box that holds all of it.
    into
        The one whose id they get.

    Raises
    ------
    DataError
        If there are fewer than two, or no others any more.
    """
    others = {label: box for label, box in boxes.items() if label != into}
    if into not in boxes or not others:
        raise DataError("a merge takes two instances or more: select them first")
    patches = _recolour(labels_ZYX, others, into)
    return Edit("merge", tuple(sorted(boxes)), tuple(patches))


def delete(labels_ZYX: Labels, boxes: Mapping[int, Box]) -> Edit:
    """Return the edit that makes instances background; nothing is changed.

    Raises
    ------
    DataError
        If none of them is there any more.
    """
    patches = _recolour(labels_ZYX, boxes, 0)
    return Edit("delete", tuple(sorted(boxes)), tuple(patches))


def place_pieces(
    kind: str,
    box: Box,
    before_ZYX: Labels,
    pieces_ZYX: NDArray[np.int32],
    owners: Sequence[int],
    first_free: int,
) -> Edit:
    """Return the edit that writes new pieces over some instances of a box.

    The pieces are all that remains of the owners inside the box. The piece that
    shares most with an owner keeps its id, the largest owner choosing first; the others
    get new ones.

    Parameters
    ----------
    before_ZYX
        The labels of the box.
    pieces_ZYX
        Pieces 1…n, 0 elsewhere; voxels of other instances are left to them.
    owners
        The instances that the pieces replace.
    first_free
        The first id that no instance has.

    Raises
    ------
    DataError
        If the type of the labels cannot hold so many ids.
    """
    is_free = before_ZYX == 0
    for owner in owners:
        is_free |= before_ZYX == owner  # few: far quicker than numpy's isin
    pieces_ZYX = np.where(is_free, pieces_ZYX, 0)
    n = int(pieces_ZYX.max(initial=0))
    names = np.zeros(n + 1, before_ZYX.dtype)
    taken: set[int] = set()
    for owner in sorted(owners, key=lambda o: -np.count_nonzero(before_ZYX == o)):
        shared = np.bincount(pieces_ZYX[before_ZYX == owner], minlength=n + 1)
        shared[[0, *taken]] = 0
        if shared.any():
            piece = int(shared.argmax())
            names[piece] = owner
            taken.add(piece)
    rest = [piece for piece in range(1, n + 1) if piece not in taken]
    if rest:
        check_id(before_ZYX.dtype, first_free + len(rest) - 1)
        names[rest] = first_free + np.arange(len(rest))
    after_ZYX = np.where(is_free, names[pieces_ZYX], before_ZYX)
    return difference(kind, box, before_ZYX, after_ZYX)


def renumber(edit: Edit, first: int, first_free: int, dtype: np.dtype[Any]) -> Edit:
    """Return an edit whose new ids begin at another number.

    Parameters
    ----------
    first
        The first new id of the edit.
    first_free
        The first id that no instance has by now, not below it.
    dtype
        Type of the labels.

    Raises
    ------
    DataError
        If the type cannot hold so many ids.
    """
    more, top = first_free - first, max(edit.ids, default=0)
    if not more or top < first:
        return edit
    check_id(dtype, top + more)
    patches = []
    for patch in edit.patches:
        new = patch.new
        if isinstance(new, np.ndarray):
            new = np.where(new >= first, new + more, new)
        elif new >= first:
            new += more
        patches.append(replace(patch, new=new))
    ids = tuple(label + more * (label >= first) for label in edit.ids)
    return replace(edit, ids=ids, patches=tuple(patches))


def check_id(dtype: np.dtype[Any], label: int) -> None:
    """Raise DataError when labels of a type cannot hold an id."""
    if label > np.iinfo(dtype).max:
        raise DataError(
            f"the labels are {dtype} and cannot hold the new id {label}: duplicate the "
            "layer, convert the copy (right-click it › Convert data type) and review "
            "that; what was said so far stays with this one"
        )


def _recolour(labels_ZYX: Labels, boxes: Mapping[int, Box], new: int) -> list[Patch]:
    patches = [
        Patch.of(box, labels_ZYX[box.slices] == label, label, new)
        for label, box in boxes.items()
    ]
    if not any(patch.n_voxels for patch in patches):
        label = next(iter(boxes), 0)
        raise DataError(f"there is no instance {label} any more: choose another")
    return patches
