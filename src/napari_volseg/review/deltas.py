"""What an edit changed, voxel by voxel, so that it can be taken back exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box

__all__ = ["Edit", "Patch", "difference"]

Labels = NDArray[np.integer[Any]]

_AT_ONCE = 2**18
"""Voxels that are written at once: what they need stays in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Voxels of a box that changed, with their values before and after."""

    box: Box
    bits: NDArray[np.uint8]
    """Which voxels: one bit each, every row along x padded to whole bytes."""
    old: int | Labels
    """Their value before, one for all or one for each in raster order."""
    new: int | Labels

    @classmethod
    def of(
        cls,
        box: Box,
        mask_ZYX: NDArray[np.bool_],
        old: int | Labels,
        new: int | Labels,
    ) -> Patch:
        """Return the patch of the True voxels of a mask that covers a box."""
        return cls(box, np.packbits(mask_ZYX, axis=-1), _one(old), _one(new))

    @property
    def nbytes(self) -> int:
        """Bytes that the patch keeps."""
        values = (v.nbytes for v in (self.old, self.new) if isinstance(v, np.ndarray))
        return self.bits.nbytes + sum(values)

    @property
    def n_voxels(self) -> int:
        """Number of voxels that it changes."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    def mask_ZYX(self) -> NDArray[np.bool_]:
        """Return which voxels of the box it changes."""
        columns = self.box.shape[2]
        return np.unpackbits(self.bits, axis=-1, count=columns).view(np.bool_)

    def write(self, labels_ZYX: Labels, *, backwards: bool = False) -> int:
        """Change the labels in place; return how many voxels were left alone.

        Only a voxel that holds what is expected is changed. So what somebody else
        wrote since then stays.

        Parameters
        ----------
        backwards
            Put back what was there before.
        """
        before, after = (self.new, self.old) if backwards else (self.old, self.new)
        n_left = n_done = 0
        depth, rows, columns = self.box.shape
        step = max(1, _AT_ONCE // max(rows * columns, 1))
        for z in range(0, depth, step):
            bits = self.bits[z : z + step]
            mask = np.unpackbits(bits, axis=-1, count=columns).view(np.bool_)
            part = labels_ZYX[self.box.slices][z : z + step]
            if isinstance(before, int) and isinstance(after, int):
                fits = part == before
                fits &= mask
                np.copyto(part, after, where=fits)
                n_left += int(np.count_nonzero(mask)) - int(np.count_nonzero(fits))
                continue
            values = part[mask]
            here = slice(n_done, n_done + values.size)
            expected = before if isinstance(before, int) else before[here]
            wanted = after if isinstance(after, int) else after[here]
            is_as_expected = values == expected
            part[mask] = np.where(is_as_expected, wanted, values)
            n_left += values.size - int(np.count_nonzero(is_as_expected))
            n_done += values.size
        return n_left


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """What one action of the user changed in the labels."""

    kind: str
    """Its verb: merge, split, delete, grow, shrink, fill, segment."""
    ids: tuple[int, ...]
    """Every id that it takes voxels from or gives voxels to, without background."""
    patches: tuple[Patch, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the edit keeps."""
        return sum(patch.nbytes for patch in self.patches)

    @property
    def n_voxels(self) -> int:
        """Number of voxels that it changes."""
        return sum(patch.n_voxels for patch in self.patches)

    def apply(self, labels_ZYX: Labels) -> int:
        """Do it, in place; return how many voxels were left alone."""
        return sum(patch.write(labels_ZYX) for patch in self.patches)

    def revert(self, labels_ZYX: Labels) -> int:
        """Take it back, in place; return how many voxels were left alone."""
        return sum(
            patch.write(labels_ZYX, backwards=True) for patch in self.patches[::-1]
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the patches as plain arrays, for a file."""
        arrays: dict[str, NDArray[Any]] = {}
        for i, patch in enumerate(self.patches):
            arrays[f"{i}_box"] = np.array([patch.box.start, patch.box.stop], np.int64)
            arrays[f"{i}_bits"] = patch.bits
            arrays[f"{i}_old"] = np.asarray(patch.old)
            arrays[f"{i}_new"] = np.asarray(patch.new)
        return arrays

    @classmethod
    def from_arrays(
        cls, kind: str, ids: Sequence[int], arrays: Mapping[str, NDArray[Any]]
    ) -> Edit:
        """Return the edit whose `arrays` these are.

        Raises
        ------
        ValueError
            If they do not fit together.
        """
        patches = []
        for i in range(len(arrays) // 4):
            start, stop = arrays[f"{i}_box"].tolist()
            box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
            bits = np.ascontiguousarray(arrays[f"{i}_bits"])
            rows = (*box.shape[:2], -(-box.shape[2] // 8))
            if bits.dtype != np.uint8 or bits.shape != rows:
                raise ValueError("the bits of an edit do not fit its box")
            old, new = (_one(arrays[f"{i}_{name}"]) for name in ("old", "new"))
            patch = Patch(box, bits, old, new)
            n = patch.n_voxels
            for values in (old, new):
                if isinstance(values, np.ndarray) and values.shape != (n,):
                    raise ValueError("the values of an edit do not fit its voxels")
            patches.append(patch)
        return cls(kind, tuple(int(i) for i in ids), tuple(patches))


def difference(kind: str, box: Box, before_ZYX: Labels, after_ZYX: Labels) -> Edit:
    """Return the edit that turns one content of a box into another.

    Parameters
    ----------
    before_ZYX, after_ZYX
        What the box holds and shall hold.
    """
    mask = before_ZYX != after_ZYX
    if not mask.any():
        return Edit(kind, (), ())
    old, new = before_ZYX[mask], after_ZYX[mask]
    ids = np.union1d(_few(old), _few(new))
    return Edit(
        kind,
        tuple(int(i) for i in ids[ids != 0]),
        (Patch.of(box, mask, old, new),),
    )


def _few(values: Labels) -> Labels:
    """Return the distinct values, without sorting all when there is but one."""
    first = values[:1]
    return first if (values == first).all() else np.unique(values)


def _one(values: int | Labels) -> int | Labels:
    """Return one number for values that are all the same."""
    if isinstance(values, np.ndarray):
        if values.size and (values == values.flat[0]).all():
            return int(values.flat[0])
        return values
    return int(values)
