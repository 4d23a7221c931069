"""The Check dock driven by hand, with the real check in its own process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_volseg.widgets import helper
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.check import CheckWidget
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.outputs import role_of
from napari_volseg.widgets.snapshots import own_rule
from napari_volseg.widgets.viewers import camera_of

VOXEL_SIZE = (30.0, 8.0, 8.0)
PLACE = (3, 30, 40)


@pytest.fixture
def pair(viewer: Any, add_pair: Any) -> tuple[Any, Any]:
    """An image and labels in which object 1 has a fragment of four voxels."""
    image, labels = add_pair(viewer)
    data = np.zeros(labels.data.shape, np.int32)
    data[4:10, 8:24, 8:24] = 1
    data[4:10, 36:52, 36:52] = 2
    noise = np.random.default_rng(0).integers(0, 20, data.shape)
    image.data = (60 + 120 * (data > 0) + noise).astype(np.uint8)
    data[5, 44, 44] = 0
    data[3, 30, 40:44] = 1
    labels.data = data
    return image, labels


@pytest.fixture
def dock(viewer: Any, pair: Any) -> CheckWidget:
    widget: CheckWidget = open_dock(viewer, "Check")
    return widget


def run(dock: CheckWidget, qtbot: Any) -> None:
    qtbot.mouseClick(dock.check, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock._task is None, timeout=60_000)


def test_findings_are_listed_and_lead_to_their_place(
    dock: CheckWidget, viewer: Any, pair: Any, qtbot: Any
) -> None:
    before = pair[1].data.copy()
    modules = set(sys.modules)
    run(dock, qtbot)
    assert dock.summary.text() == "1 tiny fragment, 1 hole in an object."
    assert dock.kind.currentText() == "to mend (2)"
    assert dock.table.listed() == [0, 1]
    dock.table.selectRow(0)
    assert viewer.dims.current_step[0] == PLACE[0]
    world = pair[1].data_to_world((3, 30, 41))
    np.testing.assert_allclose(camera_of(viewer).center[-2:], world[-2:], atol=9)
    assert pair[1].selected_label == 1
    assert viewer.layers.selection.active == pair[1]
    assert "only 4 voxels" in dock.detail.text()
    assert "To mend it: remove it." in dock.detail.text()
    assert (pair[1].data == before).all()
    assert {"torch", "cc3d"}.isdisjoint(set(sys.modules) - modules)


def test_mending_makes_a_new_layer_and_leaves_the_old(
    dock: CheckWidget, viewer: Any, pair: Any, qtbot: Any
) -> None:
    before = pair[1].data.copy()
    run(dock, qtbot)
    dock.table.selectRow(0)
    qtbot.mouseClick(dock.mend_chosen, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "em labels (checked)" in viewer.layers, timeout=60_000)
    mended = viewer.layers["em labels (checked)"]
    assert (mended.data != before).sum() == 4
    assert mended.data[5, 44, 44] == 0
    assert (pair[1].data == before).all()
    np.testing.assert_allclose(mended.scale, pair[1].scale)
    assert "1 mended" in dock.message._text.text()
    assert dock.labels.currentText() == "em labels (checked)"


def test_what_was_mended_is_gone_on_with_and_not_lost(
    dock: CheckWidget, viewer: Any, pair: Any, qtbot: Any
) -> None:
    run(dock, qtbot)
    dock.table.selectRow(0)
    qtbot.mouseClick(dock.mend_chosen, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock._task is None, timeout=60_000)
    dock.table.selectRow(1)
    assert viewer.layers.selection.active.name == "em labels (checked)"
    assert not dock.mend_chosen.isEnabled()
    assert "press Check again" in dock.mend_chosen.toolTip()
    run(dock, qtbot)
    assert dock.summary.text() == "1 hole in an object."
    qtbot.mouseClick(dock.mend_listed, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock._task is None, timeout=60_000)
    mended = viewer.layers["em labels (checked) (checked)"].data
    assert (mended != pair[1].data).sum() == 5


def test_an_undo_after_a_check_asks_for_another(
    dock: CheckWidget, viewer: Any, pair: Any, qtbot: Any
) -> None:
    viewer.dims.set_point(0, 12 * VOXEL_SIZE[0])
    pair[1].paint((12, 50, 50), 5)
    run(dock, qtbot)
    pair[1].undo()
    qtbot.mouseClick(dock.mend_listed, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock._task is None, timeout=60_000)
    assert "press Check again" in dock.message.text()
    assert "em labels (checked)" not in viewer.layers


def test_labels_that_say_what_counts_are_checked_so_and_stay_so(
    dock: CheckWidget, viewer: Any, pair: Any, qtbot: Any
) -> None:
    data = pair[1].data.copy()
    data[:14][data[:14] == 0] = 900
    pair[1].data = data
    pair[1].metadata["napari-volseg"] = {"role": "corrections", "background_id": 900}
    run(dock, qtbot)
    assert 900 not in {finding["label"] for finding in dock._checked.findings}
    qtbot.mouseClick(dock.mend_listed, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock._task is None, timeout=60_000)
    mended = plain(viewer.layers["em labels (checked)"])
    assert own_rule(mended) is not None
    assert own_rule(mended) == own_rule(plain(pair[1]))
    assert role_of(mended) is None
    assert (mended.data == 900).sum() == (data == 900).sum() - 1  # the hole


def test_check_takes_what_counts_from_the_train_dock(viewer: Any, pair: Any) -> None:
    around = np.array([[0, 0], [0, 30], [30, 30], [30, 0]], float)
    viewer.add_shapes([around + 9], name="first")
    region = viewer.add_shapes([around], name="second")
    panel = open_dock(viewer, "Train").annotation
    panel.chooser.rule.setCurrentIndex(panel.chooser.rule.findData("region"))
    panel.chooser.region.set_layer(region)
    panel.chooser.slices.setCurrentIndex(1)
    panel.check.click()
    assert open_dock(viewer, "Check").annotated.value() == panel.chooser.value()


def test_with_nothing_to_mend_it_goes_on_with_training(
    dock: CheckWidget, pair: Any, qtbot: Any
) -> None:
    data = np.where(pair[1].data == 2, 2, 0)
    data[5, 44, 44] = 2
    data[4:10, 0:16, 8:24] = 1  # cut by a face, which is only worth knowing
    pair[1].data = data
    run(dock, qtbot)
    assert dock.summary.text() == "Nothing to mend."
    assert dock._checked.findings
    assert dock.next.text() == "What next? Train, in VolSeg › Train."


def test_kinds_filter_the_list(dock: CheckWidget, qtbot: Any) -> None:
    run(dock, qtbot)
    kinds = [dock.kind.itemData(i) for i in range(dock.kind.count())]
    dock.kind.setCurrentIndex(kinds.index("hole"))
    assert dock.table.listed() == [1]
    dock.kind.setCurrentIndex(kinds.index(""))
    assert dock.table.listed() == [0, 1]


def test_painting_after_a_check_asks_for_another(
    dock: CheckWidget, pair: Any, qtbot: Any
) -> None:
    run(dock, qtbot)
    assert dock.mend_listed.isEnabled()
    pair[1].paint((8, 30, 30), 3)
    assert not dock.mend_listed.isEnabled()
    assert "press Check again" in dock.next.text()


def test_columns_sort(dock: CheckWidget, qtbot: Any) -> None:
    run(dock, qtbot)
    dock.table.sortByColumn(5, Qt.SortOrder.AscendingOrder)
    assert dock.table.listed() == [1, 0]


def test_a_check_can_be_cancelled(
    dock: CheckWidget, qtbot: Any, monkeypatch: Any, workers: Any
) -> None:
    code = "# napari_volseg\nimport time; time.sleep(600)"
    monkeypatch.setattr(helper, "_COMMAND", (sys.executable, "-c", code))
    qtbot.mouseClick(dock.check, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(workers()), timeout=60_000)
    assert not dock.check.isEnabled()
    qtbot.mouseClick(dock.cancel, Qt.MouseButton.LeftButton)
    assert dock.check.isEnabled()
    qtbot.waitUntil(lambda: not workers(), timeout=60_000)


def test_files_of_a_check_go_with_the_dock(
    dock: CheckWidget, viewer: Any, qtbot: Any
) -> None:
    run(dock, qtbot)
    assert dock._checked is not None
    folder: Path = dock._checked.folder
    assert folder.exists()
    viewer.window.remove_dock_widget(dock)
    dock.deleteLater()
    qtbot.waitUntil(lambda: not folder.exists(), timeout=60_000)


def test_a_failure_is_told_in_words(
    dock: CheckWidget, qtbot: Any, monkeypatch: Any
) -> None:
    code = "# napari_volseg\nraise SystemExit(7)"
    monkeypatch.setattr(helper, "_COMMAND", (sys.executable, "-c", code))
    run(dock, qtbot)
    assert "code 7" in dock.message._text.text()
    assert dock.check.isEnabled()


def test_without_layers_nothing_can_be_checked(viewer: Any) -> None:
    dock = open_dock(viewer, "Check")
    assert not dock.check.isEnabled()
    assert "Open a volume" in dock.next.text()
