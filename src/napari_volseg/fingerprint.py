"""What there is to know about labelled volumes before a network is chosen for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cc3d
import fastremap
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_volseg.annotated import fullest_box
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.intensities import noise_of
from napari_volseg.volume import (
    LabelledVolume,
    VoxelSize,
    intensity_range,
    normalise,
)

__all__ = ["Fingerprint", "take_fingerprint"]

_ENOUGH_WHOLE = 10
"""Objects cut by a face of the volume are left out if so many others remain."""
_NOISE_VOXELS = 2_000_000
_MAX_VOXELS = 200_000_000
"""Of a larger volume, a part of so many voxels that is full of objects is measured."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Labelled volumes in numbers, after the fingerprint of nnU-Net (Isensee 2021)."""

    voxel_size: VoxelSize
    """Edge lengths (z, y, x) in nm of the first volume."""
    shapes: tuple[Size, ...]
    """Shape (z, y, x) of each volume."""
    n_channels: int
    n_instances: int
    extent: tuple[float, float, float]
    """Upper quartile of the objects' boxes along z, y and x, in voxels."""
    small_size: float
    """Voxels of an object that is smaller than 95 % of the others."""
    median_size: float
    """Voxels of the median object."""
    spacing_nm: float
    """Median distance from a centre to the nearest other; 0 for a single object."""
    touching_share: float
    """Share of the objects that share a face with another."""
    foreground_share: float
    """Share of the annotated voxels that belongs to an object."""
    annotated_share: float
    """Share of all voxels that is annotated."""
    noise: float
    """Standard deviation of the noise between neighbouring voxels, where 1 is the
    range of the image."""

    @property
    def anisotropy(self) -> float:
        """How many times deeper than wide a voxel is."""
        return self.voxel_size[0] / min(self.voxel_size[1:])

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values, rounded for people."""
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def take_fingerprint(
    volumes: Sequence[LabelledVolume], quantiles: tuple[float, float] = (0.05, 0.95)
) -> Fingerprint:
    """Measure the objects, the annotation and the noise of the training volumes.

    Parameters
    ----------
    volumes
        At least one; read, never written.
    quantiles
        Of the intensity that are mapped to 0 and 1 in training.

    Raises
    ------
    DataError
        If no annotated voxel belongs to an object.
    """
    objects = [_measure_objects(volume) for volume in volumes]
    if not any(o.sizes_N.size for o in objects):
        names = " and ".join(volume.image.name for volume in volumes)
        raise DataError(
            f"the labels of {names} have no object where they are annotated: paint one "
            "there, or correct the mask or region that says what is annotated"
        )
    boxes = np.concatenate([o.boxes_N3 for o in objects])
    sizes = np.concatenate([o.sizes_N for o in objects])
    whole = np.concatenate([o.is_whole_N for o in objects])
    if np.count_nonzero(whole) >= _ENOUGH_WHOLE:
        boxes, sizes = boxes[whole], sizes[whole]
    known = sum(o.n_annotated for o in objects)
    nearest = np.concatenate([o.nearest_nm_N for o in objects])
    z, y, x = np.quantile(boxes, 0.75, axis=0).tolist()
    n_instances = sum(o.is_whole_N.size for o in objects)
    return Fingerprint(
        voxel_size=volumes[0].image.voxel_size,
        shapes=tuple(v.image.shape_ZYX for v in volumes),
        n_channels=volumes[0].image.n_channels,
        n_instances=n_instances,
        extent=(z, y, x),
        small_size=float(np.quantile(sizes, 0.05)),
        median_size=float(np.median(sizes)),
        spacing_nm=float(np.median(nearest)) if nearest.size else 0.0,
        touching_share=sum(o.n_touching for o in objects) / n_instances,
        foreground_share=sum(o.n_foreground for o in objects) / known,
        annotated_share=known / sum(o.n_voxels for o in objects),
        noise=max(_noise(v, quantiles) for v in volumes),
    )


@dataclass(frozen=True, slots=True)
class _Objects:
    boxes_N3: NDArray[np.int64]
    sizes_N: NDArray[np.int64]
    is_whole_N: NDArray[np.bool_]
    nearest_nm_N: NDArray[np.float64]
    n_touching: int
    n_foreground: int
    n_annotated: int
    n_voxels: int


def _measure_objects(volume: LabelledVolume) -> _Objects:
    part = Box.whole(volume.image.shape_ZYX)
    if part.size > _MAX_VOXELS:
        part = fullest_box(volume, _MAX_VOXELS)
    labels = np.asarray(volume.labels_ZYX[part.slices])
    annotated = volume.annotated_ZYX
    if annotated is not None:
        annotated = np.asarray(annotated[part.slices])
        labels = np.where(annotated, labels, 0)
    dense_ZYX, _ = fastremap.renumber(np.ascontiguousarray(labels))
    found = cc3d.statistics(dense_ZYX, no_slice_conversion=True)
    boxes = np.asarray(found["bounding_boxes"], np.int64)[1:].reshape(-1, 3, 2)
    centres = np.asarray(found["centroids"], np.float64)[1:]
    sizes = np.asarray(found["voxel_counts"], np.int64)
    start, last = boxes[..., 0], boxes[..., 1]
    is_cut = (start == 0) | (last == np.array(dense_ZYX.shape) - 1)
    # A volume as shallow as its objects cuts all of them along that axis.
    is_cut &= 2 * is_cut.sum(axis=0) < len(is_cut)
    return _Objects(
        boxes_N3=last - start + 1,
        sizes_N=sizes[1:],
        is_whole_N=~is_cut.any(axis=1),
        nearest_nm_N=_nearest(centres * np.array(volume.image.voxel_size)),
        n_touching=len(_touching(dense_ZYX)),
        n_foreground=int(sizes[1:].sum()),
        n_annotated=labels.size
        if annotated is None
        else int(np.count_nonzero(annotated)),
        n_voxels=labels.size,
    )


def _nearest(centres_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(centres_N3) < 2:
        return np.empty(0)
    distances, _ = cKDTree(centres_N3).query(centres_N3, k=2)
    return np.asarray(distances[:, 1], np.float64)


def _touching(labels_ZYX: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the ids that share a face with another id."""
    ids = []
    for axis in range(3):
        moved = np.moveaxis(labels_ZYX, axis, 0)
        a, b = moved[:-1], moved[1:]
        meet = (a != b) & (a != 0) & (b != 0)
        ids += [np.unique(a[meet]), np.unique(b[meet])]
    return np.unique(np.concatenate(ids))


def _noise(volume: LabelledVolume, quantiles: tuple[float, float]) -> float:
    image = volume.image
    rows = max(1, _NOISE_VOXELS // (image.shape_ZYX[1] * image.shape_ZYX[2]))
    step = max(1, image.shape_ZYX[0] // rows)
    ranges = intensity_range(image, quantiles)
    planes = (
        normalise(image.read((slice(z, z + 1), slice(None), slice(None))), ranges)
        for z in range(0, image.shape_ZYX[0], step)
    )
    return noise_of(planes) or 0.0
