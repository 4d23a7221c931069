"""How many processors there are to work with."""

from __future__ import annotations

import os

__all__ = ["count_processors", "default_threads"]


def count_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return how many threads share work on arrays, at most 16."""
    return min(16, count_processors())
