"""The Review dock driven by hand, with its real helper process."""

from __future__ import annotations

import csv
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtCore import Qt
from review_steps import settle, type_key

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import (
    Review,
    ReviewFolder,
    add_doubt,
    fingerprint,
    instance_table,
    measure_instances,
)
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain
from napari_volseg.widgets.outputs import add_instances, add_maps
from napari_volseg.widgets.predictions import shown_predictions
from napari_volseg.widgets.review import ReviewWidget
from napari_volseg.widgets.reviewopening import open_review
from napari_volseg.widgets.viewers import camera_of

SHAPE = (12, 40, 60)


def make_instances() -> np.ndarray:
    """Four blocks: 1 and 2 touch, 3 is two objects with a waist, 4 has a hole."""
    labels = np.zeros(SHAPE, np.int32)
    labels[2:10, 4:16, 4:12] = 1
    labels[2:10, 4:16, 12:22] = 2
    labels[2:10, 22:34, 4:16] = 3
    labels[2:10, 22:34, 22:34] = 3
    labels[4:8, 26:30, 16:22] = 3
    labels[2:10, 4:16, 40:52] = 4
    labels[5, 9, 45] = 0
    return labels


def make_maps(labels: np.ndarray) -> np.ndarray:
    maps = np.zeros((3, *labels.shape), np.uint8)
    maps[0][labels > 0] = 250
    maps[2][labels > 0] = 120
    maps[1, 2:10, 22:34, 19] = 250
    maps[0, 2:10, 16:18, 40:52] = 200  # what instance 4 misses
    return maps


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "prediction"
    folder.mkdir()
    return folder


def show(viewer: Any, folder: Path, order: Any = "C") -> Any:
    """Show a prediction as the Predict dock does."""
    labels = np.array(make_instances(), order=order)
    image = viewer.add_image(
        labels.astype(np.uint8) * 40, name="em", scale=(30, 8, 8), units=("nm",) * 3
    )
    place, origin = placement(image), {"prediction": str(folder), "image": "em"}
    maps = make_maps(labels)
    add_maps(viewer, maps, place, "em · ", origin)
    layer = add_instances(viewer, labels, place, "em · ", origin)
    boxes = {label: Box.whole(SHAPE) for label in (1, 2, 3, 4)}
    rows = measure_instances(labels, list(maps), boxes, (30, 8, 8))
    layer.features = pandas.DataFrame(add_doubt(rows))
    return layer


def begin(viewer: Any, layer: Any, qtbot: Any) -> ReviewWidget:
    dock: ReviewWidget = open_dock(viewer, "Review")
    take_up(dock, layer, qtbot)
    return dock


def take_up(dock: ReviewWidget, layer: Any, qtbot: Any) -> None:
    dock.labels.set_layer(layer)
    click(dock.begin, qtbot)
    qtbot.waitUntil(lambda: dock._reviewing is not None, timeout=60_000)


def close(dock: ReviewWidget, viewer: Any) -> None:
    viewer.window.remove_dock_widget(dock)
    dock.deleteLater()


def click(button: Any, qtbot: Any) -> None:
    assert button.isEnabled(), button.toolTip()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def press(dock: ReviewWidget, name: str, qtbot: Any) -> None:
    click(dock.buttons.buttons[name], qtbot)
    settle(dock, qtbot)


def ids(dock: ReviewWidget) -> list[int]:
    return sorted(dock.table.listed())


