"""The machine that is measured."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from napari_volseg.io import writing

__all__ = ["DISK_IS_FULL", "Clock", "disk_speed", "peak_memory"]

DISK_IS_FULL = 0.5
"""Share of the disk's speed above which the disk is what limits."""

Clock = Callable[[], float]
"""Returns seconds."""

_DISK_BYTES = 2**26


def disk_speed(folder: Path, now: Clock) -> float:
    """Return the bytes a second that the disk of a folder takes, flushed."""
    path = folder / "disk"
    part = np.random.default_rng(0).integers(0, 256, 2**22, np.uint8).tobytes()
    with writing(path):
        began = now()
        with path.open("wb") as file:
            for _ in range(_DISK_BYTES // len(part)):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        taken = now() - began
        path.unlink()
    return _DISK_BYTES / max(taken, 1e-9)


def peak_memory() -> int:
    """Return the most bytes that this process held, or holds where that is unknown."""
    try:
        import resource
    except ImportError:
        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)
