"""Ask a process of its own for an answer in JSON.

What holds Python's interpreter lock, and what needs torch, runs there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from napari_volseg.errors import DataError

__all__ = ["Cancelled", "ask"]

_POLL_SECONDS = 0.05
_COMMAND = (sys.executable, "-m", "napari_volseg", "helper")


class Cancelled(Exception):  # noqa: N818
    """Nobody waits for the answer any more."""


def ask(
    arguments: Sequence[str],
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    good: Sequence[int] = (0,),
) -> dict[str, Any]:
    """Run a command of this package and return what it prints.

    It waits, so call it in a worker thread. The process ends with this one.

    Parameters
    ----------
    arguments
        Command and options; the command must print one JSON object.
    is_cancelled
        Asked twenty times a second; True ends the process.
    good
        Exit codes that come with an answer.

    Raises
    ------
    DataError
        With what the command complains of.
    Cancelled
        If `is_cancelled` said so.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [*_COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            while process.poll() is None:
                if is_cancelled():
                    raise Cancelled
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        for stream in (out, err):
            stream.seek(0)
        if process.returncode not in good:
            raise DataError(_complaint(err.read(), process.returncode))
        answer = json.loads(out.read())
    if not isinstance(answer, dict):
        raise DataError("the helper process gave no answer: try again")
    return answer


def _complaint(err: bytes, code: int) -> str:
    lines = err.decode("utf-8", "replace").strip().splitlines()
    mark = "volseg: error: "
    for line in reversed(lines):
        if line.startswith(mark):
            return line.removeprefix(mark)
    last = f": {lines[-1].strip()}" if lines else ""
    return f"the helper process ended with the code {code}{last}"
