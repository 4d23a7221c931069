"""A job from start to end, as the docks see it; the worker is a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari.utils.notifications import notification_manager
from superqt.utils import WorkerBase

from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Progress, Started
from napari_volseg.runs import TrainingPair, create_run, read_result
from napari_volseg.sample_data import make_sample
from napari_volseg.widgets.job import Job, Preview, running_job
from napari_volseg.widgets.layers import plain

STARTED = "say('Started', job='train', device='cpu', total=10)\n"
UNTIL_STOP = """
while not asked().get("stop"):
    time.sleep(0.02)
end("stopped", "stopped at step 3")
"""


@pytest.fixture
def folder(runs_dir: Path) -> Path:
    pair = TrainingPair(make_sample("cells", shape=(8, 32, 32)), None)
    return create_run(load_config("quick"), [pair], runs_dir, "test")


@pytest.fixture
def job(viewer: Any) -> Job:
    return Job(viewer, "train", "a training")


def collect(job: Job) -> list[Any]:
    seen: list[Any] = []
    job.event.connect(seen.append)
    job.preview.connect(seen.append)
    job.finished.connect(seen.append)
    return seen


def test_events_come_in_order_on_the_gui_thread(
    qtbot: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    play(
        STARTED
        + "say('Progress', step=5, total=10, elapsed=1.0, loss=0.5)\n"
        + "say('Nonsense'); end('completed', 'done')"
    )
    threads = set()
    job.event.connect(lambda event: threads.add(threading.get_ident()))
    seen = collect(job)
    with qtbot.waitSignal(job.finished, timeout=60_000):
        job.start(lambda: folder)
    assert [type(event) for event in seen] == [Started, Progress, Finished]
    assert threads == {threading.get_ident()}
    assert job.curves.loss == [(5, 0.5)]


def test_a_stop_is_asked_for_in_the_folder(
    qtbot: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    play(STARTED + UNTIL_STOP)
    seen = collect(job)
    job.start(lambda: folder)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=60_000)
    job.stop()
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    assert seen[-1].reason == "stopped"


def test_a_second_stop_ends_a_worker_that_does_not_listen(
    qtbot: Any,
    job: Job,
    folder: Path,
    play: Callable[[str], None],
    workers: Callable[[], Any],
) -> None:
    play(STARTED + "time.sleep(60)")
    seen = collect(job)
    job.start(lambda: folder)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=60_000)
    job.stop()
    job.stop()
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    assert seen[-1].reason == "failed"
    assert not workers()


def test_closing_stops_within_the_deadline(
    qtbot: Any,
    job: Job,
    folder: Path,
    play: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_volseg.widgets.job.CLOSING_SECONDS", 0.3)
    play(STARTED + "time.sleep(60)")
    seen = collect(job)
    job.start(lambda: folder)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=60_000)
    job.close()
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    assert json.loads((folder / "control.json").read_text())["stop"] is True


def test_napari_can_quit_the_thread_only_by_stopping_the_job(
    qtbot: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    play(STARTED + UNTIL_STOP)
    seen = collect(job)
    job.start(lambda: folder)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=60_000)
    WorkerBase.await_workers(10_000)
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    assert seen[-1].reason == "stopped"


def test_napari_asks_before_it_closes_over_a_job(
    qtbot: Any, viewer: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    """The window asks when a task is listed here, and then cancels all of them."""
    play(STARTED + UNTIL_STOP)
    seen = collect(job)
    job.start(lambda: folder)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=60_000)
    tasks = plain(viewer).window._task_status_manager
    assert any("a training" in line for line in tasks.get_status())
    tasks.cancel_all()
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    assert seen[-1].reason == "stopped"
    qtbot.waitUntil(lambda: not tasks.is_busy(), timeout=60_000)


def test_a_job_may_go_on_without_napari(
    qtbot: Any,
    job: Job,
    folder: Path,
    play: Callable[[str], None],
    workers: Callable[[], Any],
) -> None:
    play(STARTED + UNTIL_STOP.replace('asked().get("stop")', 'Path("go").exists()'))
    seen = collect(job)
    job.start(lambda: folder)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=60_000)
    job.keep_running = True
    job.close()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=60_000)
    assert json.loads((folder / "control.json").read_text())["detached"] is True
    assert len(workers()) == 1
    (folder / "go").touch()
    qtbot.waitUntil(lambda: read_result(folder) is not None, timeout=60_000)


def test_cancel_in_the_activity_dock_stops(
    qtbot: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    play(STARTED + UNTIL_STOP)
    seen = collect(job)
    job.start(lambda: folder)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=60_000)
    assert job._activity is not None
    job._activity.cancel()
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    assert job._activity is None


def test_a_data_error_is_told_in_its_own_words_and_quietly(
    qtbot: Any, job: Job
) -> None:
    def refuse() -> Path:
        raise DataError("the labels of em are empty: paint some objects first")

    seen = collect(job)
    before = len(notification_manager.records)
    with qtbot.waitSignal(job.finished, timeout=60_000):
        job.start(refuse)
    assert seen == [
        Finished("failed", "the labels of em are empty: paint some objects first")
    ]
    assert len(notification_manager.records) == before


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), OSError("boom"), KeyError("b")]
)
def test_no_error_vanishes_in_the_thread(
    qtbot: Any, job: Job, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(
        notification_manager, "receive_error", lambda *args: shown.append(args)
    )

    def fail() -> Path:
        raise error

    seen = collect(job)
    with qtbot.waitSignal(job.finished, timeout=60_000):
        job.start(fail)
    assert seen[0].reason == "failed"
    assert "b" in seen[0].message
    assert len(shown) == 1


def test_a_worker_that_dies_is_a_failure_in_words(
    qtbot: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    play(STARTED + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    seen = collect(job)
    with qtbot.waitSignal(job.finished, timeout=60_000):
        job.start(lambda: folder)
    assert "killed" in seen[-1].message


def test_previews_are_read_in_the_thread(
    qtbot: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    play(
        STARTED
        + "import numpy as np; Path('previews').mkdir()\n"
        + "np.savez('previews/p.npz', maps=np.ones((3, 2, 4, 4), 'u1'), "
        + "instances=np.ones((2, 4, 4), 'i4'))\n"
        + "for path in ('previews/gone.npz', 'previews/p.npz'):\n"
        + "    say('PreviewReady', step=1, path=path, pair=0, start=[0, 0, 0], "
        + "stop=[2, 4, 4])\n"
        + "end('completed')"
    )
    seen = collect(job)
    with qtbot.waitSignal(job.finished, timeout=60_000):
        job.start(lambda: folder)
    previews = [each for each in seen if isinstance(each, Preview)]
    assert len(previews) == 1
    assert previews[0].maps_CZYX.shape == (3, 2, 4, 4)
    assert previews[0].event.stop == (2, 4, 4)


def test_a_flood_of_events_leaves_the_window_alive(
    qtbot: Any, job: Job, folder: Path, play: Callable[[str], None]
) -> None:
    play(
        STARTED
        + "for i in range(3000):\n"
        + "    say('Notice', message='x' * 200); print('y' * 1000)\n"
        + "end('completed')"
    )
    seen = collect(job)
    with qtbot.waitSignal(job.finished, timeout=30_000):
        job.start(lambda: folder)
    assert len(seen) == 3002


def test_two_viewers_have_jobs_of_their_own(
    qtbot: Any,
    make_napari_viewer_proxy: Callable[..., Any],
    folder: Path,
    play: Callable[[str], None],
) -> None:
    play(STARTED + UNTIL_STOP)
    first, second = make_napari_viewer_proxy(), make_napari_viewer_proxy()
    job = Job(first, "train", "a training")
    seen = collect(job)
    job.start(lambda: folder)
    assert running_job(first, "train") is job
    assert running_job(second, "train") is None
    assert running_job(first, "predict") is None
    job.stop()
    qtbot.waitUntil(
        lambda: bool(seen) and isinstance(seen[-1], Finished), timeout=60_000
    )
    assert running_job(first, "train") is None
