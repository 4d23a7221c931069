"""Strokes of other tools: which statuses they changed, so that those come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.review.statuses import Mark, mark

__all__ = ["Stroke", "marked_by"]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Stroke:
    """What the user painted in one go."""

    step: int
    """Number of the newest step when it was painted."""
    marks_before: dict[int, Mark | None] = field(default_factory=dict)
    """Of the instances whose status changed; None for none."""
    marks_after: dict[int, Mark | None] = field(default_factory=dict)

    def correct(self, label: int, before: Mark | None) -> Mark:
        """Note that an instance is corrected, and return its status."""
        after = mark("corrected")
        self.marks_before.setdefault(label, before)
        self.marks_after[label] = after
        return after


def marked_by(old_N: NDArray[Any], new_N: NDArray[Any]) -> set[int]:
    """Return the instances that painting corrects: the painted and the erased.

    An instance that another one is painted over is not among them: that it lost
    voxels says nothing of the rest.
    """
    found = np.union1d(np.unique(new_N), np.unique(old_N[new_N == 0]))
    return {int(i) for i in found if i}
