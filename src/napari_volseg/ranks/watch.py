"""Tell from the heartbeats of ranks which of them is hung."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

__all__ = ["Idleness", "Watch"]

_IDLE = 0.05
"""Seconds of processor time below which a silent process has done nothing."""
_START_SECONDS = 120.0
"""Time in which a process must give its first sign of life."""


@dataclass
class _Pulse:
    heard: float
    """When the last heartbeat came."""
    since: float
    """Since when the process has been in the same turn of the same phase."""
    phase: str = ""
    turn: int = -1
    longest_step: float = 0.0


class Watch:
    """Who is hung: who gives no sign of life, or for whom all others wait.

    Parameters
    ----------
    n_ranks
        How many to watch.
    timeout
        Seconds of patience.
    clock
        Monotonic time in seconds.
    """

    def __init__(
        self,
        n_ranks: int,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        now = clock()
        self._pulses = [_Pulse(now, now) for _ in range(n_ranks)]
        self._timeout = timeout
        self._clock = clock
        self._looked = now

    def hear(self, rank: int, phase: str, turn: int, longest_step: float) -> None:
        """Take in a heartbeat."""
        pulse, now = self._pulses[rank], self._clock()
        if (phase, turn) != (pulse.phase, pulse.turn):
            pulse.phase, pulse.turn, pulse.since = phase, turn, now
        pulse.heard = now
        pulse.longest_step = longest_step

    def hung(self, is_idle: Callable[[int, float], bool]) -> tuple[int, str] | None:
        """Return who is hung and how one notices, or None.

        Parameters
        ----------
        is_idle
            Asked with a rank and its seconds of silence: whether the process has
            used no processor time lately. One that holds Python's lock in a long
            computation is silent but not hung.
        """
        now = self._clock()
        if now - self._looked > max(5.0, self._timeout / 2):
            self._forgive(now)  # this process, or the whole machine, was asleep
        self._looked = now
        for rank, pulse in enumerate(self._pulses):
            silence = now - pulse.heard
            patience = self._timeout if pulse.phase else _START_SECONDS
            # Asked early too, because idleness is seen between two looks.
            idle = silence > patience / 2 and is_idle(rank, silence)
            if silence > patience and idle:
                return rank, f"gave no sign of life for {silence:.0f} seconds"
        return self._waited_for(now)

    def _waited_for(self, now: float) -> tuple[int, str] | None:
        """Return the one that does a step while all others have long done theirs."""
        stepping = [p for p in self._pulses if p.phase == "stepping"]
        others = [p for p in self._pulses if p.phase == "waiting"]
        if len(stepping) != 1 or len(others) != len(self._pulses) - 1 or not others:
            return None
        late = now - max(p.since for p in (*stepping, *others))
        if late <= self._timeout + max(p.longest_step for p in self._pulses):
            return None
        return self._pulses.index(stepping[0]), (
            f"did not end a step that the others ended {late:.0f} seconds before"
        )

    def _forgive(self, now: float) -> None:
        for pulse in self._pulses:
            pulse.heard = pulse.since = now


class Idleness:
    """Says of a silent process whether it computes, from its processor time."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}

    def __call__(self, pid: int, silence: float) -> bool:
        """Return whether the process is stopped, or has computed nothing lately.

        Parameters
        ----------
        pid
            The process.
        silence
            Seconds since its last sign of life.
        """
        now = time.monotonic()
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_STOPPED:
                return True
            times = process.cpu_times()
        except psutil.Error:
            return False  # it is gone, which is noticed elsewhere
        used = times.user + times.system
        when, before = self._seen.get(pid, (-1.0, 0.0))
        if when < now - silence or used - before >= _IDLE:
            self._seen[pid] = (now, used)
            return False
        return now - when >= min(5.0, silence / 3)
