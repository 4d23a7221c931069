"""Ways to look at a prediction, and the way back."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from napari.layers import Image, Layer, Shapes

from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.outputs import MAPS, role_of
from napari_volseg.widgets.predictions import ShownPrediction
from napari_volseg.widgets.viewers import camera_of, grid_of

__all__ = ["PRESETS", "Arrangement", "Camera", "arrange", "image_of"]


@dataclass(frozen=True)
class Preset:
    """How a prediction is looked at."""

    help: str
    opacities: Mapping[str, float] = field(default_factory=dict)
    """The roles that are shown and how opaque they are; others are hidden."""
    has_image: bool = True
    is_grid: bool = False
    is_contoured: bool = False
    """Outlines instead of areas; the foreground and the seeds are added."""


PRESETS: Mapping[str, Preset] = {
    "as it was": Preset("Show the layers as they were before"),
    "composite": Preset(
        "Boundary and distance in colour over the image",
        {"boundary": 0.8, "distance": 0.5},
    ),
    "contours": Preset(
        "Outlines of the foreground, of the seeds and of the instances over the image",
        {"foreground": 1.0, "seeds": 1.0, "instances": 1.0, "instances in the box": 1},
        is_contoured=True,
    ),
    "side by side": Preset(
        "Image, maps and instances beside each other; they move and zoom together",
        {**dict.fromkeys(MAPS, 1.0), "instances": 1.0, "instances in the box": 1.0},
        is_grid=True,
    ),
    "instances": Preset(
        "The instances over the image", {"instances": 0.5, "instances in the box": 0.5}
    ),
    **{
        role: Preset(f"The {role} alone", {role: 1.0}, has_image=False) for role in MAPS
    },
}


@dataclass
class _Look:
    """How a layer looked before."""

    visible: bool
    opacity: float
    contour: int | None


class Arrangement:
    """What the layers of a viewer looked like, so that it can be brought back."""

    def __init__(self, viewer: Any) -> None:
        grid = grid_of(viewer)
        self._grid = bool(grid.enabled)
        self._looks = [
            (weakref.ref(layer), _look_of(layer)) for layer in map(plain, viewer.layers)
        ]

    def restore(self, viewer: Any) -> None:
        """Bring it back, for the layers that are still there."""
        here = {id(layer) for layer in map(plain, viewer.layers)}
        for reference, look in self._looks:
            layer = reference()
            if layer is None or id(layer) not in here:
                continue
            layer.visible = look.visible
            layer.opacity = look.opacity
            if look.contour is not None:
                layer.contour = look.contour
        grid_of(viewer).enabled = self._grid


class Camera:
    """Where a viewer looks, to come back to after the view from all sides."""

    def __init__(self, viewer: Any) -> None:
        camera = camera_of(viewer)
        self._point = tuple(viewer.dims.point)
        self._order = tuple(viewer.dims.order)
        self._camera = {
            name: getattr(camera, name) for name in ("center", "zoom", "angles")
        }

    def restore(self, viewer: Any) -> None:
        """Look there again, in two dimensions."""
        viewer.dims.ndisplay = 2
        if len(self._order) == viewer.dims.ndim:
            viewer.dims.order = self._order
            viewer.dims.set_point(range(len(self._point)), self._point)
        camera = camera_of(viewer)
        for name, value in self._camera.items():
            setattr(camera, name, value)


def image_of(viewer: Any, shown: ShownPrediction) -> Layer | None:
    """Return the image that was predicted: by its name, else the first image."""
    images = [
        layer
        for layer in map(plain, viewer.layers)
        if isinstance(layer, Image) and role_of(layer) is None
    ]
    named = [layer for layer in images if str(layer.name) == shown.image]
    return (named or images or [None])[0]


def arrange(viewer: Any, shown: ShownPrediction, name: str) -> None:
    """Show a prediction as a preset says, and hide all else except drawn lines."""
    preset = PRESETS[name]
    opacities = {
        id(shown.layers[role]): opacity
        for role, opacity in preset.opacities.items()
        if role in shown.layers
    }
    image = image_of(viewer, shown) if preset.has_image else None
    for layer in map(plain, viewer.layers):
        if isinstance(layer, Shapes) and not preset.is_grid:
            continue
        is_ours = id(layer) in opacities
        if is_ours:
            layer.opacity = opacities[id(layer)]
            if preset.is_contoured:
                layer.contour = 1
        layer.visible = is_ours or layer is image
    grid = grid_of(viewer)
    was_grid = bool(grid.enabled)
    grid.enabled = preset.is_grid
    if preset.is_grid or was_grid:
        viewer.reset_view()


def _look_of(layer: Layer) -> _Look:
    contour = getattr(layer, "contour", None)
    return _Look(bool(layer.visible), float(layer.opacity), contour)