@pytest.fixture
def layer(viewer: Any, folder: Path) -> Any:
    return show(viewer, folder)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Rows are measured once this is set."""
    gate = threading.Event()

    def wait_first(*arguments: Any) -> Any:
        gate.wait()
        return measure_instances(*arguments)

    monkeypatch.setattr("napari_volseg.widgets.reviewing.measure_instances", wait_first)
    yield gate
    gate.set()


@pytest.fixture
def dock(viewer: Any, layer: Any, qtbot: Any) -> ReviewWidget:
    return begin(viewer, layer, qtbot)


def test_instances_are_listed_and_lead_to_their_place(
    dock: ReviewWidget, viewer: Any, layer: Any
) -> None:
    assert ids(dock) == [1, 2, 3, 4]
    assert dock.summary.text().startswith("4 instances")
    assert layer.features["index"].tolist() == [1, 2, 3, 4]
    assert layer.features["status"].tolist() == ["todo"] * 4
    dock.table.selectRow(dock.table.listed().index(4))
    world = layer.data_to_world((5.5, 9.5, 45.5))
    np.testing.assert_allclose(camera_of(viewer).center[-2:], world[-2:], atol=9)
    assert layer.selected_label == 4


def test_columns_of_the_user_stay_with_their_instances(
    viewer: Any, layer: Any, qtbot: Any
) -> None:
    layer.features = layer.features.assign(cell=["a", "b", "c", "d"])
    dock = begin(viewer, layer, qtbot)
    dock.table.selectRow(dock.table.listed().index(2))
    press(dock, "delete", qtbot)

    qtbot.waitUntil(lambda: layer.features["index"].tolist() == [1, 3, 4])
    assert layer.features["cell"].tolist() == ["a", "c", "d"]
    press(dock, "undo", qtbot)
    qtbot.waitUntil(lambda: layer.features["index"].tolist() == [1, 2, 3, 4])
    assert layer.features["cell"].tolist() == ["a", "b", "c", "d"]


def test_keys_judge_and_go_on_to_the_next_doubtful(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    dock.filter.doubt.setValue(0.0)
    type_key(viewer, "N")
    first = dock.table.chosen()
    type_key(viewer, "A")
    assert layer.features["status"].tolist().count("accepted") == 1
    type_key(viewer, "N")
    second = dock.table.chosen()
    assert second != first
    type_key(viewer, "R")
    type_key(viewer, "Shift-N")
    assert dock.table.chosen() not in (first, second)
    assert dock.bar.value() == 2
    mark = dock._reviewing.review.marks[first[0]]  # type: ignore[union-attr]
    assert (mark.status, bool(mark.author), mark.time[:2]) == ("accepted", True, "20")
    type_key(viewer, "U")
    assert dock.bar.value() == 1
    type_key(viewer, "Shift-U")
    assert dock.bar.value() == 2


@pytest.mark.parametrize(
    ("ndisplay", "direction", "label"), [(2, 1, 1), (3, 1, 1), (3, -1, 3)]
)
def test_what_is_seen_is_chosen_by_a_click(
    dock: ReviewWidget,
    viewer: Any,
    layer: Any,
    ndisplay: int,
    direction: int,
    label: int,
) -> None:
    viewer.dims.ndisplay = ndisplay
    # Along y, instance 1 lies before 3; in between is background.
    place = (5, 8 if ndisplay == 2 else 19, 8)
    viewer.dims.set_point(0, layer.data_to_world(place)[0])
    event = SimpleNamespace(
        button=1,
        type="mouse_press",
        position=layer.data_to_world(place),
        view_direction=np.array([0.0, direction, 0.0]),
        dims_displayed=[0, 1, 2][-ndisplay:],
        modifiers=[],
    )
    clicked = dock._pick(layer, event)
    next(clicked)
    event.type = "mouse_release"
    assert next(clicked, None) is None
    assert dock.table.chosen() == [label]
    assert layer.selected_label == label


def test_filters_and_sorting(dock: ReviewWidget) -> None:
    dock.table.choose([2])
    dock._say("rejected")
    keys = [dock.filter.shown.itemData(i) for i in range(dock.filter.shown.count())]
    dock.filter.shown.setCurrentIndex(keys.index("rejected"))
    assert ids(dock) == [2]
    dock.filter.shown.setCurrentIndex(0)
    dock.filter.text.setText("todo")
    assert ids(dock) == [1, 3, 4]
    dock.filter.text.setText("4")
    assert ids(dock) == [4]
    dock.filter.text.clear()
    dock.table.sort_by("voxels", descending=False)
    assert dock.table.listed()[-1] == 3
    dock.table.sort_by("voxels", descending=True)
    assert dock.table.listed()[0] == 3


def test_merging_deleting_and_taking_back(
    dock: ReviewWidget, layer: Any, qtbot: Any
) -> None:
    before = layer.data.copy()
    dock.table.choose([1, 2])
    dock._tidy()
    press(dock, "merge", qtbot)
    assert ids(dock) == [2, 3, 4]
    assert (layer.data[before == 1] == 2).all()
    assert dock._reviewing is not None
    assert dock._reviewing.review.status(2) == "corrected"
    dock.table.choose([4])
    dock._tidy()
    press(dock, "delete", qtbot)
    assert ids(dock) == [2, 3]
    assert "delete 4" in dock.buttons.buttons["undo"].toolTip()
    press(dock, "undo", qtbot)
    press(dock, "undo", qtbot)
    assert (layer.data == before).all()
    assert ids(dock) == [1, 2, 3, 4]
    assert not dock.buttons.buttons["undo"].isEnabled()
    press(dock, "redo", qtbot)
    assert ids(dock) == [2, 3, 4]
    assert layer.metadata[METADATA_KEY]["edited"]


def start_merge(dock: ReviewWidget, qtbot: Any) -> None:
    """Merge 1 into 2, whose rows are measured a moment later."""
    dock.table.choose([1, 2])
    dock._tidy()
    click(dock.buttons.buttons["merge"], qtbot)


def wait_for_measuring(dock: ReviewWidget, qtbot: Any) -> None:
    reviewing = dock._reviewing
    assert reviewing is not None
    qtbot.waitUntil(lambda: reviewing._is_measuring, timeout=60_000)


def test_edits_while_rows_are_measured_reach_the_whole_instance(
    dock: ReviewWidget, layer: Any, gate: threading.Event, qtbot: Any
) -> None:
    before = layer.data.copy()
    start_merge(dock, qtbot)
    wait_for_measuring(dock, qtbot)
    dock.table.choose([2])
    dock._tidy()
    click(dock.buttons.buttons["delete"], qtbot)
    assert not layer.data[np.isin(before, [1, 2])].any()
    gate.set()
    settle(dock, qtbot)
    assert ids(dock) == [3, 4]
    press(dock, "undo", qtbot)
    assert (layer.data[np.isin(before, [1, 2])] == 2).all()
    assert ids(dock) == [2, 3, 4]


def test_rows_that_could_not_be_measured_are_measured_with_the_next_edit(
    dock: ReviewWidget, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("the maps are gone")

    with monkeypatch.context() as patch:
        patch.setattr("napari_volseg.widgets.reviewing.measure_instances", fail)
        start_merge(dock, qtbot)
        qtbot.waitUntil(lambda: "maps are gone" in dock.message.text(), timeout=60_000)
    assert ids(dock) == [1, 2, 3, 4]
    dock.table.choose([4])
    dock._tidy()
    press(dock, "delete", qtbot)
    assert ids(dock) == [2, 3]


def test_rows_are_measured_when_a_review_that_was_left_is_taken_up(
    dock: ReviewWidget, viewer: Any, layer: Any, gate: threading.Event, qtbot: Any
) -> None:
    start_merge(dock, qtbot)
    wait_for_measuring(dock, qtbot)
    other = viewer.add_labels(np.zeros(SHAPE, np.int32), name="other")
    dock.labels.set_layer(other)
    gate.set()
    take_up(dock, layer, qtbot)
    settle(dock, qtbot)
    assert ids(dock) == [2, 3, 4]


def test_splitting_between_points(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    before = layer.data.copy()
    dock.table.choose([3])
    dock._tidy()
    type_key(viewer, "S")
    points = viewer.layers["volseg: split"]
    points.add([5, 28, 8])
    type_key(viewer, "S")
    assert "two parts" in dock.message.text()
    points.add([5, 28, 28])
    type_key(viewer, "S")
    settle(dock, qtbot)
    assert "volseg: split" not in viewer.layers
    assert not dock.message.text()
    assert ids(dock) == [1, 2, 3, 4, 5]
    x = np.indices(SHAPE)[2]
    left, right = layer.data[5, 28, 8], layer.data[5, 28, 28]
    assert {left, right} == {3, 5}
    # The maps have a boundary at x = 19, between the two.
    assert (layer.data[(before == 3) & (x < 19)] == left).all()
    assert (layer.data[(before == 3) & (x > 19)] == right).all()
    assert (layer.data == before)[before != 3].all()
    press(dock, "undo", qtbot)
    assert (layer.data == before).all()


def test_splitting_along_a_line(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    before = layer.data.copy()
    dock.table.choose([4])
    dock._tidy()
    dock.splitter.way.setCurrentIndex(1)
    type_key(viewer, "S")
    line = np.array([[6, 2, 46], [6, 18, 46]], float)
    viewer.layers["volseg: split"].add(line, shape_type="path")
    settle(dock, qtbot)
    qtbot.waitUntil(lambda: ids(dock) == [1, 2, 3, 4, 5], timeout=60_000)
    assert layer.data[6, 6, 42] != layer.data[6, 6, 50]
    assert ((layer.data > 0) == (before > 0)).all()
    assert "volseg: split" not in viewer.layers


@pytest.mark.parametrize(
    ("order", "line"),
    [
        ((1, 0, 2), [[6, 9, 38], [6, 9, 54]]),
        ((1, 0, 2), [[5, 9, 38], [7, 9, 54]]),
        ((2, 0, 1), [[6, 2, 46], [6, 18, 46]]),
        ((2, 0, 1), [[5, 2, 46], [7, 18, 46]]),
    ],
)
def test_a_line_splits_in_the_view_it_is_drawn_in(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any, order: Any, line: Any
) -> None:
    viewer.dims.order = order
    dock.table.choose([4])
    dock.splitter.way.setCurrentIndex(1)
    dock._split()
    viewer.layers["volseg: split"].add(np.array(line, float), shape_type="path")
    qtbot.waitUntil(lambda: "volseg: split" not in viewer.layers, timeout=60_000)
    settle(dock, qtbot)
    assert ids(dock) == [1, 2, 3, 4, 5]
    block = layer.data[2:10, 4:16, 40:52]
    above, below = block[1], block[-2]
    assert {int(above[5, 6]), int(below[5, 6])} == {4, 5}
    assert (above == above[5, 6]).all()
    assert (below == below[5, 6]).all()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([[6, 30, 46], [6, 38, 46]], "does not cross"),
        ([[3, 2, 42], [8, 18, 50]], "draw it in one slice"),
    ],
    ids=["beside the instance", "through several slices"],
)
def test_a_line_that_cannot_split_says_why(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any, line: Any, words: str
) -> None:
    before = layer.data.copy()
    dock.table.choose([4])
    dock.splitter.way.setCurrentIndex(1)
    dock._split()
    viewer.layers["volseg: split"].add(np.array(line, float), shape_type="path")
    qtbot.waitUntil(lambda: "volseg: split" not in viewer.layers, timeout=60_000)
    settle(dock, qtbot)
    assert words in dock.message.text()
    assert (layer.data == before).all()


def test_a_split_is_cancelled_by_its_button_or_by_removing_the_layer(
    dock: ReviewWidget, viewer: Any, qtbot: Any
) -> None:
    dock.table.choose([3])
    dock._split()
    click(dock.splitter.cancel_button, qtbot)
    assert "volseg: split" not in viewer.layers
    assert not dock.message.text()
    dock._split()
    assert "Click on each part" in dock.message.text()
    viewer.layers.remove("volseg: split")
    assert not dock.message.text()
    assert not dock.splitter.is_active
    assert "points that are set" not in dock.buttons.buttons["split"].toolTip()


def test_outlines_follow_the_mask(dock: ReviewWidget, layer: Any, qtbot: Any) -> None:
    before = layer.data.copy()
    dock.table.choose([4])
    dock._tidy()
    click(dock.reshape.buttons["fill"], qtbot)
    settle(dock, qtbot)
    assert layer.data[5, 9, 45] == 4
    assert (layer.data != before).sum() == 1
    click(dock.reshape.buttons["grow"], qtbot)
    settle(dock, qtbot)
    assert (layer.data[2:10, 16:18, 40:52] == 4).all()
    dock.reshape.threshold.setValue(0.9)
    click(dock.reshape.buttons["shrink"], qtbot)
    settle(dock, qtbot)
    assert not layer.data[2:10, 16:18, 40:52].any()
    for _ in range(3):
        press(dock, "undo", qtbot)
    assert (layer.data == before).all()


def test_a_box_is_segmented_again(dock: ReviewWidget, layer: Any, qtbot: Any) -> None:
    before = layer.data.copy()
    dock.table.choose([1, 2])
    dock._tidy()
    dock.reshape.margin.setValue(1)
    click(dock.reshape.segment, qtbot)
    settle(dock, qtbot)
    # The maps say nothing of what divides 1 and 2.
    assert len(np.unique(layer.data[before == 1])) == 1
    assert layer.data[5, 8, 8] == layer.data[5, 8, 16] == 2
    assert (layer.data == before)[before > 2].all()
    press(dock, "undo", qtbot)
    assert (layer.data == before).all()


def drag_box(dock: ReviewWidget, viewer: Any, corners: list[Any], qtbot: Any) -> None:
    """Draw a rectangle as napari does at the end of a drag."""
    click(dock.reshape.box, qtbot)
    outline = np.array(corners, float)
    viewer.layers["volseg: box"].add(outline, shape_type="rectangle")
    qtbot.waitUntil(lambda: "volseg: box" not in viewer.layers, timeout=60_000)
    settle(dock, qtbot)


def test_an_id_that_is_painted_meanwhile_is_not_given_out_twice(
    dock: ReviewWidget, layer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, go_on = dock._helper.ask, threading.Event()

    def ask_and_wait(*arguments: Any) -> Any:
        answer = ask(*arguments)
        go_on.wait()
        return answer

    monkeypatch.setattr(dock._helper, "ask", ask_and_wait)
    assert dock._reviewing is not None
    mask, boundary, _ = dock._reviewing.maps  # type: ignore[misc]
    waist = (slice(2, 10), slice(22, 34), slice(18, 20))
    mask[waist], boundary[waist] = 0, 255
    try:
        dock.table.choose([3])
        dock._tidy()
        click(dock.reshape.segment, qtbot)
        layer.paint((5, 35, 50), 5)
        painted = layer.data == 5
    finally:
        go_on.set()
    settle(dock, qtbot)
    assert ids(dock) == [1, 2, 3, 4, 5, 6]
    assert ((layer.data == 5) == painted).all()


def test_neighbours_that_grow_together_are_taken_back_without_a_rest(
    dock: ReviewWidget, layer: Any, qtbot: Any
) -> None:
    before = layer.data.copy()
    assert dock._reviewing is not None
    dock._reviewing.maps[0][:] = 250  # type: ignore[index]
    dock.table.choose([1, 2, 3])
    dock._tidy()
    click(dock.reshape.buttons["grow"], qtbot)
    settle(dock, qtbot)
    assert (layer.data != before).any()
    press(dock, "undo", qtbot)
    assert dock.message.text().endswith("taken back.")
    assert "painted" not in dock.message.text()
    assert (layer.data == before).all()


def test_outlines_keep_ids_of_64_bits(viewer: Any, layer: Any, qtbot: Any) -> None:
    large = layer.data.astype(np.uint64)
    large[large > 0] += np.uint64(2**59)
    layer.data = large.copy()
    dock = begin(viewer, layer, qtbot)
    dock.table.choose([2**59 + 4])
    dock._tidy()
    click(dock.reshape.buttons["fill"], qtbot)
    settle(dock, qtbot)
    large[5, 9, 45] = 2**59 + 4
    assert (layer.data == large).all()


def test_a_drawn_box_finds_what_was_missed(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    dock.table.choose([2, 4])
    dock._tidy()
    press(dock, "delete", qtbot)
    assert ids(dock) == [1, 3]
    before = layer.data.copy()
    dock.reshape.margin.setValue(4)
    # Slices 1 to 9: instance 1 lies in it as a whole, 3 reaches out.
    corners = [[5, 2, 2], [5, 2, 56], [5, 27, 56], [5, 27, 2]]
    drag_box(dock, viewer, corners, qtbot)
    labels = make_instances()
    assert layer.data[5, 8, 8] == layer.data[5, 8, 16] == 1
    assert len(np.unique(layer.data[(labels == 4)])) == 1
    assert layer.data[5, 8, 50] not in (0, 1, 3)
    assert (layer.data == before)[before == 3].all()
    assert not dock.reshape.box.isChecked()
    assert viewer.layers.selection.active.name == layer.name
    press(dock, "undo", qtbot)
    assert (layer.data == before).all()


def test_a_box_that_cannot_be_segmented_says_why(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any, monkeypatch: Any
) -> None:
    before = layer.data.copy()
    beside = [[5, 50, 2], [5, 50, 9], [5, 60, 9], [5, 60, 2]]
    drag_box(dock, viewer, beside, qtbot)
    assert "outside the labels" in dock.message.text()
    monkeypatch.setattr("napari_volseg.widgets.reviewasking._MOST_VOXELS", 100)
    drag_box(dock, viewer, [[5, 2, 2], [5, 2, 9], [5, 9, 9], [5, 9, 2]], qtbot)
    assert "draw a smaller one" in dock.message.text()
    assert (layer.data == before).all()


def test_painting_is_noted_and_outlives_undo(
    dock: ReviewWidget, layer: Any, qtbot: Any
) -> None:
    dock.table.choose([1])
    dock._tidy()
    press(dock, "delete", qtbot)
    layer.brush_size = 3
    layer.paint((5, 8, 8), 4)
    settle(dock, qtbot)
    painted = layer.data == 4
    assert dock._reviewing is not None
    assert dock._reviewing.review.status(4) == "corrected"
    assert layer.features["voxels"].tolist()[-1] == painted.sum()
    press(dock, "undo", qtbot)
    assert "painted since stayed" in dock.message.text()
    assert (layer.data[painted] == 4).all()
    assert layer.data[5, 8, 11] == 1


@pytest.mark.parametrize("order", ["C", "F"])
def test_napari_takes_its_own_strokes_back(
    viewer: Any, folder: Path, qtbot: Any, order: str
) -> None:
    layer = show(viewer, folder, order)
    dock = begin(viewer, layer, qtbot)
    assert layer.data.flags[f"{order}_CONTIGUOUS"]
    before = layer.data.copy()
    layer.paint((5, 35, 50), 4)
    settle(dock, qtbot)
    n = layer.features["voxels"].tolist()[-1]
    viewer.layers.selection.active = layer
    type_key(viewer, "Control-Z")
    settle(dock, qtbot)
    assert (layer.data == before).all()
    assert layer.features["voxels"].tolist()[-1] == (before == 4).sum() < n
    type_key(viewer, "Control-Shift-Z")
    settle(dock, qtbot)
    assert layer.features["voxels"].tolist()[-1] == n


def test_taking_a_stroke_back_brings_statuses_back(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    dock.table.choose([2])
    dock._say("rejected")
    layer.brush_size = 5
    layer.paint((5, 10, 12), 4)
    settle(dock, qtbot)
    assert layer.features["status"].tolist() == [
        "todo",
        "rejected",
        "todo",
        "corrected",
    ]
    layer.brush_size = 1
    layer.paint((5, 10, 8), 0)
    settle(dock, qtbot)
    assert layer.features["status"].tolist()[0] == "corrected"
    viewer.layers.selection.active = layer
    for status in ("corrected", "todo"):
        type_key(viewer, "Control-Z")
        settle(dock, qtbot)
        assert layer.features["status"].tolist() == ["todo", "rejected", "todo", status]
    type_key(viewer, "Control-Shift-Z")
    settle(dock, qtbot)
    assert layer.features["status"].tolist()[-1] == "corrected"
    # Also while another layer is reviewed.
    dock.labels.set_layer(viewer.add_labels(np.zeros(SHAPE, np.int32), name="other"))
    layer.undo()
    take_up(dock, layer, qtbot)
    settle(dock, qtbot)
    assert layer.features["status"].tolist() == ["todo", "rejected", "todo", "todo"]


def test_a_lasso_chooses_what_it_holds(
    dock: ReviewWidget, viewer: Any, qtbot: Any
) -> None:
    click(dock.lasso, qtbot)
    outline = np.array([[6, 2, 2], [6, 2, 24], [6, 20, 24], [6, 20, 2]], float)
    viewer.layers["volseg: lasso"].add(outline, shape_type="polygon")
    qtbot.waitUntil(lambda: "volseg: lasso" not in viewer.layers, timeout=60_000)
    assert sorted(dock.table.chosen()) == [1, 2]
    assert not dock.lasso.isChecked()
    assert not dock.message.text()
    click(dock.lasso, qtbot)
    viewer.layers.remove("volseg: lasso")
    assert not dock.message.text()
    assert not dock.lasso.isChecked()


def test_a_layer_of_the_user_is_copied(viewer: Any, qtbot: Any, runs_dir: Path) -> None:
    modules = set(sys.modules)
    mine = viewer.add_labels(make_instances().astype(np.uint8), name="mine")
    before = mine.data.copy()
    dock = begin(viewer, mine, qtbot)
    copy = viewer.layers["mine (review)"]
    assert "'mine' stays as it is" in dock.message.text()
    dock.table.choose([1])
    dock._tidy()
    assert "no maps" in dock.reshape.buttons["grow"].toolTip()
    press(dock, "delete", qtbot)
    assert (mine.data == before).all()
    assert not (copy.data == 1).any()
    click(dock.files.save, qtbot)
    assert not {"torch", "cc3d", "fastremap"} & (set(sys.modules) - modules)
    qtbot.waitUntil(lambda: any(runs_dir.rglob("review.json")), timeout=60_000)


def test_a_copy_of_few_bits_has_room_for_new_ids(
    viewer: Any, qtbot: Any, runs_dir: Path
) -> None:
    labels = make_instances().astype(np.uint8)
    labels[labels == 4] = 255
    mine = viewer.add_labels(labels, name="mine")
    # A review that was saved under the type of the layer.
    key = fingerprint(labels)
    place = ReviewFolder(runs_dir / "reviews" / f"mine-{key}", key)
    old = Review(labels.copy(), instance_table(labels, None, (1, 1, 1)), (1, 1, 1))
    old.delete([1])
    place.save(old.snapshot())
    dock = begin(viewer, mine, qtbot)
    settle(dock, qtbot)
    assert "Taken up from the last time" in dock.message.text()
    assert ids(dock) == [2, 3, 255]
    assert dock._reviewing is not None
    points = np.array([[6, 28, 10], [6, 28, 28]], float)
    dock._reviewing.split(3, points=points)
    settle(dock, qtbot)
    assert ids(dock) == [2, 3, 255, 256]
    assert mine.data.dtype == np.uint8


def test_what_is_painted_before_a_review_is_part_of_it(
    viewer: Any, folder: Path, qtbot: Any, make_napari_viewer_proxy: Any
) -> None:
    layer = show(viewer, folder)
    layer.brush_size = 3
    layer.paint((5, 35, 50), 4)
    layer.paint((5, 35, 51), 4)
    dock = begin(viewer, layer, qtbot)
    settle(dock, qtbot)
    assert layer.features["status"].tolist() == ["todo", "todo", "todo", "corrected"]
    assert (
        layer.features["voxels"].tolist()
        == np.bincount(layer.data.ravel())[1:].tolist()
    )
    dock.table.choose([1, 2])
    dock._tidy()
    press(dock, "merge", qtbot)
    viewer.layers.remove(layer)

    window = make_napari_viewer_proxy()
    new = show(window, folder)
    new.paint((5, 38, 20), 3)
    again = begin(window, new, qtbot)
    settle(again, qtbot)
    assert "Taken up from the last time" in again.message.text()
    assert (new.data == 3).sum() > (layer.data == 3).sum()
    new.data[new.data == 3] = layer.data[new.data == 3]
    assert (new.data == layer.data).all()
    assert new.features["status"].tolist() == ["corrected"] * 3


def test_bad_labels_are_refused_in_words(viewer: Any, qtbot: Any) -> None:
    flat = viewer.add_labels(np.ones((5, 5), np.int32), name="flat")
    dock = open_dock(viewer, "Review")
    dock.labels.set_layer(flat)
    click(dock.begin, qtbot)
    assert "'flat' has 2 axes" in dock.message.text()
    negative = viewer.add_labels(np.full((3, 5, 5), -3, np.int32), name="negative")
    dock.labels.set_layer(negative)
    click(dock.begin, qtbot)
    qtbot.waitUntil(lambda: "negative ids" in dock.message.text(), timeout=60_000)


def test_a_review_goes_on_after_a_crash(
    viewer: Any, folder: Path, qtbot: Any, make_napari_viewer_proxy: Callable[..., Any]
) -> None:
    layer = show(viewer, folder)
    dock = begin(viewer, layer, qtbot)
    dock.table.choose([1, 2])
    dock._tidy()
    press(dock, "merge", qtbot)
    dock.table.choose([3])
    dock._say("accepted")
    layer.paint((5, 35, 50), 4)
    settle(dock, qtbot)
    assert dock._reviewing is not None
    dock._reviewing.save()
    qtbot.waitUntil(lambda: any(folder.rglob("review.json")), timeout=60_000)
    qtbot.waitUntil(lambda: any(folder.rglob("strokes-*.npz")), timeout=60_000)
    edited = layer.data.copy()
    # The crash: nothing is said to the dock, and its lock is gone with the process.
    dock._reviewing.folder.release()  # type: ignore[union-attr]
    dock._reviewing.folder = None

    other = make_napari_viewer_proxy()
    again = show(other, folder)
    reopened = begin(other, again, qtbot)
    settle(reopened, qtbot)
    assert "Taken up from the last time" in reopened.message.text()
    assert (again.data == edited).all()
    assert ids(reopened) == [2, 3, 4]
    assert again.features["status"].tolist() == ["corrected", "accepted", "corrected"]
    # So other thresholds do not replace what was corrected.
    assert "instances" not in shown_predictions(other)[0].layers


def test_table_and_surfaces_are_written(
    dock: ReviewWidget, tmp_path: Path, qtbot: Any
) -> None:
    dock.table.choose([1, 4])
    dock._say("accepted")
    dock.files.table_asked.emit(str(tmp_path / "t.csv"))
    qtbot.waitUntil((tmp_path / "t.csv").exists, timeout=60_000)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["accepted", "todo", "todo", "accepted"]
    assert rows[0]["author"]
    dock.files.surfaces_asked.emit(str(tmp_path / "s.obj"))
    qtbot.waitUntil((tmp_path / "s.obj").exists, timeout=60_000)
    lines = (tmp_path / "s.obj").read_text().splitlines()
    assert [line for line in lines if line[0] == "o"] == [
        "o instance-1",
        "o instance-4",
    ]
    corners = np.array([line.split()[1:] for line in lines if line[0] == "v"], float)
    # x, y, z in nm; instance 4 ends at 52 voxels of 8 nm.
    assert corners[:, 0].max() == pytest.approx(51.5 * 8)
    qtbot.waitUntil(lambda: "2 surfaces written" in dock.message.text(), timeout=60_000)


def test_two_windows_on_one_review(
    dock: ReviewWidget, folder: Path, qtbot: Any, make_napari_viewer_proxy: Any
) -> None:
    other = make_napari_viewer_proxy()
    second = begin(other, show(other, folder), qtbot)
    assert "Another window reviews" in second.message.text()
    assert second._reviewing is not None
    assert second._reviewing.folder is None


def test_a_layer_of_the_user_has_one_copy(
    viewer: Any, qtbot: Any, runs_dir: Path
) -> None:
    mine = viewer.add_labels(make_instances(), name="mine")
    dock = begin(viewer, mine, qtbot)
    dock.table.choose([1])
    dock._say("accepted")
    take_up(dock, mine, qtbot)
    assert [layer.name for layer in viewer.layers] == ["mine", "mine (review)"]
    assert "'mine' is reviewed in its copy 'mine (review)'" in dock.message.text()
    assert dock.labels.currentText() == "mine (review)"
    assert dock._reviewing is not None
    assert dock._reviewing.review.accepted() == [1]
    assert dock._reviewing.folder is not None


def test_a_duplicate_of_the_instances_is_the_users_own(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    viewer.layers.selection.active = plain(layer)
    _duplicate_layer(viewer.layers)
    duplicate = plain(viewer.layers[f"{layer.name} copy"])
    before = duplicate.data.copy()
    dock.table.choose([1])
    dock._tidy()
    press(dock, "delete", qtbot)
    take_up(dock, duplicate, qtbot)
    assert dock._reviewing is not None
    assert dock._reviewing.layer.name == f"{duplicate.name} (review)"
    assert ids(dock) == [1, 2, 3, 4]
    copy = dock._reviewing.layer
    dock.table.choose([2])
    dock._tidy()
    press(dock, "delete", qtbot)
    assert not (copy.data == 2).any()
    assert (duplicate.data == before).all()


def test_what_another_review_saved_is_not_overwritten(
    dock: ReviewWidget, viewer: Any, layer: Any, folder: Path, qtbot: Any
) -> None:
    dock.table.choose([1])
    dock._say("accepted")
    twin = show(viewer, folder)
    take_up(dock, twin, qtbot)
    dock.table.choose([2])
    dock._say("rejected")
    take_up(dock, layer, qtbot)
    assert "Another review of these instances was saved" in dock.message.text()
    assert "Another review" in dock.files.save.toolTip()
    dock.table.choose([3])
    dock._say("rejected")
    take_up(dock, twin, qtbot)
    assert not dock.message.text()
    assert dock._reviewing is not None
    saved = dock._reviewing.folder.load()  # type: ignore[union-attr]
    assert saved is not None
    assert sorted(saved.marks) == [1, 2]


def test_a_review_is_saved_again_once_the_other_window_lets_go(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    assert dock._reviewing is not None
    place = dock._reviewing.folder
    assert place is not None
    dock.table.choose([1])
    dock._say("accepted")
    empty = viewer.add_labels(np.zeros(SHAPE, np.int32), name="other")
    dock.labels.set_layer(empty)
    other = ReviewFolder(place.folder, place.base)
    assert other.acquire()
    take_up(dock, layer, qtbot)
    assert "Another window reviews" in dock.message.text()
    assert "Another window reviews" in dock.files.save.toolTip()
    dock.table.choose([2])
    dock._say("accepted")
    dock.labels.set_layer(empty)
    other.release()
    take_up(dock, layer, qtbot)
    assert not dock.message.text()
    dock.labels.set_layer(empty)
    saved = other.load()
    assert saved is not None
    assert sorted(saved.marks) == [1, 2]


def test_a_damaged_review_says_why_it_is_not_saved(
    viewer: Any, folder: Path, qtbot: Any
) -> None:
    layer = show(viewer, folder)
    place = folder / f"review-{fingerprint(layer.data)}"
    place.mkdir()
    (place / "review.json").write_text("{")
    dock = begin(viewer, layer, qtbot)
    assert "is damaged" in dock.message.text()
    assert "is damaged" in dock.files.save.toolTip()


def test_closing_the_dock_saves_and_unbinds_and_reopening_goes_on(
    dock: ReviewWidget, viewer: Any, layer: Any, folder: Path, qtbot: Any
) -> None:
    dock.table.choose([1])
    dock._tidy()
    press(dock, "delete", qtbot)
    close(dock, viewer)
    qtbot.waitUntil(lambda: any(folder.rglob("review.json")), timeout=60_000)
    qtbot.waitUntil(lambda: not layer.keymap, timeout=60_000)
    assert not viewer.keymap
    again = begin(viewer, layer, qtbot)
    assert ids(again) == [2, 3, 4]
    press(again, "undo", qtbot)
    assert ids(again) == [1, 2, 3, 4]


def test_closing_waits_for_a_save_that_goes_on(
    dock: ReviewWidget, viewer: Any, layer: Any, monkeypatch: Any, qtbot: Any
) -> None:
    dock.table.choose([1])
    dock._tidy()
    press(dock, "delete", qtbot)
    assert dock._reviewing is not None
    folder = dock._reviewing.folder
    assert folder is not None
    go_on = threading.Event()
    save = folder.save

    def wait_first(saved: Any) -> None:
        go_on.wait()
        save(saved)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "save", wait_first)
        dock._reviewing.save()
    close(dock, viewer)
    qtbot.waitUntil(lambda: ReviewFolder(folder.folder, folder.base).acquire())
    saved = ReviewFolder(folder.folder, folder.base).load()
    go_on.set()
    assert saved is not None
    assert [step.kind for step in saved.steps] == ["delete"]


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_is_painted_while_a_review_is_left_is_listed_and_saved(
    dock: ReviewWidget,
    viewer: Any,
    layer: Any,
    folder: Path,
    qtbot: Any,
    make_napari_viewer_proxy: Any,
    is_closed: bool,
) -> None:
    layer.paint((5, 35, 50), 4)
    settle(dock, qtbot)
    other = viewer.add_labels(np.zeros(SHAPE, np.int32), name="other")
    if is_closed:
        close(dock, viewer)
        qtbot.waitUntil(lambda: not layer.keymap, timeout=60_000)
    else:
        dock.labels.set_layer(other)
    layer.undo()
    layer.paint((5, 37, 40), 2)
    again = dock
    if is_closed:
        again = begin(viewer, layer, qtbot)
    else:
        take_up(dock, layer, qtbot)
    settle(again, qtbot)
    sizes = np.bincount(layer.data.ravel())[1:].tolist()
    assert layer.features["voxels"].tolist() == sizes
    assert layer.features["status"].tolist()[1] == "corrected"
    again.labels.set_layer(other)

    window = make_napari_viewer_proxy()
    new = show(window, folder)
    begin(window, new, qtbot)
    assert (new.data == layer.data).all()


def test_closing_while_instances_are_read_leaves_the_layer_as_it_was(
    dock: ReviewWidget,
    viewer: Any,
    layer: Any,
    folder: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock.table.choose([1])
    dock._tidy()
    press(dock, "delete", qtbot)
    viewer.layers.remove(layer)
    again = show(viewer, folder)
    before = again.data.copy()
    go_on, has_ended = threading.Event(), threading.Event()

    def wait_first(*arguments: Any) -> Any:
        go_on.wait()
        try:
            return open_review(*arguments)
        finally:
            has_ended.set()

    monkeypatch.setattr("napari_volseg.widgets.reviewstart.open_review", wait_first)
    try:
        dock.labels.set_layer(again)
        click(dock.begin, qtbot)
        assert not again.editable
        close(dock, viewer)
        qtbot.waitUntil(lambda: again.editable, timeout=20_000)
    finally:
        go_on.set()
    qtbot.waitUntil(has_ended.is_set, timeout=60_000)
    assert (again.data == before).all()


def test_another_layer_chosen_while_one_is_read_is_not_reviewed(
    viewer: Any, layer: Any, qtbot: Any
) -> None:
    other = viewer.add_labels(np.zeros(SHAPE, np.int32), name="other")
    dock = open_dock(viewer, "Review")
    dock.labels.set_layer(layer)
    click(dock.begin, qtbot)
    dock.labels.set_layer(other)
    qtbot.waitUntil(lambda: not dock.starter.is_busy, timeout=60_000)
    assert dock._reviewing is None
    assert dock.begin.isVisibleTo(dock)
    take_up(dock, layer, qtbot)
    assert dock._reviewing.layer is layer
    assert dock._reviewing.folder is not None


def test_new_data_while_they_are_read_are_not_taken_for_the_old(
    viewer: Any, layer: Any, qtbot: Any
) -> None:
    dock = open_dock(viewer, "Review")
    dock.labels.set_layer(layer)
    click(dock.begin, qtbot)
    layer.data = np.where(layer.data == 1, 7, layer.data)
    qtbot.waitUntil(lambda: not dock.starter.is_busy, timeout=60_000)
    assert dock._reviewing is None
    assert "press Review again" in dock.message.text()
    take_up(dock, layer, qtbot)
    assert ids(dock) == [2, 3, 4, 7]


@pytest.mark.parametrize("scale", [(3000, 8, 8), (8, 8, 30)])
def test_a_table_of_another_voxel_size_is_measured_again(
    viewer: Any, layer: Any, qtbot: Any, scale: tuple[int, ...]
) -> None:
    layer.scale = scale
    dock = begin(viewer, layer, qtbot)
    expected = instance_table(layer.data, None, scale)
    assert dock._reviewing is not None
    for name in ("volume_um3", "surface_um2"):
        found = dock._reviewing.review.table[name]
        np.testing.assert_allclose(found, expected[name])


@pytest.mark.parametrize("is_left", [False, True])
def test_another_voxel_size_is_that_of_all_rows(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any, is_left: bool
) -> None:
    if is_left:
        close(dock, viewer)
        qtbot.wait(50)
    layer.scale = (60, 8, 30)
    if is_left:
        dock = begin(viewer, layer, qtbot)
    settle(dock, qtbot)
    expected = instance_table(layer.data, None, (60, 8, 30))
    assert dock._reviewing is not None
    for name in ("volume_um3", "surface_um2"):
        found = dock._reviewing.review.table[name]
        np.testing.assert_allclose(found, expected[name])


def test_new_data_or_a_removed_layer_end_the_review(
    dock: ReviewWidget, viewer: Any, layer: Any, qtbot: Any
) -> None:
    layer.data = np.zeros(SHAPE, np.int32)
    assert dock._reviewing is None
    assert "got other labels" in dock.message.text()
    assert dock.begin.isVisibleTo(dock)
    click(dock.begin, qtbot)
    qtbot.waitUntil(lambda: dock._reviewing is not None, timeout=60_000)
    assert dock.summary.text().startswith("0 instances")
    viewer.layers.remove(layer)
    assert dock._reviewing is None


def test_a_helper_that_dies_is_told(dock: ReviewWidget, layer: Any, qtbot: Any) -> None:
    before = layer.data.copy()
    dock._helper._end()
    dock._helper._command = [sys.executable, "-c", "raise SystemExit(7)"]
    dock.table.choose([4])
    dock._tidy()
    click(dock.reshape.buttons["fill"], qtbot)
    settle(dock, qtbot)
    assert "code 7" in dock.message.text()
    assert (layer.data == before).all()
    assert dock.buttons.buttons["delete"].isEnabled()


def test_a_hundred_thousand_rows_sort_and_filter(qtbot: Any) -> None:
    from napari_volseg.widgets.instancetable import InstanceTable
    from napari_volseg.widgets.reviewcolumns import COLUMNS

    n = 100_000
    table = {column.key: np.arange(n) % 977 for column in COLUMNS}
    table |= {"index": np.arange(n), "status": np.full(n, "todo")}
    view = InstanceTable(COLUMNS)
    qtbot.addWidget(view)
    view.set_table(table, table["voxels"] < 10)
    view.sort_by("voxels", descending=True)
    listed = np.array(view.listed())
    assert len(listed) == int((table["voxels"] < 10).sum())
    values = table["voxels"][listed]
    assert (np.diff(values) <= 0).all()
    # Equal rows stay in the order of their ids.
    assert (np.diff(listed[values == 3]) > 0).all()
    view.choose([977])
    assert view.chosen() == [977]
