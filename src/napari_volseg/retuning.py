"""Instances that follow the thresholds, made in a process of their own.

A client asks, a server segments. They exchange lines of JSON over the server's
standard input and output, and arrays as NPY files in a folder of their own. The
client side needs numpy only, so that the process of napari stays responsive: the
libraries that segment hold Python's interpreter lock.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box

__all__ = ["Failed", "Retuned", "Retuner", "serve"]


@dataclass(frozen=True, slots=True)
class Retuned:
    """The answer to a request."""

    ticket: int
    box: Box
    """What the arrays cover."""
    labels_ZYX: NDArray[np.int32]
    seeds_ZYX: NDArray[np.int32]
    seconds: float
    """What the segmentation took."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer, in one sentence."""

    message: str


class Retuner:
    """The client: asks a process of its own for the instances of kept maps.

    One request is worked on at a time. While it is, only the newest of the others
    is kept. No method waits for an answer; `close` ends the process, as does the
    end of this one.

    Parameters
    ----------
    command
        What starts the server; by default this package's own.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="volseg-retune-"))
        self._lock = threading.Lock()
        self._shape: tuple[int, ...] | None = None
        self._n_loaded = 0
        self._n_tickets = 0
        self._at_work = False
        self._waiting: dict[str, Any] | None = None
        self._answer: Retuned | Failed | None = None
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

    def request(self, config: InstancesConfig, box: Box | None = None) -> int:
        """Ask for the instances of a box, of the whole by default.

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
                "config": config.model_dump(mode="json"),
                "start": box.start,
                "stop": box.stop,
            }
            if self._end is not None:
                self._answer = self._end
            elif self._at_work:
                self._waiting = wish
            else:
                self._at_work = True
                self._send(wish)
            return self._n_tickets

    def poll(self) -> Retuned | Failed | None:
        """Return the newest answer that was not returned yet; never wait for one.

        While newer requests are at work, answers to older ones still come, so that
        a view follows a slider that is being moved; the last answer bears the
        ticket of the last request. Once the process has ended, `Failed` is the
        answer to every request.
        """
        with self._lock:
            answer, self._answer = self._answer, None
        return answer

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
            message = _parse(line)
            if "ticket" not in message:
                continue
            answer = self._take(message)
            with self._lock:
                self._answer = answer
                waiting, self._waiting = self._waiting, None
                self._at_work = waiting is not None
                if waiting is not None:
                    self._send(waiting)
        code = self._process.wait()
        if not self._is_closed:
            with self._lock:
                self._end = Failed(_explain_end(code, self._folder / "log.txt"))
                self._answer = self._end

    def _take(self, message: dict[str, Any]) -> Retuned | Failed:
        if "error" in message:
            return Failed(str(message["error"]))
        ticket = message["ticket"]
        try:
            labels_ZYX, seeds_ZYX = (
                _take_array(self._folder / f"{name}-{ticket}.npy")
                for name in ("labels", "seeds")
            )
        except (OSError, ValueError) as error:
            return Failed(f"the instances could not be read back: {error}")
        box = Box(tuple(message["start"]), tuple(message["stop"]))
        return Retuned(ticket, box, labels_ZYX, seeds_ZYX, message["seconds"])


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Segment what the lines of `stdin` ask for until they end.

    When they end on the real standard input, whoever asked is gone, and so is this
    process at once, even in the middle of a segmentation.
    """
    lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    server = _Server()

    def listen() -> None:
        for line in stdin:
            message = _parse(line)
            if "folder" in message:
                server.folder = Path(message["folder"])
            else:
                lines.put(message)
        if stdin is sys.stdin.buffer:
            if server.folder is not None:
                shutil.rmtree(server.folder, ignore_errors=True)
            os._exit(0)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    server.warm_up()
    while (message := lines.get()) is not None:
        for answer in server.handle(message):
            stdout.write(json.dumps(answer).encode() + b"\n")
            stdout.flush()


class _Server:
    def __init__(self) -> None:
        self.folder: Path | None = None
        self._maps: NDArray[np.uint8] | None = None
        self._maps_path: Path | None = None
        self._seeds: tuple[object, NDArray[np.int32]] | None = None

    def warm_up(self) -> None:
        """Load and compile what segments before the first request needs it."""
        from napari_volseg.instances import segment

        segment(np.full((3, 2, 4, 4), 255, np.uint8), InstancesConfig())

    def handle(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "maps" in message and self.folder is not None:
            self._load(self.folder / message["maps"])
        elif "ticket" in message:
            where = {key: message[key] for key in ("ticket", "start", "stop")}
            try:
                yield {**where, "seconds": self._segment(message)}
            except (ValueError, OSError, MemoryError) as error:
                reason = str(error) or "not enough memory"
                yield {**where, "error": f"the maps cannot be segmented: {reason}"}

    def _load(self, path: Path) -> None:
        self._seeds = self._maps = None
        if self._maps_path is not None:
            self._maps_path.unlink(missing_ok=True)
        self._maps_path = path
        # Copy on write: kernels are compiled once more for what is read-only.
        self._maps = np.load(path, mmap_mode="c")

    def _segment(self, message: dict[str, Any]) -> float:
        from napari_volseg.instances import find_seeds, segment

        if self._maps is None or self.folder is None:
            raise ValueError("none are loaded")
        began = time.perf_counter()
        config = InstancesConfig.model_validate(message["config"])
        box = Box(tuple(message["start"]), tuple(message["stop"]))
        maps_CZYX = np.ascontiguousarray(self._maps[:, *box.slices])
        key = (
            box,
            config.seed_distance,
            config.seed_depth,
            config.seed_boundary,
            config.seed_mask,
            config.min_seed_size,
        )
        if self._seeds is None or self._seeds[0] != key:
            self._seeds = key, find_seeds(maps_CZYX, config)
        seeds_ZYX = self._seeds[1]
        labels_ZYX = segment(maps_CZYX, config, seeds_ZYX)
        seconds = time.perf_counter() - began
        np.save(self.folder / f"labels-{message['ticket']}.npy", labels_ZYX)
        np.save(self.folder / f"seeds-{message['ticket']}.npy", seeds_ZYX)
        return seconds


def _take_array(path: Path) -> NDArray[np.int32]:
    array: NDArray[np.int32] = np.load(path)
    path.unlink()
    return array


def _parse(line: bytes) -> dict[str, Any]:
    """Return the message of a line; nothing for what a library printed."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


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
