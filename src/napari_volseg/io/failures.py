"""Failures of files and format libraries, in words."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from difflib import get_close_matches
from types import TracebackType

import psutil

from napari_volseg.errors import DataError

__all__ = ["check_memory", "nearest", "os_errno", "reason", "refusing"]

DAMAGED = "make sure that the file is complete, or save it again"
_ALWAYS_FITS = 64 * 2**20
_STORAGE = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE,
})  # fmt: skip


class _Refusal:
    def __init__(self, name: str, remedy: str) -> None:
        self._name, self._remedy = name, remedy

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, MemoryError):
            raise DataError(
                f"{self._name} does not fit into memory: pick a part of it, for "
                "instance [0:100]"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, DataError):
            raise DataError(
                f"{self._name} cannot be read ({reason(error)}): {self._remedy}"
            ) from error


def refusing(name: str, remedy: str = DAMAGED) -> _Refusal:
    """Turn any failure of a library in a block into a `DataError` naming the file."""
    return _Refusal(name, remedy)


def reason(error: BaseException) -> str:
    """Return a short cause without a line feed or a full stop."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    line = " ".join(text.split())
    return (line if len(line) <= 160 else line[:159] + "…").rstrip(".")


def os_errno(error: BaseException) -> int | None:
    """Return the system's number of a storage failure; None for other errors.

    HDF5 reports some of them only in the text of a RuntimeError.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):
        number = int(found.group(1))
    return number if number in _STORAGE else None


def check_memory(nbytes: int, name: str) -> None:
    """Raise DataError when an array of `nbytes` would not fit into free memory."""
    if nbytes <= _ALWAYS_FITS:
        return
    free = int(psutil.virtual_memory().available)
    if nbytes > 0.9 * free:
        raise DataError(
            f"reading {name} takes {nbytes / 2**30:.1f} GiB but {free / 2**30:.1f} GiB "
            "of memory are free: pick a part of it, for instance [0:100]"
        )


def nearest(word: str, choices: Sequence[str], limit: int = 12) -> str:
    """Return the choices as text, and the one that was probably meant."""
    listed = ", ".join(choices[:limit])
    if len(choices) > limit:
        listed += f" and {len(choices) - limit} more"
    close = get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]}? It has {listed}" if close else f"it has {listed}"
