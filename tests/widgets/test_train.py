"""The Train dock driven by hand; the worker is a script."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_volseg.config import build_config, load_config
from napari_volseg.io import read_labels
from napari_volseg.runs import (
    TrainingPair,
    create_run,
    is_locked,
    launch,
    list_runs,
    write_control,
)
from napari_volseg.sample_data import make_sample
from napari_volseg.widgets.job import running_job
from napari_volseg.widgets.preview import BOX_NAME, LivePreview
from napari_volseg.widgets.snapshots import Annotated
from napari_volseg.widgets.train import TrainWidget

STARTED = "say('Started', job='train', device='cpu', total=10)\n"
UNTIL_STOP = """
Path("checkpoints").mkdir(exist_ok=True); Path("checkpoints/last.ckpt").touch()
while not asked().get("stop"):
    time.sleep(0.02)
end("stopped", "stopped at step 3")
"""
PREVIEW = """
import numpy as np
Path("previews").mkdir(exist_ok=True)
def preview(step, start, stop):
    shape = [b - a for a, b in zip(start, stop)]
    np.savez(f"previews/{step}.npz", maps=np.full((3, *shape), step, "u1"),
             instances=np.full(shape, step, "i4"))
    say("PreviewReady", step=step, path=f"previews/{step}.npz", pair=0, start=start,
        stop=stop)
"""


@pytest.fixture
def dock(viewer: Any, qtbot: Any) -> TrainWidget:
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train (VolSeg)")
    return widget


def click(qtbot: Any, button: Any) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def has_begun(dock: TrainWidget) -> bool:
    return dock._job is not None and dock._job.started is not None


def is_idle(dock: TrainWidget) -> bool:
    return dock._job is None


def test_an_empty_viewer_says_what_to_do(dock: TrainWidget) -> None:
    assert not dock.train.isEnabled()
    assert "open a volume" in dock.train.toolTip()
    assert "sample data" in dock.next.text()


def test_layers_that_do_not_fit_are_named(
    viewer: Any, dock: TrainWidget, add_pair: Callable[..., Any]
) -> None:
    _, labels = add_pair(viewer)
    assert dock.train.isEnabled()
    labels.scale = (1, 1, 1)
    dock._check()
    assert not dock.train.isEnabled()
    assert "'em labels' and 'em' differ in scale" in dock.annotation.meter.text()


def test_what_is_annotated_is_counted(
    viewer: Any, dock: TrainWidget, add_pair: Callable[..., Any], qtbot: Any
) -> None:
    _, labels = add_pair(viewer)
    n = np.unique(labels.data).size - 1
    qtbot.waitUntil(
        lambda: f"{n} instances" in dock.annotation.meter.text(), timeout=60_000
    )
    dock.annotation.chooser.rule.setCurrentIndex(
        dock.annotation.chooser.rule.findData("region")
    )
    shapes = viewer.add_shapes(
        [np.array([[0, 0], [0, 9], [9, 9], [9, 0]])],
        name="region",
        scale=(8, 8),
        units=("nm",) * 2,
    )
    dock.annotation.chooser.region.set_layer(shapes)
    qtbot.waitUntil(
        lambda: "2.4 % annotated" in dock.annotation.meter.text(), timeout=60_000
    )


def test_layers_that_were_there_before_the_dock_are_counted(
    viewer: Any, add_pair: Callable[..., Any], qtbot: Any
) -> None:
    add_pair(viewer)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    qtbot.waitUntil(
        lambda: "100 % annotated" in dock.annotation.meter.text(), timeout=60_000
    )
    assert "30 × 8 × 8 nm" in dock.annotation.meter.text()


def test_pairs_come_and_go(
    viewer: Any, dock: TrainWidget, add_pair: Callable[..., Any], qtbot: Any
) -> None:
    add_pair(viewer, "one")
    add_pair(viewer, "two", seed=1)
    click(qtbot, dock.pairs.add)
    chosen = [(str(i.name), str(s.name)) for i, s, _ in dock.pairs.layers()]
    assert sorted(chosen) == [("one", "one labels"), ("two", "two labels")]
    dock.pairs.rows[1].held_out.setChecked(True)
    assert [role for _, _, role in dock.pairs.layers()] == ["train", "val"]
    dock.pairs.rows[0].held_out.setChecked(True)
    assert "for validation" in dock.annotation.meter.text()
    click(qtbot, dock.pairs.rows[0].remove)
    assert [role for _, _, role in dock.pairs.layers()] == ["train"]


def test_a_hundred_clicks_make_one_run(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    runs_dir: Path,
    play: Callable[[str], None],
) -> None:
    play(STARTED + UNTIL_STOP)
    add_pair(viewer)
    for _ in range(100):
        click(qtbot, dock.train)
        dock.start()
    qtbot.waitUntil(lambda: has_begun(dock), timeout=60_000)
    click(qtbot, dock.view.stop)
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)
    assert len(list_runs(runs_dir)) == 1
    assert "stopped at step 3" in dock.message.text()
    assert dock.train.isEnabled()


def test_later_edits_do_not_reach_the_run(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    runs_dir: Path,
    play: Callable[[str], None],
) -> None:
    play(STARTED + UNTIL_STOP)
    _, labels = add_pair(viewer)
    before = labels.data.copy()
    dock.start()
    labels.data[:] = 1
    labels.data = np.zeros_like(before)
    labels.scale = (1, 1, 1)
    viewer.layers.remove("em")
    viewer.layers.remove("em labels")
    qtbot.waitUntil(lambda: has_begun(dock), timeout=60_000)
    folder = dock._job.folder
    dock.view.stop.click()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)
    assert np.array_equal(read_labels(f"{folder}/data/000.h5:labels"), before)
    pairs = json.loads((folder / "data" / "pairs.json").read_text())
    assert pairs["pairs"][0]["voxel_size"] == [30, 8, 8]


def test_labels_too_large_to_copy_are_locked_until_they_are_saved(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_volseg.widgets.snapshots.COPY_AT_ONCE", 100)
    play(STARTED + UNTIL_STOP)
    _, labels = add_pair(viewer)
    dock.start()
    assert not labels.editable
    qtbot.waitUntil(lambda: labels.editable, timeout=60_000)
    dock.view.stop.click()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)


def test_pause_is_asked_for_and_taken_back(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(
        STARTED
        + "while not asked().get('pause'): time.sleep(0.02)\n"
        + "say('Progress', step=1, total=10, elapsed=1, state='paused')\n"
        + "while asked().get('pause'): time.sleep(0.02)\n"
        + "end('completed', 'done')"
    )
    add_pair(viewer)
    dock.start()
    click(qtbot, dock.view.pause)
    qtbot.waitUntil(lambda: "paused" in dock.view.bar.format(), timeout=60_000)
    assert dock.view.pause.text() == "Resume"
    click(qtbot, dock.view.pause)
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)


def test_a_stopped_run_is_offered_and_resumed(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    runs_dir: Path,
    play: Callable[[str], None],
) -> None:
    play(STARTED + UNTIL_STOP)
    add_pair(viewer)
    for button in (dock.train, dock.resume):
        qtbot.waitUntil(button.isEnabled, timeout=60_000)
        click(qtbot, button)
        qtbot.waitUntil(lambda: has_begun(dock), timeout=60_000)
        click(qtbot, dock.view.stop)
        qtbot.waitUntil(lambda: dock.resume.isVisibleTo(dock), timeout=60_000)
    assert len(list_runs(runs_dir)) == 1


@pytest.mark.parametrize("n_true", [12, 13])
def test_scores_before_and_after_stand_side_by_side(
    dock: TrainWidget, add_pair: Any, viewer: Any, play: Any, qtbot: Any, n_true: int
) -> None:
    play(
        STARTED
        + "first = dict(f1_50=0.5, precision_50=0.4, adapted_rand_error=0.3)\n"
        + "last = dict(f1_50=0.75, precision_50=0.4, adapted_rand_error=0.35)\n"
        + f"""
