"""OME-Zarr metadata (0.1 to 0.5): which array, which axes, which voxel size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from napari_volseg.errors import DataError
from napari_volseg.volume import VoxelSize

__all__ = [
    "UNITS_NM",
    "find_multiscale",
    "has_level",
    "list_levels",
    "make_multiscale",
    "normal_place",
    "read_axes",
    "read_level",
]

UNITS_NM = {
    "angstrom": 0.1,
    "picometer": 1e-3,
    "nanometer": 1.0,
    "micrometer": 1e3,
    "millimeter": 1e6,
    "centimeter": 1e7,
    "meter": 1e9,
    "inch": 25.4e6,
    "Å": 0.1,
    "pm": 1e-3,
    "nm": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "mm": 1e6,
    "cm": 1e7,
    "m": 1e9,
}
"""Nanometres in units of length as OME-Zarr, OME-TIFF and ImageJ spell them."""


def find_multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the first multiscale image of a group's attributes, or None."""
    ome = attributes.get("ome")
    holder = ome if isinstance(ome, dict) else attributes
    images = holder.get("multiscales")
    if isinstance(images, list) and images and isinstance(images[0], dict):
        return images[0]
    return None


def normal_place(path: str) -> str:
    """Return a path inside a store without empty parts and dots."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def list_levels(multiscale: Mapping[str, Any]) -> list[str]:
    """Return the normal paths of the arrays that the multiscale image lists."""
    levels = multiscale.get("datasets")
    paths = [
        item.get("path")
        for item in (levels if isinstance(levels, list) else ())
        if isinstance(item, dict)
    ]
    return [normal_place(path) for path in paths if isinstance(path, str)]


def has_level(multiscale: Mapping[str, Any], path: str) -> bool:
    """Whether the multiscale image lists an array of this path."""
    return normal_place(path) in list_levels(multiscale)


def read_level(multiscale: Mapping[str, Any], name: str) -> str:
    """Return the path of the full-size array.

    Raises
    ------
    DataError
        If the metadata lists none.
    """
    try:
        path = multiscale["datasets"][0]["path"]
    except (KeyError, IndexError, TypeError):
        path = None
    if not isinstance(path, str) or not path:
        raise DataError(
            f"{name} is not a complete OME-Zarr image, its key multiscales/datasets "
            "lists no array: name an array after a colon"
        )
    return path


def read_axes(
    multiscale: Mapping[str, Any], level: str, ndim: int, name: str
) -> tuple[str, VoxelSize | None]:
    """Return a letter per axis and the voxel size (z, y, x) in nm of a level.

    A scale without a unit is taken as nanometres: its proportions hold.

    Raises
    ------
    DataError
        If the axes do not fit the array.
    """
    axes = multiscale.get("axes") or list("tczyx")[-ndim:]
    try:
        names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
        letters = "".join(str(n)[:1].upper() for n in names)
        units = [axis.get("unit") if isinstance(axis, dict) else None for axis in axes]
    except (KeyError, TypeError):
        letters, units = "", []
    if len(letters) != ndim or len(set(letters)) != ndim:
        raise DataError(
            f"{name} has {ndim} axes but its OME-Zarr metadata describes "
            f"{letters or 'none'}: correct the key multiscales/axes"
        )
    scale = _scale(multiscale, level, ndim)
    if scale is None:
        return letters, None
    size = dict.fromkeys("ZYX", 1.0)
    for letter, unit, length in zip(letters, units, scale, strict=True):
        if letter in size:
            size[letter] = length * UNITS_NM.get(str(unit), 1.0)
    z, y, x = size.values()
    return letters, (z, y, x) if min(z, y, x) > 0 and isfinite(z * y * x) else None


def _scale(multiscale: Mapping[str, Any], level: str, ndim: int) -> list[float] | None:
    """Return the length of a voxel along each axis: level times image."""
    total = [1.0] * ndim
    found = False
    try:
        levels = [
            item
            for item in multiscale["datasets"]
            if normal_place(item["path"]) == normal_place(level)
        ]
        for holder in (levels[0], multiscale):
            for step in holder.get("coordinateTransformations") or ():
                if step.get("type") == "scale":
                    pairs = zip(total, step["scale"], strict=True)
                    total = [a * float(b) for a, b in pairs]
                    found = True
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return total if found else None


def make_multiscale(
    name: str, axes: Sequence[str], voxel_size: VoxelSize, *, labels: bool
) -> dict[str, Any]:
    """Return the attributes of an OME-Zarr 0.5 group with the one level ``0``."""
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [
                    {"name": "c", "type": "channel"}
                    if axis == "c"
                    else {"name": axis, "type": "space", "unit": "nanometer"}
                    for axis in axes
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {
                                "type": "scale",
                                "scale": [1.0] * (len(axes) - 3)
                                + [float(v) for v in voxel_size],
                            }
                        ],
                    }
                ],
            }
        ],
    }
    if labels:
        ome["image-label"] = {}
    return {"ome": ome}
