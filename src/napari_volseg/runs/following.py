"""Follow a job from outside: its events, and in words why it ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice
from napari_volseg.runs.folder import has_checkpoint, is_run
from napari_volseg.runs.launching import Worker, attach
from napari_volseg.runs.log import LOG, EventTail, read_result
from napari_volseg.runs.ownership import is_locked

__all__ = ["describe_death", "follow"]

_LONGEST_PAUSE = 0.2
_SLOW_START = 30.0
_FAREWELL = 2.0

_WINDOWS_CRASHES = {
    0xC0000005: "crashed in native code (access violation)",
    0xC00000FD: "crashed in native code (stack overflow)",
    0xC0000017: "ran out of memory",
    0xC000012D: "ran out of memory",
}


def follow(
    folder: Path,
    worker: Worker | None = None,
    *,
    poll: float = 0.1,
    from_start: bool = True,
) -> Iterator[Event | None]:
    """Yield what a job says until it ends.

    Parameters
    ----------
    folder
        The folder of a run or prediction.
    worker
        Its process when we started it; otherwise it is looked for.
    poll
        Seconds between two looks, at most 0.2.
    from_start
        Also yield what it said before, earlier sessions included.

    Yields
    ------
    Event or None
        None at least every 0.2 s while nothing happens. `Finished` comes once
        and last, also for a process that died without a word: then its message
        says of what, and how to go on.
    """
    folder = Path(folder).absolute()
    poll = min(max(poll, 0.01), _LONGEST_PAUSE)
    tail = EventTail(folder, from_start=from_start)
    if worker is None:
        worker = attach(folder)
    begun, heard, warned = time.monotonic(), False, False
    while True:
        # In this order: what is written before the end is read after it is seen.
        alive = worker.alive if worker is not None else is_locked(folder)
        result = _result(folder)
        while events := tail.read():
            heard = True
            yield from (e for e in events if not isinstance(e, Finished))
        if result is not None:
            yield from _wait_for_exit(worker, poll)
            yield result
            return
        if not alive:
            yield Finished("failed", _cause_of_death(folder, worker))
            return
        if not (heard or warned) and time.monotonic() - begun > _SLOW_START:
            warned = not is_locked(folder)
            if warned:
                yield Notice(
                    f"the worker process has not begun after {_SLOW_START:.0f} s; "
                    f"{LOG} in {folder} may say why",
                    "warning",
                )
        yield None
        time.sleep(poll)


def _result(folder: Path) -> Finished | None:
    try:
        return read_result(folder)
    except DataError as error:
        return Finished("failed", str(error))


def _wait_for_exit(worker: Worker | None, poll: float) -> Iterator[None]:
    """Wait a moment for the process to go, so that its memory and lock are free."""
    deadline = time.monotonic() + _FAREWELL
    while worker is not None and worker.alive and time.monotonic() < deadline:
        yield None
        time.sleep(poll)


def _cause_of_death(folder: Path, worker: Worker | None) -> str:
    code = None if worker is None else worker.returncode()
    if has_checkpoint(folder):
        advice = "Resume continues from the last checkpoint"
    elif is_run(folder):
        advice = "nothing was saved yet, start it again"
    else:
        advice = "start it again"
    killed = worker is not None and worker.was_killed
    death = (
        "was ended because it did not stop" if killed else describe_death(folder, code)
    )
    return f"the worker process {death}; {advice}"


def describe_death(folder: Path, code: int | None) -> str:
    """Return in words how a process of a job ended: 'was killed (signal 9), …'."""
    if code is None:
        return f"ended without saying why (see {LOG})"
    if code in _WINDOWS_CRASHES:
        return f"{_WINDOWS_CRASHES[code]}"
    if code < 0:
        return _signal_in_words(-code)
    line = _last_line(folder / LOG)
    return f"ended with exit code {code}" + (f": {line}" if line else "")


def _signal_in_words(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGKILL":
        return (
            f"was killed (signal {number}), probably out of memory: a smaller batch, "
            "patch or window needs less"
        )
    if name in {"SIGSEGV", "SIGBUS", "SIGILL", "SIGABRT", "SIGFPE"}:
        return f"crashed in native code ({name}, see {LOG})"
    return f"was ended from outside ({name})"


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
