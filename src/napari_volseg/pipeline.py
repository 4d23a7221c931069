"""Reading ahead and writing behind, so that neither keeps the network waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

__all__ = ["WriteBehind", "read_ahead", "reports_of"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterable[Item], n: int = 1) -> Generator[Item]:
    """Yield items that a thread prepares, at most `n` of them before they are wanted.

    An error of the iterable is raised where its item would have come. Closing the
    generator ends the thread after the item that it is at.
    """
    free = threading.Semaphore(n)
    ready: SimpleQueue[tuple[bool, Item | BaseException | None]] = SimpleQueue()
    is_over = threading.Event()

    def work() -> None:
        try:
            free.acquire()
            for item in items:
                ready.put((True, item))
                del item  # it is the consumer's now, and may be large
                free.acquire()
                if is_over.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  # raised where it is awaited
            ready.put((False, error))
        else:
            ready.put((False, None))

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if not is_item:
                if value is not None:
                    raise value  # type: ignore[misc]  # an error, by construction
                return
            free.release()
            yield value  # type: ignore[misc]  # an item, by construction
            del value
    finally:
        is_over.set()
        free.release()
        thread.join()


class _Cancelled(BaseException):
    """Ends work whose reports nobody takes any more."""


def reports_of(
    work: Callable[[Callable[[Item], None]], Result], tick: float = 0.2
) -> Generator[Item | None, None, Result]:
    """Run a function in a thread and yield what it reports; return its result.

    Closing the generator ends the function where it reports next.

    Parameters
    ----------
    work
        Called with a function to report with.
    tick
        Seconds without a report after which None is yielded.
    """
    said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    is_over = threading.Event()

    def report(item: Item) -> None:
        if is_over.is_set():
            raise _Cancelled
        said.put(("report", item))

    def run() -> None:
        try:
            said.put(("result", work(report)))
        except BaseException as error:  # noqa: BLE001  # raised where it is awaited
            said.put(("error", error))

    thread = threading.Thread(target=run, name="reports", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, value = said.get(timeout=tick)
            except Empty:
                yield None
                continue
            if kind == "result":
                result: Result = value
                return result
            if kind == "error":
                raise value
            yield value
    finally:
        is_over.set()
        thread.join()


class WriteBehind(Generic[Item]):
    """Hands items to a thread that writes them in order.

    Parameters
    ----------
    write
        Called in the thread with one item after the other.
    n
        Items that may wait; with more, `put` waits too.
    """

    def __init__(self, write: Callable[[Item], None], n: int) -> None:
        self._write = write
        self._free = threading.Semaphore(n)
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._written: SimpleQueue[Item] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._work, name="write-behind", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what waits; raise what went wrong unless something else did."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def put(self, item: Item) -> None:
        """Let an item be written; raise what went wrong with an earlier one."""
        self._free.acquire()
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def take_written(self) -> list[Item]:
        """Return the items written since the last call."""
        return [self._written.get() for _ in range(self._written.qsize())]

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(item)
                    self._written.put(item)
                except BaseException as error:  # noqa: BLE001  # raised by `put`
                    self._error = error
            del item
            self._free.release()
