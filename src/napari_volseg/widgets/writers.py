"""Save image and labels layers as datasets of one HDF5 file."""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Labels, Layer

from napari_volseg.errors import DataError
from napari_volseg.io import write_hdf5
from napari_volseg.volume import ArrayLike
from napari_volseg.widgets.layers import image_volume, labels_array, voxel_size

__all__ = ["write_layers"]


def write_layers(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write layers to one file; its datasets have the names of the layers.

    A single image is called ``raw`` and single labels ``labels``, as readers
    expect. The file appears whole or not at all.

    Raises
    ------
    DataError
        If a layer is no volume, the voxel sizes differ or the disk is full.
    """
    arrays: dict[str, ArrayLike] = {}
    sizes = {}
    for data, options, kind in layers:
        layer = Layer.create(data, options, kind)
        if isinstance(layer, Labels):
            arrays[_dataset(layer, "labels", layers)] = labels_array(layer)
        elif isinstance(layer, Image):
            arrays[_dataset(layer, "raw", layers)] = image_volume(layer).data
        sizes[str(layer.name)] = voxel_size(layer)
    if len(set(sizes.values())) > 1:
        words = "; ".join(f"{name}: {size}" for name, size in sizes.items())
        raise DataError(
            f"the layers have different voxel sizes ({words}): save them to files of "
            "their own"
        )
    write_hdf5(path, arrays, next(iter(sizes.values())))
    return [path]


def _dataset(
    layer: Layer, usual: str, layers: list[tuple[Any, dict[str, Any], str]]
) -> str:
    kind = "labels" if isinstance(layer, Labels) else "image"
    is_only = sum(each == kind for _, _, each in layers) == 1
    return usual if is_only else str(layer.name).replace("/", "-")
