"""From a review to the Train dock, with the volumes of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from qtpy.QtCore import Qt

from napari_volseg.config import build_config
from napari_volseg.geometry import Box
from napari_volseg.review import add_doubt, measure_instances
from napari_volseg.runs import TrainingPair, create_run
from napari_volseg.volume import LabelledVolume, Volume
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.layers import placement, plain
from napari_volseg.widgets.outputs import add_instances, add_maps
from napari_volseg.widgets.review import ReviewWidget
from napari_volseg.widgets.train import TrainWidget

SHAPE = (8, 40, 60)
VOXEL_SIZE = (30.0, 8.0, 8.0)
HELD_OUT = Box((0, 0, 0), (8, 20, 20))


def make_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[2:6, 4:14, 4:14] = 1  # where the model is scored
    labels[2:6, 24:34, 4:14] = 2
    labels[2:6, 4:14, 30:40] = 3
    labels[2:6, 24:34, 44:54] = 4
    return labels


@pytest.fixture(params=["a part of its labels", "labels of their own"])
def run(runs_dir: Path, request: pytest.FixtureRequest) -> Path:
    """A run that learnt from the image that was predicted, and how it was scored.

    A training from corrections is scored on labels of their own.
    """
    labels = make_labels()
    image = Volume((labels > 0).astype(np.uint8) * 90, VOXEL_SIZE, "em")
    annotated = np.ones(SHAPE, bool)
    annotated[:, :, 40:] = False
    is_apart = "own" in request.param
    pairs = [TrainingPair(LabelledVolume(image, labels, annotated), None)]
    if is_apart:
        scored = np.zeros(SHAPE, bool)
        scored[HELD_OUT.slices] = True
        pairs.append(TrainingPair(LabelledVolume(image, labels, scored), None, "val"))
        annotated[HELD_OUT.grow((0, 2, 2), SHAPE).slices] = False
    config = build_config({"model": {"filters": [4, 8]}, "experiment_name": "first"})
    folder = create_run(config, pairs, runs_dir, "first")
    box = {"start": HELD_OUT.start, "stop": HELD_OUT.stop}
    plan = {"held_out": [{"pair": int(is_apart), "box": box}], "guard": [0, 2, 2]}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.fixture
def dock(viewer: Any, run: Path, qtbot: Any) -> ReviewWidget:
    labels = make_labels()
    image = viewer.add_image(
        (labels > 0).astype(np.uint8) * 90,
        name="em",
        scale=VOXEL_SIZE,
        units=("nm",) * 3,
    )
    folder = run / "predictions" / "em"
    folder.mkdir(parents=True)
    maps = np.zeros((3, *SHAPE), np.uint8)
    maps[0][labels > 0] = 255
    model = str(run / "model.safetensors")
    origin = {"prediction": str(folder), "image": "em", "model": model}
    add_maps(viewer, maps, placement(image), "em · ", origin)
    layer = add_instances(viewer, labels, placement(image), "em · ", origin)
    boxes = {label: Box.whole(SHAPE) for label in range(1, 5)}
    rows = measure_instances(labels, list(maps), boxes, VOXEL_SIZE)
    layer.features = pandas.DataFrame(add_doubt(rows))
    review: ReviewWidget = open_dock(viewer, "Review")
    review.labels.set_layer(layer)
    review.start()
    qtbot.waitUntil(lambda: review._reviewing is not None, timeout=60_000)
    return review


def click(dock: ReviewWidget, qtbot: Any) -> None:
    assert dock.train.isEnabled(), dock.train.toolTip()
    qtbot.mouseClick(dock.train, Qt.MouseButton.LeftButton)


def test_corrections_join_what_the_model_learnt_from(
    dock: ReviewWidget, viewer: Any, run: Path, qtbot: Any
) -> None:
    assert "Accept or correct" in dock.train.toolTip()
    dock.table.choose([1, 3, 4])
    dock._say("accepted")
    dock.table.choose([2])
    dock._delete()
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "em · corrections" in viewer.layers, timeout=60_000)
    qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)

    train: TrainWidget = plain(open_dock(viewer, "Train"))
    names = [(i.name, n.name, role) for i, n, role in train.pairs.layers()]  # type: ignore[union-attr]
    assert names == [
        ("em", "em · learnt from", "train"),
        ("em", "em · held out", "val"),
        ("em", "em · corrections", "train"),
    ]
    config, snapshots = train._capture(copy=True)
    assert config.model.initial_weights == str(run / "model.safetensors")
    assert config.model.filters == (4, 8)
    (learnt, seen), (scored, held), (corrected, counts) = (
        snapshot.read() for snapshot, _ in snapshots
    )
    assert seen is not None
    assert held is not None
    assert counts is not None
    truth = make_labels()
    # The held-out box is scored and, with its guard, learnt from nowhere.
    assert held[HELD_OUT.slices].all()
    assert held.sum() == HELD_OUT.size
    assert (scored[held] == truth[held]).all()
    assert not seen[:, :22, :22].any()
    assert not counts[:, :22, :22].any()
    # What was not annotated then is not annotated now.
    assert not seen[:, :, 40:].any()
    assert (learnt[seen] == truth[seen]).all()
    # What was deleted weighs more; what was accepted as it is does not.
    (made,) = (s.build() for s, _ in snapshots if "corrections" in s.labels_name)
    assert made.corrected == (Box((0, 0, 0), (8, 32, 32)), Box((0, 32, 0), (8, 40, 32)))
    # Accepted objects with the background around them, and what was deleted.
    assert counts[truth == 4].all()
    assert ((corrected > 0) == np.isin(truth, [3, 4]))[counts].all()
    assert counts[3, 23, 48]
    assert counts[3, 28, 10]
    assert corrected[3, 28, 10] == 0
    assert not counts[3, 20, 58]


def test_a_prediction_of_an_unknown_model_trains_on_corrections_alone(
    dock: ReviewWidget, viewer: Any, run: Path, qtbot: Any
) -> None:
    (run / "config.yaml").unlink()
    dock.table.choose([3])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)
    train: TrainWidget = plain(open_dock(viewer, "Train"))
    assert [n.name for _, n, _ in train.pairs.layers()] == ["em · corrections"]  # type: ignore[union-attr]


def test_corrections_where_the_model_is_scored_teach_nothing(
    dock: ReviewWidget, viewer: Any, qtbot: Any
) -> None:
    dock.table.choose([1])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "never learnt from" in dock.message.text(), timeout=60_000)
    assert "em · corrections" not in viewer.layers


def test_without_the_image_there_is_one_sentence(
    dock: ReviewWidget, viewer: Any, qtbot: Any
) -> None:
    dock.table.choose([3])
    dock._say("accepted")
    viewer.layers.remove("em")
    click(dock, qtbot)
    assert "open it again" in dock.message.text()
