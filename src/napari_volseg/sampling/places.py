"""Where patches may be centred: on objects, on boundaries, anywhere annotated.

Volumes are walked through block by block on one fixed grid, so the places are the
same however the volume is kept, and memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, iter_boxes

__all__ = ["Places", "find_places"]

PER_OBJECT = 64
_PLACES = 100_000
_BLOCK = (64, 256, 256)
_TRIM = 2_000_000
"""Candidates after which only those that can still be chosen are kept."""


@dataclass(frozen=True, slots=True)
class Places:
    """Voxels (z, y, x) to centre patches on."""

    objects_N3: NDArray[np.int32]
    """Up to 64 voxels of each object, object after object."""
    starts_M: NDArray[np.int64]
    """Index in `objects_N3` of the first voxel of each object, and its length."""
    sizes_M: NDArray[np.int64]
    """Annotated voxels of each object."""
    classes: tuple[NDArray[np.int64], ...]
    """Objects of each size class; a class spans a factor of two in volume."""
    boundary_N3: NDArray[np.int32]
    """Voxels where two objects touch; where none do, voxels on any boundary."""
    anywhere_N3: NDArray[np.int32]
    """Annotated voxels, object or not."""
    n_annotated: int
    n_foreground: int

    @property
    def n_objects(self) -> int:
        """Number of objects with annotated voxels."""
        return len(self.sizes_M)


def find_places(
    labels_ZYX: NDArray[np.integer[Any]],
    known_ZYX: NDArray[np.bool_],
    boundary_ZYX: NDArray[np.uint8],
    seed: int,
) -> Places:
    """Choose the places of a volume at random; the same seed, the same places.

    Parameters
    ----------
    labels_ZYX
        Instance ids; 0 = background.
    known_ZYX
        Where the annotation may be learnt from.
    boundary_ZYX
        Boundary target, 0 where there is none.
    """
    shape = labels_ZYX.shape
    objects = _Objects()
    anywhere, touching, edges = (_Sample(_PLACES) for _ in range(3))
    n_known = 0
    for number, box in enumerate(iter_boxes(shape, _BLOCK)):
        known = known_ZYX[box.slices]
        flat = np.flatnonzero(known)
        if not flat.size:
            continue
        n_known += flat.size
        rng = np.random.default_rng([seed, labels_ZYX.size, number])
        keys = rng.random(flat.size, dtype=np.float32)
        labels = np.asarray(labels_ZYX[box.slices])
        ids = labels.ravel()[flat]
        places = _coordinates(flat, box)
        anywhere.add(keys, places)
        objects.add(ids[ids != 0], keys[ids != 0], places[ids != 0])
        on_edge = np.asarray(boundary_ZYX[box.slices]).ravel()[flat] > 0
        edges.add(keys[on_edge], places[on_edge])
        meets = on_edge & _touching(labels_ZYX, box).ravel()[flat]
        touching.add(keys[meets], places[meets])
    chosen, starts, sizes = objects.choose()
    return Places(
        objects_N3=chosen,
        starts_M=starts,
        sizes_M=sizes,
        classes=_size_classes(sizes),
        boundary_N3=touching.choose() if touching.n else edges.choose(),
        anywhere_N3=anywhere.choose(),
        n_annotated=n_known,
        n_foreground=int(sizes.sum()),
    )


class _Sample:
    """The places with the smallest keys of all that were added."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys: list[NDArray[np.float32]] = []
        self._places: list[NDArray[np.int32]] = []
        self.n = 0

    def add(self, keys: NDArray[np.float32], places: NDArray[np.int32]) -> None:
        if not keys.size:
            return
        self.n += keys.size
        kept = _smallest(keys, self._size)
        self._keys.append(keys[kept])
        self._places.append(places[kept])
        if sum(map(len, self._keys)) > _TRIM:
            self._trim()

    def choose(self) -> NDArray[np.int32]:
        self._trim()
        return self._places[0] if self._places else np.zeros((0, 3), np.int32)

    def _trim(self) -> None:
        if self._keys:
            keys, places = np.concatenate(self._keys), np.concatenate(self._places)
            kept = _smallest(keys, self._size)
            self._keys, self._places = [keys[kept]], [places[kept]]


class _Objects:
    """Up to 64 places of each object, and how large each is."""

    def __init__(self) -> None:
        self._ids = np.zeros(0, np.int64)
        self._keys = np.zeros(0, np.float32)
        self._places = np.zeros((0, 3), np.int32)
        self._sizes: dict[int, int] = {}

    def add(
        self,
        ids: NDArray[np.integer[Any]],
        keys: NDArray[np.float32],
        places: NDArray[np.int32],
    ) -> None:
        if not ids.size:
            return
        for id_, size in zip(*np.unique(ids, return_counts=True), strict=True):
            self._sizes[int(id_)] = self._sizes.get(int(id_), 0) + int(size)
        kept = _first_of_each(ids, keys)
        self._ids = np.concatenate([self._ids, ids[kept].astype(np.int64)])
        self._keys = np.concatenate([self._keys, keys[kept]])
        self._places = np.concatenate([self._places, places[kept]])
        if self._ids.size > _TRIM:
            self._trim()

    def choose(
        self,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        self._trim()
        starts = np.flatnonzero(np.r_[True, self._ids[1:] != self._ids[:-1]])
        if not self._ids.size:
            starts = starts[:0]
        sizes = [self._sizes[int(i)] for i in self._ids[starts]]
        starts = np.r_[starts, self._ids.size].astype(np.int64)
        return self._places, starts, np.array(sizes, np.int64)

    def _trim(self) -> None:
        kept = _first_of_each(self._ids, self._keys)
        self._ids, self._keys = self._ids[kept], self._keys[kept]
        self._places = self._places[kept]


def _first_of_each(
    ids: NDArray[np.integer[Any]], keys: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the index of up to 64 elements of each id, those with small keys."""
    order = np.lexsort((keys, ids))
    ranked = ids[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    rank = np.arange(ids.size) - np.repeat(starts, np.diff(np.r_[starts, ids.size]))
    return order[rank < PER_OBJECT]


def _smallest(keys: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    if keys.size <= n:
        return np.arange(keys.size)
    return np.sort(np.argpartition(keys, n)[:n])


def _coordinates(flat: NDArray[np.int64], box: Box) -> NDArray[np.int32]:
    places = np.stack(np.unravel_index(flat, box.shape), axis=1)
    moved: NDArray[np.int32] = (places + np.array(box.start)).astype(np.int32)
    return moved


def _touching(labels_ZYX: NDArray[np.integer[Any]], box: Box) -> NDArray[np.bool_]:
    """Return where a voxel of an object has a face neighbour of another object."""
    outer = box.grow((1, 1, 1), labels_ZYX.shape)
    labels = np.asarray(labels_ZYX[outer.slices])
    found = np.zeros(labels.shape, np.bool_)
    for axis in range(3):
        before = (slice(None),) * axis
        one, other = (*before, slice(None, -1)), (*before, slice(1, None))
        meet = (labels[one] != labels[other]) & (labels[one] != 0)
        meet &= labels[other] != 0
        found[one] |= meet
        found[other] |= meet
    return found[box.within(outer)]


def _size_classes(sizes_M: Sequence[int] | NDArray[np.int64]) -> tuple[Any, ...]:
    octave = np.floor(np.log2(np.asarray(sizes_M, np.float64))).astype(np.int64)
    return tuple(np.flatnonzero(octave == each) for each in np.unique(octave))
