"""Why a job failed, in one sentence for its user."""

from __future__ import annotations

import errno
from pathlib import Path

from napari_volseg.errors import DataError
from napari_volseg.runs import is_prediction

__all__ = ["JobError", "explain", "is_out_of_memory"]


class JobError(RuntimeError):
    """A failure that comes with its explanation: one sentence for the user."""


def explain(error: BaseException, folder: Path) -> str:
    """Return one sentence for the user; the log has the rest."""
    if isinstance(error, DataError | JobError):
        return str(error)
    if is_out_of_memory(error):
        remedy = (
            "lower inference.batch_size or inference.window_size"
            if is_prediction(folder)
            else "lower system.training.batch_size or data.patch_size"
        )
        return f"out of memory: {remedy}, or close other programs"
    if _is_disk_full(error):
        return f"the disk of {folder} is full: free some space, then resume"
    text = " ".join(str(error).split())[:300] or "no message"
    return f"{text} ({type(error).__name__}; details in {folder / 'worker.log'})"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of the device or of the machine."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"OutOfMemoryError", "MemoryError"}) or (
        # PyTorch's allocator for the processor has no kind of error of its own.
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _is_disk_full(error: BaseException | None) -> bool:
    """Look for ENOSPC behind the error too, because torch hides it there."""
    full = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
    for _ in range(10):
        if error is None:
            return False
        if isinstance(error, OSError) and error.errno in full:
            return True
        error = error.__cause__ or error.__context__
    return False
