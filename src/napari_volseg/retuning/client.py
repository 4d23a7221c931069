"""The client: asks for instances and never waits for them."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.retuning.messages import LANES, Lane, parse

__all__ = ["Failed", "Retuned", "Retuner"]

_ROOM = 2**31
"""Bytes free for files in memory from which on they are kept there."""


@dataclass(frozen=True, slots=True)
class Retuned:
    """The answer to a request."""

    ticket: int
    box: Box
    """What the arrays cover."""
    labels_ZYX: NDArray[np.int32]
    seeds_ZYX: NDArray[np.int32]
    """Empty where they were not asked for."""
    seconds: float
    """What it took to segment, and to write the answer."""
    lane: Lane = "box"


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer, in one sentence."""

    message: str


@dataclass(slots=True)
class _Asked:
    """What a lane was asked for."""

    at_work: bool = False
    waiting: dict[str, Any] | None = None
    answers: list[Retuned | Failed] = field(default_factory=list)
    """The newest only."""


class Retuner:
    """The client: asks a process of its own for the instances of kept maps.

    Each lane works on one request at a time. While it does, only the newest of the
    others is kept. No method waits for an answer; `close` ends the process, as does the
    end of this one.

    Parameters
    ----------
    command
        What starts the server; by default this package's own.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._folder = _make_folder()
        self._seeds_path: Path | None = None
        self._let_go: SimpleQueue[str] = SimpleQueue()
        """Files of instances that nobody looks at any more."""
        self._lock = threading.Lock()
        self._shape: tuple[int, ...] | None = None
        self._n_loaded = 0
        self._n_tickets = 0
        self._lanes = {lane: _Asked() for lane in LANES}
        self._end: Failed | None = None
        self._is_closed = False
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                command or [sys.executable, "-m", "napari_volseg", "retune"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        self._send({"folder": str(self._folder)})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        atexit.register(self.close)

    def load(self, maps_CZYX: NDArray[np.uint8]) -> None:
        """Hand over the maps that all later requests are about.

        They are written to a temporary file, so later changes of the array have no
        effect.

        Parameters
        ----------
        maps_CZYX
            Mask, boundary and distance, uint8, 255 being 1.
        """
        if maps_CZYX.ndim != 4 or maps_CZYX.dtype != np.uint8:
            raise ValueError(f"maps must be uint8 CZYX, not {maps_CZYX.dtype}")
        self._n_loaded += 1
        name = f"maps-{self._n_loaded}.npy"
        # numpy writes what is not contiguous thirty times more slowly.
        np.save(self._folder / name, np.ascontiguousarray(maps_CZYX))
        self._shape = maps_CZYX.shape[1:]
        self._send({"maps": name})

    def request(
        self,
        config: InstancesConfig,
        box: Box | None = None,
        lane: Lane = "box",
        *,
        seeds: bool = True,
    ) -> int:
        """Ask for the instances of a box, of the whole by default.

        Parameters
        ----------
        lane
            ``slices`` is answered while ``box`` is at work. Its instances bear the
            ids that they have in the newest box, as far as they overlap with it, and
            it has no seeds.
        seeds
            Whether the answer is to hold the seeds, too.

        Returns
        -------
        int
            The ticket that the answer will bear; tickets rise.
        """
        if self._shape is None:
            raise ValueError("load maps before asking for their instances")
        box = Box.whole(self._shape) if box is None else box.clip(self._shape)
        with self._lock:
            self._n_tickets += 1
            wish = {
                "ticket": self._n_tickets,
                "lane": lane,
                "config": config.model_dump(mode="json"),
                "seeds": seeds,
                "start": box.start,
                "stop": box.stop,
            }
            asked = self._lanes[lane]
            if self._end is not None:
                asked.answers = [self._end]
            elif asked.at_work:
                asked.waiting = wish
            else:
                asked.at_work = True
                self._ask(wish)
            return self._n_tickets

    def poll(self, lane: Lane = "box") -> Retuned | Failed | None:
        """Return the newest answer that was not returned yet; never wait for one.

        While newer requests are at work, answers to older ones still come, so that
        a view follows a slider that is being moved; the last answer bears the
        ticket of the last request. Once the process has ended, `Failed` is the
        answer to every request.
        """
        with self._lock:
            answers, self._lanes[lane].answers = self._lanes[lane].answers, []
        return answers[-1] if answers else None

    def close(self) -> None:
        """End the process and remove its files; safe to call again."""
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self.close)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, wish: dict[str, Any]) -> None:
        # Written here: a finalizer may run in the middle of writing something else.
        let_go = []
        while not self._let_go.empty():
            let_go.append(self._let_go.get())
        if let_go:
            self._send({"let_go": let_go})
        self._send(wish)

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        # A server that is gone is reported by the reader.
        with suppress(OSError):
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            message = parse(line)
            if "ticket" not in message:
                continue
            answer = self._take(message)
            with self._lock:
                asked = self._lanes[message["lane"]]
                asked.answers = [answer]
                waiting, asked.waiting = asked.waiting, None
                asked.at_work = waiting is not None
                if waiting is not None:
                    self._ask(waiting)
        code = self._process.wait()
        if not self._is_closed:
            with self._lock:
                self._end = Failed(_explain_end(code, self._folder / "log.txt"))
                for asked in self._lanes.values():
                    asked.answers = [self._end]

    def _take(self, message: dict[str, Any]) -> Retuned | Failed:
        if "error" in message:
            return Failed(str(message["error"]))
        try:
            path = self._folder / message["labels"]
            labels_ZYX, mapped = _map(path)
            if message["lane"] == "slices":
                _discard(path)
            else:
                weakref.finalize(mapped, self._let_go.put, path.name).atexit = False
            seeds_ZYX = np.zeros((0, 0, 0), np.int32)
            if "seeds" in message:
                path = self._folder / message["seeds"]
                seeds_ZYX, _ = _map(path)
                if self._seeds_path not in (None, path):
                    _discard(self._seeds_path)
                self._seeds_path = path
        except (OSError, ValueError) as error:
            return Failed(f"the instances could not be read back: {error}")
        box = Box(tuple(message["start"]), tuple(message["stop"]))
        ticket, seconds, lane = message["ticket"], message["seconds"], message["lane"]
        return Retuned(ticket, box, labels_ZYX, seeds_ZYX, seconds, lane)


def _make_folder() -> Path:
    """Return a new folder, in memory where the system has room for files there."""
    memory = Path("/dev/shm")
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM
    return Path(
        tempfile.mkdtemp(prefix="volseg-retune-", dir=memory if has_room else None)
    )


def _map(path: Path) -> tuple[NDArray[np.int32], object]:
    """Return what a file holds, without a copy, and what lives as long as any view.

    Writing it changes no file.
    """
    array = np.load(path, mmap_mode="c")
    return np.asarray(array), array.base


def _discard(path: Path | None) -> None:
    """Remove a file that is mapped; where that is forbidden, it goes at the end."""
    if path is not None:
        with suppress(OSError):
            path.unlink()


def _explain_end(code: int, log: Path) -> str:
    cause = f"exit code {code}" if code >= 0 else f"signal {-code}"
    if code == -9:
        cause += ", probably too little memory"
    with suppress(OSError):
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        cause += f"; it said: {lines[-1].strip()}" if lines else ""
    return (
        f"the process that makes instances ended ({cause}): change a threshold to "
        "start it again"
    )
