"""Layers for maps and instances: names, colours, places, where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from napari_volseg.widgets.layers import METADATA_KEY, Placement, plain

__all__ = ["MAPS", "add_instances", "add_map", "add_maps", "free_name", "role_of"]

MAPS: Mapping[str, dict[str, Any]] = {
    "mask": {"colormap": "gray", "blending": "additive", "visible": False},
    "boundary": {"colormap": "magenta", "blending": "additive", "visible": False},
    "distance": {"colormap": "viridis", "blending": "additive", "visible": False},
}
"""The three channels and how they look."""


def add_maps(
    viewer: Any,
    maps_CZYX: Any,
    place: Placement,
    prefix: str,
    origin: Mapping[str, Any],
    *,
    start: Sequence[int] = (0, 0, 0),
) -> list[Image]:
    """Add the three maps as image layers and return them.

    Parameters
    ----------
    maps_CZYX
        uint8, mask, boundary and distance × 255; may be lazy.
    place
        Where the predicted image lies.
    prefix
        Name of the image and a separator, as in ``em · ``.
    origin
        What the layers say of where they come from, under ``napari-volseg``.
    start
        First voxel of the maps in the image.
    """
    return [
        add_map(viewer, role, maps_CZYX[channel], place, prefix, origin, start=start)
        for channel, role in enumerate(MAPS)
    ]


def add_map(
    viewer: Any,
    role: str,
    map_ZYX: Any,
    place: Placement,
    prefix: str,
    origin: Mapping[str, Any],
    *,
    start: Sequence[int] = (0, 0, 0),
) -> Image:
    """Add one of the maps, as `add_maps` does."""
    layer = viewer.add_image(
        map_ZYX,
        name=free_name(viewer, f"{prefix}{role}"),
        contrast_limits=(0, 255),
        metadata={METADATA_KEY: {**origin, "role": role}},
        **MAPS[role],
        **place.layer_options(start),
    )
    return cast("Image", plain(layer))


def add_instances(
    viewer: Any,
    instances_ZYX: NDArray[np.integer[Any]] | Any,
    place: Placement,
    prefix: str,
    origin: Mapping[str, Any],
    *,
    role: str = "instances",
    start: Sequence[int] = (0, 0, 0),
) -> Labels:
    """Add instances as a labels layer and return it."""
    layer = viewer.add_labels(
        instances_ZYX,
        name=free_name(viewer, f"{prefix}{role}"),
        metadata={METADATA_KEY: {**origin, "role": role}},
        opacity=0.5,
        **place.layer_options(start),
    )
    labels = cast("Labels", plain(layer))
    labels.events.paint.connect(_mark_edited)
    return labels


def _mark_edited(event: Any) -> None:
    """Note that the user corrected a layer, so that it is never replaced."""
    event.source.metadata[METADATA_KEY]["edited"] = True


def free_name(viewer: Any, name: str) -> str:
    """Return the name, with a number when a layer has it already."""
    taken = {str(layer.name) for layer in viewer.layers}
    number, result = 1, name
    while result in taken:
        number += 1
        result = f"{name} [{number}]"
    return result


def role_of(layer: Layer) -> str | None:
    """Return mask, boundary, distance, instances or seeds for layers of ours."""
    origin = layer.metadata.get(METADATA_KEY)
    return None if not isinstance(origin, dict) else origin.get("role")
