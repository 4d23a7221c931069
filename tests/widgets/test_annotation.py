"""The annotation in the Train dock: measured while it is painted, shown in layers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QApplication

from napari_volseg.counting import GAP, HELD_OUT, LEARNT
from napari_volseg.widgets.annotationpanel import AnnotationPanel
from napari_volseg.widgets.layers import placement, plain
from napari_volseg.widgets.meter import count_pairs, painted_slices, share_words
from napari_volseg.widgets.outputs import add_maps
from napari_volseg.widgets.train import TrainWidget

SHAPE = (6, 24, 24)
SCALE = (30.0, 8.0, 8.0)
PLACE: dict[str, Any] = {"scale": SCALE, "units": ("nm",) * 3}
PLAN = {
    "held_out": [{"pair": 0, "box": {"start": [0, 0, 0], "stop": [6, 8, 8]}}],
    "guard": [0, 2, 2],
}


@pytest.fixture
def labels(viewer: Any) -> Labels:
    """An image with labels of two objects in one slice."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, SHAPE).astype(np.uint8)
    viewer.add_image(image, name="em", **PLACE)
    data = np.zeros(SHAPE, np.int32)
    data[2, 3:6, 3:6] = 1
    data[2, 15:20, 12:20] = 2
    layer: Labels = viewer.add_labels(data, name="mine", **PLACE)
    return layer


@pytest.fixture
def panel(viewer: Any, labels: Labels) -> AnnotationPanel:
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    return dock.annotation


def choose(panel: AnnotationPanel, rule: str) -> None:
    panel.chooser.rule.setCurrentIndex(panel.chooser.rule.findData(rule))


def wait_for(qtbot: Any, panel: AnnotationPanel, words: str) -> None:
    qtbot.waitUntil(lambda: words in panel.meter.text(), timeout=60_000)


def shown(viewer: Any) -> list[Any]:
    return [plain(layer) for layer in viewer.layers if "what counts" in str(layer.name)]


def test_a_stroke_an_undo_and_new_data_move_the_meter(
    viewer: Any, labels: Labels, panel: AnnotationPanel, qtbot: Any
) -> None:
    choose(panel, "painted_slices")
    wait_for(qtbot, panel, "17 % annotated · 2 instances")
    viewer.dims.set_point(0, 4 * SCALE[0])
    labels.brush_size = 4
    labels.paint((4, 10, 10), 7)
    wait_for(qtbot, panel, "33 % annotated · 3 instances")
    bar = panel.meter._rows[0].bar
    assert bar.value() == 333
    assert "1,152 of 3,456 voxels" in bar.toolTip()
    labels.undo()
    wait_for(qtbot, panel, "17 % annotated · 2 instances")
    labels.data = np.zeros(SHAPE, np.int32)
    wait_for(qtbot, panel, "0 % annotated · 0 instances")


def test_only_the_slices_of_a_stroke_are_counted_again(
    viewer: Any, labels: Labels, panel: AnnotationPanel, qtbot: Any
) -> None:
    wait_for(qtbot, panel, "2 instances")
    meter = panel.meter
    qtbot.waitUntil(
        lambda: not (meter._later.isActive() or meter._is_busy), timeout=60_000
    )
    (counter,) = panel.meter._counters
    viewer.dims.set_point(0, 4 * SCALE[0])
    labels.data[0, 0, 0] = 50  # behind napari's back
    labels.paint((4, 10, 10), 7)
    wait_for(qtbot, panel, "3 instances")
    assert panel.meter._counters == [counter]


