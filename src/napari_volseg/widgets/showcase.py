"""Show a prediction beside its image and ground truth, or take a picture of it.

Usage: python -m napari_volseg.widgets.showcase VOLUME.h5 PREDICTION.h5 [--screenshot P]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QApplication

from napari_volseg.io import open_volume, read_labels
from napari_volseg.widgets.layers import placement
from napari_volseg.widgets.outputs import add_instances, add_maps

__all__ = ["main", "show_prediction"]


def show_prediction(viewer: Any, volume: Path, prediction: Path) -> None:
    """Add image, ground truth, maps and instances to a viewer.

    Parameters
    ----------
    volume
        HDF5 file with ``raw`` and ``labels``.
    prediction
        HDF5 file with ``maps`` and ``instances``.
    """
    raw = open_volume(f"{volume}:raw")
    image = viewer.add_image(
        raw.read()[0], name="raw", scale=raw.voxel_size, units=("nm",) * 3
    )
    place, origin = placement(image), {"source": str(prediction)}
    maps_CZYX = open_volume(f"{prediction}:maps").read()
    add_maps(viewer, maps_CZYX, place, "", origin)
    add_instances(viewer, read_labels(f"{prediction}:instances"), place, "", origin)
    truth = add_instances(
        viewer, read_labels(f"{volume}:labels"), place, "", {}, role="ground truth"
    )
    truth.visible = False
    viewer.dims.set_point(0, raw.shape_ZYX[0] // 2 * raw.voxel_size[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Open the window, or write a picture of it and close it again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volume", type=Path)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("--screenshot", type=Path)
    args = parser.parse_args(argv)
    viewer = napari.Viewer(title="napari-volseg demo", show=True)
    show_prediction(viewer, args.volume, args.prediction)
    if args.screenshot is None:
        napari.run()
        return 0
    _tile(viewer)
    QApplication.processEvents()
    viewer.screenshot(str(args.screenshot), canvas_only=False, flash=False)
    viewer.close()
    return 0


def _tile(viewer: Any) -> None:
    """Show every layer beside the others."""
    viewer.window.resize(1500, 940)
    for layer in viewer.layers:
        layer.visible = True
        layer.blending = "translucent_no_depth"
        layer.opacity = 1.0
    # napari 0.9 moved the grid to the canvas.
    grid = getattr(viewer, "canvas", viewer).grid
    grid.enabled = True
    grid.stride = 1
    viewer.reset_view(margin=0.02)


if __name__ == "__main__":
    raise SystemExit(main())
