"""Where the Predict dock predicts, how results arrive, and what it remembers."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Progress
from napari_volseg.geometry import Box
from napari_volseg.io import create_zarr, open_volume, write_hdf5
from napari_volseg.widgets.actions import PREDICT_KEY, bind_key
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.layers import placement, plain
from napari_volseg.widgets.outputs import make_instances
from napari_volseg.widgets.parts import drawn_box, image_parts, seen_box
from napari_volseg.widgets.remembered import FILE, Choice, keep, recall, remember
from napari_volseg.widgets.results import Delivery
from napari_volseg.widgets.stream import MapStream, boxes_of, read_boxes
from napari_volseg.widgets.viewers import camera_of
from napari_volseg.widgets.wherepart import WherePart

VOXEL_SIZE = (30.0, 8.0, 8.0)
MAKE = """
import numpy as np
from napari_volseg.io import create_zarr, open_volume
request = json.loads(Path("request.json").read_text())
image = open_volume("input.h5:image").data
shape = image.shape[-3:]
say("Started", job="predict", device="cpu", total=2, memory_bytes=2**30)
if not Path("maps.zarr").exists():
    maps = create_zarr("maps.zarr", (3, *shape), "u1", request["voxel_size"],
                       name="maps")
    maps[:, :2] = 9
"""
HALF = """
say("Progress", step=1, total=2, elapsed=1.0, remaining=1.0, blocks=[1, 2],
    ready=[0, 0, 0, 2, *shape[1:]])
"""
FINISH = """
import zarr
maps = zarr.open("maps.zarr", mode="r+")
if not hasattr(maps, "shape"):
    maps = maps[sorted(maps.keys())[0]]
maps[:, 2:] = 7
labels = create_zarr("instances.zarr", shape, "i4", request["voxel_size"],
                     name="instances", labels=True)
