"""Generated volumes with labels for *File › Open Sample*."""

from __future__ import annotations

from typing import Any, Literal

from napari_volseg.sample_data import make_sample
from napari_volseg.widgets.actions import register_context_menu

__all__ = ["cells", "vesicles"]

LayerData = tuple[Any, dict[str, Any], str]


def vesicles() -> list[LayerData]:
    """Return an image of vesicles and their labels."""
    return _sample("vesicles")


def cells() -> list[LayerData]:
    """Return an image of touching cells and their labels."""
    return _sample("cells")


def _sample(kind: Literal["vesicles", "cells"]) -> list[LayerData]:
    register_context_menu()
    sample = make_sample(kind)
    place: dict[str, Any] = {
        "scale": sample.image.voxel_size,
        "units": ("nm",) * 3,
        "axis_labels": ("z", "y", "x"),
    }
    return [
        (sample.image.data, {"name": kind, **place}, "image"),
        (sample.labels_ZYX, {"name": f"{kind} labels", **place}, "labels"),
    ]
