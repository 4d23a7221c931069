"""Generated volumes with labels for *File › Open Sample*."""

from __future__ import annotations

from typing import Any

from napari_volseg.sample_data import Kind, make_sample
from napari_volseg.volume import VoxelSize
from napari_volseg.widgets.actions import register_context_menu

__all__ = ["cells", "nuclei", "vesicles"]

LayerData = tuple[Any, dict[str, Any], str]


def vesicles() -> list[LayerData]:
    """Return an image of vesicles and their labels."""
    return _sample("vesicles")


def cells() -> list[LayerData]:
    """Return an image of touching cells and their labels."""
    return _sample("cells")


def nuclei() -> list[LayerData]:
    """Return an image of nuclei in a light-sheet microscope and their labels."""
    return _sample("nuclei", voxel_size=(1000.0, 406.0, 406.0))


def _sample(kind: Kind, voxel_size: VoxelSize = (30.0, 8.0, 8.0)) -> list[LayerData]:
    register_context_menu()
    sample = make_sample(kind, voxel_size=voxel_size)
    place: dict[str, Any] = {
        "scale": sample.image.voxel_size,
        "units": ("nm",) * 3,
        "axis_labels": ("z", "y", "x"),
    }
    return [
        (sample.image.data, {"name": kind, **place}, "image"),
        (sample.labels_ZYX, {"name": f"{kind} labels", **place}, "labels"),
    ]
