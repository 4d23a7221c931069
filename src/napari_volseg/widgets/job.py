"""A job in its own process, as the docks see it.

The bridge between a run folder and Qt: a generator in a napari worker thread
follows the events, and signals bring them to the GUI thread. The thread is
never aborted, because a generator that is cut off runs its clean-up on the GUI
thread: stopping is asked for in the run folder and the generator ends by
itself.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
from napari.utils import cancelable_progress
from napari.utils.notifications import notification_manager
from numpy.typing import NDArray
from qtpy.QtCore import QCoreApplication, QObject, QThreadPool, Signal
from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from napari_volseg.errors import DataError
from napari_volseg.events import (
    Event,
    Finished,
    Notice,
    PreviewReady,
    Progress,
    Started,
    Validated,
)
from napari_volseg.runs import attach as find_worker
from napari_volseg.runs import follow, launch, write_control
from napari_volseg.widgets.curves import Curves
from napari_volseg.widgets.follower import make_follower
from napari_volseg.widgets.layers import plain

__all__ = ["Job", "JobFailed", "Kind", "Preview", "running_job"]

Kind = Literal["train", "predict"]

CLOSING_SECONDS = 10.0
"""How long a job may take to save and stop when napari closes."""

_running: list[Job] = []


class JobFailed(Exception):  # noqa: N818
    """An unexpected error while following a job.

    napari's generator workers swallow RuntimeError, so it is raised as this.
    """


@dataclass(frozen=True)
class Preview:
    """The maps and instances of a preview box, read from the run folder."""

    event: PreviewReady
    maps_CZYX: NDArray[np.uint8]
    instances_ZYX: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Ready:
    folder: Path


class _Activity(cancelable_progress):  # type: ignore[misc]
    """The bar in napari's activity dock; its Cancel button stops the job."""

    def cancel(self) -> None:
        super().cancel()
        if self.cancel_callback is not None:
            self.cancel_callback()