say("Validated", step=0, metrics=first | dict(n_true=12), best=False)
say("Validated", step=5, metrics=last | dict(n_true=12), best=True)
fields = dict(reason="completed", message="Trained", path=None)
metrics = last | dict(n_true={n_true})
Path("result.tmp").write_text(json.dumps(fields | dict(metrics=metrics)))
Path("result.tmp").rename("result.json")
"""
    )
    add_pair(viewer)
    click(qtbot, dock.train)
    qtbot.waitUntil(lambda: dock.message.text() == "Trained", timeout=60_000)
    table = dock.scores
    if n_true != 12:  # held-out labels were changed: these do not compare
        assert not table.isVisibleTo(dock)
        return
    assert table.isVisibleTo(dock)
    assert "12 objects" in table.title.text()
    shown = {key: [c.text() for c in cells] for key, cells in table.cells.items()}
    assert shown["f1_50"] == ["0.50", "0.75"]
    assert shown["adapted_rand_error"] == ["0.30", "0.35"]
    assert shown["pq_50"] == ["–", "–"]
    bold = {k: [c.font().bold() for c in cells] for k, cells in table.cells.items()}
    assert bold["f1_50"] == [False, True]
    assert bold["precision_50"] == [False, False]
    assert bold["adapted_rand_error"] == [True, False]
    # A training without a model before it has nothing to compare with.
    play(STARTED + 'end("completed", "Trained anew")')
    click(qtbot, dock.train)
    qtbot.waitUntil(lambda: dock.message.text() == "Trained anew", timeout=60_000)
    assert not table.isVisibleTo(dock)


def test_a_failure_is_told_and_leaves_the_dock_ready(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(STARTED + "end('failed', 'the disk is full: free some space')")
    add_pair(viewer)
    dock.start()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)
    assert dock.message.is_error()
    assert dock.message.text() == "The disk is full: free some space"
    assert dock.message._log.isVisibleTo(dock)
    assert dock.train.isEnabled()


def test_empty_labels_fail_in_words_before_anything_is_written(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    runs_dir: Path,
) -> None:
    _, labels = add_pair(viewer)
    labels.data[:] = 0
    dock.start()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)
    assert "empty" in dock.message.text()
    assert list_runs(runs_dir) == []


def test_the_preview_is_updated_in_place_and_follows_the_box(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(
        PREVIEW
        + STARTED
        + "preview(1, [4, 8, 8], [12, 40, 40])\n"
        + "while not asked().get('preview_box'): time.sleep(0.02)\n"
        + "pair, start, stop = asked()['preview_box']\n"
        + "preview(2, start, stop)\n"
        + UNTIL_STOP
    )
    image, _ = add_pair(viewer, translate=(30, 80, 0))
    dock.start()
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    names = [f"preview: {r}" for r in ("mask", "boundary", "distance", "instances")]
    layers = {name: viewer.layers[name] for name in names}
    mask = layers["preview: mask"]
    assert np.allclose(mask.data_to_world((0, 0, 0)), image.data_to_world((4, 8, 8)))
    box = viewer.layers[BOX_NAME]
    box.data = [box.data[0] + [10, 16]]
    qtbot.waitUntil(lambda: bool((mask.data == 2).all()), timeout=60_000)
    assert np.allclose(mask.data_to_world((0, 0, 0)), image.data_to_world((4, 18, 24)))
    assert all(viewer.layers[name] == layer for name, layer in layers.items())
    dock.view.stop.click()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)


def test_the_box_lies_around_the_preview_of_a_transformed_image(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(PREVIEW + STARTED + "preview(1, [4, 8, 8], [12, 40, 40])\n" + UNTIL_STOP)
    affine = np.eye(4)
    affine[1:3, 3] = 80, -40
    affine[1, 2] = 0.25
    image, _ = add_pair(viewer, affine=affine, shear=(0, 0, 0.1))
    dock.start()
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    box = viewer.layers[BOX_NAME]
    corner = image.data_to_world((4, 7.5, 7.5))
    assert np.allclose(box.data_to_world(box.data[0][0]), corner[1:])
    preview = dock.findChild(LivePreview)
    assert preview.box() == (0, (4, 8, 8), (12, 40, 40))
    dock.view.stop.click()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)


def test_what_is_painted_on_a_preview_stays(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(
        PREVIEW
        + STARTED
        + "box = [4, 8, 8], [12, 40, 40]\npreview(1, *box)\n"
        + "while not asked().get('pause'): time.sleep(0.02)\n"
        + "preview(2, *box)\npreview(3, *box)\n"
        + UNTIL_STOP
    )
    add_pair(viewer)
    dock.start()
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    mine = viewer.layers["preview: instances"]
    mine.paint((2, 5, 5), 50)
    painted = mine.data.copy()
    dock._job.ask(pause=True)
    new = lambda: viewer.layers["preview: instances [2]"].data.max()  # noqa: E731
    qtbot.waitUntil(
        lambda: "preview: instances [2]" in viewer.layers and new() == 3,
        timeout=60_000,
    )
    assert (painted == 50).any()
    assert np.array_equal(mine.data, painted)
    assert len([n for n in viewer.layers if n.name.startswith("preview")]) == 5
    dock.view.stop.click()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)


def test_settings_of_a_run_choose_what_counts(dock: TrainWidget) -> None:
    chooser = dock.annotation.chooser
    data = {"annotated": "painted_voxels", "background_id": 99}
    dock.use_settings(build_config({"data": data}), "old")
    assert chooser.value() == Annotated("painted_voxels", 99)
    assert "annotated: painted voxels" in dock.message.text()
    dock.use_settings(build_config({}), "older")
    assert chooser.value() == Annotated("painted_voxels", 99)


def test_a_closed_dock_leaves_the_training_and_a_new_one_finds_it(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(
        STARTED
        + "say('Progress', step=2, total=10, elapsed=1, loss=0.5)\n"
        + "while not Path('go').exists(): time.sleep(0.02)\n"
        + "say('Progress', step=3, total=10, elapsed=1, loss=0.4)\n"
        + UNTIL_STOP
    )
    add_pair(viewer)
    dock.start()
    job = dock._job
    assert job is not None
    qtbot.waitUntil(lambda: job.progress is not None, timeout=60_000)
    with qtbot.waitSignal(dock.destroyed, timeout=60_000):
        viewer.window.remove_dock_widget(dock)
        dock.deleteLater()
    assert job.folder is not None
    (job.folder / "go").touch()
    qtbot.waitUntil(lambda: job.progress.step == 3, timeout=60_000)
    again = TrainWidget(viewer)
    viewer.window.add_dock_widget(again, name="Train (VolSeg)")
    assert again._job is job
    assert "step 3" in again.view.status.text()
    again.view.stop.click()
    qtbot.waitUntil(lambda: is_idle(again), timeout=60_000)


@pytest.mark.parametrize("goes_on", [False, True])
def test_closing_the_viewer_stops_the_training_or_leaves_it(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
    runs_dir: Path,
    workers: Callable[[], list[Any]],
    goes_on: bool,
) -> None:
    play(STARTED + UNTIL_STOP)
    add_pair(viewer)
    dock.start()
    job = dock._job
    assert job is not None
    qtbot.waitUntil(lambda: job.started is not None, timeout=60_000)
    dock.view.go_on.setChecked(goes_on)
    viewer.close()
    if goes_on:
        qtbot.waitUntil(lambda: not job.is_followed, timeout=60_000)
        assert len(workers()) == 1
        folder = list_runs(runs_dir)[0].folder
        assert write_control(folder, stop=True).detached
    qtbot.waitUntil(lambda: not workers(), timeout=60_000)
    assert list_runs(runs_dir)[0].state == "stopped"


def test_a_layer_added_off_the_gui_thread_would_fail(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every layer of a preview is added on the GUI thread."""
    import threading

    from napari.components import LayerList

    threads = set()
    insert = LayerList.insert

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        threads.add(threading.current_thread())
        insert(self, *args, **kwargs)

    monkeypatch.setattr(LayerList, "insert", watched)
    play(PREVIEW + STARTED + "preview(1, [0, 0, 0], [4, 8, 8])\n" + UNTIL_STOP)
    add_pair(viewer)
    dock.start()
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    dock.view.stop.click()
    qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)
    assert threads == {threading.main_thread()}


