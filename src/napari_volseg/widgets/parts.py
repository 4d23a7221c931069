"""Which part of an image layer is predicted: a box, channels, a time point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Image, Shapes
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.volume import Volume
from napari_volseg.widgets.layers import (
    image_volume,
    layer_source,
    no_volume,
    plain,
    voxel_size,
)
from napari_volseg.widgets.regions import capture_region

__all__ = [
    "Part",
    "drawn_box",
    "image_parts",
    "part_words",
    "seen_box",
    "takes_channels",
]


@dataclass(frozen=True)
class Part:
    """One volume to predict, and where it lies in its layer."""

    volume: Volume
    source: str | None
    """Where it lives when it is a whole file, else None."""
    box: Box
    """Its voxels z, y, x in the layer."""
    index: int | None = None
    """Its place along the layer's first axis (channel or time), where it has one."""


def takes_channels(layer: Image, in_channels: int) -> bool:
    """Whether a model takes all that a layer holds at once, as it is."""
    try:
        return image_volume(layer).n_channels == in_channels
    except DataError:
        return False


def image_parts(
    layer: Image, in_channels: int, along: str, shown: int, box: Box | None
) -> list[Part]:
    """Return what to predict of a layer, without copying it.

    Parameters
    ----------
    in_channels
        Channels that the model takes.
    along
        What to do with a first axis that the model does not take: ``one``, the place
        that is shown, or ``each``, one after the other.
    shown
        The place along that axis that the viewer shows.
    box
        Voxels z, y, x to predict; None means all.

    Raises
    ------
    DataError
        If the layer is no volume, or the model takes other channels.
    """
    if takes_channels(layer, in_channels) or in_channels != 1:
        volume = image_volume(layer)
        if volume.n_channels != in_channels:
            raise DataError(
                f"'{layer.name}' has {volume.n_channels} channels but the model was "
                f"trained on {in_channels}: choose another"
            )
        return [_cut(Part(volume, layer_source(layer), _whole(volume)), box)]
    data = layer.data[0] if layer.multiscale else layer.data
    if layer.rgb or data.ndim != 4:
        volume = image_volume(layer)  # says what is wrong, or is a colour volume
        raise DataError(
            f"'{layer.name}' has {volume.n_channels} channels but the model was "
            "trained on 1: split it (right-click the layer, Split RGB)"
        )
    size = voxel_size(layer)
    places = [shown] if along == "one" else range(data.shape[0])
    parts = []
    for place in places:
        index = min(max(0, int(place)), data.shape[0] - 1)
        volume = Volume(data[index], size, f"{layer.name} {_letter(layer)}{index}")
        parts.append(_cut(Part(volume, None, _whole(volume), index), box))
    return parts


def seen_box(viewer: Any, layer: Image, depth: int) -> Box:
    """Return the box that the viewer shows: the canvas, and slices on either side.

    Parameters
    ----------
    depth
        Slices before and after the one that is shown; in 3D all are shown.
    """
    shape = _shape(layer)
    start, stop = [0, 0, 0], list(shape)
    displayed = [axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed]
    step = _step(layer)
    corners = np.asarray(plain(layer).corner_pixels, float)[:, -3:] * step
    point = np.asarray(plain(layer).world_to_data(viewer.dims.point), float)[-3:]
    for axis in range(3):
        if viewer.dims.ndisplay == 3:
            continue
        if axis not in displayed:
            middle = round(float(point[axis]))
            start[axis], stop[axis] = middle - depth, middle + depth + 1
        elif corners[1, axis] > corners[0, axis]:
            start[axis] = int(corners[0, axis])
            stop[axis] = int(corners[1, axis]) + 1
        elif corners.any() and not 0 < corners[0, axis] < shape[axis] - step[axis]:
            stop[axis] = 1 if shape[axis] == 1 else 0  # all lies beside the canvas
    return _inside(start, stop, shape, "the view shows nothing of")


def drawn_box(region: Shapes, layer: Image, depth: int) -> Box:
    """Return the box around the shapes of a layer.

    A shape lies in a slice: `depth` slices before and after it are taken too. One that
    has no slice of its own, in a Shapes layer with two axes, counts in all of them.

    Raises
    ------
    DataError
        If nothing is drawn on the image.
    """
    shape = _shape(layer)
    outlines = capture_region(region, layer, shape).outlines
    start: NDArray[np.float64] = np.full(3, np.inf)
    stop: NDArray[np.float64] = np.full(3, -np.inf)
    for outline in outlines:
        low, high = outline.corners.min(axis=0), outline.corners.max(axis=0)
        flat = int(np.argmin(high - low))
        if outline.everywhere:
            low[0], high[0] = 0, shape[0] - 1
        else:
            low[flat], high[flat] = low[flat] - depth, high[flat] + depth
        start, stop = np.minimum(start, low), np.maximum(stop, high)
    return _inside(
        np.round(start).astype(int).tolist(),
        (np.round(stop).astype(int) + 1).tolist(),
        shape,
        f"the shapes of '{region.name}' cover nothing of",
        str(layer.name),
    )


def part_words(parts: list[Part]) -> str:
    """Say how much is predicted."""
    z, y, x = parts[0].box.shape
    size = f"{z} × {y} × {x} voxels"
    return f"{len(parts)} times {size}" if len(parts) > 1 else size


def _cut(part: Part, box: Box | None) -> Part:
    if box is None or box == part.box:
        return part
    volume = part.volume
    data: Any = volume.data
    cut = data[(..., *box.slices)] if isinstance(data, np.ndarray) else _lazy(data, box)
    volume = Volume(cut, volume.voxel_size, volume.name)
    return replace(part, volume=volume, source=None, box=box)


def _lazy(data: Any, box: Box) -> Any:
    """Return a box of a stored array, to be read when it is needed."""
    import dask.array  # costs half a second, which a dock has not

    array = dask.array.asarray(data)  # type: ignore[no-untyped-call]
    return array[(..., *box.slices)]


def _whole(volume: Volume) -> Box:
    return Box.whole(volume.shape_ZYX)


def _shape(layer: Image) -> Size:
    data = layer.data[0] if layer.multiscale else layer.data
    shape = data.shape[:-1] if layer.rgb else data.shape
    if len(shape) < 3:
        raise no_volume(layer, shape)
    z, y, x = (int(n) for n in shape[-3:])
    return z, y, x


def _step(layer: Image) -> NDArray[np.float64]:
    """Return how many voxels one of the shown resolution is long."""
    if not layer.multiscale:
        return np.ones(3)
    return np.asarray(layer.downsample_factors[layer.data_level], float)[-3:]


def _letter(layer: Image) -> str:
    label = str(layer.axis_labels[0]).lower()
    return label[:1] if label[:1] in ("t", "c") else "t"


def _inside(
    start: Sequence[int], stop: Sequence[int], shape: Size, what: str, name: str = ""
) -> Box:
    low = [min(max(0, a), n) for a, n in zip(start, shape, strict=True)]
    high = [min(max(0, b), n) for b, n in zip(stop, shape, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise DataError(
            f"{what} {'the image' if not name else repr(name)}: move it, or predict "
            "the whole layer"
        )
    return Box(tuple(low), tuple(high))  # type: ignore[arg-type]
