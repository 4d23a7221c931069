"""Make the screenshots of the documentation from real windows.

Usage: python docs/screenshots.py [--out docs/images] [--minutes 5] [--runs DIR]
       [--scenes vesicles,nuclei,cells,sparse] [--untrained]
       [--train em.h5] [--predict other.h5]

Opens napari, trains, predicts, inspects and reviews generated volumes as a user does,
and takes a picture at each step. Without --runs each scene trains for some minutes;
with --runs, a folder in which scenes were trained before, training is left out; with
--untrained, every picture that needs a model is.
--train and --predict give the vesicles scene other volumes. Without a screen, run it
under ``xvfb-run -s "-screen 0 1600x1000x24"``.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QMainWindow

from napari_volseg.sample_data import Kind, make_sample
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.viewers import grid_of

SIZE = (1360, 860)
MOST_BYTES = 150_000
VOXEL_SIZE: dict[str, tuple[float, float, float]] = {"nuclei": (1000.0, 406.0, 406.0)}


def main() -> None:
    """Take the pictures of all scenes, or of those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--predict", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = options.runs or Path(tempfile.mkdtemp(prefix="volseg-screenshots-"))
    for name in options.scenes.split(","):
        os.environ["VOLSEG_RUNS"] = str(runs / name)
        viewer = napari.Viewer(show=True, show_welcome_screen=False)
        viewer.theme = "dark"
        viewer.window.resize(*SIZE)
        SCENES[name](viewer, options, _camera(viewer, options.out))
        viewer.close()


def vesicles(viewer: Any, options: argparse.Namespace, picture: Any) -> None:
    """All docks, on vesicles."""
    _open(viewer, "vesicles", options.train, seed=0)
    _train(viewer, options, picture, "train")
    if options.untrained:
        return
    viewer.layers.clear()
    _open(viewer, "vesicles", options.predict, seed=1)
    _predict(viewer, picture, "predict")
    _inspect(viewer, picture)
    viewer.theme = "dark"
    _review(viewer, picture)
    _evaluate(viewer, picture)


def nuclei(viewer: Any, options: argparse.Namespace, picture: Any) -> None:
    """Nuclei in a light-sheet volume."""
    _open(viewer, "nuclei", None, seed=0)
    _train(viewer, options, picture, "nuclei")
    if options.untrained:
        return
    viewer.layers.clear()
    _open(viewer, "nuclei", None, seed=1)
    _predict(viewer, None, "nuclei")
    _side_by_side(viewer, picture, "nuclei-maps")


def cells(viewer: Any, options: argparse.Namespace, picture: Any) -> None:
    """Dense cells, predicted and reviewed."""
    _open(viewer, "cells", None, seed=0)
    _train(viewer, options, picture, "cells")
    if options.untrained:
        return
    viewer.layers.clear()
    _open(viewer, "cells", None, seed=1)
    _predict(viewer, None, "cells")
    _review(viewer, picture, "cells-review")


def sparse(viewer: Any, options: argparse.Namespace, picture: Any) -> None:
    """Slices that are painted: what counts, and where to go on."""
    _open(viewer, "vesicles", None, seed=0)
    labels = viewer.layers["vesicles labels"]
    depth = labels.data.shape[0]
    labels.data = labels.data * (np.arange(depth) % 16 == 8)[:, None, None]
    viewer.dims.set_point(0, 24 * float(labels.scale[0]))
    panel = open_dock(viewer, "Train").annotation
    panel.chooser.rule.setCurrentIndex(panel.chooser.rule.findData("painted_slices"))
    wait(lambda: "6.2 %" in panel.meter.text(), 30)
    panel.shown.click()
    wait(lambda: panel.legend.isVisible() and panel._plan is not None, 300)
    picture("sparse-what-counts", open_dock(viewer, "Train"))
    panel.shown.click()
    panel.suggestions.suggest.click()
    wait(lambda: "1 of" in panel.suggestions.reason.text(), 60)
    picture("sparse-suggestions", open_dock(viewer, "Train"))


def _train(viewer: Any, options: Any, picture: Any, name: str) -> None:
    dock = open_dock(viewer, "Train")
    dock.form.field("optimization.max_minutes").set_value(options.minutes)
    wait(lambda: "instances" in dock.annotation.meter.text(), 30)
    if picture is not None:
        wait(lambda: dock.plan.fold.isVisible(), 300)
        picture(f"{name}-ready", dock)
    if options.untrained:
        return
    runs = Path(os.environ["VOLSEG_RUNS"])
    if options.runs is not None and list(runs.glob("*/model.safetensors")):
        return
    dock.start()
    n_previews: list[object] = []
    dock._job.preview.connect(n_previews.append)
    wait(lambda: dock._job is None or len(n_previews) > 5, 60 * options.minutes)
    for layer in viewer.layers:
        if layer.name.endswith("labels"):
            layer.visible = False
    if picture is not None:
        picture(f"{name}-running", dock)
    wait(lambda: dock._job is None, 60 * options.minutes + 300)
    if picture is not None:
        picture(f"{name}-done", dock)


def _predict(viewer: Any, picture: Any, name: str) -> None:
    dock = open_dock(viewer, "Predict")
    wait(dock.predict.isEnabled, 60)
    if picture is not None:
        picture(f"{name}-ready", dock)
    for layer in viewer.layers:
        layer.visible = "labels" not in layer.name
    dock.start()
    wait(lambda: any("· instances" in layer.name for layer in viewer.layers), 600)
    wait(lambda: dock._job is None, 60)
    if picture is not None:
        picture(f"{name}-done", dock)


