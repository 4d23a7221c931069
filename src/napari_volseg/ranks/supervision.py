"""Start the ranks of a training, pass on what they say, and end all with one."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished
from napari_volseg.failures import JobError
from napari_volseg.ranks.messages import parse_line
from napari_volseg.ranks.watch import Idleness, Watch
from napari_volseg.runs import LOG, describe_death

__all__ = ["supervise"]

_logger = logging.getLogger(__name__)

_POLL = 0.05
_GRACE = 1.5
"""Seconds for the first cause of a failure to arrive after its consequences."""
_FAREWELL = 10.0
"""Seconds for ranks to end by themselves after the job has finished."""

_Inbox = queue.Queue[tuple[int, dict[str, Any]]]


def supervise(
    folder: Path,
    spec: Mapping[str, Any],
    n_ranks: int,
    *,
    rank_timeout: float,
    should_stop: Callable[[], bool] = lambda: False,
    command: Sequence[str] | None = None,
) -> Iterator[Event]:
    """Run a training in several processes of this machine.

    No process is left behind, however this generator ends; and when this process
    is killed, the others end themselves, because their standard input closes.

    Parameters
    ----------
    folder
        The run folder; what the ranks log and print goes to its log.
    spec
        What every rank is told beside its number; plain JSON values.
    n_ranks
        Processes to start.
    rank_timeout
        Seconds without a sign of life after which a rank is taken for hung.
    should_stop
        Asked again and again; a yes is passed on to rank 0.
    command
        The program to start in place of this package's.

    Yields
    ------
    Event
        What rank 0 says. `Finished` comes last, when all processes are gone.

    Raises
    ------
    DataError, JobError
        If a rank fails, is killed or hangs: one sentence that names the first
        cause, not what followed from it.
    """
    command = command or [sys.executable, "-P", "-m", "napari_volseg", "rank"]
    inbox: _Inbox = queue.Queue()
    ranks: list[_Rank] = []
    with tempfile.TemporaryDirectory(
        prefix="volseg-ranks-", ignore_cleanup_errors=True
    ) as place:
        try:
            for number in range(n_ranks):
                told = {
                    **spec,
                    "folder": str(folder),
                    "rank": number,
                    "size": n_ranks,
                    "rendezvous": str(Path(place) / "rendezvous"),
                    "rank_timeout": rank_timeout,
                }
                ranks.append(_Rank(number, command, told, folder, inbox))
            watch = Watch(n_ranks, rank_timeout)
            yield from _Supervisor(folder, ranks, watch, inbox).run(should_stop)
        finally:
            for rank in ranks:
                rank.kill()
            for rank in ranks:
                rank.close()


class _Rank:
    """One process of the group, and the thread that reads what it says."""

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        told: Mapping[str, Any],
        folder: Path,
        inbox: _Inbox,
    ) -> None:
        self.number = number
        log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=_environment(),
                # Ctrl-C in a terminal asks the supervisor, who asks rank 0.
                process_group=None if sys.platform == "win32" else 0,
            )
        finally:
            os.close(log)
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, args=(inbox,), daemon=True)
        self._reader.start()
        self.say(json.dumps(told))

    def exit_code(self) -> int | None:
        """Return the exit code when all that the process said has been read."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(1.0)
        return code

    def say(self, word: str) -> None:
        """Write a line to the process, which may be gone."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(word.encode() + b"\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the process at once, and wait until it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let go of the pipes of a process that has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._reader.join(1.0)

    def _read(self, inbox: _Inbox) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError, OSError):  # closed under our hands
            for line in self._process.stdout:
                message = parse_line(line)
                if message is None:
                    _logger.warning("rank %d: %r", self.number, line[:200])
                else:
                    inbox.put((self.number, message))


class _Supervisor:
    """Follows a group of ranks from their start to their end."""

    def __init__(
        self, folder: Path, ranks: Sequence[_Rank], watch: Watch, inbox: _Inbox
    ) -> None:
        self._folder = folder
        self._ranks = ranks
        self._watch = watch
        self._inbox = inbox
        self._idleness = Idleness()
        self._failures: dict[int, tuple[str, str]] = {}
        self._finished: Finished | None = None

    def run(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Yield what rank 0 says, until all ranks have ended."""
        told = False
        while self._finished is None:
            dead = self._dead()
            yield from self._news()
            if self._finished is None and (self._failures or dead):
                self._raise_cause()
            self._raise_hung()
            if not told and should_stop():
                self._ranks[0].say("stop")
                told = True
        deadline = time.monotonic() + _FAREWELL
        while time.monotonic() < deadline and any(
            rank.exit_code() is None for rank in self._ranks
        ):
            time.sleep(_POLL)
        yield self._finished

    def _dead(self) -> list[_Rank]:
        """Return who ended before the job did; others than the first may do so."""
        codes = [(rank, rank.exit_code()) for rank in self._ranks]
        return [
            rank
            for rank, code in codes
            if code is not None and (code != 0 or rank.number == 0)
        ]

    def _news(self) -> Iterator[Event]:
        """Take in all messages, waiting a moment for the first."""
        wait = _POLL
        while True:
            try:
                number, message = self._inbox.get(timeout=wait)
            except queue.Empty:
                return
            wait = 1e-4
            if "failed" in message:
                self._failures[number] = (message["failed"], message["message"])
            elif "phase" in message:
                self._watch.hear(number, **message)
            elif isinstance(message["event"], Finished):
                self._finished = message["event"]
            else:
                yield message["event"]

    def _raise_hung(self) -> None:
        hung = self._watch.hung(
            lambda number, silence: self._idleness(self._ranks[number].pid, silence)
        )
        if hung is not None:
            number, how = hung
            raise JobError(
                f"{self._name(number)} {how} and was ended, with all others: resume "
                "from the last checkpoint; a longer system.training.rank_timeout is "
                "more patient"
            )

    def _raise_cause(self) -> None:
        """Say why it failed, when what came first had time to arrive."""
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and not self._has_cause():
            for _ in self._news():  # events that came too late to matter
                continue
        reported = {n: f for n, f in self._failures.items() if f[0] != "lost"}
        for number, (blame, message) in reported.items():
            if blame == "data":
                raise DataError(message)
            raise JobError(f"{self._name(number)} failed: {message}")
        for rank in self._ranks:
            code = rank.exit_code()
            if code is not None and rank.number not in self._failures:
                raise JobError(self._death_of(rank.number, code))
        (number, (_, message)) = next(iter(self._failures.items()))
        raise JobError(f"{self._name(number)} failed: {message}")

    def _has_cause(self) -> bool:
        return any(blame != "lost" for blame, _ in self._failures.values()) or any(
            (rank.exit_code() or 0) < 0 for rank in self._ranks
        )

    def _death_of(self, number: int, code: int) -> str:
        text = f"{self._name(number)} {describe_death(self._folder, code)}"
        if code == -9:
            free = psutil.virtual_memory().available / 1e9
            text += (
                f" ({free:.1f} GB are free now; lower system.training.batch_size, "
                "data.patch_size or the number of processes)"
            )
        return text

    def _name(self, number: int) -> str:
        return f"training process {number + 1} of {len(self._ranks)}"


def _environment() -> dict[str, str]:
    """Return the environment of a rank: this machine only, and no left-over group."""
    loopback = next(
        (
            name
            for name, addresses in psutil.net_if_addrs().items()
            if any(a.address == "127.0.0.1" for a in addresses)
        ),
        "lo",
    )
    stale = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    return {k: v for k, v in os.environ.items() if k not in stale} | {
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