labels[...] = int(np.asarray(image[..., 0, 0, 0]).max()) + 1
end("completed", "Found 1 instances.")
"""


@pytest.fixture
def layer(viewer: Any) -> Any:
    return viewer.add_image(np.zeros((20, 30, 40), np.uint8), scale=VOXEL_SIZE)


def rectangle(viewer: Any, z: float = 5, ndim: int = 3, **options: Any) -> Any:
    corners = [[z, 3, 4], [z, 3, 14], [z, 13, 14], [z, 13, 4]]
    options = {"scale": VOXEL_SIZE[-ndim:], "name": "box"} | options
    return viewer.add_shapes(
        np.array(corners, float)[:, -ndim:], shape_type="rectangle", **options
    )


def test_a_drawn_box_takes_slices_on_either_side(viewer: Any, layer: Any) -> None:
    box = drawn_box(rectangle(viewer), layer, 2)
    assert box == Box((3, 3, 4), (8, 14, 15))


@pytest.mark.parametrize("where", ["selection box", "current view"])
def test_a_plane_is_refused_wherever_it_is_predicted(
    viewer: Any, open_predict: Any, add_model: Any, where: str
) -> None:
    add_model()
    viewer.add_image(np.zeros((20, 30, 40), np.uint8), name="em", scale=VOXEL_SIZE)
    rectangle(viewer)
    dock = open_predict()
    dock.where.where.setCurrentText(where)
    assert dock.predict.isEnabled()
    viewer.add_image(np.zeros((30, 40), np.uint8), name="photo")
    dock.image.set_layer(viewer.layers["photo"])
    assert not dock.predict.isEnabled()
    assert "'photo' has 2 axes" in dock.predict.toolTip()


def test_what_is_drawn_and_seen_later_counts(
    viewer: Any, open_predict: Any, add_model: Any, qtbot: Any
) -> None:
    add_model()
    layer = viewer.add_image(np.zeros((20, 30, 40), np.uint8), scale=VOXEL_SIZE)
    dock = open_predict()
    dock.where.where.setCurrentText("selection box")
    box = viewer.add_shapes(ndim=3, name="box", scale=VOXEL_SIZE)
    assert "no closed shape" in dock.predict.toolTip()
    box.add_rectangles(np.array([[5, 3, 4], [5, 3, 14], [5, 13, 14], [5, 13, 4]]))
    qtbot.waitUntil(dock.predict.isEnabled, timeout=60_000)
    dock.where.where.setCurrentText("current view")
    plain(layer).corner_pixels = np.array([[0, 5, 6], [0, 9, 9]])
    camera_of(viewer).zoom *= 2
    qtbot.waitUntil(lambda: "× 5 × 4 voxels" in dock.fit.text(), timeout=60_000)


def test_a_box_is_cut_at_the_image(viewer: Any, layer: Any) -> None:
    assert drawn_box(rectangle(viewer, z=1), layer, 50).start == (0, 3, 4)
    assert drawn_box(rectangle(viewer, z=1), layer, 50).stop == (20, 14, 15)


def test_a_flat_shapes_layer_takes_all_slices(viewer: Any, layer: Any) -> None:
    box = drawn_box(rectangle(viewer, ndim=2), layer, 2)
    assert (box.start[0], box.stop[0]) == (0, 20)


def test_a_box_beside_the_image_is_refused(viewer: Any, layer: Any) -> None:
    outside = rectangle(viewer, translate=(0, 10_000, 0))
    with pytest.raises(DataError, match="'box' cover nothing of"):
        drawn_box(outside, layer, 2)


def test_the_view_is_what_the_canvas_shows(viewer: Any, layer: Any) -> None:
    viewer.dims.set_point(0, 10 * 30)
    layer.corner_pixels = np.array([[10, 5, 6], [10, 20, 25]])
    assert seen_box(viewer, layer, 3) == Box((7, 5, 6), (14, 21, 26))
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_point(1, 12 * 8)
    box = seen_box(viewer, layer, 3)
    assert (box.start[1], box.stop[1]) == (9, 16)


@pytest.mark.parametrize(
    "beside", [[[10, 29, 6], [10, 29, 25]], [[10, 0, 6], [10, 0, 9]]]
)
def test_a_view_beside_the_image_is_refused(
    viewer: Any, layer: Any, beside: list[list[int]]
) -> None:
    layer.corner_pixels = np.array(beside)
    with pytest.raises(DataError, match="view shows nothing of the image"):
        seen_box(viewer, layer, 3)


@pytest.mark.parametrize(
    ("shape", "labels", "channels", "along", "expected"),
    [
        ((6, 7, 8), None, 1, "one", [None]),
        ((2, 6, 7, 8), ("c", "z", "y", "x"), 2, "one", [None]),
        ((2, 6, 7, 8), ("c", "z", "y", "x"), 1, "one", [1]),
        ((3, 6, 7, 8), ("t", "z", "y", "x"), 1, "each", [0, 1, 2]),
        ((9, 6, 7, 8), None, 1, "one", [1]),
    ],
)
def test_channels_and_times(
    shape: Any, labels: Any, channels: int, along: str, expected: list[Any]
) -> None:
    image = Image(np.zeros(shape, np.uint8), axis_labels=labels, rgb=False)
    parts = image_parts(image, channels, along, 1, None)
    assert [part.index for part in parts] == expected
    assert all(part.volume.n_channels == channels for part in parts)
    assert all(part.volume.shape_ZYX == (6, 7, 8) for part in parts)


@pytest.mark.parametrize(
    ("place", "other", "time"),
    [
        ({"scale": (10, 1, 1, 1)}, {"scale": (2, 1, 1, 1)}, 30),
        ({"translate": (5, 0, 0, 0)}, {}, 8),
        ({}, {"translate": (-4, 0, 0, 0)}, 3),
        ({"scale": (2, 1, 1, 1), "translate": (1, 0, 0, 0)}, {"ndim": 5}, 7),
    ],
)
def test_the_frame_that_is_shown_is_found_in_the_world(
    viewer: Any, place: dict[str, Any], other: dict[str, Any], time: float
) -> None:
    layer = viewer.add_image(np.zeros((9, 4, 6, 8), np.uint8), **place)
    ndim = other.pop("ndim", 4)
    viewer.add_image(np.zeros((20,) * (ndim - 3) + (4, 6, 8), np.uint8), **other)
    viewer.dims.set_point(ndim - 4, time)
    (part,) = WherePart(viewer).parts(layer, 1)
    assert part.index == 3


def test_a_frame_beside_the_layer_is_the_nearest_one(viewer: Any) -> None:
    layer = viewer.add_image(np.zeros((9, 4, 6, 8), np.uint8))
    viewer.add_image(np.zeros((5, 4, 6, 8), np.uint8), translate=(20, 0, 0, 0))
    viewer.dims.set_point(0, 22)
    (part,) = WherePart(viewer).parts(layer, 1)
    assert part.index == 8


def test_other_channels_are_refused() -> None:
    image = Image(np.zeros((2, 6, 7, 8)), axis_labels=("c", "z", "y", "x"))
    with pytest.raises(DataError, match="2 channels but the model was trained on 3"):
        image_parts(image, 3, "one", 0, None)


def test_a_lazy_multiscale_box_reads_only_itself(rng: np.random.Generator) -> None:
    import dask.array as da

    full = rng.integers(0, 9, (20, 30, 40), dtype=np.uint8)
    levels = [da.from_array(full), da.from_array(full[::2, ::2, ::2])]
    image = Image(levels, multiscale=True)
    box = Box((2, 3, 4), (5, 9, 11))
    (part,) = image_parts(image, 1, "one", 0, box)
    assert part.source is None
    assert np.array_equal(np.asarray(part.volume.data), full[box.slices])


def test_a_box_is_predicted_and_lies_in_its_place(
    open_predict: Any, add_model: Any, viewer: Any, play: Any, qtbot: Any
) -> None:
    play(MAKE + FINISH)
    add_model()
    data = np.zeros((20, 30, 40), np.uint8)
    data[3:8, 3:14, 4:15] = 5
    layer = viewer.add_image(data, name="em", scale=VOXEL_SIZE, units=("nm",) * 3)
    rectangle(viewer, units=("nm",) * 3)
    dock = open_predict()
    dock.image.set_layer(layer)
    dock.where.where.setCurrentText("selection box")
    dock.where.slices.setValue(2)
    assert "5 × 11 × 11 voxels" in dock.fit.text()
    dock.start()
    qtbot.waitUntil(lambda: "em · instances" in viewer.layers, timeout=60_000)
    found = viewer.layers["em · instances"]
    assert found.data.shape == (5, 11, 11)
    assert found.data[0, 0, 0] == 6, "the box was cut out elsewhere"
    place = layer.data_to_world((3, 3, 4))
    for role in ("mask", "distance", "instances"):
        assert np.allclose(viewer.layers[f"em · {role}"].translate, place)


def test_maps_arrive_in_blocks_and_a_stopped_prediction_goes_on(
    open_predict: Any, add_model: Any, viewer: Any, play: Any, qtbot: Any
) -> None:
    stop = "while not asked().get('stop'): time.sleep(0.02)\n"
    play(MAKE + HALF + stop + "end('stopped', 'Stopped; 1 of 2 blocks are kept.')")
    add_model()
    viewer.add_image(np.zeros((4, 6, 8), np.uint8), name="em", scale=VOXEL_SIZE)
    dock = open_predict()
    dock.start()
    name = "em · arriving boundary"
    qtbot.waitUntil(lambda: name in viewer.layers, timeout=60_000)
    boundary = viewer.layers[name]
    assert boundary.visible
    assert (boundary.data[:2] == 9).all()
    assert not boundary.data[2:].any()
    assert "prediction" not in boundary.metadata["napari-volseg"]
    qtbot.waitUntil(lambda: "block 1/2" in dock.bar.format(), timeout=60_000)
    dock.cancel.click()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    assert "kept" in dock.message.text()
    assert boundary.name == "em · partial boundary"
    assert not dock.resume.isHidden()

    play(MAKE + FINISH)
    dock.resume.click()
    qtbot.waitUntil(lambda: "em · instances" in viewer.layers, timeout=60_000)
    assert dock.resume.isHidden()
    qtbot.waitUntil(lambda: boundary.name == "em · boundary", timeout=60_000)
    assert (boundary.data[2:] == 7).all()
    assert sum("boundary" in each.name for each in viewer.layers) == 1
    origin = boundary.metadata["napari-volseg"]
    assert Path(origin["prediction"]).name == "em"
    thresholds = viewer.layers["em · instances"].metadata["napari-volseg"]["thresholds"]
    assert thresholds["seed_distance"] == 0.25


def test_each_time_point_becomes_one_layer_with_time(
    open_predict: Any, add_model: Any, viewer: Any, play: Any, qtbot: Any
) -> None:
    play(MAKE + FINISH)
    add_model()
    data = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones(
        (3, 4, 6, 8), np.uint8
    )
    image = viewer.add_image(
        data, name="movie", scale=(1, *VOXEL_SIZE), axis_labels=("t", "z", "y", "x")
    )
    dock = open_predict()
    dock.where.along.setCurrentText("each, one after the other")
    assert dock.fit.text().endswith("3 times 4 × 6 × 8 voxels")
    dock.start()
    qtbot.waitUntil(lambda: "movie · instances" in viewer.layers, timeout=90_000)
    found = viewer.layers["movie · instances"]
    assert isinstance(found, Labels)
    assert found.data.shape == data.shape
    assert np.array_equal(np.asarray(found.data)[:, 0, 0, 0], [1, 2, 3])
    assert tuple(found.axis_labels) == ("t", "z", "y", "x")
    assert np.allclose(found.scale, image.scale)
    assert not dock.inspect.isVisibleTo(dock)
    assert "predict <i>the one shown</i>" in dock.next.text()


def test_a_layer_remembers_its_model_and_settings(
    open_predict: Any, add_model: Any, viewer: Any, play: Any, qtbot: Any
) -> None:
    play("end('failed', 'no')")
    add_model("old")
    add_model("new")
    first = viewer.add_image(np.zeros((4, 6, 8), np.uint8), name="a", scale=VOXEL_SIZE)
    second = viewer.add_image(np.zeros((4, 6, 8), np.uint8), name="b", scale=VOXEL_SIZE)
    before = dict(first.metadata)
    dock = open_predict()
    dock.image.set_layer(first)
    index = [m.name for m in dock.models.models].index("old")
    dock.models.combo.setCurrentIndex(index)
    dock.form.field("inference.batch_size").set_value(3)
    dock.start()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    dock.image.set_layer(second)
    dock.models.combo.setCurrentIndex(1 - index)
    assert dock.form.config().inference.batch_size == 1
    dock.image.set_layer(first)
    assert dock.models.model().name == "old"
    assert dock.form.config().inference.batch_size == 3
    assert first.metadata == before


def test_a_file_remembers_for_the_next_session(viewer: Any, tmp_path: Path) -> None:
    write_hdf5(tmp_path / "em.h5", {"raw": np.zeros((4, 6, 8), np.uint8)}, VOXEL_SIZE)
    first = viewer.open(tmp_path / "em.h5", plugin="napari-volseg")[0]
    choice = Choice("/models/a", {"inference": {"batch_size": 2}}, "current view", 4)
    keep(remember(first, choice), choice)
    again = viewer.open(tmp_path / "em.h5", plugin="napari-volseg")[0]
    assert recall(again) == choice
    assert recall(viewer.add_image(np.zeros((4, 4, 4)))) is None


def test_damaged_memories_are_forgotten(
    viewer: Any, tmp_path: Path, runs_dir: Path
) -> None:
    write_hdf5(tmp_path / "em.h5", {"raw": np.zeros((4, 6, 8), np.uint8)}, VOXEL_SIZE)
    layer = viewer.open(tmp_path / "em.h5", plugin="napari-volseg")[0]
    runs_dir.mkdir(exist_ok=True)
    (runs_dir / FILE).write_text('{"other": 1')
    assert recall(layer) is None
    (runs_dir / FILE).write_text(json.dumps({f"{tmp_path}/em.h5:raw": {"wrong": 1}}))
    assert recall(layer) is None


def test_the_key_is_bound_once_and_never_taken(viewer: Any) -> None:
    bind_key(viewer)
    bind_key(viewer)
    keys = [str(key) for key in viewer.keymap]
    assert keys.count(PREDICT_KEY.replace("-", "+")) == 1


def test_ready_boxes_are_read_into_memory(tmp_path: Path) -> None:
    stored = create_zarr(
        tmp_path / "maps.zarr", (3, 4, 6, 8), np.dtype("u1"), VOXEL_SIZE, name="maps"
    )
    stored[...] = 5
    boxes = boxes_of((0, 0, 0, 2, 6, 8, 3, 0, 0, 4, 3, 8))
    maps = read_boxes(tmp_path, None, boxes)
    assert (maps[:, :2] == 5).all()
    assert not maps[:, 2].any()
    assert (maps[:, 3, :3] == 5).all()
    assert not maps[:, 3, 3:].any()
    assert open_volume(str(tmp_path / "maps.zarr")).shape_ZYX == maps.shape[1:]


def test_a_removed_arriving_layer_is_not_brought_back(viewer: Any, layer: Any) -> None:
    stream = MapStream(viewer, placement(layer), "em")
    stream._begin(np.zeros((3, 4, 6, 8), np.uint8))
    stream._add()
    viewer.layers.remove("em · arriving mask")
    settled = stream.settle({"prediction": "x"})
    assert set(settled) == {"boundary", "distance"}
    assert "em · boundary" in viewer.layers


@pytest.mark.parametrize("is_read", [False, True])
def test_blocks_that_come_last_are_no_second_set_of_maps(
    viewer: Any,
    layer: Any,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    is_read: bool,
) -> None:
    """The prediction ends while a block waits to be read, or is being read."""
    shape = layer.data.shape
    kinds: Any = {"maps": ((3, *shape), "u1"), "instances": (shape, "i4")}
    for name, (size, kind) in kinds.items():
        create_zarr(
            tmp_path / f"{name}.zarr", size, np.dtype(kind), VOXEL_SIZE, name=name
        )[...] = 5
    made, goes_on, may_read = Event(), Event(), Event()

    def make(*arguments: Any, **options: Any) -> Any:
        made.set()
        assert goes_on.wait(60)
        return make_instances(*arguments, **options)

    def read(*arguments: Any) -> Any:
        assert may_read.wait(60)
        return read_boxes(*arguments)

    monkeypatch.setattr("napari_volseg.widgets.results.make_instances", make)
    monkeypatch.setattr("napari_volseg.widgets.stream.read_boxes", read)
    job = Job(viewer, "predict", "em")
    job.folder = tmp_path
    place = placement(layer)
    stream = MapStream(viewer, place, "em")
    stream.follow(job)
    delivery = Delivery(viewer, job, place, "em", tmp_path / "model", stream)
    ready = (0, 0, 0, *shape)
    job.event.emit(Progress(step=1, total=1, elapsed=0, remaining=0, ready=ready))
    if is_read:
        stream._timer.stop()
        stream._read()
    with qtbot.waitSignal(delivery.delivered, timeout=60_000):
        job.finished.emit(Finished("completed", ""))
        qtbot.waitUntil(made.is_set, timeout=60_000)
        may_read.set()
        qtbot.waitUntil(
            lambda: not stream._timer.isActive() and not stream._is_reading,
            timeout=60_000,
        )
        goes_on.set()
    roles = ["mask", "boundary", "distance", "instances"]
    names = [each.name for each in viewer.layers if each.name != layer.name]
    assert names == [f"em · {role}" for role in roles]
