"""The Inspect dock: maps, profiles, thresholds and what follows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers._layer_actions import _duplicate_layer

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.io import write_hdf5
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.inspect import InspectWidget
from napari_volseg.widgets.layers import placement, plain
from napari_volseg.widgets.outputs import add_instances, add_maps
from napari_volseg.widgets.predictions import box_around, view_box
from napari_volseg.widgets.profilepart import LINE_NAME
from napari_volseg.widgets.profiles import sample_profile
from napari_volseg.widgets.thresholds import ThresholdPanel

SHAPE = (8, 40, 40)
TIMEOUT = 60_000


def test_maps_without_instances_get_them_at_once(
    viewer: Any,
    blob_maps: Any,
    tmp_path: Path,
    qtbot: Any,
    workers: Callable[[], list[Any]],
) -> None:
    write_hdf5(tmp_path / "out.h5", {"maps": blob_maps}, (30, 8, 8))
    viewer.open(tmp_path / "out.h5", plugin="napari-volseg")
    dock = open_dock(viewer, "Inspect")
    qtbot.waitUntil(lambda: "2 instances" in dock.count.text(), timeout=TIMEOUT)
    assert workers()
    with qtbot.waitSignal(dock.destroyed, timeout=60_000):
        viewer.window.remove_dock_widget(dock)
        dock.deleteLater()
    qtbot.waitUntil(lambda: not workers(), timeout=60_000)


def test_nothing_to_inspect_says_what_to_do(viewer: Any) -> None:
    dock = open_dock(viewer, "Inspect")
    assert not dock.body.isEnabled()
    assert "Predict" in dock.next.text()


def test_instances_follow_a_threshold(
    viewer: Any, inspect_dock: InspectWidget, qtbot: Any, blob_maps: Any
) -> None:
    layer = viewer.layers["out · instances"]
    inspect_dock.thresholds.controls["seed_distance"].setValue(0.7)
    qtbot.waitUntil(
        lambda: "1 instance ·" in inspect_dock.count.text(), timeout=TIMEOUT
    )
    assert layer.data[4, 20, 10] > 0
    assert layer.data[4, 20, 28] == 0
    inspect_dock.reset.click()
    qtbot.waitUntil(lambda: "2 instances" in inspect_dock.count.text(), timeout=TIMEOUT)
    assert inspect_dock.thresholds.value() == InstancesConfig()
    assert [each.name for each in viewer.layers].count("out · instances") == 1


def test_seeds_are_shown_and_hidden(
    viewer: Any, inspect_dock: InspectWidget, qtbot: Any
) -> None:
    inspect_dock.seeds.click()
    qtbot.waitUntil(lambda: "out · seeds" in viewer.layers, timeout=TIMEOUT)
    seeds, instances = viewer.layers["out · seeds"], viewer.layers["out · instances"]
    assert 0 < np.count_nonzero(seeds.data) < np.count_nonzero(instances.data)
    inspect_dock.seeds.click()
    assert not seeds.visible


def test_a_corrected_layer_is_never_replaced(
    viewer: Any, inspect_dock: InspectWidget, qtbot: Any
) -> None:
    layer = viewer.layers["out · instances"]
    layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 7)
    before = layer.data.copy()
    inspect_dock.thresholds.controls["seed_distance"].setValue(0.7)
    qtbot.waitUntil(lambda: "out · instances [2]" in viewer.layers, timeout=TIMEOUT)
    assert np.array_equal(layer.data, before)


def test_a_duplicate_is_the_users_own(
    viewer: Any, inspect_dock: InspectWidget, qtbot: Any
) -> None:
    layer = viewer.layers["out · instances"]
    viewer.layers.selection = {layer}
    _duplicate_layer(plain(viewer.layers))
    copy = viewer.layers["out · instances copy"]
    copy.paint((4, 3, 3), 77)
    before = copy.data.copy()
    assert (before == 77).any()

    inspect_dock.thresholds.controls["seed_distance"].setValue(0.7)
    qtbot.waitUntil(lambda: "1 instance" in inspect_dock.count.text(), timeout=TIMEOUT)

    assert np.array_equal(copy.data, before)
    assert layer.data.max() == 1


def test_profile_along_a_line(
    viewer: Any, inspect_dock: InspectWidget, qtbot: Any, blob_maps: Any
) -> None:
    inspect_dock.profile.choice.setCurrentText("along a line")
    line = viewer.layers[LINE_NAME]
    line.add([[4, 20, 5], [4, 20, 35]], shape_type="line")
    qtbot.waitUntil(
        lambda: inspect_dock.profile.plot.profile is not None, timeout=TIMEOUT
    )
    positions, values = inspect_dock.profile.plot.profile
    assert np.allclose(positions, np.arange(31) * 8)
    assert np.allclose(values["distance"], blob_maps[2, 4, 20, 5:36] / 255)
    assert np.allclose(values["mask"], blob_maps[0, 4, 20, 5:36] / 255)


def test_profile_at_the_cursor(
    viewer: Any, inspect_dock: InspectWidget, qtbot: Any, blob_maps: Any
) -> None:
    inspect_dock.profile.choice.setCurrentText("z at the cursor")
    viewer.cursor.position = (4 * 30, 20 * 8, 10 * 8)
    expected = blob_maps[2, :, 20, 10] / 255
    qtbot.waitUntil(lambda: shows(inspect_dock, "distance", expected), timeout=TIMEOUT)


def shows(inspect_dock: InspectWidget, role: str, expected: Any) -> bool:
    profile = inspect_dock.profile.plot.profile
    return profile is not None and np.allclose(profile[1][role], expected)


def test_side_by_side_and_back(viewer: Any, inspect_dock: InspectWidget) -> None:
    other = viewer.add_image(np.zeros(SHAPE), name="raw", scale=(30, 8, 8))
    before = {layer.name: layer.visible for layer in viewer.layers}
    inspect_dock.view.preset.setCurrentText("side by side")
    shown = {layer.name for layer in viewer.layers if layer.visible}
    roles = ("mask", "boundary", "distance", "instances")
    assert shown == {"raw"} | {f"out · {role}" for role in roles}
    inspect_dock.view.preset.setCurrentText("as it was")
    assert {layer.name: layer.visible for layer in viewer.layers} == before
    assert other.visible


def test_maps_are_shown_by_their_boxes(
    viewer: Any, inspect_dock: InspectWidget
) -> None:
    layer = viewer.layers["out · boundary"]
    inspect_dock.view.shown["boundary"].click()
    assert layer.visible
    inspect_dock.view.shown["boundary"].click()
    assert not layer.visible


def test_a_removed_prediction_leaves_an_empty_dock(
    viewer: Any, inspect_dock: InspectWidget
) -> None:
    viewer.layers.clear()
    assert not inspect_dock.body.isEnabled()


def test_thresholds_come_from_their_settings(qtbot: Any) -> None:
    panel = ThresholdPanel()
    qtbot.addWidget(panel)
    assert set(panel.controls) == set(InstancesConfig.model_fields)
    config = InstancesConfig(seed_distance=0.33, boundary=0.9, min_size=123)
    panel.set_value(config)
    assert panel.value() == config
    for name, info in InstancesConfig.model_fields.items():
        assert panel.controls[name].toolTip() == info.description


@pytest.mark.parametrize("scale", [0.1, 0.7])
def test_a_slanted_profile_keeps_a_linear_ramp(scale: float) -> None:
    z, y, x = np.indices((6, 20, 20))
    ramp = (z * 10 + y * 5 + x * 2).astype(np.uint8)
    start, stop = np.array([0.0, 1.0, 2.0]), np.array([5.0, 11.0, 12.0]) * scale
    profile = sample_profile({"mask": ramp}, start, stop, np.array([30.0, 8.0, 8.0]))
    t = np.linspace(0, 1, profile.positions.size)[:, None]
    expected = ((start + t * (stop - start)) @ [10, 5, 2]) / 255
    assert np.allclose(profile.values["mask"], expected, atol=1e-6)


def test_a_profile_outside_is_empty() -> None:
    ends = np.array([-9.0, 0, 0]), np.array([-5.0, 9, 9])
    profile = sample_profile({"mask": np.zeros(SHAPE, np.uint8)}, *ends, np.ones(3))
    assert profile.positions.size == 0


@pytest.mark.parametrize("point", [(0, 0, 0), (50, 999, 10**6), (20, 300, 300)])
def test_a_box_around_the_view_lies_inside(point: Any) -> None:
    shape = (50, 1000, 2000)
    box = box_around(point, shape)
    assert box.clip(shape) == box
    assert box.shape == (50, 256, 256)


def test_small_volumes_are_tuned_whole(viewer: Any) -> None:
    layer = viewer.add_image(np.zeros(SHAPE))
    assert view_box(viewer, layer, SHAPE) == Box.whole(SHAPE)
    large = (300, 300, 300)
    box = view_box(viewer, layer, large)
    assert box.shape == (256, 256, 256)


def test_a_prediction_that_arrives_layer_by_layer_is_not_segmented_twice(
    viewer: Any, inspect_dock: InspectWidget, blob_maps: Any, qtbot: Any
) -> None:
    place = placement(viewer.layers["out · mask"])
    origin = {"prediction": "/runs/new", "model": "/runs/m/model", "image": "new"}
    add_maps(viewer, blob_maps, place, "new · ", origin)
    assert inspect_dock.prediction.currentText() == "new · m"
    one = (blob_maps[2] > 0).astype(np.int32)
    add_instances(viewer, one, place, "new · ", origin)
    qtbot.waitUntil(
        lambda: "1 instance ·" in inspect_dock.count.text(), timeout=TIMEOUT
    )
    assert sum("new · instances" in layer.name for layer in viewer.layers) == 1
