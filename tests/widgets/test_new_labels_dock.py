"""New labels for a running training, from the Train dock; the worker is a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_volseg.io import read_labels, read_mask
from napari_volseg.runs import newest_revision
from napari_volseg.widgets.train import TrainWidget

RUN = """
say('Started', job='train', device='cpu', total=10)
Path("checkpoints").mkdir(exist_ok=True); Path("checkpoints/last.ckpt").touch()
taken = 1
while not asked().get("stop"):
    wanted = asked().get("revision", 1)
    if wanted > taken:
        taken = wanted
        say("Notice", message=f"Revision {taken}: new labels of 3 voxels.")
    time.sleep(0.02)
end("stopped", "stopped at step 3")
"""


@pytest.fixture
def start(
    viewer: Any,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> Any:
    """Start a training in a dock; it is stopped in the end."""
    docks = []

    def start(dock: TrainWidget | None = None) -> TrainWidget:
        play(RUN)
        if dock is None:
            if "em" not in viewer.layers:
                add_pair(viewer)
            dock = TrainWidget(viewer)
            viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
        docks.append(dock)
        dock.start()
        qtbot.waitUntil(lambda: has_begun(dock), timeout=60_000)
        return dock

    yield start
    for dock in docks:
        if dock._job is not None:
            dock._job.stop()
        qtbot.waitUntil(lambda dock=dock: dock._job is None, timeout=60_000)


def has_begun(dock: TrainWidget | None) -> bool:
    return dock is not None and dock._job is not None and dock._job.started is not None


def folder_of(dock: TrainWidget) -> Path:
    assert dock._job is not None
    assert dock._job.folder is not None
    return dock._job.folder


def use(dock: TrainWidget, qtbot: Any) -> str:
    """Press the button; return what the dock says in the end."""
    qtbot.waitUntil(dock.new_labels.use.isEnabled, timeout=60_000)
    qtbot.mouseClick(dock.new_labels.use, Qt.MouseButton.LeftButton)
    panel = dock.new_labels
    qtbot.waitUntil(lambda: panel._worker is None, timeout=60_000)
    return panel.message.text()


def test_what_is_painted_meanwhile_reaches_the_training(
    viewer: Any, start: Any, qtbot: Any
) -> None:
    dock = start()
    folder = folder_of(dock)
    labels = viewer.layers["em labels"]
    before = labels.data.copy()
    assert use(dock, qtbot) == "The labels are as they were."
    labels.selected_label = 99
    labels.paint((4, 8, 8), 99)
    assert use(dock, qtbot) == "Revision 2 is handed in."
    painted = read_labels(f"{folder}/data/r002/000.h5:labels")
    assert np.array_equal(painted, labels.data)
    assert not np.array_equal(painted, before)
    qtbot.waitUntil(lambda: "Revision 2" in dock.view.notice.text(), timeout=60_000)
    labels.undo()
    assert use(dock, qtbot) == "Revision 3 is handed in."
    assert np.array_equal(read_labels(f"{folder}/data/r003/000.h5:labels"), before)


def test_labels_that_say_what_counts_go_on_saying_it(
    viewer: Any, add_pair: Callable[..., Any], start: Any, qtbot: Any
) -> None:
    """Corrections hold an id for background; nothing else of them is known."""
    _, labels = add_pair(viewer)
    labels.data[:4] = np.where(labels.data[:4] == 0, 99, labels.data[:4])
    labels.data[4:] = 0
    labels.metadata["napari-volseg"] = {"background_id": 99}
    dock = start()
    folder = folder_of(dock)
    known = read_mask(f"{folder}/data/000.h5:annotated")
    assert known[:4].all()
    assert not known[4:].any()

    labels.data_setitem((np.array([6]), np.array([8]), np.array([8])), 3)
    assert use(dock, qtbot) == "Revision 2 is handed in."

    counts = read_mask(f"{folder}/data/r002/000.h5:annotated")
    assert counts.sum() == known.sum() + 1
    assert counts[6, 8, 8]
    assert 99 not in read_labels(f"{folder}/data/r002/000.h5:labels")


def test_every_some_minutes_by_itself(viewer: Any, start: Any, qtbot: Any) -> None:
    dock = start()
    panel = dock.new_labels
    assert not panel._timer.isActive()
    assert not panel.minutes.isEnabled()
    panel.auto.click()
    panel.minutes.setValue(3)
    assert panel._timer.isActive()
    assert panel._timer.interval() == 180_000
    viewer.layers["em labels"].paint((4, 8, 8), 99)
    panel._timer.timeout.emit()
    qtbot.waitUntil(lambda: newest_revision(folder_of(dock)) == 2, timeout=60_000)
    qtbot.waitUntil(lambda: panel._worker is None, timeout=60_000)
    dock.view.stop.click()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    assert not panel._timer.isActive()
    assert panel.isHidden()


def test_a_renamed_and_moved_layer_is_still_the_one(
    viewer: Any, start: Any, qtbot: Any
) -> None:
    dock = start()
    viewer.add_labels(np.zeros((16, 64, 64), int), name="another")
    labels = viewer.layers["em labels"]
    labels.name = "mine"
    viewer.layers.move(viewer.layers.index(labels), 0)
    viewer.layers.remove("em")
    labels.paint((4, 8, 8), 99)
    assert "Revision 2" in use(dock, qtbot)
    painted = read_labels(f"{folder_of(dock)}/data/r002/000.h5:labels")
    assert np.array_equal(painted, labels.data)


def test_a_removed_layer_is_never_silently_another(
    viewer: Any, start: Any, qtbot: Any
) -> None:
    dock = start()
    truth = viewer.layers["em labels"].data.copy()
    other = viewer.add_labels(
        np.ones_like(truth), name="other", **placed(viewer.layers["em"])
    )
    viewer.layers.remove("em labels")
    words = use(dock, qtbot)
    assert words == (
        "The labels layer 'em labels' was removed: choose the layer that holds its "
        "labels now"
    )
    assert newest_revision(folder_of(dock)) == 1
    combo = dock.new_labels.combos[0]
    combo.set_layer(other)
    combo.activated.emit(combo.currentIndex())
    assert "Revision 2" in use(dock, qtbot)


def placed(layer: Any) -> dict[str, Any]:
    return {"scale": layer.scale, "units": layer.units}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: setattr(labels, "scale", (1, 1, 1)), "differ in scale"),
        (lambda labels: setattr(labels, "data", labels.data[:-1]), "shape"),
        (lambda labels: setattr(labels, "data", labels.data * 0), "are empty"),
        (lambda labels: setattr(labels, "data", labels.data[0]), "2 axes"),
        (lambda labels: labels.data.__setitem__((0, 0, 0), -3), "negative id -3"),
    ],
)
def test_a_changed_layer_that_does_not_fit_is_one_sentence(
    viewer: Any, start: Any, qtbot: Any, change: Any, words: str
) -> None:
    dock = start()
    change(viewer.layers["em labels"])
    assert words in use(dock, qtbot)
    assert dock.new_labels.message.is_error()
    assert newest_revision(folder_of(dock)) == 1
    assert has_begun(dock)


def test_a_region_is_drawn_anew_and_its_removal_is_told(
    viewer: Any, add_pair: Callable[..., Any], start: Any, qtbot: Any
) -> None:
    add_pair(viewer)
    square = np.array([[0, 0], [0, 19], [19, 19], [19, 0]])
    shapes = viewer.add_shapes([square], name="region", scale=(8, 8), units=("nm",) * 2)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    dock.annotation.chooser.rule.setCurrentIndex(
        dock.annotation.chooser.rule.findData("region")
    )
    dock.annotation.chooser.region.set_layer(shapes)
    start(dock)
    shapes.data = [square * 2]
    assert "Revision 2" in use(dock, qtbot)
    mask = read_mask(f"{folder_of(dock)}/data/r002/000.h5:annotated")
    assert mask[:, 30, 30].all()
    viewer.layers.remove("region")
    assert "the region layer 'region' was removed" in use(dock, qtbot).lower()


def test_layers_too_large_to_copy_are_locked_while_they_are_read(
    viewer: Any, start: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = start()
    labels = viewer.layers["em labels"]
    monkeypatch.setattr("napari_volseg.widgets.learntfrom.COPY_AT_ONCE", 100)
    labels.paint((4, 8, 8), 99)
    dock.new_labels.hand_in()
    assert not labels.editable
    assert "being handed in" in dock.new_labels.use.toolTip()
    qtbot.waitUntil(lambda: labels.editable, timeout=60_000)
    qtbot.waitUntil(lambda: dock.new_labels._worker is None, timeout=60_000)
    assert newest_revision(folder_of(dock)) == 2


def test_a_resumed_run_finds_its_labels_by_name(
    viewer: Any, start: Any, qtbot: Any
) -> None:
    dock = start()
    folder = folder_of(dock)
    entry = json.loads((folder / "data" / "pairs.json").read_text())["pairs"][0]
    assert entry["labels_name"] == "em labels"
    viewer.add_labels(np.ones((16, 64, 64), int), name="above")
    dock.view.stop.click()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    qtbot.waitUntil(lambda: dock.resume.isVisibleTo(dock), timeout=60_000)
    dock.resume.click()
    qtbot.waitUntil(lambda: has_begun(dock), timeout=60_000)
    assert dock.new_labels.combos[0].currentText() == "em labels"
    viewer.layers["em labels"].paint((4, 8, 8), 99)
    assert "Revision 2" in use(dock, qtbot)


def test_labels_that_are_not_known_do_not_look_chosen(
    viewer: Any, start: Any, qtbot: Any
) -> None:
    dock = start()
    combo = dock.new_labels.combos[0]
    viewer.add_labels(np.ones((16, 64, 64), int), name="other")
    assert combo.currentText() == "em labels"
    viewer.layers.remove("em labels")
    assert combo.currentText() == ""
    dock.view.stop.click()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    qtbot.waitUntil(lambda: dock.resume.isVisibleTo(dock), timeout=60_000)
    dock.resume.click()
    qtbot.waitUntil(lambda: has_begun(dock), timeout=60_000)
    (combo,) = dock.new_labels.combos
    viewer.add_labels(np.ones((16, 64, 64), int), name="more")
    assert combo.currentText() == ""
    assert "no labels are chosen" in use(dock, qtbot).lower()


def test_a_folder_that_is_gone_is_told(
    viewer: Any, start: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = start()
    folder = folder_of(dock)
    (folder / "data").rename(folder / "elsewhere")
    viewer.layers["em labels"].paint((4, 8, 8), 99)
    assert "pairs.json" in use(dock, qtbot)
    (folder / "elsewhere").rename(folder / "data")
