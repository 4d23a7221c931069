"""Do work in a thread and take its result in the widget that asked, if it lives."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isgeneratorfunction
from typing import Any

from napari.qt.threading import FunctionWorker, GeneratorWorker
from qtpy.QtCore import QObject
from superqt.utils import create_worker

from napari_volseg.errors import DataError
from napari_volseg.review import HelperGone
from napari_volseg.widgets.helper import Cancelled

__all__ = ["in_thread", "make_worker"]


def make_worker(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return a worker of napari for something short, not yet started.

    napari's own `create_worker` notes each worker as a task of the window and keeps
    it, with all that its function and signals hold, until the window closes. It also
    asks before closing while one runs, which is for jobs that take minutes.
    """
    kind = GeneratorWorker if isgeneratorfunction(work) else FunctionWorker
    return create_worker(
        work,
        *arguments,
        _worker_class=kind,
        _start_thread=False,
        _ignore_errors=True,
    )


def in_thread(
    work: Callable[[], Any],
    take: Callable[[Any], None],
    lose: Callable[[str], None],
    owner: QObject,
) -> None:
    """Run `work` in a thread of napari; then one of the others on the GUI thread.

    Parameters
    ----------
    take
        Gets the result.
    lose
        Gets the sentence when the work fails; neither is called when it was
        cancelled, or when the owner is gone.
    """
    state = {"is_gone": False}

    def forget(*_: object) -> None:
        state["is_gone"] = True

    owner.destroyed.connect(forget)

    def guarded() -> tuple[Any, str | None]:
        try:
            return work(), None
        except DataError as error:
            return None, str(error)
        except (HelperGone, Cancelled):
            return None, ""

    def end(answer: tuple[Any, str | None]) -> None:
        result, message = answer
        if state["is_gone"]:
            return
        if message is None:
            take(result)
        elif message:
            lose(message)

    def fail(error: BaseException) -> None:
        if not state["is_gone"]:
            lose(str(error) or type(error).__name__)

    worker = make_worker(guarded)
    worker.returned.connect(end)
    worker.errored.connect(fail)
    worker.start()
