"""Let the C library keep the memory that one step frees for the next step, or not."""

from __future__ import annotations

import ctypes
import os

__all__ = ["give_back_memory", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library
_KEPT = 1 << 30
"""Bytes at the end of the heap that are not given back to the system."""
_CHOSEN = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""With any of these in the environment, its owner has decided."""


def keep_freed_memory() -> bool:
    """Keep freed memory of this process for its next allocations.

    By default the GNU C library asks the system for every array above 32 MB anew, and
    gives it back when it is freed. Each page is then cleared and mapped again at every
    layer of a network, which took half the time of a training step on processors (see
    ``docs/decisions/0053-freed-memory-is-kept.md``).

    Returns
    -------
    bool
        Whether it was done: elsewhere than with the GNU C library there is nothing to
        do, and what the environment chooses is left alone.
    """
    if any(name in os.environ for name in _CHOSEN):
        return False
    library = _gnu_library()
    if library is None:
        return False
    kept = library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    return bool(library.mallopt(_M_MMAP_MAX, 0) and kept)


def give_back_memory() -> None:
    """Give the system back what is free, between works that need memory differently."""
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


def _gnu_library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # other libraries lack it
    except (AttributeError, OSError, TypeError):  # Windows takes no None
        return None
    return library
