"""What an annotator does in an hour, by mouse and keys, and that it was worth it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from review_steps import settle, type_key

from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.layers import plain

DATA = Path(__file__).parents[3] / "shared" / "data"
FIRST, SECOND = "bbbc050_emb01_t501.h5", "bbbc050_emb05_t501.h5"
LONG = 240_000
SMALLEST = 60
"""Smaller instances are not corrected and do not count, in voxels."""

GOOD = 0.75
"""An outline is left as it is from this share of overlap on."""

QUICK = {
    "data": {"patch_size": [16, 96, 96], "iter_num_per_epoch": 50},
    "model": {"filters": [8, 16, 32], "binning": [1, 2, 2]},
    "optimization": {"max_epochs": 5000, "optimizer": {"lr": 0.006}},
    "system": {"training": {"batch_size": 2, "num_workers": 0}, "device": "cpu"},
    "monitor": {"tensorboard": False, "early_stopping": {"enabled": False}},
}

Volume = tuple[NDArray[Any], NDArray[np.int32], tuple[float, float, float]]


def read(name: str) -> Volume:
    with h5py.File(DATA / name) as file:
        size = tuple(float(n) for n in file.attrs["voxel_size_zyx_nm"])
        return file["raw"][...], file["labels"][...].astype(np.int32), size


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / FIRST).exists(), reason=f"{DATA / FIRST} is not there")
def test_an_hour_of_work_makes_the_next_volume_better(viewer: Any, qtbot: Any) -> None:
    """Work on the nuclei of one embryo, and judge by those of another."""
    volumes = read(FIRST), read(SECOND)
    hand = Hand(viewer, qtbot)
    for name, (raw, _, size) in zip(("first", "second"), volumes, strict=True):
        viewer.add_image(raw, name=name, scale=size, units=("nm",) * 3)
    truth = volumes[0][1]
    slices = np.flatnonzero(truth.any((1, 2)))[2::6]
    half = len(slices) // 2
    hand.paint(truth, slices[:half])
    hand.train_and_paint_on(truth, slices[half:], n_steps=60)
    before = hand.score("second", volumes[1])
    hand.predict("first")
    hand.retune()
    corrected = hand.correct(truth)
    assert len(corrected) >= 20
    hand.train_on(n_epochs=12)
    after = hand.score("second", volumes[1])
    assert after > before
    assert (viewer.layers["first"].data == volumes[0][0]).all()


class Hand:
    """The hand of someone who knows what is right."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot

    def until(self, happens: Any) -> None:
        self.qtbot.waitUntil(happens, timeout=LONG)

    def press(self, button: Any) -> None:
        self.until(button.isEnabled)
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def paint(self, truth: NDArray[np.int32], slices: Any) -> None:
        """Paint the objects of some slices: one stroke by mouse, then in bulk."""
        image = self.viewer.layers["first"]
        if "painted" not in self.viewer.layers:
            labels = self.viewer.add_labels(
                np.zeros_like(truth),
                name="painted",
                scale=image.scale,
                units=("nm",) * 3,
            )
            self.stroke(labels, truth, slices[0])
        labels = self.viewer.layers["painted"]
        for z in slices:
            y, x = np.nonzero(truth[z])
            labels.data_setitem((np.full_like(y, z), y, x), truth[z, y, x])

    def stroke(self, labels: Any, truth: NDArray[np.int32], z: int) -> None:
        layer = plain(labels)
        y, x = np.argwhere(truth[z]).mean(0).round()
        self.viewer.dims.set_point(0, z * layer.scale[0])
        layer.mode, layer.brush_size, layer.selected_label = "paint", 2, 1
        event = SimpleNamespace(
            type="mouse_press",
            button=1,
            modifiers=(),
            view_direction=None,
            up_direction=None,
            dims_displayed=[1, 2],
            position=layer.data_to_world((z, y, x)),
            is_dragging=False,
            handled=False,
        )
        mouse_press_callbacks(layer, event)
        event.type, event.is_dragging = "mouse_move", True
        event.position = layer.data_to_world((z, y, x + 2))
        mouse_move_callbacks(layer, event)
        event.type = "mouse_release"
        mouse_release_callbacks(layer, event)
        assert np.count_nonzero(layer.data[z] == 1) > 4
        type_key(self.viewer, "Control-Z")
        assert not layer.data.any()
        layer.mode = "pan_zoom"

    def train_and_paint_on(
        self, truth: NDArray[np.int32], slices: Any, n_steps: int
    ) -> None:
        dock = plain(open_dock(self.viewer, "Train"))
        ((image, labels, _),) = dock.pairs.layers()
        assert (image.name, labels.name) == ("first", "painted")
        rule = dock.annotation.chooser.rule
        rule.setCurrentIndex(rule.findData("painted_slices"))
        dock.form.set_value(QUICK)
        self.press(dock.train)
        self.until(lambda: "preview: instances" in self.viewer.layers)
        self.paint(truth, slices)
        self.press(dock.new_labels.use)
        self.until(lambda: "new labels" in dock.view.notice.text())
        job = dock._job
        self.until(lambda: job.progress.step >= n_steps)
        self.press(dock.view.stop)
        self.until(lambda: dock._job is None)
        assert "Stopped" in dock.message.text()

    def predict(self, name: str) -> Any:
        """Predict with the model just trained; return the layer of instances."""
        n = len(self.viewer.layers)
        dock = plain(open_dock(self.viewer, "Predict"))
        dock.image.set_layer(plain(self.viewer.layers[name]))
        self.press(plain(open_dock(self.viewer, "Train")).predict)
        self.press(dock.predict)
        self.until(lambda: dock._job is None and len(self.viewer.layers) >= n + 4)
        return next(
            layer
            for layer in reversed(self.viewer.layers)
            if layer.name.startswith(f"{name} · instances")
        )

    def score(self, name: str, volume: Volume) -> float:
        """Return the mean accuracy of the newest model on a volume."""
        found = self.predict(name)
        if "truth" not in self.viewer.layers:
            self.viewer.add_labels(
                volume[1], name="truth", scale=volume[2], units=("nm",) * 3
            )
        dock = plain(open_dock(self.viewer, "Evaluate"))
        dock.set_pair(plain(found), plain(self.viewer.layers["truth"]))
        dock.smallest.setValue(SMALLEST)
        self.press(dock.evaluate)
        self.until(lambda: not dock._is_running)
        assert not dock.message.text()
        (said,) = re.findall(r"mean accuracy ([\d.]+)", dock.scores.text())
        return float(said)

    def retune(self) -> None:
        """Move a threshold, look, and go back to those of the model."""
        dock = plain(open_dock(self.viewer, "Inspect"))
        instances = self.viewer.layers["first · instances"]
        before = np.array(instances.data)
        mask = dock.thresholds.controls["mask"]
        kept = mask.value()
        mask.setValue(0.95)
        self.until(lambda: np.count_nonzero(instances.data) < np.count_nonzero(before))
        mask.setValue(kept)
        self.until(lambda: np.array_equal(np.asarray(instances.data) > 0, before > 0))

    def correct(self, truth: NDArray[np.int32]) -> set[int]:
        """Set every instance right; return the ids that have a status then."""
        layer = self.viewer.layers["first · instances"]
        dock = plain(open_dock(self.viewer, "Review"))
        dock.labels.set_layer(plain(layer))
        self.press(dock.begin)
        self.until(lambda: dock._reviewing is not None)
        for ids, todo in judge(np.asarray(layer.data), truth):
            dock.table.choose(ids)
            dock._tidy()
            if todo == "split":
                self.split(dock, ids[0], layer, truth)
            elif todo == "accept":
                type_key(self.viewer, "A")
            else:
                self.press(dock.buttons.buttons[todo])
            settle(dock, self.qtbot)
        self.repaint(layer, truth)
        settle(dock, self.qtbot)
        status = dict(
            zip(layer.features["index"], layer.features["status"], strict=True)
        )
        return {label for label, said in status.items() if said != "todo"}

    def split(
        self, dock: Any, label: int, layer: Any, truth: NDArray[np.int32]
    ) -> None:
        """Click into each of the objects that an instance holds."""
        type_key(self.viewer, "S")
        points = self.viewer.layers["volseg: split"]
        inside = np.asarray(layer.data) == label
        for true in held_by(inside, truth):
            places = np.argwhere(inside & (truth == true))
            points.add(places[len(places) // 2])
        type_key(self.viewer, "S")

    def repaint(self, layer: Any, truth: NDArray[np.int32]) -> None:
        """Paint objects that are missed, and those whose outline is bad."""
        free = int(layer.data.max()) + 1
        for true in np.unique(truth[truth > 0]):
            is_true = truth == true
            if np.count_nonzero(is_true) < SMALLEST:
                continue
            found = np.asarray(layer.data)
            ids, counts = np.unique(found[is_true], return_counts=True)
            best = int(ids[counts.argmax()])
            is_best = found == best
            if best and iou(is_best, is_true) > GOOD:
                continue
            if best and np.count_nonzero(is_best & is_true) * 2 > is_best.sum():
                where = is_best | is_true
                values = np.where(is_true, best, 0)[where]
            else:
                where, values = is_true & (found == 0), free
                free += 1
            if where.any():
                layer.data_setitem(np.nonzero(where), values)

    def train_on(self, n_epochs: int) -> None:
        """Train on the corrections; both scores are shown at the end."""
        review = plain(open_dock(self.viewer, "Review"))
        self.press(review.train)
        self.until(lambda: "Train dock has" in review.message.text())
        dock = plain(open_dock(self.viewer, "Train"))
        dock.form.field("optimization.max_epochs").set_value(n_epochs)
        self.press(dock.train)
        self.until(lambda: dock._job is not None)
        self.until(lambda: dock._job is None)
        assert "Trained" in dock.message.text()
        assert dock.scores.isVisibleTo(dock)


def judge(found: NDArray[Any], truth: NDArray[np.int32]) -> list[tuple[list[int], str]]:
    """Say what is to be done with which instances, each of them once."""
    owners: dict[int, list[int]] = {}
    todo: list[tuple[list[int], str]] = []
    for label in map(int, np.unique(found[found > 0])):
        inside = found == label
        held = held_by(inside, truth)
        if len(held) > 1:
            todo.append(([label], "split"))
            continue
        ids, counts = np.unique(truth[inside], return_counts=True)
        owners.setdefault(int(ids[counts.argmax()]), []).append(label)
    for true, labels in owners.items():
        if true == 0:
            todo.append((labels, "delete"))
        elif len(labels) > 1:
            todo.append((labels, "merge"))
        elif iou(found == labels[0], truth == true) > GOOD:
            todo.append((labels, "accept"))
    return todo


def held_by(inside: NDArray[np.bool_], truth: NDArray[np.int32]) -> list[int]:
    """Return the true objects of which an instance holds half or more."""
    ids, counts = np.unique(truth[inside], return_counts=True)
    sizes = {int(i): np.count_nonzero(truth == i) for i in ids if i}
    return [
        int(i)
        for i, n in zip(ids, counts, strict=True)
        if i and sizes[int(i)] >= SMALLEST and 2 * n >= sizes[int(i)]
    ]


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b)))
