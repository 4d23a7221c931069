"""The log file of a job, and what else a job tidies in its folder."""

from __future__ import annotations

import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_volseg import __version__
from napari_volseg.events import Event
from napari_volseg.runs import shorten_log

__all__ = ["LogKeeper", "logging_to", "sweep"]

_logger = logging.getLogger(__name__)

_LEFTOVER = re.compile(r"\.volseg-[0-9a-f]{16}(\..*)?|\.\w+\.ckpt\.\d+")


class LogKeeper:
    """Keeps a flood of warnings from filling the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        """Look at the log's size, at most every ten seconds."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 10
            with suppress(OSError):
                shorten_log(self._folder)


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left."""
    for place in (folder, *(entry for entry in folder.iterdir() if entry.is_dir())):
        for path in place.glob(".*"):
            if _LEFTOVER.fullmatch(path.name) and path.is_file():
                with suppress(OSError):
                    path.unlink()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send what this package logs to a job's log file, and nowhere else."""
    logger = logging.getLogger("napari_volseg")
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        _logger.info(
            "napari-volseg %s, Python %s, %s, process %d",
            __version__,
            platform.python_version(),
            platform.platform(),
            os.getpid(),
        )
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        handler.close()