def test_a_choice_that_is_made_during_a_count_is_counted(
    panel: AnnotationPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def count(*args: Any) -> Any:
        counted = count_pairs(*args)
        begun.set()
        may_end.wait(60)
        return counted

    monkeypatch.setattr("napari_volseg.widgets.meter.count_pairs", count)
    panel.meter.forget()
    qtbot.waitUntil(begun.is_set, timeout=60_000)
    choose(panel, "painted_slices")
    may_end.set()
    wait_for(qtbot, panel, "17 % annotated · 2 instances")


def test_every_pair_has_a_line(
    viewer: Any, panel: AnnotationPanel, add_pair: Callable[..., Any], qtbot: Any
) -> None:
    _, more = add_pair(viewer, "more")
    panel._pairs.add_pair()
    n = np.unique(more.data).size - 1
    wait_for(qtbot, panel, "em: 100 % annotated · 2 instances")
    wait_for(qtbot, panel, f"more: 100 % annotated · {n} instances")
    panel._pairs._remove(panel._pairs.rows[1])
    qtbot.waitUntil(lambda: "more" not in panel.meter.text(), timeout=60_000)


def test_what_counts_is_shown_in_a_layer_of_ours(
    viewer: Any, labels: Labels, panel: AnnotationPanel, qtbot: Any
) -> None:
    before = labels.data.copy()
    choose(panel, "painted_slices")
    wait_for(qtbot, panel, "17 %")
    viewer.layers.selection = [labels]
    qtbot.mouseClick(panel.shown, Qt.MouseButton.LeftButton)
    (layer,) = shown(viewer)
    assert layer.name == "em · what counts"
    assert set(viewer.layers.selection) == {labels}
    assert (np.asarray(layer.data).any(axis=(1, 2)) == (np.arange(6) == 2)).all()
    assert not layer.editable
    panel.set_plan(PLAN)
    part = np.asarray(shown(viewer)[0].data)[2]
    assert (part[:8, :8] == HELD_OUT).all()
    assert (part[8:10, :10] == GAP).all()
    assert (part[10:, 10:] == LEARNT).all()
    assert "held out" in layer.get_status((60, 8, 8), world=True)["value"]
    viewer.dims.set_point(0, 4 * SCALE[0])
    labels.paint((4, 10, 10), 7)
    wait_for(qtbot, panel, "33 %")
    assert np.asarray(shown(viewer)[0].data)[4].any()
    qtbot.mouseClick(panel.shown, Qt.MouseButton.LeftButton)
    assert not shown(viewer)
    labels.undo()
    assert np.array_equal(labels.data, before)


def test_what_counts_lies_where_the_image_is_moved(
    viewer: Any, panel: AnnotationPanel, qtbot: Any
) -> None:
    wait_for(qtbot, panel, "2 instances")
    panel.shown.click()
    (layer,) = shown(viewer)
    for name in ("em", "mine"):
        viewer.layers[name].scale = (60, 16, 16)
        viewer.layers[name].translate = (30, 0, 8)
    qtbot.waitUntil(lambda: tuple(layer.scale) == (60, 16, 16), timeout=60_000)
    assert shown(viewer) == [layer]
    assert np.allclose(layer.translate, (30, 0, 8))


def test_two_pairs_of_one_image_are_shown_and_taken_away(
    viewer: Any, labels: Labels, panel: AnnotationPanel, qtbot: Any
) -> None:
    viewer.add_labels(labels.data.copy(), name="others", **PLACE)
    panel._pairs.add_pair()
    row = panel._pairs.rows[1]
    row.image.set_layer(viewer.layers["em"])
    row.labels.set_layer(viewer.layers["others"])
    wait_for(qtbot, panel, "2 instances")
    for _ in range(2):
        panel.shown.click()
        assert len(shown(viewer)) == 2
        panel.shown.click()
        assert not shown(viewer)


def test_taking_the_layer_away_unchecks_the_button(
    viewer: Any, panel: AnnotationPanel, qtbot: Any
) -> None:
    wait_for(qtbot, panel, "2 instances")
    panel.shown.click()
    assert panel.legend.isVisibleTo(panel)
    viewer.layers.remove(shown(viewer)[0])
    assert not panel.shown.isChecked()
    assert not panel.legend.isVisibleTo(panel)
    panel.shown.click()
    assert shown(viewer)


def test_a_pair_for_validation_is_held_out_as_a_whole(
    viewer: Any, panel: AnnotationPanel, add_pair: Callable[..., Any], qtbot: Any
) -> None:
    add_pair(viewer, "more")
    panel._pairs.add_pair()
    panel._pairs.rows[1].held_out.setChecked(True)
    wait_for(qtbot, panel, "more: 100 %")
    panel.shown.click()
    names = {str(layer.name): np.asarray(layer.data) for layer in shown(viewer)}
    assert (names["em · what counts"] == LEARNT).all()
    assert (names["more · what counts"] == HELD_OUT).all()


def test_a_problem_takes_the_layer_away_and_the_button_says_why(
    viewer: Any, labels: Labels, panel: AnnotationPanel, qtbot: Any
) -> None:
    wait_for(qtbot, panel, "2 instances")
    panel.shown.click()
    viewer.layers.remove(labels)
    assert not panel.shown.isEnabled()
    assert "There are no labels" in panel.shown.toolTip()
    assert not shown(viewer)


def test_what_napari_says_of_a_stroke() -> None:
    where = (np.array([2, 2, 3]), np.array([1, 1, 1]), np.array([5, 6, 7]))
    assert painted_slices([(where, 0, 1)]) == {2, 3}
    assert painted_slices(None) is None
    assert painted_slices(["something new"]) is None


@pytest.mark.parametrize(
    ("share", "words"), [(0.0045, "0.45 %"), (0.024, "2.4 %"), (0.999, "100 %")]
)
def test_shares_in_words(share: float, words: str) -> None:
    assert share_words(share) == words


def names(viewer: Any) -> list[str]:
    return [str(layer.name) for layer in viewer.layers]


def suggest(panel: AnnotationPanel, qtbot: Any) -> list[Any]:
    """Press Suggest; return what is suggested."""
    with qtbot.waitSignal(panel.suggestions.suggested, timeout=60_000) as signal:
        qtbot.mouseClick(panel.suggestions.suggest, Qt.MouseButton.LeftButton)
    found: list[Any] = signal.args[0]
    return found


@pytest.fixture
def large(viewer: Any) -> Any:
    """A larger volume: nine dark boxes and a bright one, and one annotated slice."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (8, 96, 96)).astype(np.uint8)
    image[:, 64:, 32:64] += 100
    viewer.add_image(image, name="em", translate=(60, 8, 16), **PLACE)
    data = np.zeros(image.shape, np.int32)
    data[3, 3:20, 3:20] = 1
    layer = viewer.add_labels(data, name="mine", translate=(60, 8, 16), **PLACE)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    choose(dock.annotation, "painted_voxels")
    return dock.annotation, layer


def test_suggestions_are_boxes_with_reasons_and_a_key_goes_through_them(
    viewer: Any, large: Any, qtbot: Any
) -> None:
    panel, labels = large
    wait_for(qtbot, panel, "1 instance")
    viewer.layers.selection = [labels]
    found = suggest(panel, qtbot)
    boxes = viewer.layers["em · suggestions"]
    assert found[0].box.slices[1:] == (slice(64, 96), slice(32, 64))
    assert len(boxes.data) == len(found) == 5
    assert boxes.features["why"][0] == "brighter than what is annotated"
    assert boxes.features["rank"].tolist() == [1, 2, 3, 4, 5]
    assert set(viewer.layers.selection) == {labels}
    corner = np.asarray(boxes.data_to_world(boxes.data[0][0]))
    assert np.allclose(labels.world_to_data(corner), (3, 63.5, 31.5))
    assert panel.suggestions.reason.text().startswith("1 of 5: brighter")
    assert np.allclose(viewer.dims.point[0], 60 + 3 * 30)
    press_key(viewer, "G")
    assert panel.suggestions.reason.text().startswith("2 of 5")
    qtbot.mouseClick(panel.suggestions.next, Qt.MouseButton.LeftButton)
    assert panel.suggestions.reason.text().startswith("3 of 5")


def test_a_key_of_the_users_comes_back_when_the_dock_goes(viewer: Any) -> None:
    def mine(viewer: Any) -> None:
        pass

    plain(viewer).bind_key("G", mine)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    viewer.window.remove_dock_widget(dock)
    dock.close()
    dock.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert mine in plain(viewer).keymap.values()


def press_key(viewer: Any, key: str) -> None:
    calls = {str(k): call for k, call in plain(viewer).keymap.items()}
    calls[key](viewer)


def test_a_new_suggestion_replaces_ours_but_not_what_the_user_changed(
    viewer: Any, large: Any, qtbot: Any
) -> None:
    panel, _ = large
    wait_for(qtbot, panel, "1 instance")
    suggest(panel, qtbot)
    suggest(panel, qtbot)
    assert names(viewer).count("em · suggestions") == 1
    mine = viewer.layers["em · suggestions"]
    mine.data = mine.data[:2]
    suggest(panel, qtbot)
    assert len(viewer.layers["em · suggestions"].data) == 2
    assert len(viewer.layers["em · suggestions [2]"].data) == 5
    viewer.layers.remove("em · suggestions [2]")
    panel.suggestions.go_on()
    assert "em · suggestions [2]" in names(viewer)


def test_when_everything_counts_the_button_says_so(
    viewer: Any, panel: AnnotationPanel, qtbot: Any
) -> None:
    wait_for(qtbot, panel, "100 %")
    bar = panel.suggestions
    assert not bar.suggest.isEnabled()
    assert "Everything counts" in bar.suggest.toolTip()
    assert not bar.next.isEnabled()
    choose(panel, "painted_voxels")
    qtbot.waitUntil(bar.suggest.isEnabled, timeout=60_000)


def test_the_maps_of_a_prediction_say_where_it_is_unsure(
    viewer: Any, large: Any, qtbot: Any
) -> None:
    panel, _ = large
    wait_for(qtbot, panel, "1 instance")
    maps = np.zeros((3, 8, 96, 96), np.uint8)
    maps[0, :, 32:64, 64:] = 128
    place = placement(viewer.layers["em"])
    add_maps(viewer, maps, place, "em · ", {"prediction": "p", "image": "em"})
    found = suggest(panel, qtbot)
    assert found[0].uncertainty is not None
    unsure = max(found, key=lambda each: each.uncertainty)
    assert unsure.box.slices[1:] == (slice(32, 64), slice(64, 96))
    assert "less sure than" in unsure.reasons[0]


def test_labels_are_no_region_of_their_own(
    viewer: Any, panel: AnnotationPanel, qtbot: Any
) -> None:
    choose(panel, "region")
    assert "cannot be its own region" in panel.meter.text()
    corners = np.array([[0, 0], [0, 11], [23, 11], [23, 0]], float)
    viewer.add_shapes([corners], name="around", scale=SCALE[1:], units=("nm",) * 2)
    assert panel.chooser.region.layer() is plain(viewer.layers["around"])
    wait_for(qtbot, panel, "50 % annotated · 1 instance")
