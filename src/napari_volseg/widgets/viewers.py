"""Parts of the viewer model that napari 0.9 moved, and where it looks."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["camera_of", "grid_of", "look_at"]

_VIEW_VOXELS = 160
"""A voxel is looked at with about this many voxels from edge to edge."""
_VIEW_PIXELS = 600


def grid_of(viewer: Any) -> Any:
    """Return the grid model: of the canvas since napari 0.9, before of the viewer."""
    canvas = getattr(viewer, "canvas", None)
    return viewer.grid if canvas is None else canvas.grid


def camera_of(viewer: Any) -> Any:
    """Return the camera model: of the scene since napari 0.9, before of the viewer."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera


def look_at(viewer: Any, layer: Any, position: tuple[int, int, int]) -> None:
    """Show a voxel of a layer in the middle, near enough to see its surroundings."""
    world = np.asarray(layer.data_to_world(position), float)
    lead = viewer.dims.ndim - len(world)
    viewer.dims.set_point(range(lead, viewer.dims.ndim), world)
    point = np.concatenate([np.zeros(lead), world])
    camera = camera_of(viewer)
    centre = np.array(camera.center, float)
    displayed = list(viewer.dims.displayed)
    centre[-len(displayed) :] = point[displayed]
    camera.center = tuple(centre)
    span = _VIEW_VOXELS * float(np.max(np.abs(layer.scale[-2:])))
    camera.zoom = max(camera.zoom, _VIEW_PIXELS / span)
