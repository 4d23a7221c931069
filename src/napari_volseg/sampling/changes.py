"""Where labels were changed or corrected, and patches that are drawn there.

What a focus holds depends on the boxes, the labels and the seed only, so a resumed
run draws the same patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, MarkedBlocks, iter_boxes
from napari_volseg.sampling.prepared import PreparedVolume
from napari_volseg.volume import LabelledVolume

__all__ = ["Changes", "Focus", "find_changes", "find_focus", "ids_that_count"]

_SLAB = 64
PER_BOX = 256
"""Places of each changed box."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How the labels of one volume differ from those before."""

    boxes: tuple[Box, ...]
    """Blocks that hold a changed voxel; at most a thousand."""
    n_voxels: int
    """Voxels with another id, or that count now and did not before, or the reverse."""
    n_objects: int
    """Objects that changed voxels belong to now or belonged to before."""


@dataclass(frozen=True, slots=True)
class Focus:
    """Places where labels were changed or corrected, and how they are favoured."""

    volume_N: NDArray[np.int64]
    """Index of the prepared volume of each place."""
    places_N3: NDArray[np.int32]
    share: float
    """Of the patches, how many are centred here."""
    until: int | None
    """The first step that does not favour them; None when all do."""

    def counts_at(self, step: int) -> bool:
        """Return whether a step favours these places."""
        return self.until is None or step < self.until


def find_changes(before: LabelledVolume, after: LabelledVolume) -> Changes:
    """Compare two states of the labels of one image.

    Parameters
    ----------
    before, after
        Of the same shape. The id of a voxel that does not count is ignored.
    """
    shape = after.labels_ZYX.shape
    marked = MarkedBlocks(shape)
    n_voxels, ids = 0, np.zeros(0, np.int64)
    for box in iter_boxes(shape, (_SLAB, *shape[1:])):
        old, new = ids_that_count(before, box), ids_that_count(after, box)
        changed = old != new
        if not changed.any():
            continue
        n_voxels += int(np.count_nonzero(changed))
        ids = np.union1d(ids, np.concatenate([old[changed], new[changed]]))
        marked.mark(box, changed)
    return Changes(marked.boxes(), n_voxels, int(np.count_nonzero(ids > 0)))


def find_focus(
    volumes: Sequence[PreparedVolume],
    changed: Mapping[int, Iterable[Box]],
    share: float,
    until: int | None,
    seed: int,
) -> Focus | None:
    """Choose places in changed boxes; each box counts alike, however large it is.

    Parameters
    ----------
    changed
        Boxes in voxels of the whole image, by the index of the prepared volume.

    Returns
    -------
    Focus or None
        None when nothing there may be learnt from, as in what is held out.
    """
    rng = np.random.default_rng([seed, until or 0])
    numbers, places = [], []
    for number, boxes in sorted(changed.items()):
        volume = volumes[number]
        for box in boxes:
            found = _known_in(volume, box)
            if found.size:
                chosen = found[rng.integers(len(found), size=PER_BOX)]
                numbers.append(np.full(PER_BOX, number))
                places.append(chosen)
    if not places:
        return None
    return Focus(np.concatenate(numbers), np.concatenate(places), share, until)


def ids_that_count(volume: LabelledVolume, box: Box) -> NDArray[np.int64]:
    """Return the ids of a box, -1 where they do not count."""
    ids = np.asarray(volume.labels_ZYX[box.slices]).astype(np.int64)
    if volume.annotated_ZYX is not None:
        ids[~np.asarray(volume.annotated_ZYX[box.slices])] = -1
    return ids


def _known_in(volume: PreparedVolume, box: Box) -> NDArray[np.int32]:
    """Return the voxels of a box that may be learnt from, from the volume's corner."""
    start = np.maximum(box.start, volume.box.start)
    stop = np.minimum(box.stop, volume.box.stop)
    if (start >= stop).any():
        return np.zeros((0, 3), np.int32)
    corner = start - np.array(volume.box.start)
    end = stop - np.array(volume.box.start)
    part = tuple(slice(a, b) for a, b in zip(corner, end, strict=True))
    known = np.asarray(volume.valid_CZYX[0][part])
    places: NDArray[np.int32] = (np.argwhere(known) + corner).astype(np.int32)
    return places
