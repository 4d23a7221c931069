"""How many processors there are to work with, and threads that share them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["count_processors", "default_threads", "map_in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return how many threads share work on arrays, at most 16."""
    return min(16, count_processors())


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result]:
    """Yield what `work` makes of each item, in their order.

    Items are taken as results are, so that of both few wait at any time. Where one
    fails, or no more are asked for, those not begun are left.
    """
    pending: deque[Future[Result]] = deque()
    left = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for item in islice(left, 2 * threads - len(pending)):
                    pending.append(pool.submit(work, item))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
