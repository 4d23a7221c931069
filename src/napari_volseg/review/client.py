"""Ask a process of its own to work on arrays, and wait for its answer."""

from __future__ import annotations

import atexit
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError

__all__ = ["Helper", "HelperGone"]

_POLL_SECONDS = 0.05

Arrays = dict[str, NDArray[Any]]


class HelperGone(Exception):  # noqa: N818
    """The helper was closed while somebody waited for it."""


class Helper:
    """The client of `server`: one process that answers one request after another.

    `ask` waits, so it belongs into a worker thread. The process starts with the first
    request and ends with `close`, or with this process.

    Parameters
    ----------
    command
        What starts the server; by default this package's own.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command or [sys.executable, "-m", "napari_volseg", "review"]
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._n_asked = 0
        self._is_closed = False

    def ask(
        self,
        operation: str,
        arrays: Mapping[str, NDArray[Any]],
        options: Mapping[str, Any] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[Arrays, dict[str, Any]]:
        """Return the arrays and values that an operation answers with.

        Parameters
        ----------
        operation
            A name in `operations.OPERATIONS`.
        arrays
            Its arrays; they are written to a temporary folder.
        options
            Its other arguments, as JSON knows them.
        is_cancelled
            Asked twenty times a second; True ends the process, and the next request
            starts another.

        Raises
        ------
        DataError
            If the operation says why it cannot be done, or its process ends.
        HelperGone
            If the helper is closed meanwhile, or `is_cancelled` said so.
        """
        with self._turn:
            folder = self._start()
            self._n_asked += 1
            ticket = self._n_asked
            names = {}
            for name, array in arrays.items():
                names[name] = f"{ticket}-{name}.npy"
                np.save(folder / names[name], np.ascontiguousarray(array))
            request = {"ticket": ticket, "operation": operation, "arrays": names}
            self._send({**request, "options": dict(options or {})})
            answer = self._wait(ticket, is_cancelled)
            for file in names.values():
                (folder / file).unlink(missing_ok=True)
            if "error" in answer:
                raise DataError(str(answer["error"]))
            taken = {name: _take(folder / f) for name, f in answer["arrays"].items()}
            return taken, answer["values"]

    def close(self) -> None:
        """End the process and remove its files; safe to call again."""
        self._is_closed = True
        self._end()

    def _start(self) -> Path:
        with self._guard:
            if self._is_closed:
                raise HelperGone
            if self._process is not None and self._folder is not None:
                return self._folder
            self._folder = Path(tempfile.mkdtemp(prefix="volseg-review-"))
            with (self._folder / "log.txt").open("wb") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
            self._answers = queue.SimpleQueue()
            reader = threading.Thread(
                target=_read, args=(self._process, self._answers), daemon=True
            )
            reader.start()
            atexit.register(self._end)
            folder = self._folder
        self._send({"folder": str(folder)})
        return folder

    def _wait(self, ticket: int, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        while True:
            if is_cancelled():
                self._end()
                raise HelperGone
            with suppress(queue.Empty):
                answer = self._answers.get(timeout=_POLL_SECONDS)
                if answer.get("ticket") == ticket:
                    return answer
                if "end" in answer:
                    if self._is_closed:
                        raise HelperGone
                    code = answer["end"]
                    self._end()
                    raise DataError(_explain(code))

    def _send(self, message: Mapping[str, Any]) -> None:
        process = self._process
        # A process that is gone is reported by the reader.
        if process is not None and process.stdin is not None:
            with suppress(OSError, ValueError):
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()

    def _end(self) -> None:
        with self._guard:
            process, self._process = self._process, None
            folder, self._folder = self._folder, None
            atexit.unregister(self._end)
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _read(
    process: subprocess.Popen[bytes], answers: queue.SimpleQueue[dict[str, Any]]
) -> None:
    assert process.stdout is not None
    with suppress(ValueError):  # the pipe was closed
        for line in process.stdout:
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    answers.put(message)
    answers.put({"end": process.wait()})


def _take(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    path.unlink(missing_ok=True)
    return array


def _explain(code: int) -> str:
    if code == -9:
        return "the helper process was killed, probably out of memory: close programs"
    return f"the helper process ended with the code {code}: try again"
