"""The event log and the result of a job: what its outside can read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Reason, from_json, to_json
from napari_volseg.io import write_json

__all__ = [
    "EVENTS",
    "LOG",
    "RESULT",
    "EventLog",
    "EventTail",
    "read_events",
    "read_result",
    "shorten_log",
    "write_result",
]

EVENTS = "events.jsonl"
RESULT = "result.json"
LOG = "worker.log"

_CHUNK = 2**20
_KEPT_LOG_BYTES = 4 * 2**20


class EventLog:
    """Appends events to a job's log; a full disk costs lines, never the job.

    Parameters
    ----------
    folder
        The job folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self.n_lost = 0
        """Events that could not be written so far."""
        self.error: OSError | None = None
        """Why the newest event could not be written; None when it was."""
        self._torn = self._ends_inside_a_line()

    def append(self, event: Event) -> bool:
        """Write one event as one line; return whether that worked."""
        line = (b"\n" if self._torn else b"") + to_json(event).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                written = os.write(descriptor, line)
            finally:
                os.close(descriptor)
            if written < len(line):
                raise OSError("the line was cut off: the disk is full")
        except OSError as error:
            self._torn = self._ends_inside_a_line()
            self.n_lost += 1
            self.error = error
            return False
        self._torn = False
        self.error = None
        return True

    def _ends_inside_a_line(self) -> bool:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) == 0:
                    return False
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False


class EventTail:
    """Reads the events that were added since the last look.

    Parameters
    ----------
    folder
        The job folder.
    from_start
        False skips what is in the log now.
    """

    def __init__(self, folder: Path, *, from_start: bool = True) -> None:
        self._path = folder / EVENTS
        self._offset = 0
        self._line = b""
        if not from_start:
            try:
                self._offset = self._path.stat().st_size
            except OSError:
                self._offset = 0

    def read(self) -> list[Event]:
        """Return the next events, at most about a megabyte of them.

        A line that is not finished yet is kept for the next call; a torn or
        foreign line is left out.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK)
        except OSError:
            return []
        self._offset += len(data)
        *lines, self._line = (self._line + data).split(b"\n")
        events = (from_json(line.decode("utf-8", "replace")) for line in lines)
        return [event for event in events if event is not None]


def read_events(folder: Path) -> list[Event]:
    """Return all events of a job; torn and foreign lines are left out.

    The log of a resumed run holds every session: each begins with `Started`
    and ends with `Finished`, unless the worker died.
    """
    tail, events = EventTail(folder), []
    while batch := tail.read():
        events += batch
    return events


def write_result(folder: Path, result: Finished) -> None:
    """Write how the job ended: the last file that it writes."""
    write_json(folder / RESULT, asdict(result))


def read_result(folder: Path) -> Finished | None:
    """Return how the job ended, None while it has not or its worker died.

    Raises
    ------
    DataError
        If the file is there but is not a result.
    """
    path = folder / RESULT
    try:
        fields = json.loads(path.read_text("utf-8"))
        result = Finished(
            reason=fields["reason"],
            message=str(fields["message"]),
            path=fields.get("path"),
            metrics={k: float(v) for k, v in fields.get("metrics", {}).items()},
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is damaged: delete it and resume the run") from None
    if result.reason not in get_args(Reason):
        raise DataError(f"{path} is damaged: delete it and resume the run")
    return result


def shorten_log(folder: Path) -> None:
    """Keep the start of a worker's log that a flood of warnings has made huge."""
    path = folder / LOG
    if path.exists() and path.stat().st_size > 2 * _KEPT_LOG_BYTES:
        os.truncate(path, _KEPT_LOG_BYTES)
