"""What the objects and intensities of a part of a volume are like.

Parts are described by sums, so that the description of several parts together is the
sum of theirs, and an object that is cut counts with the share that lies inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.annotated import annotated_box
from napari_volseg.geometry import Box
from napari_volseg.volume import LabelledVolume, check_finite

__all__ = ["Survey", "Traits", "difference"]

_MAX_SAMPLE = 2_000_000
_MAX_STEP = 4
"""Within slices every fourth voxel is looked at, or more often."""
_N_CLASSES = 4


@dataclass(frozen=True, slots=True)
class Traits:
    """Sums over the annotated voxels of some part; they may be added."""

    known: float
    """Annotated voxels."""
    foreground: float
    classes: NDArray[np.float64]
    """Objects of each size class; a cut one counts with its share."""
    n_ids: int
    """Objects that reach in; of added parts, those that reach into each."""
    intensity: float
    square: float
    """Sums of the intensity and of its square."""

    def __add__(self, other: Traits) -> Traits:
        return Traits(
            self.known + other.known,
            self.foreground + other.foreground,
            self.classes + other.classes,
            self.n_ids + other.n_ids,
            self.intensity + other.intensity,
            self.square + other.square,
        )

    @property
    def n_objects(self) -> float:
        """Number of objects, cut ones counting with their share."""
        return float(self.classes.sum())

    @property
    def mean(self) -> float:
        """Mean intensity."""
        return self.intensity / max(self.known, 1)

    @property
    def spread(self) -> float:
        """Standard deviation of the intensity."""
        return float(max(self.square / max(self.known, 1) - self.mean**2, 0) ** 0.5)


def difference(part: Traits, whole: Traits) -> float:
    """Return how unlike the whole a part is: 0 for a perfect likeness.

    The sum of how far density, size distribution, share of foreground, mean and
    spread of the intensity are apart.
    """
    if part.known == 0 or part.n_objects == 0:
        return float("inf")
    density = (part.n_objects / part.known) / (whole.n_objects / whole.known)
    share = max(part.foreground, 0.5) / part.known / (whole.foreground / whole.known)
    sizes = np.abs(part.classes / part.n_objects - whole.classes / whole.n_objects)
    spread = max(whole.spread, 1e-9)
    return float(
        abs(np.log(density))
        + abs(np.log(share))
        + sizes.sum()
        + abs(part.mean - whole.mean) / spread
        + abs(np.log((part.spread + 0.01 * spread) / (whole.spread + 0.01 * spread)))
    )


class Survey:
    """A regular sample of the annotated voxels of a volume.

    Parameters
    ----------
    volume
        Read, never written; of its image, at most about two million voxels count.
    bounds
        Sizes in voxels that divide objects into classes; by default the quartiles
        of this volume.
    """

    def __init__(
        self, volume: LabelledVolume, bounds: NDArray[np.float64] | None = None
    ) -> None:
        self.box = annotated_box(volume)
        size = self.box.size
        in_plane = min(_MAX_STEP, max(1, round((size / _MAX_SAMPLE) ** 0.5)))
        in_plane = min(in_plane, *self.box.shape[1:])
        depth = max(1, min(self.box.shape[0], size // in_plane**2 // _MAX_SAMPLE))
        self._steps = (depth, in_plane, in_plane)
        labels, known, image = self._sample(volume)
        labels = np.where(known, labels, 0)
        _, dense = np.unique(labels, return_inverse=True)
        self._ids = dense.reshape(labels.shape) + (0 if (labels == 0).any() else 1)
        self._known, self._image = known, image
        voxels = np.bincount(self._ids.ravel()).astype(np.float64)
        voxels[0] = 0
        self._voxels = voxels
        self.sizes = voxels[1:] * depth * in_plane**2
        """Annotated voxels of each object, estimated from the sample."""
        self.bounds = size_bounds(self.sizes) if bounds is None else bounds
        self._classes = np.searchsorted(self.bounds, self.sizes, side="right")
        self.whole = self.describe(self.box)

    def describe(self, box: Box) -> Traits:
        """Return the traits of a box of the volume."""
        part = self._part(box)
        counts = np.bincount(self._ids[part].ravel(), minlength=self._voxels.size)
        shares = counts[1:] / self._voxels[1:]
        known = self._known[part]
        values = self._image[part][known]
        return Traits(
            known=float(np.count_nonzero(known)),
            foreground=float(counts[1:].sum()),
            classes=np.bincount(
                self._classes, weights=shares, minlength=len(self.bounds) + 1
            ).astype(np.float64),
            n_ids=int(np.count_nonzero(counts[1:])),
            intensity=float(values.sum()),
            square=float((values**2).sum()),
        )

    def known_along(self, axis: int, box: Box) -> NDArray[np.float64]:
        """Return the annotated voxels of each slice of a box across an axis."""
        step = self._steps[axis]
        others = tuple(a for a in range(3) if a != axis)
        known = self._known[self._part(box)].sum(axis=others).astype(np.float64)
        first = box.start[axis] - self.box.start[axis]
        along = np.zeros(box.shape[axis])
        along[-first % step :: step] = known
        return along

    def _part(self, box: Box) -> tuple[slice, ...]:
        """Return the index of a box into the sample."""
        return tuple(
            slice(-(-s.start // step), -(-s.stop // step))
            for s, step in zip(box.within(self.box), self._steps, strict=True)
        )

    def _sample(
        self, volume: LabelledVolume
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.float64]]:
        step_z, step_y, step_x = self._steps
        index = tuple(
            slice(s.start, s.stop, step)
            for s, step in zip(self.box.slices, self._steps, strict=True)
        )
        labels = np.asarray(volume.labels_ZYX[index])
        known = np.ones(labels.shape, np.bool_)
        if volume.annotated_ZYX is not None:
            known = np.asarray(volume.annotated_ZYX[index])
        planes = []
        _, rows, columns = self.box.slices
        for z in range(self.box.start[0], self.box.stop[0], step_z):
            plane = volume.image.read((slice(z, z + 1), rows, columns))
            check_finite(plane, volume.image.name)
            planes.append(plane[:, 0, ::step_y, ::step_x].mean(axis=0, dtype=float))
        return labels, known, np.stack(planes)


def size_bounds(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sizes that divide objects into four classes of equal number."""
    if not sizes.size:
        return np.zeros(_N_CLASSES - 1)
    return np.quantile(sizes, np.arange(1, _N_CLASSES) / _N_CLASSES)
