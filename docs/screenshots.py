"""Make the screenshots of the documentation from real windows.

Usage: python docs/screenshots.py [--out docs/images] [--minutes 5] [--runs DIR]
       [--train em.h5] [--predict other.h5]

Opens napari, trains, predicts and inspects as a user does, and takes a picture at
each step, in both themes and in a dock 300 pixels wide. Without files it uses
generated volumes. With --runs, a folder that has a model, training is left out.
Without a screen, run it under ``xvfb-run -s "-screen 0 1600x1000x24"``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QMainWindow

from napari_volseg.sample_data import make_sample
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.viewers import grid_of

SIZE = (1500, 950)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--predict", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = options.runs or Path(tempfile.mkdtemp(prefix="volseg-screenshots-"))
    os.environ["VOLSEG_RUNS"] = str(runs)
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.theme = "dark"
    viewer.window.resize(*SIZE)
    picture = _camera(viewer, options.out)
    _open(viewer, options.train, seed=0)
    if options.runs is None:
        _train(viewer, options.minutes, picture)
    else:
        dock = open_dock(viewer, "Train")
        wait(lambda: "instances" in dock.annotation.meter.text(), 20)
        picture("train-ready", dock)
    viewer.layers.clear()
    _open(viewer, options.predict, seed=1)
    _predict(viewer, picture)
    _inspect(viewer, picture)
    viewer.theme = "dark"
    _review(viewer, picture)
    _evaluate(viewer, picture)
    viewer.close()


def _train(viewer: Any, minutes: float, picture: Callable[..., None]) -> None:
    dock = open_dock(viewer, "Train")
    dock.form.field("optimization.max_minutes").set_value(minutes)
    wait(lambda: "instances" in dock.annotation.meter.text(), 20)
    picture("train-ready", dock)
    dock.start()
    n_previews = []
    dock._job.preview.connect(n_previews.append)
    wait(lambda: dock._job is None or len(n_previews) > 5, 60 * minutes)
    labels = [layer for layer in viewer.layers if layer.name.endswith("labels")]
    for layer in labels:
        layer.visible = False
    picture("train-running", dock)
    wait(lambda: dock._job is None, 60 * minutes + 300)
    picture("train-done", dock)


def _predict(viewer: Any, picture: Callable[..., None]) -> None:
    dock = open_dock(viewer, "Predict")
    wait(dock.predict.isEnabled, 30)
    picture("predict-ready", dock)
    for layer in viewer.layers:
        layer.visible = "labels" not in layer.name
    dock.start()
    wait(lambda: any("· instances" in layer.name for layer in viewer.layers), 600)
    picture("predict-done", dock)


def _inspect(viewer: Any, picture: Callable[..., None]) -> None:
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
    viewer.theme = "light"
    dock.view.preset.setCurrentText("side by side")
    picture("inspect-side-by-side", dock, width=300)


def _review(viewer: Any, picture: Callable[..., None]) -> None:
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
    dock._step(1)
    picture("review", dock)


def _evaluate(viewer: Any, picture: Callable[..., None]) -> None:
    dock = open_dock(viewer, "Evaluate")
    instances = _layer(viewer, "· instances")
    dock.set_pair(instances, _layer(viewer, "labels"))
    instances.visible = False
    dock.start()
    wait(lambda: bool(dock.scores.text()), 120)
    dock.table.selectRow(0)
    picture("evaluate", dock, width=360)


def _layer(viewer: Any, end: str) -> Any:
    return next(layer for layer in viewer.layers if layer.name.endswith(end))


def _open(viewer: Any, file: Path | None, seed: int) -> None:
    if file is not None:
        viewer.open(file, plugin="napari-volseg")
        return
    sample = make_sample("vesicles", seed=seed)
    place: dict[str, Any] = {
        "scale": sample.image.voxel_size,
        "units": ("nm",) * 3,
        "axis_labels": ("z", "y", "x"),
    }
    viewer.add_image(sample.image.data, name="vesicles", **place)
    viewer.add_labels(sample.labels_ZYX, name="vesicles labels", **place)


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
        viewer.window.screenshot(str(folder / f"{name}.png"), canvas_only=False)
        print(f"{folder / name}.png, dock {dock.width()} pixels wide")

    return picture


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Let napari work until a condition holds, or for some seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        QApplication.processEvents()
        time.sleep(0.005)


if __name__ == "__main__":
    main()
