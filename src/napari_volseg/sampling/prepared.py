"""A training volume made ready to draw patches from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_volseg.annotated import annotated_box
from napari_volseg.config import Config, TargetsConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.intensities import Intensities, describe_intensities
from napari_volseg.io.scratch import new_array
from napari_volseg.sampling.block_targets import make_targets_by_block
from napari_volseg.sampling.caching import CachePlan
from napari_volseg.sampling.chunks import ChunkedImage
from napari_volseg.sampling.places import Places, find_places
from napari_volseg.targets import make_targets
from napari_volseg.volume import (
    ArrayLike,
    LabelledVolume,
    Volume,
    VoxelSize,
    check_finite,
    intensity_range,
)

__all__ = ["PreparedVolume", "prepare_volume"]

_IN_MEMORY = CachePlan("ram")
_SLAB = 64 * 2**20

Margins = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """A part of a volume with its targets, and how far it is mirrored outwards.

    Coordinates count from the corner of the mirrored margin.
    """

    name: str
    box: Box
    """The part of the image that was read."""
    voxel_size: VoxelSize
    image_CZYX: ArrayLike
    """As stored; normalised patch by patch."""
    range_C2: NDArray[np.float32]
    intensities: tuple[Intensities, ...]
    """What the whole image looks like, channel by channel."""
    targets_CZYX: NDArray[np.uint8]
    valid_CZYX: NDArray[np.bool_]
    margins: Margins
    """Mirrored voxels before and after each axis, so that every patch fits."""
    places: Places
    in_plane: bool
    """Whether targets were made slice by slice."""

    @property
    def shape_ZYX(self) -> Size:
        """Shape with the margins."""
        z, y, x = (
            n + before + after
            for n, (before, after) in zip(
                self.valid_CZYX.shape[1:], self.margins, strict=True
            )
        )
        return z, y, x

    def read(
        self, start: Sequence[int], stop: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.bool_]]:
        """Return image, targets and validity of a box inside the margins."""
        image, targets, valid = (
            _read_mirrored(array, start, stop, self.margins)
            for array in (self.image_CZYX, self.targets_CZYX, self.valid_CZYX)
        )
        return image, targets, valid


def prepare_volume(
    volume: LabelledVolume,
    held_out: Sequence[Box],
    guard: Size,
    config: Config,
    patch_size: Size,
    boundary: Literal["3d", "2d"],
    distance: Literal["3d", "2d"],
    cache: CachePlan = _IN_MEMORY,
    folder: Path | None = None,
    before: PreparedVolume | None = None,
) -> PreparedVolume:
    """Read a volume, compute its targets and mark what may be learnt from.

    Only the box around the annotation, with a patch of context, is read.

    Parameters
    ----------
    held_out
        Boxes whose labels are never learnt from, nor within `guard` of them.
    cache
        Where image and targets are kept; the patches do not depend on it.
    folder
        Where they are kept on disk, unless the cache is in memory.
    before
        The same volume with earlier labels: its image is not read again, unless more
        of it is annotated now.

    Raises
    ------
    DataError
        If the image has NaN, nothing is left to learn from, or the disk is full.
    """
    name = volume.image.name
    if cache.mode == "ram":
        folder = None
    context = tuple(
        max(n, p) for n, p in zip(patch_size, config.data.pad_size, strict=True)
    )
    box = annotated_box(volume).grow(context, volume.image.shape_ZYX)
    values, valid = _make_targets(
        volume, box, boundary, distance, config.data.targets, folder
    )
    for hidden in held_out:
        inner = hidden.grow(guard, volume.image.shape_ZYX)
        visible = inner.within(box)
        valid[
            (slice(None), *(slice(max(0, s.start), max(0, s.stop)) for s in visible))
        ] = False
    places = find_places(
        volume.labels_ZYX[box.slices], valid[0], values[1], config.system.seed
    )
    if not places.n_annotated:
        raise DataError(
            f"nothing is left to learn from {name} after holding out a part for "
            "validation: annotate more, or set data.val_fraction=0"
        )
    if before is not None and before.box == box:
        image, range_C2 = before.image_CZYX, before.range_C2
        intensities = before.intensities
    else:
        image = _keep_image(volume.image, box, cache, folder)
        range_C2 = intensity_range(volume.image, config.data.percentiles)
        intensities = describe_intensities(volume.image, config.data.percentiles)
    return PreparedVolume(
        name=name,
        box=box,
        voxel_size=volume.image.voxel_size,
        image_CZYX=image,
        range_C2=range_C2,
        intensities=intensities,
        targets_CZYX=values,
        valid_CZYX=valid,
        margins=_margins(box.shape, patch_size, config.data.pad_size),
        places=places,
        in_plane="2d" in (boundary, distance),
    )


def _make_targets(
    volume: LabelledVolume,
    box: Box,
    boundary: Literal["3d", "2d"],
    distance: Literal["3d", "2d"],
    settings: TargetsConfig,
    folder: Path | None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    annotated = volume.annotated_ZYX
    labels = volume.labels_ZYX[box.slices]
    known = None if annotated is None else annotated[box.slices]
    if folder is not None:
        return make_targets_by_block(
            labels,
            volume.image.voxel_size,
            boundary=boundary,
            distance=distance,
            boundary_nm=settings.boundary_nm,
            distance_kind=settings.distance_kind,
            annotated_ZYX=known,
            folder=folder,
        )
    targets = make_targets(
        labels,
        volume.image.voxel_size,
        boundary=boundary,
        distance=distance,
        boundary_nm=settings.boundary_nm,
        distance_kind=settings.distance_kind,
        annotated_ZYX=known,
    )
    return targets.values_CZYX, targets.valid_CZYX


def _keep_image(
    image: Volume, box: Box, cache: CachePlan, folder: Path | None
) -> ArrayLike:
    if cache.mode == "chunks":
        return ChunkedImage(image, box, cache.chunk_bytes)
    if folder is None:
        array = image.read(box.slices)
        check_finite(array, image.name)
        return array
    dtype = np.dtype(image.data.dtype).newbyteorder("=")
    kept = new_array((image.n_channels, *box.shape), dtype, folder)
    per_slice = kept[:, 0].nbytes
    depth = max(1, _SLAB // per_slice)
    _, rows, columns = box.slices
    for z in range(box.start[0], box.stop[0], depth):
        end = min(z + depth, box.stop[0])
        slab = image.read((slice(z, end), rows, columns))
        check_finite(slab, image.name)
        kept[:, z - box.start[0] : end - box.start[0]] = slab
    return kept


def _margins(shape: Sequence[int], patch: Sequence[int], pad: Sequence[int]) -> Margins:
    """Return the padding of each axis: the margin asked for, and up to a patch."""
    margins = []
    for n, p, m in zip(shape, patch, pad, strict=True):
        missing = max(0, p - (n + 2 * m))
        margins.append((m + missing // 2, m + missing - missing // 2))
    return tuple(margins)


def _read_mirrored(
    array_CZYX: ArrayLike, start: Sequence[int], stop: Sequence[int], margins: Margins
) -> NDArray[Any]:
    """Return a box of an array that is mirrored at its faces (as numpy's reflect)."""
    shape = array_CZYX.shape[1:]
    first = [a - m[0] for a, m in zip(start, margins, strict=True)]
    last = [b - m[0] for b, m in zip(stop, margins, strict=True)]
    if all(a >= 0 for a in first) and all(
        b <= n for b, n in zip(last, shape, strict=True)
    ):
        inside = (slice(a, b) for a, b in zip(first, last, strict=True))
        return np.asarray(array_CZYX[(slice(None), *inside)])
    sources = [
        _mirrored(np.arange(a, b), n)
        for a, b, n in zip(first, last, shape, strict=True)
    ]
    low = [int(s.min()) for s in sources]
    part = array_CZYX[
        (
            slice(None),
            *(slice(a, int(s.max()) + 1) for a, s in zip(low, sources, strict=True)),
        )
    ]
    for axis, (a, source) in enumerate(zip(low, sources, strict=True), start=1):
        part = np.take(part, source - a, axis=axis)
    return np.asarray(part)


def _mirrored(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    if n == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * n - 2)
    return np.minimum(index, 2 * n - 2 - index)
