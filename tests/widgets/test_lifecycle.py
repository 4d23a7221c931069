"""Whatever happens to layers, windows and folders while a training runs."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import Qt

from napari_volseg.errors import DataError
from napari_volseg.io import read_labels
from napari_volseg.runs import is_locked, list_runs, read_result
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.preview import BOX_NAME, LivePreview
from napari_volseg.widgets.runfolders import find_unfinished
from napari_volseg.widgets.train import TrainWidget

STARTED = "say('Started', job='train', device='cpu', total=10)\n"
CHECKPOINT = """
Path("checkpoints").mkdir(exist_ok=True); Path("checkpoints/last.ckpt").touch()
"""
PREVIEWS = """
import numpy as np
Path("previews").mkdir(exist_ok=True)
def preview(step):
    np.savez(f"previews/{step}.npz", maps=np.full((3, 8, 32, 32), step % 255, "u1"),
             instances=np.full((8, 32, 32), step, "i4"))
    say("PreviewReady", step=step, path=f"previews/{step}.npz", pair=0,
        start=[4, 8, 8], stop=[12, 40, 40])
"""
RUN = (
    PREVIEWS
    + STARTED
    + CHECKPOINT
    + """
step = 0
while not asked().get("stop"):
    step += 1
    say("Progress", step=step, total=10, elapsed=step, loss=1 / step,
        state="paused" if asked().get("pause") else "running")
    if step % 4 == 1:
        preview(step)
    time.sleep(0.05)