def _inspect(viewer: Any, picture: Any) -> None:
    dock = open_dock(viewer, "Inspect")
    wait(lambda: "instances" in dock.count.text(), 60)
    control = dock.thresholds.controls["seed_distance"]
    control.setValue(control.value() + 0.05)
    dock.seeds.click()
    dock.profile.choice.setCurrentText("along a line")
    shown = dock.prediction.prediction()
    _, height, width = shown.shape_ZYX
    z = int(viewer.dims.current_step[0])
    line = viewer.layers["volseg: profile line"]
    ends = [[z, height // 2, width // 8], [z, height // 2, 7 * width // 8]]
    line.add(np.array(ends, float), shape_type="line")
    line.mode = "pan_zoom"
    wait(lambda: any("seeds" in layer.name for layer in viewer.layers), 60)
    wait(lambda: dock.profile.plot.profile is not None, 30)
    picture("inspect", dock)
    dock.profile.choice.setCurrentText("off")
    dock.view.preset.setCurrentText("contours")
    dock.histograms.choice.setCurrentText("all maps")
    wait(lambda: any("foreground" in layer.name for layer in viewer.layers), 30)
    picture("inspect-histograms", dock)
    dock.view.preset.setCurrentText("as it was")
    _side_by_side(viewer, picture, "inspect-side-by-side", width=300, theme="light")


def _side_by_side(
    viewer: Any, picture: Any, name: str, *, width: int = 330, theme: str = "dark"
) -> None:
    dock = open_dock(viewer, "Inspect")
    wait(lambda: "instances" in dock.count.text(), 60)
    viewer.theme = theme
    dock.view.preset.setCurrentText("side by side")
    picture(name, dock, width=width)


def _review(viewer: Any, picture: Any, name: str = "review") -> None:
    grid_of(viewer).enabled = False
    for layer in viewer.layers:
        layer.visible = layer is viewer.layers[0] or layer.name.endswith("· instances")
    viewer.reset_view()
    dock = open_dock(viewer, "Review")
    dock.labels.set_layer(_layer(viewer, "· instances"))
    dock.start()
    wait(lambda: dock._reviewing is not None, 120)
    for status in ("accepted", "rejected", "accepted"):
        dock._step(1)
        dock._say(status)
    _until_inside(viewer, lambda: dock._step(1))
    _layer(viewer, "· instances").opacity = 0.6
    picture(name, dock)


def _evaluate(viewer: Any, picture: Any) -> None:
    dock = open_dock(viewer, "Evaluate")
    instances = _layer(viewer, "· instances")
    dock.set_pair(instances, _layer(viewer, "labels"))
    instances.visible = False
    dock.start()
    wait(lambda: bool(dock.scores.text()), 120)
    rows = iter(range(dock.table.model().rowCount()))
    _until_inside(viewer, lambda: dock.table.selectRow(next(rows, 0)))
    picture("evaluate", dock, width=360)


def _until_inside(viewer: Any, step: Callable[[], object]) -> None:
    """Go on from object to object until one lies well inside the volume."""
    low, high = viewer.layers[0].extent.world
    margin = (high - low)[1:] / 4
    for _ in range(30):
        step()
        wait(lambda: False, 0.2)
        centre = np.asarray(viewer.camera.center[1:])
        if (centre > low[1:] + margin).all() and (centre < high[1:] - margin).all():
            break


def _layer(viewer: Any, end: str) -> Any:
    return next(layer for layer in viewer.layers if layer.name.endswith(end))


def _open(viewer: Any, kind: Kind, file: Path | None, seed: int) -> None:
    if file is not None:
        viewer.open(file, plugin="napari-volseg")
        return
    size = VOXEL_SIZE.get(kind, (30.0, 8.0, 8.0))
    sample = make_sample(kind, seed=seed, voxel_size=size)
    place: dict[str, Any] = {
        "scale": sample.image.voxel_size,
        "units": ("nm",) * 3,
        "axis_labels": ("z", "y", "x"),
    }
    viewer.add_image(sample.image.data, name=kind, **place)
    viewer.add_labels(sample.labels_ZYX, name=f"{kind} labels", **place)


def _camera(viewer: Any, folder: Path) -> Callable[..., None]:
    def picture(name: str, dock: Any, width: int = 330) -> None:
        """Save the whole window, with the dock in front and of a given width."""
        parent = dock.parentWidget()
        while not isinstance(parent, QDockWidget):
            parent = parent.parentWidget()
        window = parent.parentWidget()
        if isinstance(window, QMainWindow):
            window.resizeDocks([parent], [width], Qt.Orientation.Horizontal)
        parent.raise_()
        wait(lambda: False, 1.0)
        pixels = viewer.window.screenshot(canvas_only=False)
        _save(Image.fromarray(pixels[..., :3]), folder / f"{name}.png")
        print(f"{folder / name}.png, dock {dock.width()} pixels wide")

    return picture


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG with as many colours as its size in bytes allows."""
    for colors in (256, 128, 64, 32):
        packed = io.BytesIO()
        # Maximum coverage keeps the few pixels of a legend in their colours.
        image.quantize(colors, Image.Quantize.MAXCOVERAGE).save(
            packed, "PNG", optimize=True
        )
        if packed.tell() <= MOST_BYTES:
            break
    path.write_bytes(packed.getvalue())


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Let napari work until a condition holds, or for some seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        QApplication.processEvents()
        time.sleep(0.005)


SCENES: dict[str, Callable[..., None]] = {
    "vesicles": vesicles,
    "nuclei": nuclei,
    "cells": cells,
    "sparse": sparse,
}

if __name__ == "__main__":
    main()