class Job(QObject):
    """One training or prediction from its start to its end.

    It outlives the dock that started it: `running_job` finds it again.
    """

    ready = Signal(object)
    """The job folder (Path) exists; layers that were locked may change again."""
    event = Signal(object)
    """An event of the run, except the last."""
    preview = Signal(object)
    """A `Preview`."""
    finished = Signal(object)
    """The last event, `Finished`, whatever the reason; nothing follows it."""

    def __init__(self, viewer: Any, kind: Kind, title: str) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.title = title
        self.folder: Path | None = None
        self.started: Started | None = None
        self.progress: Progress | None = None
        self.validated: Validated | None = None
        self.scored_first: Validated | None = None
        """How good the weights were that a training began with."""
        self.curves = Curves()
        self.learnt_from: Any = None
        """The `LearntFrom` of a training; None for other jobs."""
        self.is_stopping = False
        self.keep_running = False
        """Whether the job goes on when napari closes; see `keep`."""
        self.window_is_gone = False
        self._viewer = weakref.ref(plain(viewer))
        self._wishes: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._unsaid: dict[str, Any] = {}
        self._is_deaf = False
        self._deadline: float | None = None
        self._kill = False
        self._detach = False
        self._worker: Any = None
        self._activity: _Activity | None = None
        self._activity_time = 0.0

    @property
    def is_followed(self) -> bool:
        """Whether the job is still listened to: it may go on without that."""
        return self in _running

    def serves(self, viewer: Any) -> bool:
        """Whether this job was started from a viewer."""
        return self._viewer() is plain(viewer)

    def start(
        self,
        make_folder: Callable[[], Path],
        *,
        resume: bool = False,
        attach: bool = False,
    ) -> None:
        """Begin to work.

        Parameters
        ----------
        make_folder
            Makes or names the job folder; runs in the worker thread.
        resume
            Continue from the last checkpoint of the folder.
        attach
            Only follow a worker that is running already.
        """
        _running.append(self)
        work = self._work(make_folder, resume, attach)
        self._worker = make_follower(work, self.title, on_quit=self.close)
        self._worker.yielded.connect(self._receive)
        self._worker.errored.connect(self._fail)
        self._worker.finished.connect(self._leave)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)
        self._activity = _Activity(total=0, desc=self.title, cancel_callback=self.stop)
        self._worker.start()

    def watch_window(self, dock: QWidget) -> None:
        """Stop, or detach, when the window that a dock belongs to is deleted."""
        window = dock.parentWidget()
        while window is not None and not isinstance(window, QMainWindow):
            window = window.parentWidget()
        if window is not None:
            window.destroyed.connect(self._lose_window)
            _hold_spinner(window)

    def _lose_window(self, *_: object) -> None:
        self.window_is_gone = True
        self.close()

    def ask(self, **changes: Any) -> None:
        """Change `runs.Control` of the job; written within 0.2 s."""
        self._wishes.put(changes)

    def stop(self) -> None:
        """Ask the job to stop and keep what it has; asked again, end it now."""
        if self.is_stopping:
            self._kill = True
        self.is_stopping = True
        self.ask(stop=True, pause=False)

    def keep(self, is_kept: bool) -> None:
        """Let the job go on when napari closes or crashes, or no longer so."""
        self.keep_running = is_kept
        self.ask(detached=is_kept)

    def close(self, *_: object) -> None:
        """Let the job go on without napari, or stop it within ten seconds."""
        if self.keep_running and self.folder is not None:
            self._detach = True
        elif self._deadline is None:
            self.is_stopping = True
            self._deadline = time.monotonic() + CLOSING_SECONDS
            self.ask(stop=True, pause=False)

    def _work(
        self, make_folder: Callable[[], Path], resume: bool, attach: bool
    ) -> Iterator[object]:
        """Run in the thread: yield at least every 200 ms, raise no RuntimeError."""
        # This thread waits most of the time; let others of the pool use its place.
        pool = QThreadPool.globalInstance()
        assert pool is not None
        pool.releaseThread()
        try:
            yield from self._follow(make_folder, resume, attach)
        except DataError as error:
            yield Finished("failed", str(error))
        except Exception as error:
            raise JobFailed(f"{self.title}: {error or type(error).__name__}") from error
        finally:
            pool.reserveThread()

    def _follow(
        self, make_folder: Callable[[], Path], resume: bool, attach: bool
    ) -> Iterator[object]:
        yield None
        folder = make_folder()
        yield _Ready(folder)
        if self.is_stopping:
            yield Finished("stopped", "stopped before it began", str(folder))
            return
        worker = find_worker(folder) if attach else launch(folder, resume=resume)
        for event in follow(folder, worker):
            if not folder.is_dir():
                if worker is not None:
                    worker.kill()
                raise DataError(
                    f"the folder {folder} was deleted while the job ran, and with it "
                    "what was learnt or predicted: start it again"
                )
            yield from self._tell(folder)
            if self._detach:
                if worker is not None:
                    worker.detach()
                return
            if worker is not None and self._is_overdue():
                worker.kill()
            yield _with_preview(folder, event)
        # The result is there, but the process takes a moment to end; its pipe is open.
        deadline = time.monotonic() + CLOSING_SECONDS
        while worker is not None and worker.alive:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
            yield None

    def _tell(self, folder: Path) -> Iterator[Notice]:
        """Write down what is asked; on a full disk, again until it works."""
        while not self._wishes.empty():
            self._unsaid |= self._wishes.get()
        if not self._unsaid:
            return
        try:
            write_control(folder, **self._unsaid)
        except DataError as error:
            if not self._is_deaf:
                self._is_deaf = True
                yield Notice(f"The job cannot be told: {error}", "error")
            return
        self._unsaid, self._is_deaf = {}, False

    def _is_overdue(self) -> bool:
        return self._kill or (
            self._deadline is not None and time.monotonic() > self._deadline
        )

    def _receive(self, item: object) -> None:
        match item:
            case None:
                return
            case _Ready(folder):
                self.folder = folder
                self.ready.emit(folder)
            case Finished():
                self._end(item)
            case Preview():
                self.preview.emit(item)
            case _:
                self._note(item)  # type: ignore[arg-type]
                self.event.emit(item)
                self._show_activity()

    def _note(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started = event
        elif isinstance(event, Progress):
            self.progress = event
        elif isinstance(event, Validated):
            self.validated = event
            if event.step == 0:
                self.scored_first = event
        self.curves.add(event)

    def _fail(self, error: Exception) -> None:
        notification_manager.receive_error(type(error), error, error.__traceback__)
        self._end(Finished("failed", str(error)))

    def _end(self, result: Finished) -> None:
        if self in _running:
            self._leave()
            self.finished.emit(result)

    def _leave(self) -> None:
        if self in _running:
            _running.remove(self)
        self._worker.on_quit = None
        if self._activity is not None:
            self._activity.close()
            self._activity = None

    def _show_activity(self) -> None:
        """Move the bar in the activity dock, at most twice a second.

        Last in its callers: setting a value lets Qt handle other events.
        """
        bar, progress = self._activity, self.progress
        now = time.monotonic()
        if bar is None or progress is None or now - self._activity_time < 0.5:
            return
        self._activity_time = now
        if bar.total != progress.total:
            bar.total = progress.total
        bar.update(max(0, progress.step - bar.n))


def _hold_spinner(window: QWidget) -> None:
    """Stop the animation beside *activity* while our bar tells the progress.

    It repaints the whole window ten times a second, each some 40 ms where OpenGL
    runs in software. napari starts it again for the next one who needs it.
    """
    for label in window.findChildren(QLabel):
        movie = label.movie()
        if movie is not None:
            movie.setPaused(True)


def running_job(viewer: Any, kind: Kind) -> Job | None:
    """Return the job of a kind that a viewer's dock started, None when it ended."""
    for job in _running:
        if job.kind == kind and job.serves(viewer):
            return job
    return None


def _with_preview(folder: Path, event: Event | None) -> object:
    """Read a preview's arrays here, in the thread; a newer one may replace it."""
    if not isinstance(event, PreviewReady):
        return event
    try:
        with np.load(folder / event.path, allow_pickle=False) as arrays:
            return Preview(event, arrays["maps"], arrays["instances"])
    except (OSError, ValueError, KeyError):
        return None
