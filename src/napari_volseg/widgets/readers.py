"""Open HDF5 volumes in napari: lazily, with voxel size, labels as labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.io import list_datasets, open_volume, read_labels
from napari_volseg.volume import UNKNOWN_VOXEL_SIZE, ArrayLike, Volume
from napari_volseg.widgets.actions import register_context_menu
from napari_volseg.widgets.layers import METADATA_KEY
from napari_volseg.widgets.outputs import MAPS

__all__ = [
    "LayerData",
    "get_reader",
    "image_layer",
    "labels_layer",
    "lazy",
    "maps_layers",
    "read_volumes",
]

LayerData = tuple[Any, dict[str, Any], str]

_CHUNK = (16, 256, 256)
_MAX_DATASETS = 8
_IN_MEMORY = 512 * 2**20
_LABEL_WORDS = ("label", "instance", "segment", "seg", "neuron_ids", "annotat")


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the reader when all paths are HDF5 files by name."""
    paths = [path] if isinstance(path, str) else list(path)
    if all(Path(each).suffix.lower() in (".h5", ".hdf5") for each in paths):
        register_context_menu()
        return read_volumes
    return None


def read_volumes(path: str | Sequence[str]) -> list[LayerData]:
    """Return a layer for each volume of the files.

    Images stay in the file and are read slice by slice. Labels are loaded when
    they are small enough, so that they can be painted on; they come last, to lie
    over their image.

    Raises
    ------
    DataError
        If a file cannot be read or holds no volume.
    """
    paths = [path] if isinstance(path, str) else list(path)
    layers: list[LayerData] = []
    for each in paths:
        names = list_datasets(each)
        if not names:
            raise DataError(f"{each} holds no volume: no array with three or four axes")
        for name in names[:_MAX_DATASETS]:
            layers += _read_dataset(each, name, is_only=len(names) == 1)
    return sorted(layers, key=lambda layer: layer[2] == "labels")


def _read_dataset(path: str, dataset: str, *, is_only: bool) -> list[LayerData]:
    source = f"{path}:{dataset}"
    volume = open_volume(source)
    stem = Path(path).stem
    name = stem if is_only else f"{stem} {dataset.strip('/')}"
    # Results of a test name their only dataset as PyTorch Connectomics does.
    word = stem if dataset.strip("/") == "main" else dataset
    if _is_maps(word, volume):
        return maps_layers(source, volume, stem)
    if _is_labels(word, volume):
        return [labels_layer(source, volume, name)]
    return [image_layer(source, volume, name)]


def labels_layer(source: str, volume: Volume, name: str) -> LayerData:
    """Return a labels layer, in memory when it is small enough to paint on."""
    small = volume.data.nbytes <= _IN_MEMORY  # type: ignore[attr-defined]
    data: Any = read_labels(source) if small else lazy(volume.data)
    return data, {"name": name, **_place(volume)}, "labels"


def image_layer(source: str, volume: Volume, name: str) -> LayerData:
    """Return an image layer that knows its source."""
    data = lazy(volume.data)
    options = {
        "name": name,
        "metadata": {METADATA_KEY: {"source": source, "token": data.name}},
        "contrast_limits": _contrast(volume),
        **_place(volume),
    }
    return data, options, "image"


def _contrast(volume: Volume) -> tuple[float, float]:
    """Return limits that nearly all values of the middle slice lie between."""
    z = volume.shape_ZYX[0] // 2
    plane = volume.read((slice(z, z + 1), slice(None), slice(None)))
    low, high = np.nanquantile(plane.astype(np.float32), (0.001, 0.999))
    return (float(low), float(high)) if low < high else (0.0, 1.0)


def maps_layers(source: str, volume: Volume, name: str) -> list[LayerData]:
    """Return a layer for each map of a prediction."""
    maps_CZYX = lazy(volume.data)
    layers: list[LayerData] = []
    for channel, (role, look) in enumerate(MAPS.items()):
        origin = {"prediction": source, "image": name, "role": role}
        options = {
            "name": f"{name} · {role}",
            "metadata": {METADATA_KEY: origin},
            "contrast_limits": (0, 255),
            **look,
            **_place(volume, ndim=3),
        }
        layers.append((maps_CZYX[channel], options, "image"))
    return layers


def lazy(data: ArrayLike) -> Any:
    """Return a dask array that reads stored data as they are looked at."""
    n_channels = len(data.shape) - 3
    chunks = (1,) * n_channels + _CHUNK
    import dask.array  # costs half a second, which a dock has not

    return dask.array.from_array(  # type: ignore[no-untyped-call]
        data, chunks=chunks, name=f"volseg-{uuid4().hex}"
    )


def _is_labels(dataset: str, volume: Volume) -> bool:
    name = dataset.rsplit("/", 1)[-1].lower()
    is_integer = np.dtype(volume.data.dtype).kind in "bui"
    is_single = len(volume.data.shape) == 3
    return is_integer and is_single and any(word in name for word in _LABEL_WORDS)


def _is_maps(dataset: str, volume: Volume) -> bool:
    name = dataset.rsplit("/", 1)[-1].lower()
    return name in ("maps", "predictions") and volume.n_channels == len(MAPS)


def _place(volume: Volume, ndim: int | None = None) -> dict[str, Any]:
    ndim = ndim or len(volume.data.shape)
    is_known = volume.voxel_size != UNKNOWN_VOXEL_SIZE
    unit = "nm" if is_known else "pixel"
    lead = ndim - 3
    return {
        "scale": (1.0,) * lead + volume.voxel_size,
        "units": ("pixel",) * lead + (unit,) * 3,
        "axis_labels": ("c", "z", "y", "x")[-ndim:],
    }
