"""Do work in a thread and take its result in the widget that asked, if it lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject

from napari_volseg.errors import DataError
from napari_volseg.review import HelperGone
from napari_volseg.widgets.helper import Cancelled

__all__ = ["in_thread"]


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

    worker = create_worker(guarded, _start_thread=False, _ignore_errors=True)
    worker.returned.connect(end)
    worker.errored.connect(fail)
    worker.start()
