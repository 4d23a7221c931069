"""Which dataset of a file is meant, and what its attributes say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.io.failures import nearest
from napari_volseg.volume import VoxelSize

__all__ = ["Role", "check_dtype", "choose_dataset", "voxel_size_of", "wrong_dataset"]

Role = Literal["image", "labels", "mask"]

_USUAL: dict[Role, tuple[str, ...]] = {
    "image": ("raw", "image", "images", "main", "maps", "data", "exported_data"),
    "labels": ("labels", "label", "instances", "segmentation", "main", "neuron_ids"),
    "mask": ("annotated", "mask", "masks", "main"),
}


def choose_dataset(names: Sequence[str], role: Role, file: str) -> str:
    """Return the dataset that is meant when none is named.

    The only one; else the one whose last part has the most usual name for its
    role, for instance ``raw`` for an image.

    Raises
    ------
    DataError
        If there is none, or no name decides.
    """
    if not names:
        raise DataError(f"{file} holds no array with three or four axes of numbers")
    if len(names) == 1:
        return names[0]
    for usual in _USUAL[role]:
        found = [name for name in names if name.rsplit("/", 1)[-1].lower() == usual]
        if len(found) == 1:
            return found[0]
    raise DataError(
        f"{file} holds several arrays ({nearest('', names).removeprefix('it has ')}): "
        f"name the {role} after a colon, for instance {file}:{names[0]}"
    )


def wrong_dataset(file: str, dataset: str, names: Sequence[str]) -> DataError:
    """Return the error for a dataset that is not there."""
    rest = nearest(dataset, names) if names else "it holds no volumes"
    return DataError(f"{file} has no dataset {dataset}: {rest}")


def check_dtype(dtype: np.dtype[Any], name: str) -> None:
    """Raise DataError unless the values are real numbers of up to 64 bits."""
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        kind = "compound" if dtype.kind == "V" else str(dtype)
        raise DataError(
            f"{name} has values of type {kind}: choose a dataset of real numbers such "
            "as uint8, uint16 or float32"
        )


def voxel_size_of(attributes: Mapping[str, Any]) -> VoxelSize | None:
    """Return the voxel size (z, y, x) in nm that attributes state, or None.

    Understood are ``voxel_size_zyx_nm``, ``resolution`` (CREMI, gunpowder; nm)
    and ``element_size_um`` (ilastik, PlantSeg; µm).
    """
    for key, nm in (
        ("voxel_size_zyx_nm", 1.0),
        ("resolution", 1.0),
        ("element_size_um", 1000.0),
    ):
        if key in attributes:
            size = _positive(attributes[key], nm)
            if size:
                return size
    return None


def _positive(value: Any, factor: float) -> VoxelSize | None:
    try:
        numbers = [float(v) * factor for v in np.ravel(value)[-3:]]
    except (TypeError, ValueError):
        return None
    if len(numbers) != 3 or not all(np.isfinite(v) and v > 0 for v in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]
