"""Trainings on a sparse annotation, from the dock to the model, in real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from qtpy.QtCore import Qt

from napari_volseg.models import read_model_info
from napari_volseg.runs import list_runs
from napari_volseg.sample_data import make_sample
from napari_volseg.widgets.train import TrainWidget

ONE_SLICE = Path(__file__).parents[3] / "shared" / "data" / "cremi_c_one_slice.h5"
SHAPE = (12, 48, 48)
PLACE: dict[str, Any] = {"scale": (30.0, 8.0, 8.0), "units": ("nm",) * 3}
TINY = {
    "data": {"patch_size": [8, 32, 32], "iter_num_per_epoch": 2, "val_fraction": 0.25},
    "model": {"filters": [4, 8]},
    "optimization": {"max_epochs": 1},
    "system": {"training": {"batch_size": 1, "num_workers": 0}, "device": "cpu"},
    "monitor": {"tensorboard": False, "early_stopping": {"enabled": False}},
}
LONG = 120_000


def by_slices(viewer: Any, dock: TrainWidget) -> NDArray[np.bool_]:
    """Only every fourth slice is painted."""
    data = viewer.layers["mine"].data
    data[np.arange(SHAPE[0]) % 4 != 1] = 0
    choose(dock, "painted_slices")
    return np.broadcast_to((np.arange(SHAPE[0]) % 4 == 1)[:, None, None], SHAPE)


def by_voxels(viewer: Any, dock: TrainWidget) -> NDArray[np.bool_]:
    """Objects, and a strip of background with an id of its own."""
    data = viewer.layers["mine"].data
    strip = np.zeros(SHAPE, bool)
    strip[:, 10:30] = True
    data[strip & (data == 0)] = 999
    choose(dock, "painted_voxels")
    dock.annotation.chooser.background.setValue(999)
    return data != 0


def by_shapes(viewer: Any, dock: TrainWidget) -> NDArray[np.bool_]:
    """A rectangle that counts in all slices."""
    corners = np.array([[0, 0], [0, 39], [47, 39], [47, 0]], float)
    viewer.add_shapes([corners], name="around", scale=(8.0, 8.0), units=("nm",) * 2)
    choose(dock, "region")
    expected = np.zeros(SHAPE, bool)
    expected[:, :48, :40] = True
    return expected


def by_labels(viewer: Any, dock: TrainWidget) -> NDArray[np.bool_]:
    """A painted region."""
    region = np.zeros(SHAPE, np.uint8)
    region[2:11, :, 6:] = 5
    viewer.add_labels(region, name="around", **PLACE)
    choose(dock, "region")
    dock.annotation.chooser.region.set_layer(viewer.layers["around"])
    return region != 0


def choose(dock: TrainWidget, rule: str) -> None:
    combo = dock.annotation.chooser.rule
    combo.setCurrentIndex(combo.findData(rule))


def train(dock: TrainWidget, qtbot: Any, runs_dir: Path) -> Path:
    """Press Train and wait for the model; return the run folder."""
    dock.form.set_value(TINY)
    dock._check()
    assert dock.train.isEnabled(), dock.train.toolTip()
    qtbot.mouseClick(dock.train, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock._job is None, timeout=LONG)
    ended = lambda: list_runs(runs_dir)[0].state != "running"  # noqa: E731
    qtbot.waitUntil(ended, timeout=LONG)
    (run,) = list_runs(runs_dir)
    assert run.state == "completed", run.message
    return run.folder


def known_of(run: Path) -> tuple[NDArray[Any], NDArray[np.bool_], dict[str, Any]]:
    """Return labels and mask of the snapshot, and the plan."""
    with h5py.File(run / "data" / "000.h5") as file:
        labels, known = file["labels"][...], file["annotated"][...] != 0
    return labels, known, json.loads((run / "plan.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("say", [by_slices, by_voxels, by_shapes, by_labels])
def test_a_training_learns_from_what_counts_alone(
    say: Callable[..., NDArray[np.bool_]], viewer: Any, qtbot: Any, runs_dir: Path
) -> None:
    sample = make_sample("cells", shape=SHAPE, seed=3, voxel_size=PLACE["scale"])
    viewer.add_image(sample.image.data, name="em", **PLACE)
    viewer.add_labels(sample.labels_ZYX.astype(np.int32), name="mine", **PLACE)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    expected = say(viewer, dock)
    painted = viewer.layers["mine"].data.copy()
    run = train(dock, qtbot, runs_dir)
    labels, known, plan = known_of(run)
    assert np.array_equal(known, expected)
    assert np.array_equal(labels, np.where(painted == 999, 0, painted))
    assert plan["annotated_share"] == pytest.approx(expected.mean())
    for held in plan["held_out"]:
        box = tuple(
            slice(a, b)
            for a, b in zip(held["box"]["start"], held["box"]["stop"], strict=True)
        )
        assert expected[box].any()
    assert read_model_info(run / "model.safetensors").in_channels == 1
    assert np.array_equal(viewer.layers["mine"].data, painted)


@pytest.mark.slow
@pytest.mark.skipif(not ONE_SLICE.exists(), reason=f"{ONE_SLICE} is not there")
def test_one_annotated_slice_of_a_real_volume_is_enough_to_train_on(
    viewer: Any, qtbot: Any, runs_dir: Path
) -> None:
    with h5py.File(ONE_SLICE) as file:
        part = (slice(None, 12), slice(None, 256), slice(None, 256))
        image, labels = file["raw"][part], file["labels"][part].astype(np.int32)
    place = PLACE | {"scale": (40.0, 8.0, 8.0)}
    viewer.add_image(image, name="em", **place)
    viewer.add_labels(labels, name="mine", **place)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    choose(dock, "painted_slices")
    n = np.unique(labels[4][labels[4] > 0]).size
    words = f"8.3 % annotated · {n} instances"
    qtbot.waitUntil(lambda: words in dock.annotation.meter.text(), timeout=LONG)
    _, known, plan = known_of(train(dock, qtbot, runs_dir))
    assert known.any(axis=(1, 2)).tolist() == [z == 4 for z in range(12)]
    assert known[4].all()
    assert (plan["boundary"], plan["distance"]) == ("2d", "2d")
    assert all(held["box"]["start"][0] == 4 for held in plan["held_out"])
