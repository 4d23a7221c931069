"""Layers for maps and instances: names, colours, places, where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from napari_volseg.widgets.layers import METADATA_KEY, Placement, plain

__all__ = [
    "MAPS",
    "add_beside",
    "add_instances",
    "add_layer",
    "add_map",
    "add_maps",
    "claim",
    "free_name",
    "is_helper",
    "is_ours",
    "make_instances",
    "make_map",
    "mark_edited",
    "move",
    "role_of",
]

MAPS: Mapping[str, dict[str, Any]] = {
    "mask": {"colormap": "gray", "blending": "additive", "visible": False},
    "boundary": {"colormap": "magenta", "blending": "additive", "visible": False},
    "distance": {"colormap": "viridis", "blending": "additive", "visible": False},
}
"""The three channels and how they look."""

_made: WeakSet[Layer] = WeakSet()


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
    layer = make_map(role, map_ZYX, place, prefix, origin, start=start)
    add_layer(viewer, layer)
    return layer


def make_map(
    role: str,
    map_ZYX: Any,
    place: Placement,
    prefix: str,
    origin: Mapping[str, Any],
    *,
    start: Sequence[int] = (0, 0, 0),
) -> Image:
    """Return one of the maps as a layer of no viewer yet; works in any thread."""
    return Image(
        map_ZYX,
        name=f"{prefix}{role}",
        contrast_limits=(0, 255),
        metadata={METADATA_KEY: {**origin, "role": role}},
        **MAPS[role],
        **place.layer_options(start),
    )


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
    layer = make_instances(instances_ZYX, place, prefix, origin, role=role, start=start)
    add_layer(viewer, layer)
    return layer


def make_instances(
    instances_ZYX: NDArray[np.integer[Any]] | Any,
    place: Placement,
    prefix: str,
    origin: Mapping[str, Any],
    *,
    role: str = "instances",
    start: Sequence[int] = (0, 0, 0),
    visible: bool = True,
) -> Labels:
    """Return instances as a layer of no viewer yet; works in any thread."""
    labels = Labels(
        instances_ZYX,
        name=f"{prefix}{role}",
        metadata={METADATA_KEY: {**origin, "role": role}},
        opacity=0.5,
        visible=visible,
        **place.layer_options(start),
    )
    labels.events.paint.connect(mark_edited)
    claim(labels)
    return labels


def add_layer(viewer: Any, layer: Layer) -> None:
    """Add a layer under a name that is free, selected as napari does."""
    layer.name = free_name(viewer, str(layer.name))
    viewer.add_layer(layer)


def add_beside(viewer: Any, layer: Layer) -> None:
    """Add a layer and leave the selection alone: the user may be painting.

    Nothing is told of a selection that changes and changes back, which also saves
    a good part of the time that adding a layer takes.
    """
    viewer = plain(viewer)
    selection = viewer.layers.selection
    selected = set(selection)
    with selection.events.blocker_all():
        add_layer(viewer, layer)
        selection.intersection_update(selected)
        selection.update(selected)


def claim(layer: Layer) -> None:
    """Note that we made a layer."""
    _made.add(layer)


def is_ours(layer: Layer) -> bool:
    """Whether a layer is the one that we made.

    A duplicate says the same of where it comes from, but is the user's own.
    """
    return plain(layer) in _made


def move(layer: Layer, options: Mapping[str, Any]) -> None:
    """Place a layer of ours anew; what is right already is not touched."""
    for name, value in options.items():
        if not _equal(getattr(layer, name), value):
            setattr(layer, name, value)


def _equal(old: Any, new: Any) -> bool:
    if isinstance(new, tuple):
        return tuple(str(value) for value in old) == new
    old = getattr(old, "affine_matrix", old)
    return np.shape(old) == np.shape(new) and bool(np.allclose(old, new))


def mark_edited(event: Any) -> None:
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


def is_helper(layer: Layer) -> bool:
    """Whether a layer of ours only shows something and is no data to choose."""
    origin = layer.metadata.get(METADATA_KEY)
    return isinstance(origin, dict) and bool(origin.get("helper"))


def role_of(layer: Layer) -> str | None:
    """Return mask, boundary, distance, instances or seeds for layers of ours."""
    origin = layer.metadata.get(METADATA_KEY)
    return None if not isinstance(origin, dict) else origin.get("role")
