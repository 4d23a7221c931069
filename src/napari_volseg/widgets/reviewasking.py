"""Edits that the helper process of a review works out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import Edit, Helper, Review, difference, place_pieces
from napari_volseg.widgets.drawing import slice_of_line

__all__ = ["Asking", "Work"]

_MOST_VOXELS = 64_000_000
"""Of a box that is segmented again: its maps are copied to the helper process."""

Work = Callable[[int], Edit]
"""Takes the first id that no instance has; to be called in a thread."""


@dataclass(frozen=True)
class Asking:
    """Reads what an edit needs on the GUI thread, and returns the rest as work."""

    review: Review
    maps: Sequence[Any] | None
    helper: Helper

    def split(
        self, label: int, hidden: Sequence[int], marks: Mapping[str, NDArray[Any]]
    ) -> Work:
        """Split an instance between points, or along a line in one slice.

        Raises
        ------
        DataError
            If there is no such instance, or the line lies in no slice.
        """
        box = self.review.box(label)
        before = self.review.labels_ZYX[box.slices].copy()
        options: dict[str, Any] = {"voxel_size": self.review.voxel_size}
        given = {name: places - np.array(box.start) for name, places in marks.items()}
        if "line" in given:
            axis, index = slice_of_line(given["line"], box.shape, hidden)
            options |= {"axis": axis, "slice": index}

        def work(first: int) -> Edit:
            arrays = {"object": before == label, **given, **self._crops(box)}
            pieces = self.helper.ask("split", arrays, options)[0]["pieces"]
            return place_pieces("split", box, before, pieces, [label], first)

        return work

    def reshape(
        self, kind: str, ids: Sequence[int], threshold: float, reach: int
    ) -> Work:
        """Grow or shrink instances to the mask, or fill their holes.

        Raises
        ------
        DataError
            If one of them is gone.
        """
        shape = self.review.labels_ZYX.shape
        halo = (reach,) * 3 if kind == "grow" else (0, 0, 0)
        boxes = [box.grow(halo, shape) for box in self.review.boxes(ids).values()]
        crops = [self.review.labels_ZYX[box.slices].copy() for box in boxes]
        options = {"threshold": threshold, "reach": reach}

        def work(_: int) -> Edit:
            patches: list[Any] = []
            for i, (label, box, before) in enumerate(
                zip(ids, boxes, crops, strict=True)
            ):
                arrays = {"object": before == label, "free": before == 0}
                if kind != "fill":
                    arrays |= self._crops(box)
                after = self.helper.ask(kind, arrays, options)[0]["object"]
                is_mine = before == label
                new = before.copy()
                new[is_mine] = 0
                new[after & (is_mine | (before == 0))] = label
                patches += difference(kind, box, before, new).patches
                for other, crop in zip(boxes[i + 1 :], crops[i + 1 :], strict=True):
                    _copy_common(box, new, other, crop)
            return Edit(kind, tuple(ids), tuple(patches))

        return work

    def segment(self, ids: Sequence[int], margin: int, config: InstancesConfig) -> Work:
        """Replace instances by what other thresholds make of a box around them.

        Raises
        ------
        DataError
            If one of them is gone.
        """
        box = self.review.box_around(ids)
        box = box.grow((margin,) * 3, self.review.labels_ZYX.shape)
        return self._segment(box, ids, config)

    def segment_box(self, box: Box, config: InstancesConfig) -> Work:
        """Replace what lies in a box as a whole by what other thresholds make of it.

        Raises
        ------
        DataError
            If the box is too large.
        """
        if box.size > _MOST_VOXELS:
            raise DataError(
                f"the box holds {box.size / 1e6:,.0f} million voxels, and at most "
                f"{_MOST_VOXELS / 1e6:,.0f} million can be segmented at once here: "
                "draw a smaller one, or move the thresholds in the Inspect dock and "
                "apply them to the prediction"
            )
        return self._segment(box, self.review.ids_within(box), config)

    def _segment(self, box: Box, ids: Sequence[int], config: InstancesConfig) -> Work:
        before = self.review.labels_ZYX[box.slices].copy()
        owners = [label for label in ids if (before == label).any()]

        def work(first: int) -> Edit:
            free = before == 0
            for owner in owners:
                free |= before == owner
            options = {"config": config.model_dump(mode="json")}
            arrays = {"free": free, **self._crops(box)}
            pieces = self.helper.ask("segment", arrays, options)[0]["pieces"]
            return place_pieces("segment", box, before, pieces, owners, first)

        return work

    def _crops(self, box: Box) -> dict[str, NDArray[np.uint8]]:
        """Return the maps of a box; none when there are none. Call it in a thread."""
        if self.maps is None:
            return {}
        return {"maps": np.stack([np.asarray(m[box.slices]) for m in self.maps])}


def _copy_common(
    box: Box, labels_ZYX: NDArray[Any], other: Box, into_ZYX: NDArray[Any]
) -> None:
    """Copy what two boxes share, so that two instances do not claim the same voxels."""
    start = tuple(max(a, b) for a, b in zip(box.start, other.start, strict=True))
    stop = tuple(min(a, b) for a, b in zip(box.stop, other.stop, strict=True))
    if all(a < b for a, b in zip(start, stop, strict=True)):
        common = Box(start, stop)  # type: ignore[arg-type]  # lengths follow from zip
        into_ZYX[common.within(other)] = labels_ZYX[common.within(box)]
