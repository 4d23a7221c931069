"""The annotated region of a volume, drawn as shapes or painted as labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from napari.layers import Labels, Layer, Shapes
from numpy.typing import NDArray
from skimage.draw import polygon

from napari_volseg.errors import DataError
from napari_volseg.geometry import Size
from napari_volseg.widgets.layers import check_aligned, labels_array

__all__ = ["Outline", "Region", "capture_region", "draw_outlines"]

_FLAT = 0.75
"""Voxels by which the corners of a shape may leave its slice."""


@dataclass(frozen=True)
class Outline:
    """One closed shape in the voxels of the image it annotates."""

    corners: NDArray[np.float64]
    """Corners, shape (n, 3), in voxels z, y, x."""
    everywhere: bool
    """True for a shape without a slice of its own: it counts in all of them."""


@dataclass(frozen=True)
class Region:
    """What a region layer said when it was captured."""

    name: str
    outlines: tuple[Outline, ...] = ()
    labels: object = None
    """The data of a labels layer: the region is where they are not 0."""

    def mask(self, shape_ZYX: Size, all_slices: bool) -> NDArray[np.bool_]:
        """Return the region as a mask; `all_slices` extends each outline.

        Raises
        ------
        DataError
            If the region is empty.
        """
        if self.labels is not None:
            mask: NDArray[np.bool_] = np.asarray(self.labels) != 0
        else:
            mask = draw_outlines(self.outlines, shape_ZYX, all_slices)
        if not mask.any():
            raise DataError(
                f"the region layer '{self.name}' covers nothing of the image: draw "
                "around what is annotated"
            )
        return mask


def capture_region(region: Layer, image: Layer, shape_ZYX: Size) -> Region:
    """Return what a Shapes or Labels layer says about an image, as it is now.

    A shape counts where napari shows it: in its own slice, or in every slice
    when the Shapes layer has two axes. Lines and paths enclose nothing.

    Raises
    ------
    DataError
        If nothing is drawn, a shape is tilted or the layers do not align.
    """
    name = str(region.name)
    if isinstance(region, Labels):
        labels = labels_array(region)
        check_aligned(image, region, shape_ZYX)
        return Region(name, labels=labels)
    if not isinstance(region, Shapes):
        raise DataError(f"'{name}' is neither a Shapes nor a Labels layer")
    outlines = tuple(
        Outline(_to_voxels(np.asarray(corners), kind, region, image), region.ndim == 2)
        for corners, kind in zip(region.data, region.shape_type, strict=True)
        if kind not in ("line", "path")
    )
    if not outlines:
        raise DataError(
            f"the region layer '{name}' has no closed shape: draw a rectangle or "
            "polygon around what is annotated"
        )
    for number, outline in enumerate(outlines, 1):
        if not outline.everywhere and np.ptp(outline.corners, axis=0).min() > _FLAT:
            raise DataError(
                f"shape {number} of '{name}' is tilted across the slices: draw it in "
                "one slice"
            )
    return Region(name, outlines)


def draw_outlines(
    outlines: Sequence[Outline], shape_ZYX: Size, all_slices: bool
) -> NDArray[np.bool_]:
    """Return the voxels whose centres lie in an outline, shape (Z, Y, X).

    An outline lies in one slice of the axis along which its corners agree.
    With `all_slices`, or without a slice of its own, it is drawn in all of
    them.
    """
    mask = np.zeros(shape_ZYX, bool)
    for outline in outlines:
        axis = 0 if outline.everywhere else _normal_axis(outline.corners)
        plane = np.moveaxis(mask, axis, 0)
        r, c = np.delete(outline.corners, axis, axis=1).T
        rows, columns = polygon(r, c, plane.shape[1:])  # type: ignore[no-untyped-call]
        if all_slices or outline.everywhere:
            plane[:, rows, columns] = True
            continue
        index = round(float(outline.corners[:, axis].mean()))
        if 0 <= index < plane.shape[0]:
            plane[index, rows, columns] = True
    return mask


def _normal_axis(corners: NDArray[np.float64]) -> int:
    """Return the axis of the slice; z for a shape that is flat along several."""
    return int(np.argmin(np.ptp(corners, axis=0) > _FLAT))


def _to_voxels(
    corners: NDArray[np.float64], kind: str, region: Shapes, image: Layer
) -> NDArray[np.float64]:
    if kind == "ellipse":
        corners = _ellipse(corners)
    points = []
    for corner in corners:
        world = np.asarray(region.data_to_world(corner), float)[-3:]
        world = np.concatenate([np.zeros(3 - world.size), world])
        lead = np.zeros(image.ndim - 3)
        point = image.world_to_data(np.concatenate([lead, world]))
        points.append(np.asarray(point, float)[-3:])
    return np.stack(points)


def _ellipse(corners: NDArray[np.float64], n: int = 64) -> NDArray[np.float64]:
    centre = corners.mean(axis=0)
    first, second = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)[:, None]
    ring: NDArray[np.float64] = centre + np.cos(angle) * first + np.sin(angle) * second
    return ring
