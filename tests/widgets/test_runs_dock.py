"""The Runs dock driven by hand, over run folders that events were written into."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QMessageBox

from napari_volseg.config import load_config
from napari_volseg.events import Finished, Progress, Started, Validated
from napari_volseg.runs import (
    EventLog,
    TrainingPair,
    create_run,
    list_runs,
    lock,
    read_config,
    write_result,
)
from napari_volseg.sample_data import make_sample
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.runlist import age_words, thumbnail
from napari_volseg.widgets.runs import RunsWidget

UNTIL_STOP = """
say('Started', job='train', device='cpu', total=10)
while not asked().get("stop"):
    time.sleep(0.02)
end("stopped", "stopped at step 3")
"""


@pytest.fixture
def make(runs_dir: Path) -> Callable[..., Path]:
    """Make the folder of a run that has trained for some steps."""
    pair = TrainingPair(make_sample("cells", shape=(8, 32, 32)), None)

    def make(name: str, score: float = 0.5, reason: str | None = "completed") -> Path:
        config = load_config("quick", [f"optimization.optimizer.lr={score / 100}"])
        folder = create_run(config, [pair], runs_dir, name)
        log = EventLog(folder)
        log.append(Started("train", "cpu, float32", 200))
        for step in (50, 100, 150):
            log.append(Progress(step, 200, step, epoch=step // 50, loss=50 / step))
            metrics = {"f1_50": score * step / 150, "loss": 1.0}
            log.append(Validated(step, metrics, best=True))
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        if reason is not None:
            result = Finished(reason, "why", metrics={"f1_50": score})  # type: ignore[arg-type]
            write_result(folder, result)
        return folder

    return make


@pytest.fixture
def dock(viewer: Any, qtbot: Any) -> RunsWidget:
    widget = RunsWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Runs (VolSeg)")
    return widget


def look(dock: RunsWidget, qtbot: Any, n: int) -> None:
    dock.refresh()
    qtbot.waitUntil(lambda: len(names(dock)) == n, timeout=60_000)


def names(dock: RunsWidget) -> list[str]:
    items = (dock.list.list.item(i) for i in range(dock.list.list.count()))
    return [item.text().split("\n")[0] for item in items if not item.isHidden()]


def words_of(dock: RunsWidget, name: str) -> str:
    items = (dock.list.list.item(i) for i in range(dock.list.list.count()))
    return next(item.text() for item in items if item.text().startswith(f"{name}\n"))


def press(qtbot: Any, button: Any) -> None:
    assert button.isEnabled(), button.toolTip()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_without_runs_it_says_where_to_begin(dock: RunsWidget, qtbot: Any) -> None:
    look(dock, qtbot, 0)
    assert "Train dock" in dock.next.text()
    assert "Choose one run" in dock.go_on.toolTip()


def test_runs_are_listed_and_filtered_and_followed_live(
    dock: RunsWidget, make: Callable[..., Path], qtbot: Any
) -> None:
    first = make("first", 0.75)
    make("second", reason=None)
    look(dock, qtbot, 2)
    texts = [dock.list.list.item(i).text() for i in range(2)]
    assert any("completed · F1 0.75 · just now · 150 steps" in text for text in texts)
    assert any("interrupted" in text for text in texts)
    dock.list.filter.setText("inter")
    assert names(dock) == ["second"]
    dock.list.filter.clear()
    dock.list.choose([first])
    with lock(first):  # a training elsewhere
        EventLog(first).append(Progress(1234, 2000, 160))
        dock.refresh()
        qtbot.waitUntil(
            lambda: "1,234 steps" in words_of(dock, "first"), timeout=60_000
        )
        assert [run.name for run in dock.list.runs()] == ["first"]
        assert dock.go_on.text() == "Follow"
        assert not dock.delete.isEnabled()
        assert "Stop the running" in dock.delete.toolTip()


def test_two_runs_are_drawn_over_each_other(
    dock: RunsWidget, make: Callable[..., Path], qtbot: Any
) -> None:
    folders = [make("one", 0.5), make("two", 0.8)]
    look(dock, qtbot, 2)
    assert not dock.compare.isEnabled()
    dock.list.choose(folders)
    press(qtbot, dock.compare)
    qtbot.waitUntil(lambda: len(dock.comparison.facts) == 2, timeout=60_000)
    dock.comparison.loss.redraw()
    drawn = [line.getData() for line in dock.comparison.loss._lines[:2]]
    for steps, losses in drawn:
        assert list(steps) == [50, 100, 150]
        assert losses[0] == pytest.approx(1.0)
    legend = dock.comparison.legend.text()
    assert "one: F1 0.50 · 150 steps" in legend
    assert "two: F1 0.80" in legend
    assert "optimization.optimizer.lr" in dock.comparison.differences.text()


def test_a_run_that_cannot_be_read_leaves_no_curves_of_others(
    dock: RunsWidget, make: Callable[..., Path], qtbot: Any
) -> None:
    first, second = make("first"), make("second")
    look(dock, qtbot, 2)
    dock.list.choose([first, second])
    press(qtbot, dock.compare)
    shown = dock.comparison
    qtbot.waitUntil(lambda: len(shown.facts) == 2, timeout=60_000)
    (second / "config.yaml").write_text("of: another version")
    press(qtbot, dock.compare)
    qtbot.waitUntil(lambda: not shown.facts, timeout=60_000)
    assert "second/config.yaml" in shown.legend.text()
    assert shown.differences.text() == ""
    assert not shown.loss._points


def test_a_stopped_run_goes_on_in_the_train_dock(
    viewer: Any,
    dock: RunsWidget,
    make: Callable[..., Path],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(UNTIL_STOP)
    folder = make("first", reason="stopped")
    look(dock, qtbot, 1)
    dock.list.choose([folder])
    assert "Continue" in dock.next.text()
    press(qtbot, dock.go_on)
    train = plain(viewer.window.dock_widgets["Train (VolSeg)"])
    qtbot.waitUntil(lambda: train._job.started is not None, timeout=60_000)
    assert train._job.folder == folder
    dock.list.opened.emit()
    assert "A training runs in the Train dock" in dock.message.text()
    train.view.stop.click()
    qtbot.waitUntil(lambda: train._job is None, timeout=60_000)


def test_a_finished_run_trains_on_for_some_minutes(
    viewer: Any,
    dock: RunsWidget,
    make: Callable[..., Path],
    qtbot: Any,
    play: Callable[[str], None],
) -> None:
    play(UNTIL_STOP)
    folder = make("first")
    look(dock, qtbot, 1)
    dock.list.choose([folder])
    assert dock.go_on.text() == "Train on"
    dock.minutes.setValue(5)
    press(qtbot, dock.go_on)
    train = plain(viewer.window.dock_widgets["Train (VolSeg)"])
    qtbot.waitUntil(lambda: train._job.started is not None, timeout=60_000)
    config = read_config(folder)
    assert not config.monitor.early_stopping.enabled
    assert config.optimization.max_epochs >= 3 + 6
    train.view.stop.click()
    qtbot.waitUntil(lambda: train._job is None, timeout=60_000)


def test_settings_are_duplicated_into_the_form(
    viewer: Any, dock: RunsWidget, make: Callable[..., Path], qtbot: Any
) -> None:
    folder = make("first", 0.3)
    look(dock, qtbot, 1)
    dock.list.choose([folder])
    press(qtbot, dock.duplicate)
    train = plain(viewer.window.dock_widgets["Train (VolSeg)"])
    assert train.form.config().optimization.optimizer.lr == pytest.approx(0.003)
    assert train.name.text() == "first"
    assert len(list_runs(folder.parent)) == 1


def test_the_command_is_copied(
    dock: RunsWidget, make: Callable[..., Path], qtbot: Any
) -> None:
    folder = make("with space")
    look(dock, qtbot, 1)
    dock.list.choose([folder])
    press(qtbot, dock.copy)
    copied = QGuiApplication.clipboard().text()
    assert shlex.split(copied) == ["volseg", "train", str(folder)]


@pytest.mark.parametrize("answer", ["Cancel", "Yes"])
def test_deleting_asks_and_moves_to_the_trash(
    dock: RunsWidget,
    make: Callable[..., Path],
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    folder, kept = make("first"), make("second")
    look(dock, qtbot, 2)
    thrown = []

    def move(path: str) -> bool:
        thrown.append(path)
        Path(path).rename(Path(path).parent.parent / "trash")
        return True

    button = getattr(QMessageBox.StandardButton, answer)
    monkeypatch.setattr(QMessageBox, "question", lambda *args: button)
    monkeypatch.setattr("napari_volseg.widgets.runs.QFile.moveToTrash", move)
    dock.list.choose([folder])
    press(qtbot, dock.delete)
    if answer == "Cancel":
        assert thrown == []
        return
    assert thrown == [str(folder)]
    qtbot.waitUntil(lambda: names(dock) == ["second"], timeout=60_000)
    monkeypatch.setattr(
        "napari_volseg.widgets.runs.QFile.moveToTrash", lambda path: (False, "")
    )
    dock.list.choose([kept])
    press(qtbot, dock.delete)
    assert "could not be moved to the trash" in dock.message.text()
    dock.list.choose([kept])
    with lock(kept):  # it began since the dock looked last
        press(qtbot, dock.delete)
        assert "in use" in dock.message.text()
    prediction = kept / "predictions" / "em"
    prediction.mkdir(parents=True)
    with lock(prediction):
        press(qtbot, dock.delete)
        assert f"{prediction} is in use" in dock.message.text()
    assert kept.is_dir()


def test_a_folder_of_runs_that_vanishes_empties_the_list(
    dock: RunsWidget, make: Callable[..., Path], runs_dir: Path, qtbot: Any
) -> None:
    folder = make("first")
    look(dock, qtbot, 1)
    dock.list.choose([folder])
    runs_dir.rename(runs_dir.parent / "gone")
    press(qtbot, dock.duplicate)
    assert dock.message.is_error()
    look(dock, qtbot, 0)
    assert not dock.go_on.isEnabled()


def test_it_looks_only_while_it_is_seen(dock: RunsWidget) -> None:
    dock.showEvent(None)
    assert dock._timer.isActive()
    dock.hideEvent(None)
    assert not dock._timer.isActive()


def test_a_thumbnail_is_the_middle_of_the_preview(tmp_path: Path) -> None:
    maps = np.zeros((3, 5, 30, 90), np.uint8)
    maps[0, 2, :, 30:60] = 255  # the middle of the middle slice
    maps[1, 2, :15, 30:60] = 255
    path = tmp_path / "preview-1.npz"
    np.savez(path, maps=maps)
    picture = thumbnail(path, 10)
    assert picture is not None
    assert picture.shape == (10, 10, 3)
    assert (picture[0] == [255, 0, 255]).all()  # boundary
    assert (picture[-1] == 127).all()  # mask
    path.write_bytes(b"cut off")
    assert thumbnail(path) is None


def test_ages_in_words() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert age_words("2026-03-01T11:59:50+00:00", now) == "just now"
    assert age_words("2026-03-01T09:00:00+00:00", now) == "3 h ago"
    assert age_words("2026-02-20T12:00:00+00:00", now) == "9 d ago"
    assert age_words("", now) == age_words("2026-03-01", now) == ""
