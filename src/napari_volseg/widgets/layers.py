"""From napari layers to volumes: the only place that reads a layer's data.

The napari process reads pixels and transforms here; it writes layers in
`outputs`. Spatial tuples have one entry per axis (z, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pint
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.volume import Volume, VoxelSize

__all__ = [
    "METADATA_KEY",
    "Placement",
    "check_aligned",
    "image_volume",
    "labels_array",
    "layer_source",
    "no_volume",
    "placement",
    "plain",
    "voxel_size",
    "voxel_words",
]

METADATA_KEY = "napari-volseg"
"""Where a layer's metadata says which file, run and model it comes from."""

_TIME = ("t", "time", "frame")
_MAX_CHANNELS = 4
"""A fourth axis this short is taken for channels when it has no name."""


def plain(value: Any) -> Any:
    """Return the object behind napari's proxy for plugins, for identity checks."""
    return getattr(value, "__wrapped__", value)


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a layer lie in the world, for its z, y and x axes."""

    scale: NDArray[np.float64]
    translate: NDArray[np.float64]
    rotate: NDArray[np.float64]
    shear: NDArray[np.float64]
    affine: NDArray[np.float64]
    units: tuple[str, str, str]

    def layer_options(self, start: Sequence[int] = (0, 0, 0)) -> dict[str, Any]:
        """Return the keywords that place an array whose first voxel is `start`."""
        offset = _linear(self) @ (np.asarray(start, float))
        return {
            "scale": self.scale,
            "translate": self.translate + offset,
            "rotate": self.rotate,
            "shear": self.shear,
            "affine": self.affine,
            "units": self.units,
        }

    def plane_options(self) -> dict[str, Any]:
        """Return the keywords that place a layer of the last two axes alone."""
        return {
            "scale": self.scale[-2:],
            "translate": self.translate[-2:],
            "rotate": self.rotate[-2:, -2:],
            "shear": self.shear[-1:],
            "affine": self.affine[-3:, -3:],
            "units": self.units[-2:],
        }

    def differences(self, other: Placement) -> list[str]:
        """Return the names of what differs, in the words of napari."""
        names = [
            name
            for name in ("scale", "translate", "rotate", "shear", "affine")
            if not np.allclose(
                getattr(self, name), getattr(other, name), rtol=1e-4, atol=1e-6
            )
        ]
        return names if self.units == other.units else [*names, "units"]


def placement(layer: Layer) -> Placement:
    """Return the spatial placement of the last three axes of a layer."""
    return Placement(
        scale=np.array(layer.scale[-3:], float),
        translate=np.array(layer.translate[-3:], float),
        rotate=np.array(layer.rotate, float)[-3:, -3:],
        shear=_last_shear(np.array(layer.shear, float)),
        affine=_last_affine(np.array(layer.affine.affine_matrix, float)),
        units=tuple(str(unit) for unit in layer.units[-3:]),  # type: ignore[arg-type]
    )


def voxel_size(layer: Layer) -> VoxelSize:
    """Return the voxel size (z, y, x) of a layer in nm.

    A layer without units (napari calls them pixel) gives its scale as it is:
    the ratio of the axes is then right and the size relative.

    Raises
    ------
    DataError
        If a unit is no length, or only some axes have one.
    """
    name = f"the layer '{layer.name}'"
    sizes = []
    units = layer.units[-3:]
    if len({_is_pixel(unit) for unit in units}) > 1:
        raise DataError(
            f"{name} has the units {_words(units)}: give all axes a length such as nm, "
            "or none of them"
        )
    for unit, scale in zip(units, layer.scale[-3:], strict=True):
        if _is_pixel(unit):
            sizes.append(float(scale))
            continue
        try:
            sizes.append(float((float(scale) * unit).to("nm").magnitude))
        except pint.DimensionalityError:
            raise DataError(
                f"{name} has the unit {unit}, which is no length: set it to nm or µm "
                "under Layers > Metadata"
            ) from None
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        raise DataError(
            f"{name} has the scale {tuple(float(s) for s in layer.scale[-3:])}: all "
            "three numbers must be above zero"
        )
    z, y, x = (float(f"{size:.9g}") for size in sizes)
    return z, y, x


def voxel_words(layer: Layer) -> str:
    """Return the voxel size as people write it, with its unit."""
    size = " × ".join(f"{edge:g}" for edge in voxel_size(layer))
    return f"{size} (no unit)" if _is_pixel(layer.units[-1]) else f"{size} nm"


def image_volume(layer: Image) -> Volume:
    """Return an image layer as a volume; its data are referenced, not copied.

    A multiscale layer gives its full resolution. RGB becomes three channels and
    an alpha channel is dropped. A fourth axis in front is read as channels
    unless its name or length says time.

    Raises
    ------
    DataError
        For 2D images, time series and other axes that are no volume.
    """
    name = str(layer.name)
    data = layer.data[0] if layer.multiscale else layer.data
    if layer.rgb:
        if data.ndim != 4:
            raise DataError(
                f"the layer '{name}' is a 2D colour image: pick a volume with z, y, x"
            )
        data = _channels_first(data)[:3]
    elif data.ndim == 4:
        _check_channels(layer, data.shape)
    elif data.ndim != 3:
        raise no_volume(layer, data.shape)
    return Volume(data, voxel_size(layer), name)


def no_volume(layer: Image, shape: Sequence[int]) -> DataError:
    """Return what to raise for an image that has too few or too many axes."""
    return DataError(
        f"the layer '{layer.name}' has {len(shape)} axes {tuple(shape)}: a volume "
        "has three (z, y, x), or four with channels first"
    )


def labels_array(layer: Labels) -> Any:
    """Return the data of a labels layer at full resolution, not copied.

    Raises
    ------
    DataError
        If the layer is no volume or holds numbers that are no ids.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    if data.ndim != 3:
        raise DataError(
            f"the labels layer '{layer.name}' has {data.ndim} axes "
            f"{tuple(data.shape)}: labels of a volume have three (z, y, x)"
        )
    if np.dtype(data.dtype).kind not in "bui":
        raise DataError(
            f"the labels layer '{layer.name}' has values of type {data.dtype}: convert "
            "it to integers (right-click it, Convert data type)"
        )
    return data


