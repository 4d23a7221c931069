"""The parts of the Inspect dock: presets, 3D, values at the cursor, histograms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.retuning import Retuned
from napari_volseg.widgets.cursor import read_values
from napari_volseg.widgets.histograms import count_values
from napari_volseg.widgets.layers import placement
from napari_volseg.widgets.outputs import add_instances
from napari_volseg.widgets.predictions import view_slices
from napari_volseg.widgets.presets import PRESETS
from napari_volseg.widgets.viewers import camera_of, grid_of
from napari_volseg.widgets.viewpart import foreground

TIMEOUT = 60_000
SHAPE = (8, 40, 40)


def looks(viewer: Any) -> dict[str, tuple[bool, float, int]]:
    return {
        layer.name: (layer.visible, layer.opacity, getattr(layer, "contour", 0))
        for layer in viewer.layers
    }


def visible(viewer: Any) -> set[str]:
    return {layer.name for layer in viewer.layers if layer.visible}


def test_every_preset_leads_back_to_how_it_was(viewer: Any, inspect_dock: Any) -> None:
    viewer.add_image(np.zeros(SHAPE), name="out", scale=(30, 8, 8), opacity=0.7)
    viewer.add_labels(np.zeros(SHAPE, int), name="painted", scale=(30, 8, 8))
    before, grid = looks(viewer), grid_of(viewer).enabled
    names = [name for name in PRESETS if name not in ("as it was", "contours")]
    for name in names:
        inspect_dock.view.preset.setCurrentText(name)
        assert "painted" not in visible(viewer)
        assert ("out" in visible(viewer)) == PRESETS[name].has_image
    assert visible(viewer) == {"out · distance"}
    inspect_dock.view.preset.setCurrentText("as it was")
    assert looks(viewer) == before
    assert grid_of(viewer).enabled == grid


def test_contours_of_foreground_seeds_and_instances(
    viewer: Any, inspect_dock: Any, qtbot: Any, blob_maps: Any
) -> None:
    before = looks(viewer)
    inspect_dock.view.preset.setCurrentText("contours")
    qtbot.waitUntil(lambda: "out · seeds" in viewer.layers, timeout=TIMEOUT)
    layers = {name: viewer.layers[f"out · {name}"] for name in ("foreground", "seeds")}
    states = {name: (layer.visible, layer.contour) for name, layer in layers.items()}
    assert states == {"foreground": (True, 1), "seeds": (True, 1)}
    assert viewer.layers["out · instances"].contour == 1
    data = np.asarray(layers["foreground"].data)
    assert np.array_equal(data, blob_maps[0] > 127)
    inspect_dock.thresholds.controls["distance"].setValue(0.5)
    expected = (blob_maps[0] > 127) & (blob_maps[2] >= 0.5 * 255)
    qtbot.waitUntil(
        lambda: np.array_equal(np.asarray(layers["foreground"].data), expected),
        timeout=TIMEOUT,
    )
    inspect_dock.view.preset.setCurrentText("as it was")
    assert not layers["foreground"].visible
    assert not layers["seeds"].visible
    after = looks(viewer)
    assert {name: after[name] for name in before} == before


def test_3d_and_back_to_the_same_slice(
    viewer: Any, inspect_dock: Any, qtbot: Any
) -> None:
    viewer.dims.set_point(0, 90)
    camera = camera_of(viewer)
    camera.zoom = 1.5
    before, point, centre = looks(viewer), viewer.dims.point, tuple(camera.center)
    inspect_dock.view.space.click()
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=TIMEOUT)
    assert visible(viewer) == {"3D · instances"}
    assert isinstance(viewer.layers["3D · mask"].data, np.ndarray)
    assert np.allclose(viewer.layers["3D · mask"].scale, (30, 8, 8))
    inspect_dock.view.space.click()
    assert viewer.dims.ndisplay == 2
    assert looks(viewer) == before
    assert viewer.dims.point == point
    assert camera.zoom == 1.5
    assert np.allclose(camera.center, centre)


def test_what_is_painted_in_3d_is_kept(
    viewer: Any, inspect_dock: Any, qtbot: Any
) -> None:
    inspect_dock.view.space.click()
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=TIMEOUT)
    painted = viewer.layers["3D · instances"]
    painted.data_setitem((np.array([0]), np.array([0]), np.array([0])), 7)
    inspect_dock.view.space.click()
    assert "3D · instances" in viewer.layers
    assert "3D · mask" not in viewer.layers


def test_values_under_the_cursor(
    viewer: Any, inspect_dock: Any, qtbot: Any, blob_maps: Any
) -> None:
    values = inspect_dock.cursor_values.values
    viewer.cursor.position = (4 * 30, 20 * 8, 12 * 8)
    qtbot.waitUntil(lambda: values["instance"].text() == "1", timeout=TIMEOUT)
    assert values["mask"].text() == "1.00"
    assert values["boundary"].text() == "0.00"
    assert values["distance"].text() == f"{blob_maps[2, 4, 20, 12] / 255:.2f}"
    viewer.cursor.position = (4 * 30, 20 * 8, 1000 * 8)
    qtbot.waitUntil(lambda: values["instance"].text() == "–", timeout=TIMEOUT)
    assert {label.text() for label in values.values()} == {"–"}


def test_a_corrected_layer_is_not_read_as_instances(
    viewer: Any, inspect_dock: Any, qtbot: Any
) -> None:
    layer = viewer.layers["out · instances"]
    layer.data_setitem((np.array([4]), np.array([20]), np.array([12])), 9)
    viewer.cursor.position = (4 * 30, 20 * 8, 12 * 8)
    values = inspect_dock.cursor_values.values
    qtbot.waitUntil(lambda: values["mask"].text() == "1.00", timeout=TIMEOUT)
    assert values["instance"].text() == "–"


def test_read_values_without_instances() -> None:
    maps = {"mask": np.full((2, 2, 2), 51, np.uint8)}
    assert read_values(maps, (1, 1, 1)) == {"mask": 0.2}


def test_thresholds_are_dragged_in_the_histogram(
    viewer: Any, inspect_dock: Any, qtbot: Any
) -> None:
    part = inspect_dock.histograms
    part.choice.setCurrentText("distance")
    plot = part.plots["distance"]
    qtbot.waitUntil(lambda: plot._counts.sum() > 0, timeout=TIMEOUT)
    assert not part.plots["mask"].isVisible()
    plot.lines["seed_distance"].setValue(0.7)
    assert inspect_dock.thresholds.value().seed_distance == 0.7
    qtbot.waitUntil(
        lambda: "1 instance ·" in inspect_dock.count.text(), timeout=TIMEOUT
    )
    inspect_dock.thresholds.controls["seed_distance"].setValue(0.35)
    assert plot.lines["seed_distance"].value() == pytest.approx(0.35)
    inspect_dock.reset.click()
    default = InstancesConfig().seed_distance
    assert plot.lines["seed_distance"].value() == pytest.approx(default)


def test_the_profile_shows_its_thresholds(viewer: Any, inspect_dock: Any) -> None:
    inspect_dock.thresholds.controls["seed_distance"].setValue(0.77)
    plot = inspect_dock.profile.plot
    plot.redraw()
    assert 0.77 in [pytest.approx(line.value()) for line in plot.thresholds]
    config = inspect_dock.thresholds.value()
    assert config.boundary > 1
    assert all(line.value() <= 1 for line in plot.thresholds)


def test_all_values_of_a_small_volume_are_counted(
    rng: np.random.Generator,
) -> None:
    data = rng.integers(0, 256, (20, 130, 129), dtype=np.uint8)
    counts = count_values({"mask": data})["mask"]
    assert np.array_equal(counts, np.bincount(data.ravel(), minlength=256))


def test_a_large_volume_is_sampled() -> None:
    data = np.broadcast_to(np.uint8(3), (400, 4000, 4000))
    counts = count_values({"mask": data})["mask"]
    assert 10**6 < counts[3] < 10**7
    assert counts.sum() == counts[3]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6, 1.1])
def test_the_foreground_is_that_of_the_watershed(threshold: float) -> None:
    from napari_volseg.instances.levels import foreground_levels

    ramp = np.arange(256, dtype=np.uint8).reshape(1, 1, 256)
    config = InstancesConfig(mask=threshold, boundary=0.9, distance=0.1)
    levels = foreground_levels(config)
    expected = (
        (ramp >= levels.mask_min)
        & (ramp <= levels.boundary_max)
        & (ramp >= levels.distance_min)
    )
    assert np.array_equal(np.asarray(foreground([ramp] * 3, config)), expected)


def test_instances_in_a_box_are_found_at_their_place(
    viewer: Any, inspect_dock: Any
) -> None:
    from napari_volseg.widgets.cursor import _instances_at

    shown = inspect_dock.prediction.prediction()
    place = placement(shown.layers["mask"])
    data = np.full((2, 3, 3), 5, np.int32)
    role = "instances in the box"
    shown.layers[role] = add_instances(
        viewer, data, place, "x · ", {}, role=role, start=(1, 2, 3)
    )
    found, voxel = _instances_at(shown, (2 * 30, 4 * 8, 5 * 8))
    assert found is data
    assert voxel == (1, 2, 2)


def test_the_slice_that_is_looked_at_comes_first(
    viewer: Any, inspect_dock: Any, qtbot: Any
) -> None:
    inspect_dock.thresholds.controls["seed_distance"].setValue(0.7)
    qtbot.waitUntil(
        lambda: "1 instance ·" in inspect_dock.count.text(), timeout=TIMEOUT
    )
    layer = viewer.layers["out · instances"]
    viewer.dims.set_point(0, 4 * 30)
    before = layer.data.copy()
    box = Box((2, 10, 0), (7, 30, 40))
    marked = np.full(box.shape, 77, np.int32)
    answer = Retuned(99, box, marked, marked[:0], 0.0, "slices")
    inspect_dock._show_slices(answer)
    assert (layer.data[4, 10:30] == 77).all()
    changed = layer.data != before
    assert not changed[[2, 3, 5, 6]].any()
    viewer.dims.set_point(0, 7 * 30)
    inspect_dock._show_slices(answer)
    assert not (layer.data[7] == 77).any()


def test_slices_lie_around_the_view_inside_the_box(viewer: Any) -> None:
    layer = viewer.add_image(np.zeros((40, 30, 20)), scale=(2, 1, 1))
    viewer.dims.set_point(0, 2 * 20)
    whole = Box.whole((40, 30, 20))
    assert view_slices(viewer, layer, whole) == Box((16, 0, 0), (25, 30, 20))
    viewer.dims.set_point(0, 0)
    assert view_slices(viewer, layer, whole) == Box((0, 0, 0), (5, 30, 20))
    assert view_slices(viewer, layer, Box((9, 0, 0), (20, 30, 20))) is None
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_point(1, 12)
    assert view_slices(viewer, layer, whole) == Box((0, 8, 0), (40, 17, 20))
    viewer.dims.ndisplay = 3
    assert view_slices(viewer, layer, whole) is None
