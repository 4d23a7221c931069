"""Leave the processor to whoever else wants it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["step_back"]

_NICENESS = 5


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
            Path("/proc/self/autogroup").write_text(f"{niceness}\n")
