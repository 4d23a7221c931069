"""Leave the processor to whoever else wants it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["step_back"]

_NICENESS = 5
_AUTOGROUP = Path("/proc/self/autogroup")
_TRIES = 10


def step_back() -> None:
    """Let this process and those it starts yield to the windows of the user.

    Under Windows the launcher of a process says so instead. Linux may share the
    processor between sessions before it looks at processes (`man 7 sched`, "The
    autogroup feature"), so that the niceness of a process in a session of its own
    means nothing to those outside; the session gets the same niceness there.
    """
    if not hasattr(os, "nice"):
        return
    with suppress(OSError):
        niceness = os.nice(_NICENESS)
        if os.getpid() == os.getsid(0):
            _tell_session(niceness)


def _tell_session(niceness: int) -> None:
    for _ in range(_TRIES):
        try:
            _AUTOGROUP.write_text(f"{niceness}\n")
        except BlockingIOError:  # one process of the system every 100 ms
            time.sleep(0.1)
        else:
            return
