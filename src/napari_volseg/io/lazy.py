"""Stored arrays that are read when they are indexed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_volseg.io.failures import check_memory
from napari_volseg.volume import VoxelSize

__all__ = ["LazyArray", "Stored", "StoredArray", "as_range"]


class StoredArray(Protocol):
    """An array in a file: what a format has to offer."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of all stored axes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, in the file's byte order."""
        ...

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Elements of each axis that are decoded together; None when stored plainly."""
        ...

    @property
    def n_missing(self) -> int:
        """Chunks read so far that are not in the file; they read as its fill value."""
        ...

    def read(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        """Return a part, all axes kept; starts and stops lie inside, steps are > 0."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored array and what its file says about it."""

    array: StoredArray
    axes: str | None = None
    """A letter per axis, as in OME: T, C, Z, Y, X; Q and I are unknown."""
    voxel_size: VoxelSize | None = None
    """In nm, before any index; None when the file does not say."""


class LazyArray:
    """A part of a stored array, its axes in order; indexing reads.

    Integers, slices and an ellipsis are understood; the result is a new numpy
    array in native byte order.

    Parameters
    ----------
    array
        What is stored.
    ranges
        The part taken of each stored axis.
    axes
        The stored axis of each axis here, or None for an added one of length
        one. Stored axes that are not named must have a range of length one.
    name
        The source, for messages.
    """

    def __init__(
        self,
        array: StoredArray,
        ranges: Sequence[range],
        axes: Sequence[int | None],
        name: str,
    ) -> None:
        self._array = array
        self._ranges = tuple(ranges)
        self._axes = tuple(axes)
        self._name = name
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")
        self.shape = tuple(1 if a is None else len(self._ranges[a]) for a in self._axes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels, channels counted."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array once read."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Elements of each axis that are decoded together; None when stored plainly."""
        stored = self._array.chunks
        if stored is None:
            return None
        return tuple(
            1 if a is None else max(1, min(n, stored[a] // abs(self._ranges[a].step)))
            for a, n in zip(self._axes, self.shape, strict=True)
        )

    @property
    def missing_note(self) -> str | None:
        """A sentence on chunks read so far that are not in the file; None without."""
        n = self._array.n_missing
        if not n:
            return None
        are = "1 chunk is" if n == 1 else f"{n} chunks are"
        return (
            f"{are} not in the folder of {self._name} and read as empty: that is usual "
            "where nothing is, else copy the folder again"
        )

    def without_channels(self) -> LazyArray:
        """Return the same array without its first axis, which has length one."""
        return LazyArray(self._array, self._ranges, self._axes[1:], self._name)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyArray({self._name}, shape={self.shape}, dtype={self.dtype})"

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        ranges = list(self._ranges)
        shape: list[int] = []
        for axis, length, item in zip(
            self._axes, self.shape, _full_key(key, self.ndim), strict=True
        ):
            taken = range(length)[item] if axis is None else ranges[axis][item]
            if isinstance(taken, range):
                shape.append(len(taken))
            if axis is not None:
                ranges[axis] = as_range(taken)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        return self._read(ranges).reshape(shape)

    def _read(self, ranges: Sequence[range]) -> NDArray[Any]:
        check_memory(prod(map(len, ranges)) * self.dtype.itemsize, self._name)
        block = self._array.read(tuple(map(_forward, ranges)))
        block = block[tuple(slice(None, None, 1 if r.step > 0 else -1) for r in ranges)]
        kept = [axis for axis in self._axes if axis is not None]
        rest = [axis for axis in range(len(ranges)) if axis not in kept]
        return np.ascontiguousarray(block.transpose(rest + kept), dtype=self.dtype)


def _full_key(key: Any, ndim: int) -> list[int | slice]:
    """Return one integer or slice per axis."""
    items = list(key) if isinstance(key, tuple) else [key]
    if len(items) - items.count(Ellipsis) > ndim or items.count(Ellipsis) > 1:
        raise IndexError(f"too many indices for an array with {ndim} axes: {key}")
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    rest = items[at + 1 :]
    items = items[:at] + [slice(None)] * (ndim - at - len(rest)) + rest
    return [item if isinstance(item, slice) else operator.index(item) for item in items]


def as_range(taken: int | range) -> range:
    """Return an index into a range as a range of one."""
    return taken if isinstance(taken, range) else range(taken, taken + 1)


def _forward(taken: range) -> slice:
    """Return the slice of the same elements in rising order."""
    rising = taken if taken.step > 0 else taken[::-1]
    return slice(rising.start, rising[-1] + 1, rising.step)