end("stopped", "stopped by you")
"""
)


@pytest.fixture
def dock(viewer: Any, add_pair: Callable[..., Any]) -> TrainWidget:
    add_pair(viewer)
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train (VolSeg)")
    return widget


def begin(dock: TrainWidget, qtbot: Any) -> Path:
    dock.start()
    job = dock._job
    assert job is not None
    qtbot.waitUntil(lambda: job.progress is not None, timeout=60_000)
    assert job.folder is not None
    return job.folder


def end(dock: TrainWidget, qtbot: Any) -> None:
    if dock._job is not None:
        dock._job.stop()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)


CHANGES: dict[str, dict[str, Callable[[Any], object]]] = {
    "edited": {
        "painted": lambda v: v.layers["em labels"].paint((4, 8, 8), 3),
        "undone": lambda v: v.layers["em labels"].undo(),
        "reversed": lambda v: v.layers.reverse(),
        "shown in 3D": lambda v: setattr(v.dims, "ndisplay", 3),
        "shown in 2D": lambda v: setattr(v.dims, "ndisplay", 2),
        "scaled": lambda v: setattr(v.layers["em"], "scale", (1, 2, 3)),
        "replaced": lambda v: setattr(
            v.layers["em labels"], "data", np.zeros((3, 9, 9), int)
        ),
        "image replaced": lambda v: setattr(
            v.layers["em"], "data", np.zeros((5, 5, 5))
        ),
        "renamed": lambda v: [setattr(la, "name", f"{la.name} x") for la in v.layers],
    },
    "removed": {
        "one preview": lambda v: v.layers.remove("preview: mask"),
        "no box drawn": lambda v: setattr(v.layers[BOX_NAME], "data", []),
        "box": lambda v: v.layers.remove(BOX_NAME),
        "image": lambda v: v.layers.remove("em"),
        "labels": lambda v: v.layers.remove("em labels"),
        "all": lambda v: v.layers.clear(),
    },
}


@pytest.mark.parametrize("kind", CHANGES)
def test_layers_may_change_in_any_way(
    viewer: Any,
    dock: TrainWidget,
    qtbot: Any,
    play: Callable[[str], None],
    kind: str,
) -> None:
    play(RUN)
    before = viewer.layers["em labels"].data.copy()
    folder = begin(dock, qtbot)
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    job = dock._job
    assert job is not None
    for change in CHANGES[kind].values():
        assert job.progress is not None
        reached = job.progress.step
        change(viewer)
        qtbot.waitUntil(lambda n=reached: job.progress.step > n + 1, timeout=60_000)
    assert np.array_equal(read_labels(f"{folder}/data/000.h5:labels"), before)
    end(dock, qtbot)
    assert dock.message.text() == "stopped by you"


def test_a_box_that_is_left_alone_asks_for_nothing(
    viewer: Any, dock: TrainWidget, qtbot: Any, play: Callable[[str], None]
) -> None:
    play(RUN.replace("step % 4 == 1", "step == 1"))
    begin(dock, qtbot)
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    (preview,) = dock.findChildren(LivePreview)
    assert preview.box() is not None
    for layer in [each for each in viewer.layers if each.name != BOX_NAME]:
        viewer.layers.remove(layer)
    assert preview.box() is None
    end(dock, qtbot)


def test_a_duplicate_of_a_preview_is_the_users(
    viewer: Any, dock: TrainWidget, qtbot: Any, play: Callable[[str], None]
) -> None:
    play(RUN)
    begin(dock, qtbot)
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    made = plain(viewer.layers["preview: instances"])
    data, options, kind = copy.deepcopy(made.as_layer_data_tuple())
    mine = viewer.add_layer(Layer.create(data, options | {"name": "mine"}, kind))
    before = np.array(mine.data)
    viewer.layers.remove(made)
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    assert (mine.data == before).all()
    end(dock, qtbot)


def test_previews_that_come_faster_than_they_are_shown_are_all_shown(
    viewer: Any, dock: TrainWidget, qtbot: Any, play: Callable[[str], None]
) -> None:
    play(
        PREVIEWS
        + STARTED
        + "for step in range(1, 200): preview(step); time.sleep(0.01)\n"
        + "while not asked().get('stop'): time.sleep(0.02)\n"
        + "end('stopped', 'stopped by you')"
    )
    dock.start()
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
    newest = lambda: viewer.layers["preview: instances"].data.max() == 199  # noqa: E731
    qtbot.waitUntil(newest, timeout=60_000)
    assert (viewer.layers["preview: mask"].data == 199).all()
    end(dock, qtbot)


def test_trainings_that_ended_are_forgotten(
    viewer: Any, dock: TrainWidget, qtbot: Any, play: Callable[[str], None]
) -> None:
    play(RUN)
    known: list[weakref.ref[Job | LivePreview]] = []
    for _ in range(2):
        begin(dock, qtbot)
        qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=60_000)
        known += [weakref.ref(thing) for thing in dock.findChildren(LivePreview)]
        known.append(weakref.ref(dock._job))
        end(dock, qtbot)
    assert len(known) == 4

    def are_gone() -> bool:
        gc.collect()
        return not any(ref() for ref in known)

    qtbot.waitUntil(are_gone, timeout=60_000)


PHASES: dict[str, tuple[str, Callable[[TrainWidget], object]]] = {
    "starting": ("time.sleep(0.3)\n" + RUN, lambda dock: None),
    "running": (RUN, lambda dock: None),
    "paused": (RUN, lambda dock: dock.view.pause.click()),
    "stopping": (RUN.replace("end(", "time.sleep(0.5); end("), lambda d: d._job.stop()),
    "handing in labels": (RUN, lambda dock: dock.new_labels.hand_in()),
}


@pytest.mark.parametrize(
    ("way", "phase"),
    [
        *(("viewer", phase) for phase in PHASES),
        ("dock", "paused"),
        ("dock", "handing in labels"),
        ("detached", "starting"),
        ("detached", "running"),
    ],
)
def test_a_window_closed_in_any_phase_leaves_a_run_that_can_go_on(
    make_napari_viewer: Callable[..., Any],
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
    runs_dir: Path,
    workers: Callable[[], list[Any]],
    way: str,
    phase: str,
) -> None:
    script, act = PHASES[phase]
    play(script)
    viewer = make_napari_viewer()
    add_pair(viewer)
    dock = TrainWidget(viewer)
    viewer.window.add_dock_widget(dock, name="Train (VolSeg)")
    dock.start()
    job = dock._job
    assert job is not None
    ended: list[object] = []
    job.finished.connect(ended.append)
    if phase != "starting":
        qtbot.waitUntil(lambda: job.progress is not None, timeout=60_000)
        act(dock)
    else:
        qtbot.waitUntil(lambda: job.folder is not None, timeout=60_000)
    if way == "dock":
        with qtbot.waitSignal(dock.destroyed, timeout=60_000):
            viewer.window.remove_dock_widget(dock)
            dock.deleteLater()
        assert job.is_followed or ended
        job.stop()
    elif way == "detached":
        job.keep(True)
        viewer.close()
    else:
        viewer.close()
    qtbot.waitUntil(lambda: not job.is_followed, timeout=60_000)
    if way == "detached":
        for worker in workers():
            worker.kill()
    qtbot.waitUntil(lambda: not workers(), timeout=60_000)
    (run,) = list_runs(runs_dir)
    assert run.state in ("stopped", "interrupted", "new")
    if run.has_checkpoint:
        assert find_unfinished() is not None


def test_a_deleted_folder_is_one_sentence_and_the_worker_is_ended(
    viewer: Any,
    dock: TrainWidget,
    qtbot: Any,
    play: Callable[[str], None],
    workers: Callable[[], list[Any]],
) -> None:
    play(STARTED + "say('Progress', step=1, total=9, elapsed=1); time.sleep(60)")
    folder = begin(dock, qtbot)
    shutil.rmtree(folder)
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    assert "was deleted while the job ran" in dock.message.text()
    assert dock.message.is_error()
    assert not workers()
    assert dock.train.isEnabled()


def test_a_full_disk_is_told_once_and_asking_goes_on(
    viewer: Any,
    dock: TrainWidget,
    qtbot: Any,
    play: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_volseg.widgets import job as module

    play(RUN)
    begin(dock, qtbot)
    write, refused = module.write_control, []

    def refuse(folder: Path, **changes: Any) -> Any:
        if len(refused) < 3:
            refused.append(changes)
            raise DataError("control.json cannot be written (No space left on device)")
        return write(folder, **changes)

    monkeypatch.setattr(module, "write_control", refuse)
    dock.view.stop.click()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    assert len(refused) == 3
    assert "No space left" in dock.view.notice.text()
    assert dock.message.text() == "stopped by you"


def test_a_runs_folder_that_cannot_be_made_is_one_sentence(
    dock: TrainWidget, qtbot: Any, runs_dir: Path
) -> None:
    runs_dir.write_text("a file where the folder should be")
    dock.start()
    qtbot.waitUntil(lambda: dock._job is None, timeout=60_000)
    assert "choose another folder for runs" in dock.message.text()
    assert dock.train.isEnabled()


def test_two_viewers_follow_one_run(
    make_napari_viewer: Callable[..., Any],
    add_pair: Callable[..., Any],
    qtbot: Any,
    play: Callable[[str], None],
    runs_dir: Path,
) -> None:
    lock = """
