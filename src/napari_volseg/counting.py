"""How much of a volume is annotated and where, slice by slice, while it is painted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.volume import AnnotationRule, ArrayLike, read_annotation

__all__ = [
    "GAP",
    "HELD_OUT",
    "IGNORED",
    "LEARNT",
    "Counted",
    "SliceCounter",
    "WhatCounts",
]

IGNORED, LEARNT, HELD_OUT, GAP = 0, 1, 2, 3
"""What becomes of a voxel: nothing, trained on, scored on, a gap between the two."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How much of a volume is annotated."""

    n_voxels: int
    n_annotated: int
    n_instances: int

    @property
    def share(self) -> float:
        """Annotated share of all voxels, 0 to 1."""
        return self.n_annotated / max(self.n_voxels, 1)


class SliceCounter:
    """Counts annotated voxels and instances; remembers what each slice holds.

    Parameters
    ----------
    labels_ZYX
        Labels, which may be lazy and may change: say so with `forget`.
    rule, background_id, name
        As `volume.read_annotation`.
    region_ZYX
        Where anything counts at all, None for everywhere.
    """

    def __init__(
        self,
        labels_ZYX: ArrayLike,
        rule: AnnotationRule = "everywhere",
        background_id: int = 0,
        region_ZYX: NDArray[np.bool_] | None = None,
        name: str = "the labels",
    ) -> None:
        self._labels, self._rule = labels_ZYX, rule
        self._background_id, self._name = background_id, name
        self.region_ZYX = region_ZYX
        depth = int(labels_ZYX.shape[0])
        self._ids: list[NDArray[np.int64] | None] = [None] * depth
        self._known = np.zeros(depth, np.int64)
        self.counted_Z = np.zeros(depth, bool)
        """Slices of which anything counts, as of the last `count`."""

    def forget(self, slices: Iterable[int] | None = None) -> None:
        """Count some slices again the next time, or all."""
        for z in range(len(self._ids)) if slices is None else slices:
            if 0 <= z < len(self._ids):
                self._ids[z] = None

    def count(self, is_cancelled: Callable[[], bool] = lambda: False) -> Counted | None:
        """Return the counts; reads only slices that are not known. None if cancelled.

        Raises
        ------
        DataError
            For ids that no labels may have.
        """
        for z, known in enumerate(self._ids):
            if is_cancelled():
                return None
            if known is None:
                self._ids[z], self._known[z] = self._look(z)
        self.counted_Z = self._known > 0
        found = [ids for ids in self._ids if ids is not None and ids.size]
        n = np.unique(np.concatenate(found)).size if found else 0
        size = int(np.prod(self._labels.shape))
        return Counted(size, int(self._known.sum()), n)

    def _look(self, z: int) -> tuple[NDArray[np.int64], int]:
        part = slice(z, z + 1)
        region = None if self.region_ZYX is None else self.region_ZYX[part]
        labels, annotated = read_annotation(
            np.asarray(self._labels[part]),
            self._rule,
            self._background_id,
            region,
            self._name,
        )
        n_known = labels.size if annotated is None else int(annotated.sum())
        ids = labels.ravel() if annotated is None else labels[annotated]
        return _ids_of(ids), n_known


class WhatCounts:
    """What becomes of each voxel, worked out for the part that is looked at.

    An array to read from, uint8 (Z, Y, X), of `IGNORED`, `LEARNT`, `HELD_OUT` and
    `GAP`. It follows the labels as they change.

    Parameters
    ----------
    labels_ZYX, rule, region_ZYX
        As `SliceCounter`.
    counted_Z
        Slices that count under the rule ``painted_slices``.
    held_out
        Boxes that are scored on, in which nothing is learnt from.
    guard
        Gap (z, y, x) around them that is not learnt from either.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(
        self,
        labels_ZYX: ArrayLike,
        rule: AnnotationRule,
        region_ZYX: NDArray[np.bool_] | None,
        counted_Z: NDArray[np.bool_],
        held_out: Sequence[Box] = (),
        guard: Size = (0, 0, 0),
    ) -> None:
        self._labels, self._rule, self._region = labels_ZYX, rule, region_ZYX
        self._counted_Z = counted_Z.copy()
        self._boxes, self._guard = tuple(held_out), guard
        self.shape = tuple(int(n) for n in labels_ZYX.shape)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        known = self._known(key)
        result = np.where(known, np.uint8(LEARNT), np.uint8(IGNORED))
        for margin, value in ((self._guard, GAP), ((0, 0, 0), HELD_OUT)):
            for box in self._boxes:
                result[known & self._inside(box, margin, key)] = value
        return result

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> NDArray[np.uint8]:
        whole = self[:, :, :]
        return whole if dtype is None else whole.astype(dtype)

    def _known(self, key: Any) -> NDArray[np.bool_]:
        known: NDArray[np.bool_]
        if self._rule == "painted_voxels":
            known = np.asarray(self._labels[key]) != 0
        elif self._rule == "painted_slices":
            known = self._along(0, self._counted_Z)[key]
        else:
            known = np.broadcast_to(np.True_, self.shape)[key]
        return known if self._region is None else known & self._region[key]

    def _inside(self, box: Box, margin: Size, key: Any) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = np.broadcast_to(np.True_, self.shape)[key]
        for axis, length in enumerate(self.shape):
            at = np.arange(length)
            first, last = box.start[axis] - margin[axis], box.stop[axis] + margin[axis]
            inside = inside & self._along(axis, (at >= first) & (at < last))[key]
        return inside

    def _along(self, axis: int, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return values along one axis as an array of the whole shape; no copy."""
        shape = [1, 1, 1]
        shape[axis] = -1
        return np.broadcast_to(values.reshape(shape), self.shape)


def _ids_of(labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the ids above 0 in a flat array."""
    highest = int(labels.max(initial=0))
    if highest <= 4 * labels.size:
        # As quick as bincount, which would keep other threads from working.
        seen = np.zeros(highest + 1, bool)
        seen[labels] = True
        return np.flatnonzero(seen[1:]).astype(np.int64) + 1
    ids = np.unique(labels).astype(np.int64)
    return ids[ids > 0]