def test_a_training_that_runs_elsewhere_is_followed_and_left_running(
    viewer: Any,
    qtbot: Any,
    runs_dir: Path,
    workers: Callable[[], list[Any]],
) -> None:
    pair = TrainingPair(make_sample("cells", shape=(8, 32, 32)), None)
    folder = create_run(load_config("quick"), [pair], runs_dir, "elsewhere")
    script = f"""
        # napari_volseg
        import time
        from pathlib import Path
        from napari_volseg.events import Finished, Progress
        from napari_volseg.runs import ControlReader, EventLog, lock, write_result
        folder = Path({str(folder)!r})
        with lock(folder):
            EventLog(folder).append(Progress(4, 10, 1.0, loss=0.5))
            while not ControlReader(folder)().stop:
                time.sleep(0.02)
            write_result(folder, Finished("stopped", "stopped at step 4"))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    worker = launch(folder, command=command)
    qtbot.waitUntil(lambda: is_locked(folder), timeout=60_000)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    qtbot.waitUntil(lambda: "Follow" in dock.resume.text(), timeout=60_000)
    click(qtbot, dock.resume)
    qtbot.waitUntil(lambda: "step 4" in dock.view.status.text(), timeout=60_000)
    assert dock.view.go_on.isChecked()
    viewer.close()
    qtbot.waitUntil(lambda: not running_job(viewer, "train"), timeout=60_000)
    assert worker.alive
    worker.stop(timeout=20)
    assert not workers()


def test_a_second_training_takes_over_the_preview_of_the_first(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(PREVIEW + STARTED + "preview(1, [0, 0, 0], [4, 8, 8]); end('completed')\n")
    add_pair(viewer)
    for _ in range(2):
        dock.start()
        qtbot.waitUntil(lambda: is_idle(dock), timeout=60_000)
        qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    names = [layer.name for layer in viewer.layers]
    assert len(names) == len(set(names)) == 7


def test_a_resumed_run_is_previewed_on_the_images_it_knows(
    viewer: Any,
    dock: TrainWidget,
    add_pair: Callable[..., Any],
    qtbot: Any,
    runs_dir: Path,
) -> None:
    pair = TrainingPair(make_sample("cells", shape=(16, 64, 64)), None)
    folder = create_run(load_config("quick"), [pair], runs_dir, "old")
    add_pair(viewer, "other")
    assert dock._images_of(folder) == [None]
    image, _ = add_pair(viewer, pair.volume.image.name)
    assert dock._images_of(folder) == [image]
