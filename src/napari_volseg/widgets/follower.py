"""The worker thread of a job: named in napari's list of tasks, and freed at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker

__all__ = ["make_follower"]


def make_follower(
    items: Iterator[object], title: str, on_quit: Callable[[], None]
) -> Any:
    """Return a worker of napari, not yet started, that yields what an iterator does.

    Parameters
    ----------
    items
        Is gone through in the thread, and let go of at its end: napari keeps each
        worker and its function for as long as its window is open.
    title
        Names the job in the dialogue of napari that asks before it closes.
    on_quit
        Called when napari wants the thread to end, as it closes.
    """
    work = _Described(_run_once, [items])
    work.words = title
    worker = create_worker(
        work, _worker_class=_Follower, _ignore_errors=True, _start_thread=False
    )
    worker.on_quit = on_quit
    return worker


class _Described(partial[Iterator[object]]):
    """A generator function that says in words what it does."""

    words = ""

    def __str__(self) -> str:
        return self.words


def _run_once(held: list[Iterator[object]]) -> Iterator[object]:
    """Yield from what a list holds, and leave the list empty."""
    yield from held.pop()


class _Follower(GeneratorWorker):  # type: ignore[misc]
    """A worker that is asked to end in its own way, and frees its connections."""

    on_quit: Callable[[], None] | None = None

    def run(self) -> None:
        """Work; then free the connections, which nobody else does.

        Asked from this thread after its very last signal: sooner, and the signal
        by which superqt forgets the worker could be lost.
        """
        super().run()
        self.signals.deleteLater()

    def quit(self) -> None:
        if self.on_quit is not None:
            self.on_quit()
