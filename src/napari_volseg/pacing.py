"""When to report and when to save, by the clock."""

from __future__ import annotations

import time

__all__ = ["Pace"]

_REPORT_SECONDS = 0.5
_SAVING_SHARE = 0.02
"""Share of a training's time that saving may take."""


class Pace:
    """Active time, without pauses, and what is due.

    Parameters
    ----------
    checkpoint_seconds
        Time between two checkpoints; longer where all saving so far has taken more
        than 2 % of all the time.
    """

    def __init__(self, checkpoint_seconds: float) -> None:
        self._interval = checkpoint_seconds
        self._spent = 0.0
        now = time.monotonic()
        self._began = now
        self._started = now
        self._reported = 0.0
        self._saved = now

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.monotonic()
        lap, self._started = now - self._started, now
        return lap

    def reported(self) -> None:
        """Take note that a report was made."""
        self._reported = time.monotonic()

    def saved(self, seconds: float) -> None:
        """Take note that saving was tried, and of the time it took."""
        self._spent += seconds
        self._saved = time.monotonic()

    def report_due(self) -> bool:
        """Return whether the last report is half a second old."""
        return time.monotonic() - self._reported >= _REPORT_SECONDS

    def checkpoint_due(self) -> bool:
        """Return whether as much new work would be lost as is allowed."""
        return time.monotonic() - self._saved >= self.checkpoint_seconds

    @property
    def checkpoint_seconds(self) -> float:
        """Time from the last checkpoint to the next, as it is now."""
        affordable = self._began + self._spent / _SAVING_SHARE
        return max(self._interval, affordable - self._saved)