import fcntl
held = open(".lock", "w"); fcntl.flock(held, fcntl.LOCK_EX)
import os, socket
owner = {"pid": os.getpid(), "host": socket.gethostname()}
Path("owner.json").write_text(json.dumps(owner))
"""
    play(lock + RUN)
    docks = []
    for _ in range(2):
        viewer = make_napari_viewer()
        add_pair(viewer)
        docks.append(TrainWidget(viewer))
        viewer.window.add_dock_widget(docks[-1], name="Train (VolSeg)")
    one, other = docks
    folder = begin(one, qtbot)
    qtbot.waitUntil(lambda: is_locked(folder), timeout=60_000)
    other._look_for_runs()
    qtbot.waitUntil(lambda: "Follow" in other.resume.text(), timeout=60_000)
    qtbot.mouseClick(other.resume, Qt.MouseButton.LeftButton)
    job = other._job
    assert job is not None
    qtbot.waitUntil(lambda: job.progress is not None, timeout=60_000)
    # Labels from the second, a stop from the second: both see the end.
    other._viewer.layers["em labels"].paint((4, 8, 8), 99)
    other.new_labels.hand_in()
    panel = other.new_labels
    qtbot.waitUntil(lambda: "Revision 2" in panel.message.text(), timeout=60_000)
    job.stop()
    for dock in docks:
        qtbot.waitUntil(lambda dock=dock: dock._job is None, timeout=60_000)
        assert dock.message.text() == "stopped by you"
    result = read_result(folder)
    assert result is not None
    assert result.reason == "stopped"
    assert len(list_runs(runs_dir)) == 1
