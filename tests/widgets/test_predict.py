"""The Predict dock driven by hand; model and worker are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_volseg.models import read_model_info
from napari_volseg.widgets.actions import (
    predict_newest,
    register_context_menu,
)
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.modellist import model_words
from napari_volseg.widgets.predict import PredictWidget

VOXEL_SIZE = (30.0, 8.0, 8.0)
RESULT = """
import csv
import numpy as np
from napari_volseg.io import create_zarr
request = json.loads(Path("request.json").read_text())
say("Started", job="predict", device="cpu", total=2, memory_bytes=2**30)
shape = (16, 64, 64)
maps = create_zarr("maps.zarr", (3, *shape), "u1", request["voxel_size"], name="maps")
maps[...] = np.arange(3, dtype="u1")[:, None, None, None] + 1
labels = create_zarr("instances.zarr", shape, "i4", request["voxel_size"],
                     name="instances", labels=True)
labels[2:4, 8:16, 8:16] = 5
Path("instances.csv").write_text("index,voxels\\n5,128\\n")
say("Progress", step=1, total=2, elapsed=1.0, remaining=1.0)
"""


def click(qtbot: Any, button: Any) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_without_model_the_dock_says_where_to_get_one(
    open_predict: Callable[[], PredictWidget], viewer: Any, add_pair: Any
) -> None:
    add_pair(viewer)
    dock = open_predict()
    assert not dock.predict.isEnabled()
    assert "VolSeg › Train" in dock.fit.text()


def test_the_newest_model_is_chosen_and_says_what_it_is(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    qtbot: Any,
) -> None:
    add_pair(viewer)
    add_model("first")
    dock = open_predict()
    assert dock.models.combo.currentText() == "first · F1 0.86 · just now"
    assert "as the model" in dock.fit.text()
    assert dock.form.config().instances.seed_distance == 0.25
    add_model("second", scores={})
    dock.refresh()
    qtbot.waitUntil(lambda: dock.models.combo.count() == 2, timeout=60_000)
    assert dock.models.combo.currentText() == "second · no score · just now"


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=5), "5 h ago"),
        (timedelta(days=5), "5 days ago"),
    ],
)
def test_age_in_words(
    add_model: Callable[..., Path], age: timedelta, words: str
) -> None:
    now = datetime.now(UTC)
    info = read_model_info(add_model(created=(now - age).isoformat()))
    assert model_words(info, now).endswith(words)
    info = read_model_info(add_model("other", created="yesterday"))
    assert model_words(info, now).endswith("age unknown")


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ((60, 8, 8), "tick “Match voxel size”"),
        ((60, 16, 16), "0.5 times their size"),
    ],
)
def test_other_voxels_are_said(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    scale: Any,
    words: str,
) -> None:
    add_model()
    add_pair(viewer, scale=scale)
    assert words in open_predict().fit.text()


def test_channels_that_do_not_fit_are_refused_with_both_numbers(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
) -> None:
    add_model(in_channels=2)
    add_pair(viewer)
    dock = open_predict()
    assert not dock.predict.isEnabled()
    assert "'em' has 1 channels" in dock.fit.text()
    assert "trained on 2" in dock.fit.text()


def test_a_damaged_model_is_left_out_and_told_when_chosen(
    open_predict: Callable[[], PredictWidget], add_model: Callable[..., Path]
) -> None:
    path = add_model()
    path.write_bytes(path.read_bytes()[:20])
    dock = open_predict()
    assert dock.models.combo.count() == 0
    dock.add_model(path)
    assert "incomplete" in dock.message.text()


def test_a_model_that_is_deleted_goes_from_a_relative_folder_too(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    runs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    monkeypatch.chdir(runs_dir.parent)
    monkeypatch.setenv("VOLSEG_RUNS", runs_dir.name)
    add_model("kept")
    gone = add_model("gone")
    dock = open_predict()
    gone.unlink()
    with qtbot.waitSignal(dock.models.listed, timeout=60_000):
        dock.refresh()
    assert [model.name for model in dock.models.models] == ["kept"]


def test_results_lie_on_the_image_and_overwrite_nothing(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    play: Callable[[str], None],
    qtbot: Any,
) -> None:
    play(RESULT + "end('completed', 'done')")
    model = add_model()
    image, _ = add_pair(viewer, translate=(1, 2, 3), rotate=(0, 0, 10))
    viewer.add_image(np.zeros((4, 4, 4)), name="em · mask")
    dock = open_predict()
    click(qtbot, dock.predict)
    qtbot.waitUntil(lambda: "em · instances" in viewer.layers, timeout=60_000)
    mask = viewer.layers["em · mask [2]"]
    labels = viewer.layers["em · instances"]
    for layer in (mask, labels):
        assert np.allclose(
            layer.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3))
        )
        assert layer.units == image.units
    origin = mask.metadata["napari-volseg"]
    assert origin["model"] == str(model)
    assert Path(origin["prediction"]).parent == model.parent / "predictions"
    assert np.asarray(mask.data[2, 2]).tolist() == [1] * 64
    assert labels.features["voxels"].tolist() == [128]
    assert dock.predict.isEnabled()


def test_a_result_that_cannot_be_read_is_told(
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    open_predict: Any,
    play: Callable[[str], None],
    qtbot: Any,
) -> None:
    play("end('completed', 'done')")
    add_model()
    add_pair(viewer)
    dock = open_predict()
    dock.start()
    qtbot.waitUntil(lambda: "cannot be read" in dock.message.text(), timeout=60_000)
    assert dock.message.is_error()


def test_cancel_adds_nothing(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    play: Callable[[str], None],
    qtbot: Any,
) -> None:
    play(
        RESULT
        + "while not asked().get('stop'): time.sleep(0.02)\n"
        + "end('stopped', 'cancelled')"
    )
    add_model()
    add_pair(viewer)
    dock = open_predict()
    click(qtbot, dock.predict)
    qtbot.waitUntil(lambda: "left" in dock.bar.format(), timeout=60_000)
    click(qtbot, dock.cancel)
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    assert len(viewer.layers) == 2
    assert dock.predict.isEnabled()


def test_a_closed_dock_still_gets_its_result_into_the_viewer(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    play: Callable[[str], None],
    qtbot: Any,
) -> None:
    play(RESULT + "end('completed', 'done')")
    add_model()
    add_pair(viewer)
    dock = open_predict()
    dock.start()
    with qtbot.waitSignal(dock.destroyed, timeout=60_000):
        viewer.window.remove_dock_widget(dock)
        dock.deleteLater()
    qtbot.waitUntil(lambda: "em · instances" in viewer.layers, timeout=60_000)


def test_a_result_for_a_closed_viewer_stays_in_its_folder(
    open_predict: Callable[[], PredictWidget],
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    play: Callable[[str], None],
    qtbot: Any,
    workers: Callable[[], list[Any]],
) -> None:
    play(
        RESULT
        + "while not asked().get('stop'): time.sleep(0.02)\n"
        + "end('completed', 'done')"
    )
    model = add_model()
    add_pair(viewer)
    dock = open_predict()
    dock.start()
    qtbot.waitUntil(lambda: "left" in dock.bar.format(), timeout=60_000)
    viewer.close()
    qtbot.waitUntil(lambda: not workers(), timeout=60_000)
    folder = model.parent / "predictions" / "em"
    assert json.loads((folder / "result.json").read_text())["reason"] == "completed"
    assert (folder / "instances.zarr").exists()


def test_one_click_predicts_the_selected_layer(
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    play: Callable[[str], None],
    qtbot: Any,
) -> None:
    play(RESULT + "end('completed', 'done')")
    add_model()
    add_pair(viewer, "first")
    image, _ = add_pair(viewer, "second", seed=1)
    viewer.layers.selection.active = image
    predict_newest(viewer)
    qtbot.waitUntil(lambda: "second · instances" in viewer.layers, timeout=60_000)


def test_one_click_predicts_an_image_that_is_selected_with_its_labels(
    add_model: Callable[..., Path], viewer: Any, add_pair: Any, open_predict: Any
) -> None:
    add_model()
    add_pair(viewer, "first")
    image, labels = add_pair(viewer, "second", seed=1)
    dock = open_predict()
    assert dock.image.currentText() == "first"
    viewer.layers.selection = {image, labels}
    dock.predict_selected()
    assert dock.image.layer() is plain(image)
    dock._is_asked = False


def test_one_click_while_a_prediction_runs_says_so(
    add_model: Callable[..., Path],
    viewer: Any,
    add_pair: Any,
    open_predict: Any,
    play: Callable[[str], None],
    qtbot: Any,
) -> None:
    play("while not asked().get('stop'):\n    time.sleep(0.02)\nend('stopped')")
    add_model()
    add_pair(viewer, "first")
    image, _ = add_pair(viewer, "second", seed=1)
    dock = open_predict()
    dock.start()
    viewer.layers.selection.active = image
    dock.predict_selected()
    assert "a prediction runs" in dock.message.text().lower()
    assert dock.image.currentText() == "first"
    qtbot.waitUntil(lambda: dock._job.folder is not None, timeout=60_000)
    dock._job.stop()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)


def test_one_click_is_in_the_context_menu_of_layers(
    viewer: Any, mock_app_model: Any
) -> None:
    register_context_menu(mock_app_model)
    register_context_menu(mock_app_model)
    menu = mock_app_model.menus.get_menu("napari/layers/context")
    titles = [item.command.title for item in menu if hasattr(item, "command")]
    assert titles.count("Predict with the newest VolSeg model") == 1
