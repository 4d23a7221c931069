"""The Evaluate dock driven by hand, with its real helper process."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from superqt.utils import WorkerBase

from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.evaluate import EvaluateWidget
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.viewers import camera_of

OPTIONS: dict[str, Any] = {"scale": (30, 8, 8), "units": ("nm",) * 3}


@pytest.fixture
def pair(viewer: Any) -> tuple[Any, Any]:
    """A truth of four objects; the prediction merges two and misses one."""
    truth = np.zeros((8, 40, 60), np.uint16)
    truth[2:6, 4:14, 4:14] = 1
    truth[2:6, 4:14, 14:24] = 2
    truth[2:6, 24:34, 4:14] = 3
    truth[2:6, 24:34, 44:54] = 4
    pred = truth.astype(np.int32)
    pred[pred == 2] = 1
    pred[pred == 3] = 0
    pred[2:6, 2:8, 50:58] = 9
    return (
        viewer.add_labels(pred, name="pred", **OPTIONS),
        viewer.add_labels(truth, name="truth", **OPTIONS),
    )


@pytest.fixture
def dock(viewer: Any, pair: Any) -> EvaluateWidget:
    widget: EvaluateWidget = open_dock(viewer, "Evaluate")
    widget.set_pair(*pair)
    return widget


def run(dock: EvaluateWidget, qtbot: Any) -> None:
    assert dock.evaluate.isEnabled(), dock.evaluate.toolTip()
    qtbot.mouseClick(dock.evaluate, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock._is_running, timeout=60_000)


def test_errors_are_scored_listed_shown_and_led_to(
    dock: EvaluateWidget, viewer: Any, pair: Any, qtbot: Any
) -> None:
    before = pair[0].data.copy(), pair[1].data.copy()
    modules = set(sys.modules)
    run(dock, qtbot)
    assert not dock.message.text()
    # Of the merged objects, one has an IoU of exactly 0.5, which counts as found.
    assert "3 instances, 4 true objects" in dock.scores.text()
    assert "F1 0.571" in dock.scores.text()
    rows = [(e["kind"], e["label"]) for e in dock._errors]
    assert rows == [("extra", 9), ("merged", 1), ("missed", 3)]
    errors = viewer.layers["pred · errors"]
    assert set(np.unique(errors.data)) == {0, 1, 2, 4}
    assert (errors.data[before[1] == 3] == 1).all()
    np.testing.assert_allclose(errors.scale, pair[0].scale)
    dock.table.selectRow(2)
    world = pair[1].data_to_world((3.5, 28.5, 8.5))
    np.testing.assert_allclose(camera_of(viewer).center[-2:], world[-2:], atol=9)
    assert pair[1].selected_label == 3
    dock.kind.setCurrentIndex(dock.kind.findData("merged"))
    assert len(dock.table.listed()) == 1
    assert (pair[0].data == before[0]).all()
    assert (pair[1].data == before[1]).all()
    assert not {"torch", "cc3d", "fastremap"} & (set(sys.modules) - modules)
    dock.curves.redraw()
    assert dock.curves._lines["f1"].yData[0] == pytest.approx(4 / 7)


def test_layers_that_are_removed_are_let_go_of(viewer: Any, qtbot: Any) -> None:
    for name in ("pred", "truth"):
        viewer.add_labels(np.ones((4, 9, 9), np.int32), name=name)
    dock = open_dock(viewer, "Evaluate")
    dock.set_pair(viewer.layers["pred"], viewer.layers["truth"])
    run(dock, qtbot)
    left = [weakref.ref(plain(viewer.layers[name])) for name in ("pred", "truth")]
    viewer.layers.clear()

    def are_gone() -> bool:
        gc.collect()
        return all(each() is None for each in left)

    qtbot.waitUntil(are_gone, timeout=20_000)


def test_only_a_region_counts_and_a_new_result_takes_the_place_of_the_old(
    dock: EvaluateWidget, viewer: Any, qtbot: Any
) -> None:
    run(dock, qtbot)
    corners = np.array([[20, 40], [20, 58], [38, 58], [38, 40]], float)
    viewer.add_shapes(corners, shape_type="polygon", name="good", **TWO)
    dock.where.setCurrentIndex(1)
    dock.region.set_layer(viewer.layers["good"])
    run(dock, qtbot)
    assert not dock.message.text()
    assert "1 instances, 1 true" in dock.scores.text()
    assert dock._errors == []
    assert [layer.name for layer in viewer.layers].count("pred · errors") == 1


TWO: dict[str, Any] = {"scale": (8, 8), "units": ("nm",) * 2}


def test_what_does_not_fit_is_said(
    dock: EvaluateWidget, viewer: Any, pair: Any
) -> None:
    dock.truth.set_layer(pair[0])
    assert not dock.evaluate.isEnabled()
    assert "same layer" in dock.evaluate.toolTip()
    small = viewer.add_labels(np.ones((8, 20, 20), np.uint8), name="small", **OPTIONS)
    dock.truth.set_layer(small)
    dock.start()
    assert "must cover the same voxels" in dock.message.text()


def test_a_comparison_can_be_cancelled(
    dock: EvaluateWidget, qtbot: Any, workers: Any
) -> None:
    code = "# napari_volseg\nimport time; time.sleep(600)"
    dock._helper._command = [sys.executable, "-c", code]
    qtbot.mouseClick(dock.evaluate, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(workers()), timeout=60_000)
    qtbot.mouseClick(dock.cancel, Qt.MouseButton.LeftButton)
    assert dock.evaluate.isEnabled()
    qtbot.waitUntil(lambda: not workers(), timeout=60_000)


def test_a_cancelled_comparison_never_shows_up_in_the_next(
    dock: EvaluateWidget, viewer: Any, pair: Any, qtbot: Any, monkeypatch: Any
) -> None:
    goes_on = Event()
    calls: list[Callable[[], bool]] = []
    ask = dock._helper.ask

    def ask_late(*arguments: Any) -> Any:
        """Answer the first request only when the second one is being waited for."""
        calls.append(arguments[-1])
        if len(calls) == 1:
            assert goes_on.wait(60)
            return ask(*arguments[:-1])
        return ask(*arguments)

    monkeypatch.setattr(dock._helper, "ask", ask_late)
    dock.start()
    qtbot.waitUntil(lambda: len(calls) == 1, timeout=60_000)
    qtbot.mouseClick(dock.cancel, Qt.MouseButton.LeftButton)
    dock.set_pair(*reversed(pair))
    dock.start()
    assert calls[0](), "the second comparison called back the first"
    goes_on.set()
    qtbot.waitUntil(lambda: not dock._is_running, timeout=60_000)
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=60_000)
    assert "4 instances, 3 true objects" in dock.scores.text()
    names = [layer.name for layer in viewer.layers if "errors" in layer.name]
    assert names == ["truth · errors"]
    assert dock._pair is not None
    assert [layer() for layer in dock._pair] == list(map(plain, reversed(pair)))


def test_a_helper_that_fails_is_told(dock: EvaluateWidget, qtbot: Any) -> None:
    dock._helper._command = [sys.executable, "-c", "raise SystemExit(7)"]
    run(dock, qtbot)
    assert "code 7" in dock.message.text()


def test_without_layers_nothing_can_be_evaluated(viewer: Any) -> None:
    dock = open_dock(viewer, "Evaluate")
    assert not dock.evaluate.isEnabled()
    assert "Choose a prediction" in dock.next.text()
