"""Parts of the viewer model that napari 0.9 moved."""

from __future__ import annotations

from typing import Any

__all__ = ["camera_of", "grid_of"]


def grid_of(viewer: Any) -> Any:
    """Return the grid model: of the canvas since napari 0.9, before of the viewer."""
    canvas = getattr(viewer, "canvas", None)
    return viewer.grid if canvas is None else canvas.grid


def camera_of(viewer: Any) -> Any:
    """Return the camera model: of the scene since napari 0.9, before of the viewer."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera
