"""Measure how late napari's event loop is while a network trains or predicts.

Usage: python benchmarks/event_loop.py [--seconds N] [--only PHASE …]

A timer of 5 ms runs in napari's GUI thread; lateness is the time between two of its
calls less 5 ms. Phases: napari idle; napari alone adding an invisible image of zeros
every other second, which no plugin can undercut; training and prediction started by
the docks, in worker processes; the same training and prediction in a thread of
napari's process, for comparison. Prints JSON: milliseconds at p50, p99 and the
maximum; the same of the time that the thread computed between two calls, which other
programs on the machine change little; and the longest pass of Python's cycle
collector, which may fall anywhere.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from virtual_screen import ensure_screen

SHAPE = (48, 256, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--only", choices=PHASES, nargs="+", default=list(PHASES))
    args = parser.parse_args()
    ensure_screen()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VOLSEG_RUNS"] = folder
        results = measure(args.seconds, args.only)
    print(json.dumps(results, indent=2))


def measure(seconds: float, phases: list[str]) -> dict[str, Any]:
    import napari

    from napari_volseg.sample_data import make_sample

    sample = make_sample(shape=SHAPE)
    viewer = napari.Viewer(show=True)
    place = {"scale": sample.image.voxel_size, "units": ("nm",) * 3}
    viewer.add_image(sample.image.data, name="vesicles", **place)
    viewer.add_labels(sample.labels_ZYX, name="vesicles labels", **place)
    pump(lambda: False, 3.0)
    results = {}
    for name in phases:
        with PHASES[name](viewer, sample):
            results[name] = lateness(seconds)
    viewer.close()
    return results


def lateness(seconds: float) -> dict[str, float]:
    """Run the event loop and return how late a 5 ms timer was called, in ms.

    Beside it how long this thread computed between two calls, which other programs
    on the machine do not change.
    """
    from qtpy.QtCore import QEventLoop, Qt, QTimer

    times: list[tuple[float, float]] = []
    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setInterval(5)
    timer.timeout.connect(
        lambda: times.append((time.perf_counter(), time.thread_time()))
    )
    collections = _Collections()
    gc.callbacks.append(collections)
    loop = QEventLoop()
    QTimer.singleShot(round(seconds * 1000), loop.quit)
    timer.start()
    loop.exec()
    timer.stop()
    gc.callbacks.remove(collections)
    late, busy = 1000 * np.diff(times, axis=0).T
    late = np.maximum(0, late - 5)
    p50, p99 = np.percentile(late, (50, 99))
    return {
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(float(late.max()), 2),
        "busy_p99_ms": round(float(np.percentile(busy, 99)), 2),
        "busy_max_ms": round(float(busy.max()), 2),
        "collector_max_ms": round(1000 * collections.longest, 2),
        "calls": len(times),
    }


class _Collections:
    """Notes the longest pass of the cycle collector, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._begun = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._begun = now
        else:
            self.longest = max(self.longest, now - self._begun)


def pump(is_done: Callable[[], bool], timeout: float) -> None:
    """Handle Qt's events until something holds or the time is over."""
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + timeout
    while not is_done() and time.monotonic() < end:
        QApplication.processEvents()
        # Left to the event loop, which would delete widgets in the next phase.
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        time.sleep(0.005)


@contextmanager
def idle(viewer: Any, sample: Any) -> Iterator[None]:
    yield


@contextmanager
def napari_adds_layers(viewer: Any, sample: Any) -> Iterator[None]:
    """Add layers as napari does, without any dock of this plugin."""
    from qtpy.QtCore import QTimer

    zeros_ZYX = np.zeros(SHAPE, np.uint8)
    before = len(viewer.layers)
    timer = QTimer()
    timer.setInterval(2000)
    timer.timeout.connect(
        lambda: viewer.add_image(zeros_ZYX, contrast_limits=(0, 255), visible=False)
    )
    timer.start()
    yield
    timer.stop()
    del viewer.layers[before:]
    pump(lambda: False, 1.0)


@contextmanager
def train_in_worker(viewer: Any, sample: Any) -> Iterator[None]:
    """Press Train in the dock; stop and keep the model afterwards."""
    from napari_volseg.widgets.job import running_job

    _, dock = viewer.window.add_plugin_dock_widget("napari-volseg", "Train")
    dock.name.setText("loop")
    dock.start()
    job = running_job(viewer, "train")
    if job is None:
        raise SystemExit(f"training does not start: {dock.message.text()}")
    pump(lambda: job.progress is not None, 120)
    yield
    if running_job(viewer, "train") is None:
        raise SystemExit(f"training ended too soon: {dock.message.text()}")
    job.stop()
    pump(lambda: running_job(viewer, "train") is None, 120)


@contextmanager
def predict_in_worker(viewer: Any, sample: Any) -> Iterator[None]:
    """Press Predict in the dock, again and again while the time lasts."""
    from qtpy.QtCore import QTimer

    from napari_volseg.widgets.job import running_job

    _, dock = viewer.window.add_plugin_dock_widget("napari-volseg", "Predict")
    pump(lambda: dock.predict.isEnabled(), 20)
    if not dock.predict.isEnabled():
        raise SystemExit(f"prediction does not start: {dock.fit.text()}")
    again = QTimer()
    again.setInterval(200)
    again.timeout.connect(
        lambda: running_job(viewer, "predict") is None and dock.start()
    )
    dock.start()
    again.start()
    yield
    again.stop()
    pump(lambda: running_job(viewer, "predict") is None, 120)


@contextmanager
def train_in_thread(viewer: Any, sample: Any) -> Iterator[None]:
    """Run the engine's training in a thread of this process."""
    from napari_volseg.config import load_config
    from napari_volseg.runs import Control, TrainingPair, create_run

    folder = Path(os.environ["VOLSEG_RUNS"])
    pairs = [TrainingPair(sample, None, "train")]
    config = load_config("quick")
    run = create_run(config, pairs, folder, "thread")
    stop = threading.Event()

    def work(begun: Callable[[], None]) -> None:
        from napari_volseg.events import Progress
        from napari_volseg.planning import plan_training
        from napari_volseg.training import train

        plan = plan_training(config, pairs)
        control = lambda: Control(stop=stop.is_set())  # noqa: E731
        for event in train(plan, pairs, run, read_control=control):
            if isinstance(event, Progress):
                begun()

    with in_thread(work, stop):
        yield


@contextmanager
def predict_in_thread(viewer: Any, sample: Any) -> Iterator[None]:
    """Run the engine's prediction in a thread of this process, again and again."""
    from napari_volseg.runs import newest_model

    folder = Path(os.environ["VOLSEG_RUNS"])
    model = newest_model(folder)
    if model is None:
        raise SystemExit("there is no model: measure a training first")
    stop = threading.Event()

    def work(begun: Callable[[], None]) -> None:
        from napari_volseg.inference import predict

        begun()
        number = 0
        while not stop.is_set():
            number += 1
            target = folder / f"prediction-{number}"
            target.mkdir()
            for _ in predict(model, sample.image, target, should_stop=stop.is_set):
                pass

    with in_thread(work, stop):
        yield


@contextmanager
def in_thread(
    work: Callable[[Callable[[], None]], None], stop: threading.Event
) -> Iterator[None]:
    begun = threading.Event()
    thread = threading.Thread(target=work, args=(begun.set,), daemon=True)
    thread.start()
    pump(lambda: begun.is_set() or not thread.is_alive(), 120)
    yield
    if not thread.is_alive():
        raise SystemExit("the work in the thread ended too soon")
    stop.set()
    pump(lambda: not thread.is_alive(), 120)


PHASES: dict[str, Any] = {
    "idle": idle,
    "napari adds layers": napari_adds_layers,
    "train in worker": train_in_worker,
    "predict in worker": predict_in_worker,
    "train in thread": train_in_thread,
    "predict in thread": predict_in_thread,
}


if __name__ == "__main__":
    main()
