"""From a review to the Train dock, with the volumes of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt

from napari_volseg.config import build_config
from napari_volseg.geometry import Box
from napari_volseg.io import open_volume, write_hdf5
from napari_volseg.review import add_doubt, measure_instances
from napari_volseg.runs import TrainingPair, create_run
from napari_volseg.volume import LabelledVolume, Volume
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.layers import placement, plain
from napari_volseg.widgets.outputs import add_instances, add_maps, role_of
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
    return make_run(runs_dir, pairs, int(is_apart))


def make_run(runs_dir: Path, pairs: list[TrainingPair], scored: int) -> Path:
    """Make a run of which a box in one pair is held out."""
    config = build_config({"model": {"filters": [4, 8]}, "experiment_name": "first"})
    folder = create_run(config, pairs, runs_dir, "first")
    box = {"start": HELD_OUT.start, "stop": HELD_OUT.stop}
    plan = {"held_out": [{"pair": scored, "box": box}], "guard": [0, 2, 2]}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.fixture
def dock(viewer: Any, run: Path, qtbot: Any) -> ReviewWidget:
    image = viewer.add_image(
        (make_labels() > 0).astype(np.uint8) * 90,
        name="em",
        scale=VOXEL_SIZE,
        units=("nm",) * 3,
    )
    return review_of(image, viewer, run, qtbot)


def review_of(
    image: Any, viewer: Any, run: Path, qtbot: Any, box: Box | None = None
) -> ReviewWidget:
    """Begin the review of a prediction of an image, or of a box of it."""
    labels = make_labels()
    boxes = {label: Box.whole(SHAPE) for label in range(1, 5)}
    maps = np.zeros((3, *SHAPE), np.uint8)
    maps[0][labels > 0] = 255
    start = (0, 0, 0)
    if box is not None:
        labels, maps = labels[box.slices].copy(), maps[(slice(None), *box.slices)]
        boxes = {int(i): Box.whole(labels.shape) for i in np.unique(labels) if i}
        start = box.start
    folder = run / "predictions" / "em"
    folder.mkdir(parents=True)
    model = str(run / "model.safetensors")
    origin = {"prediction": str(folder), "image": image.name, "model": model}
    place = placement(image)
    add_maps(viewer, maps, place, "em · ", origin, start=start)
    layer = add_instances(viewer, labels, place, "em · ", origin, start=start)
    rows = measure_instances(labels, list(maps), boxes, VOXEL_SIZE)
    layer.features = pandas.DataFrame(add_doubt(rows))
    review: ReviewWidget = open_dock(viewer, "Review")
    review.labels.set_layer(layer)
    review.start()
    qtbot.waitUntil(lambda: review._reviewing is not None, timeout=60_000)
    return review


def images_of(viewer: Any) -> list[str]:
    """Names of the images that are no maps of ours."""
    return [
        layer.name
        for layer in viewer.layers
        if isinstance(plain(layer), Image) and role_of(layer) is None
    ]


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


def test_a_renamed_image_is_known_by_its_voxels(
    dock: ReviewWidget, viewer: Any, qtbot: Any
) -> None:
    viewer.layers["em"].name = "another name"
    dock.table.choose([1])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "never learnt from" in dock.message.text(), timeout=60_000)
    dock.table.choose([3])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)
    assert images_of(viewer) == ["another name"]
    corrections = viewer.layers["another name · corrections"].data
    assert not corrections[:, :22, :22].any()
    assert corrections.any()


def test_an_image_nobody_knows_may_be_any_of_its_shape(
    dock: ReviewWidget, viewer: Any, qtbot: Any
) -> None:
    image = viewer.layers["em"]
    image.name = "brighter"
    viewer.layers["em · instances"].metadata["napari-volseg"]["image"] = "brighter"
    image.data = image.data + 7
    dock.table.choose([1, 3])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)
    corrections = viewer.layers["brighter · corrections"].data
    assert not corrections[:, :22, :22].any()
    # What the model learnt from are the voxels of the run, not those that are open.
    assert images_of(viewer) == ["brighter", "em"]
    train: TrainWidget = plain(open_dock(viewer, "Train"))
    shown, *_ = train.pairs.layers()[0]
    assert np.asarray(shown.data).max() == 90  # type: ignore[union-attr]


@pytest.mark.parametrize("dataset", ["", ":raw"])
def test_an_image_of_the_command_line_is_the_one_that_is_open(
    viewer: Any, runs_dir: Path, tmp_path: Path, qtbot: Any, dataset: str
) -> None:
    labels = make_labels()
    write_hdf5(
        tmp_path / "em.h5", {"raw": (labels > 0).astype(np.uint8) * 90}, VOXEL_SIZE
    )
    source = f"{tmp_path}/em.h5{dataset}"
    volume = LabelledVolume(open_volume(source), labels, np.ones(SHAPE, bool))
    run = make_run(runs_dir, [TrainingPair(volume, source)], 0)
    (image,) = viewer.open(tmp_path / "em.h5", plugin="napari-volseg")
    dock = review_of(image, viewer, run, qtbot)
    dock.table.choose([1, 3])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)
    assert images_of(viewer) == ["em"]
    assert not viewer.layers["em · corrections"].data[:, :22, :22].any()


def test_a_part_of_the_file_that_was_learnt_from_stays_held_out(
    viewer: Any, runs_dir: Path, tmp_path: Path, qtbot: Any
) -> None:
    """The training took a crop on the command line; all of the file is corrected."""
    labels = make_labels()
    noise = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
    write_hdf5(tmp_path / "em.h5", {"raw": noise}, VOXEL_SIZE)
    source = f"{tmp_path}/em.h5:raw[:,2:,:]"
    volume = LabelledVolume(open_volume(source), labels[:, 2:], None)
    run = make_run(runs_dir, [TrainingPair(volume, source)], 0)
    (image,) = viewer.open(tmp_path / "em.h5", plugin="napari-volseg")
    dock = review_of(image, viewer, run, qtbot)
    dock.table.choose([1, 3])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)
    found = viewer.layers["em · corrections"].data
    assert not found[:, 2:24, :22].any()
    assert (found[labels == 3] > 0).all()


def test_another_file_of_the_same_shape_is_corrected_everywhere(
    viewer: Any, runs_dir: Path, tmp_path: Path, qtbot: Any
) -> None:
    labels = make_labels()
    image_ZYX = (labels > 0).astype(np.uint8) * 90
    for name, data in (("a", image_ZYX), ("b", image_ZYX + 7)):
        write_hdf5(tmp_path / f"{name}.h5", {"raw": data}, VOXEL_SIZE)
    source = f"{tmp_path}/a.h5"
    volume = LabelledVolume(open_volume(source), labels, np.ones(SHAPE, bool))
    run = make_run(runs_dir, [TrainingPair(volume, source)], 0)
    (image,) = viewer.open(tmp_path / "b.h5", plugin="napari-volseg")
    dock = review_of(image, viewer, run, qtbot)
    dock.table.choose([1])
    dock._say("accepted")
    click(dock, qtbot)
    qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)
    found = viewer.layers["b · corrections"].data
    assert (found[labels == 1] > 0).all()
    assert images_of(viewer) == ["b", "a.h5"]


def test_corrections_of_a_part_train_on_that_part(
    viewer: Any, run: Path, qtbot: Any
) -> None:
    data = (make_labels() > 0).astype(np.uint8) * 90
    image = viewer.add_image(
        data,
        name="em",
        scale=VOXEL_SIZE,
        units=("nm",) * 3,
        translate=(1, 2, 3),
        rotate=(0, 0, 10),
    )
    box = Box((1, 2, 0), (8, 36, 44))
    dock = review_of(image, viewer, run, qtbot, box)
    dock.table.choose([1, 3])
    dock._say("accepted")
    for _ in range(2):  # the part is cut out once
        click(dock, qtbot)
        qtbot.waitUntil(lambda: "Train dock has" in dock.message.text(), timeout=60_000)
        dock.message.clear()
    assert images_of(viewer) == ["em", f"em {box}"]
    train: TrainWidget = plain(open_dock(viewer, "Train"))
    _, snapshots = train._capture(copy=True)
    part = snapshots[-1][0].build().volume
    assert (part.image.read()[0] == data[box.slices]).all()
    assert part.annotated_ZYX is not None
    # What the model is scored on, and its guard, seen from the first voxel of the box.
    assert not part.annotated_ZYX[:, :20, :22].any()
    truth = make_labels()[box.slices]
    assert part.annotated_ZYX[truth == 3].all()
    assert ((part.labels_ZYX > 0) == (truth == 3))[part.annotated_ZYX].all()


def test_a_part_between_voxels_is_no_part(
    dock: ReviewWidget, viewer: Any, qtbot: Any
) -> None:
    dock.table.choose([3])
    dock._say("accepted")
    viewer.layers["em"].translate = (0, 4, 0)
    click(dock, qtbot)
    assert "open it again" in dock.message.text()
