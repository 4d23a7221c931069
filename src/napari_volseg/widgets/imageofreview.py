"""The image whose instances are reviewed, among the layers that are open."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.io import Source, parse_source
from napari_volseg.volume import Volume
from napari_volseg.widgets.layers import METADATA_KEY, image_volume, placement, plain
from napari_volseg.widgets.parts import image_parts

__all__ = [
    "image_of",
    "is_whole",
    "layer_of",
    "open_images",
    "part_layer",
    "part_name",
    "shared_boxes",
    "whole_volume",
]

_PART_OF = "part_of"
"""Marks an image that is cut out of another: never itself the one predicted."""
_TOLERANCE = 0.01
"""Voxels by which labels may lie beside those of an image."""


def image_of(viewer: Any, labels: Labels, name: str) -> tuple[Image, Box] | None:
    """Return the image that was predicted and the voxels of it that the labels cover.

    When it is not there, another image that has these voxels is taken, best one that
    has no others.
    """
    found = []
    for image in map(plain, viewer.layers):
        if not isinstance(image, Image) or image.ndim < 3 or image.rgb:
            continue
        origin = image.metadata.get(METADATA_KEY) or {}
        if origin.get("role") is not None or _PART_OF in origin:
            continue
        box = _box_in(image, labels)
        if box is not None:
            found.append((image, box))
    return min(
        found,
        key=lambda each: (str(each[0].name) != name, not is_whole(*each)),
        default=None,
    )


def _box_in(image: Image, labels: Labels) -> Box | None:
    """Return which voxels of an image labels cover; None unless they are whole ones."""
    here, there = placement(image), placement(labels)
    if replace(here, translate=there.translate).differences(there):
        return None
    corner = labels.data_to_world((0, 0, 0))
    offset = np.asarray(image.world_to_data(corner), float)[-3:]
    if not here.differences(there):
        offset = np.zeros(3)
    start = np.round(offset).astype(int)
    stop = start + labels.data.shape
    if (start < 0).any() or (stop > image.data.shape[-3:]).any():
        return None
    if np.abs(offset - start).max() > _TOLERANCE:
        return None
    return Box(tuple(start.tolist()), tuple(stop.tolist()))


def is_whole(image: Image, box: Box) -> bool:
    """Return whether a box is all of an image."""
    return box == Box.whole(image.data.shape[-3:])


def part_name(name: str, box: Box) -> str:
    """Return what the layer of a part is called."""
    return f"{name} {box}"


def part_layer(viewer: Any, image: Image, box: Box) -> Image:
    """Return a part of an image as a layer: the one that is open, else a new one.

    Raises
    ------
    DataError
        If the image is no volume.
    """
    name = part_name(str(image.name), box)
    volume = image_volume(image)
    data = image_parts(image, volume.n_channels, "one", 0, box)[0].volume.data
    for layer in map(plain, viewer.layers):
        is_part = _PART_OF in (layer.metadata.get(METADATA_KEY) or {})
        if is_part and layer.name == name and layer.data.shape == data.shape:
            return layer
    translate = np.array(image.translate, float)
    translate[-3:] = placement(image).layer_options(box.start)["translate"]
    return Image(
        data,
        name=name,
        metadata={METADATA_KEY: {_PART_OF: str(image.name)}},
        contrast_limits=image.contrast_limits,
        visible=False,
        rgb=False,
        scale=image.scale,
        translate=translate,
        rotate=image.rotate,
        shear=image.shear,
        affine=image.affine.affine_matrix,
        units=tuple(str(unit) for unit in image.units),
        axis_labels=image.axis_labels,
    )


def open_images(viewer: Any, first: Image) -> list[tuple[Image, Volume]]:
    """Return what a run may have learnt from, `first` before all other images."""
    images = [x for x in map(plain, viewer.layers) if isinstance(x, Image)]
    opened = []
    for image in sorted(images, key=lambda each: each is not first):
        with suppress(DataError):
            opened.append((image, whole_volume(image)))
    return opened


def whole_volume(image: Image) -> Volume:
    """Return all of an image, whatever its first axis is."""
    data = image.data[0] if image.multiscale else image.data
    return Volume(data, name=str(image.name))


def layer_of(image: Volume, opened: Sequence[tuple[Image, Volume]]) -> Image | None:
    """Return the layer that shows the image of a run, whatever either is called."""
    return next((layer for layer, each in opened if _is_same(each, image)), None)


def _is_same(one: Volume, other: Volume) -> bool:
    """Return whether images agree in shape and in the first, middle and last slice."""
    if tuple(one.data.shape) != tuple(other.data.shape):
        return False
    n_slices = one.shape_ZYX[0]
    try:
        return all(
            np.array_equal(one.read(index), other.read(index), equal_nan=True)
            for z in (n_slices // 2, 0, n_slices - 1)
            for index in [(slice(z, z + 1), slice(None), slice(None))]
        )
    except DataError:
        return False


def shared_boxes(
    one: Volume, one_source: str, other: Volume, other_source: str, within: Box
) -> tuple[Box, Box] | None:
    """Return what two parts of one stored image have in common.

    Parameters
    ----------
    within
        The box of the first that matters.

    Returns
    -------
    tuple or None
        The same voxels as a box in the first and in the second; None when these are
        parts of different images, or of different places.
    """
    here, there = _place_in_file(one_source), _place_in_file(other_source)
    if here is None or there is None or not _are_one_array(here[0], there[0]):
        return None
    shift = np.subtract(there[1], here[1])
    start = np.maximum(within.start, shift)
    stop = np.minimum(within.stop, shift + other.shape_ZYX)
    if (start >= stop).any():
        return None
    boxes = _box(start, stop), _box(start - shift, stop - shift)
    return boxes if _agree(one, other, *boxes) else None


def _place_in_file(source: str) -> tuple[Source, list[int]] | None:
    """Return the stored array of a source and its first voxel (z, y, x) in that."""
    parsed = parse_source(source)
    index = parsed.index or (slice(None),) * 3
    starts = [
        item.start or 0
        for item in index[-3:]
        if isinstance(item, slice) and item.step in (None, 1)
    ]
    is_known = len(starts) == 3 and min(starts) >= 0
    return (parsed, starts) if is_known else None


def _are_one_array(one: Source, other: Source) -> bool:
    """Return whether sources may be of one array; a dataset need not be named."""
    datasets = {one.dataset, other.dataset} - {None}
    return one.path == other.path and len(datasets) < 2


def _box(start: NDArray[np.int64], stop: NDArray[np.int64]) -> Box:
    return Box(tuple(start.tolist()), tuple(stop.tolist()))


def _agree(one: Volume, other: Volume, here: Box, there: Box) -> bool:
    """Return whether the middle slice of two boxes holds the same values."""
    middle = here.shape[0] // 2
    slices = [
        (slice(box.start[0] + middle, box.start[0] + middle + 1), *box.slices[1:])
        for box in (here, there)
    ]
    try:
        return np.array_equal(
            one.read(slices[0]), other.read(slices[1]), equal_nan=True
        )
    except DataError:
        return False