def check_aligned(image: Layer, other: Layer, shape_ZYX: Sequence[int]) -> None:
    """Raise DataError unless `other` covers the voxels of `image`, in words."""
    data = other.data[0] if getattr(other, "multiscale", False) else other.data
    if tuple(data.shape) != tuple(shape_ZYX):
        raise DataError(
            f"'{other.name}' has the shape {tuple(data.shape)} but '{image.name}' has "
            f"{tuple(shape_ZYX)}: they must cover the same voxels"
        )
    names = placement(image).differences(placement(other))
    if names:
        raise DataError(
            f"'{other.name}' and '{image.name}' differ in {' and '.join(names)}: copy "
            "it from one to the other (right-click the layer › Copy scale and "
            "transforms)"
        )


def layer_source(layer: Layer) -> str | None:
    """Return the file source of a layer that shows what a file holds, else None.

    Only a layer whose data are still the lazy array that the reader of this
    plugin made counts; anything else lives in memory alone.
    """
    origin: Mapping[str, Any] = layer.metadata.get(METADATA_KEY, {})
    token = origin.get("token")
    if token is None or getattr(layer.data, "name", None) != token:
        return None
    return str(origin["source"])


def _channels_first(data: Any) -> Any:
    if isinstance(data, np.ndarray):
        return np.moveaxis(data, -1, 0)
    import dask.array  # costs half a second, and colour volumes are rare

    array = dask.array.asarray(data)  # type: ignore[no-untyped-call]
    return dask.array.moveaxis(array, -1, 0)


def _check_channels(layer: Image, shape: tuple[int, ...]) -> None:
    label = str(layer.axis_labels[0]).lower()
    if label in _TIME or (shape[0] > _MAX_CHANNELS and not label.startswith("c")):
        raise DataError(
            f"the layer '{layer.name}' has four axes {shape} and its first is "
            f"{'time' if label in _TIME else 'too long for channels'}: pick one volume "
            "of it (right-click the layer, Split stack), or name the axis 'c'"
        )


def _is_pixel(unit: Any) -> bool:
    return str(unit) in ("pixel", "dimensionless", "")


def _words(units: Sequence[Any]) -> str:
    return ", ".join(str(unit) for unit in units)


def _linear(place: Placement) -> NDArray[np.float64]:
    """Return the matrix from voxels to the frame in which `translate` is given."""
    upper = np.eye(3)
    upper[np.triu_indices(3, 1)] = place.shear
    matrix: NDArray[np.float64] = place.rotate @ upper @ np.diag(place.scale)
    return matrix


def _last_shear(shear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shear among the last three axes of an upper triangle."""
    if shear.ndim == 2:
        return shear[-3:, -3:][np.triu_indices(3, 1)]
    n = round((1 + (1 + 8 * shear.size) ** 0.5) / 2)
    upper = np.zeros((n, n))
    upper[np.triu_indices(n, 1)] = shear
    return upper[-3:, -3:][np.triu_indices(3, 1)]


def _last_affine(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the part of a homogeneous matrix that concerns the last three axes."""
    return matrix[-4:, -4:].copy()
