"""Thresholds applied to a whole prediction from the Inspect dock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_volseg.geometry import Box
from napari_volseg.io import create_zarr, read_labels
from napari_volseg.runs import create_prediction
from napari_volseg.volume import Volume
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.layers import placement
from napari_volseg.widgets.outputs import add_instances, add_maps

VOXEL_SIZE = (30.0, 8.0, 8.0)
TIMEOUT = 300_000


@pytest.fixture
def prediction(tmp_path: Path, blob_maps: Any) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"")
    shape = blob_maps.shape[1:]
    folder = create_prediction(
        tmp_path / "model.safetensors",
        Volume(np.zeros(shape, np.uint8), VOXEL_SIZE, "em"),
        None,
        tmp_path / "predictions",
    )
    stored = create_zarr(
        folder / "maps.zarr", blob_maps.shape, np.dtype("u1"), VOXEL_SIZE, name="maps"
    )
    stored[...] = blob_maps
    create_zarr(
        folder / "instances.zarr", shape, np.dtype("i4"), VOXEL_SIZE, name="instances"
    )
    return folder


@pytest.fixture
def dock(viewer: Any, blob_maps: Any, prediction: Path, qtbot: Any) -> Any:
    image = viewer.add_image(
        np.zeros(blob_maps.shape[1:]), name="em", scale=VOXEL_SIZE, units=("nm",) * 3
    )
    origin = {"prediction": str(prediction), "image": "em"}
    add_maps(viewer, blob_maps, placement(image), "em · ", origin)
    nothing = np.zeros(blob_maps.shape[1:], np.int32)
    add_instances(viewer, nothing, placement(image), "em · ", origin)
    widget = open_dock(viewer, "Inspect")
    qtbot.waitUntil(lambda: "0 instances" in widget.count.text(), timeout=TIMEOUT)
    return widget


def test_the_whole_prediction_gets_the_thresholds_that_are_set(
    viewer: Any, dock: Any, prediction: Path, qtbot: Any
) -> None:
    config = dock.thresholds.value().model_copy(update={"seed_distance": 0.7})
    dock._set_thresholds(config)
    dock.apply.button.click()
    assert dock.apply.button.text() == "Cancel"
    qtbot.waitUntil(lambda: dock.apply._work is None, timeout=TIMEOUT)
    assert dock.message.text() == ""
    found = read_labels(str(prediction / "instances.zarr"))
    assert found.max() == 1
    layer = viewer.layers["em · instances"]
    assert np.array_equal(np.asarray(layer.data), found)
    assert layer.metadata["napari-volseg"]["thresholds"]["seed_distance"] == 0.7
    assert layer.features["index"].tolist() == [1]
    request = json.loads((prediction / "request.json").read_text())
    assert request["instances"]["seed_distance"] == 0.7


def test_cancelling_leaves_the_prediction(
    viewer: Any, dock: Any, prediction: Path, qtbot: Any
) -> None:
    dock.apply.button.click()
    dock.apply.button.click()
    qtbot.waitUntil(lambda: dock.apply._work is None, timeout=TIMEOUT)
    assert not read_labels(str(prediction / "instances.zarr")).any()
    assert dock.apply.button.text() == "Apply to the prediction"
    assert dock.apply.button.isEnabled()


def test_maps_from_a_file_say_what_to_do(inspect_dock: Any) -> None:
    assert not inspect_dock.apply.button.isEnabled()
    assert "volseg segment" in inspect_dock.apply.button.toolTip()


def test_only_the_box_is_replaced_by_the_whole(
    viewer: Any, dock: Any, prediction: Path
) -> None:
    from napari_volseg.config import InstancesConfig
    from napari_volseg.widgets.results import read_prediction_result

    shown = dock.prediction.prediction()
    box = Box((1, 2, 3), (4, 9, 9))
    part = np.ones(box.shape, np.int32)
    dock._update(shown, "instances in the box", part, box.start)
    result = read_prediction_result(prediction)
    dock._show_applied(str(prediction), result, InstancesConfig())
    assert "em · instances in the box" not in viewer.layers
    assert "em · instances" in viewer.layers
