"""The server: segments what the client asks for."""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.retuning.files import SharedArrays
from napari_volseg.retuning.messages import LANES, Lane, parse

if TYPE_CHECKING:
    from napari_volseg.instances import Follower

__all__ = ["name_alike", "serve"]

_PATIENCE = 0.3
"""Seconds for which a box lets slices have the processors first."""


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Segment what the lines of `stdin` ask for until they end.

    When they end on the real standard input, whoever asked is gone, and so is this
    process at once, even in the middle of a segmentation.
    """
    lines: dict[str, queue.SimpleQueue[Any]] = {
        lane: queue.SimpleQueue() for lane in LANES
    }
    server = _Server()
    writing = threading.Lock()
    no_slices = threading.Event()
    no_slices.set()

    def listen() -> None:
        for line in stdin:
            message = parse(line)
            if "folder" in message:
                server.open(Path(message["folder"]))
            elif "maps" in message:
                server.load(message["maps"])
            elif "let_go" in message and server.arrays is not None:
                for name in message["let_go"]:
                    server.arrays.let_go.put(name)
            elif "ticket" in message:
                # With the maps that it was asked of: others may be loaded meanwhile.
                lane = message.setdefault("lane", "box")
                if lane == "slices":
                    no_slices.clear()
                lines[lane].put((message, server.maps))
        if stdin is sys.stdin.buffer:
            if server.folder is not None:
                shutil.rmtree(server.folder, ignore_errors=True)
            os._exit(0)
        for waiting in lines.values():
            waiting.put(None)

    def work(lane: Lane) -> None:
        while (asked := lines[lane].get()) is not None:
            if lane == "box":
                no_slices.wait(_PATIENCE)
            answer = json.dumps(server.answer(*asked)).encode() + b"\n"
            with writing:
                stdout.write(answer)
                stdout.flush()
            if lane == "slices" and lines[lane].empty():
                no_slices.set()

    threading.Thread(target=listen, daemon=True).start()
    server.warm_up()
    slices = threading.Thread(target=work, args=("slices",), daemon=True)
    slices.start()
    work("box")
    slices.join()


class _Server:
    def __init__(self) -> None:
        self.folder: Path | None = None
        self.arrays: SharedArrays | None = None
        self.maps: NDArray[np.uint8] | None = None
        self._maps_path: Path | None = None
        self._followers: dict[Lane, tuple[object, Box, Follower]] = {}
        """The maps and box of each lane, and what was made of them so far."""
        self._sent: tuple[NDArray[np.int32], str] | None = None
        """The seeds handed over last, and their file."""
        self._newest: tuple[Box, NDArray[np.int32]] | None = None
        """The last box, whose ids slices take over."""
        self._unreadable = ""

    def open(self, folder: Path) -> None:
        """Take the folder of the files that are exchanged."""
        self.folder, self.arrays = folder, SharedArrays(folder)

    def warm_up(self) -> None:
        """Load and compile what segments before the first request needs it."""
        from napari_volseg.instances import Follower

        follower = Follower(np.full((3, 2, 4, 4), 255, np.uint8))
        for share in (0.5, 0.6):
            follower.segment(InstancesConfig(mask=share, seed_mask=share))

    def load(self, name: str) -> None:
        """Take other maps."""
        if self.folder is None:
            return
        self.maps = self._newest = None
        self._followers.clear()
        if self._maps_path is not None:
            self._maps_path.unlink(missing_ok=True)
        self._maps_path = self.folder / name
        try:
            # Copy on write: kernels are compiled once more for what is read-only.
            self.maps = np.load(self._maps_path, mmap_mode="c")
        except (OSError, ValueError) as error:
            self._unreadable = str(error)

    def answer(
        self, message: dict[str, Any], maps: NDArray[np.uint8] | None
    ) -> dict[str, Any]:
        """Segment what a message asks for."""
        answer = {key: message[key] for key in ("ticket", "lane", "start", "stop")}
        try:
            began = time.perf_counter()
            answer |= self._segment(message, maps)
            seconds = time.perf_counter() - began
        except (ValueError, OSError, MemoryError) as error:
            reason = str(error) or "not enough memory"
            return {**answer, "error": f"the maps cannot be segmented: {reason}"}
        return {**answer, "seconds": seconds}

    def _save(
        self, name: str, message: dict[str, Any], array: NDArray[np.int32]
    ) -> str:
        assert self.folder is not None
        file = f"{name}-{message['ticket']}.npy"
        np.save(self.folder / file, array)
        return file

    def _segment(
        self, message: dict[str, Any], maps: NDArray[np.uint8] | None
    ) -> dict[str, str]:
        """Return the files of a box's instances, and of its seeds where wanted."""
        box = Box(tuple(message["start"]), tuple(message["stop"]))
        if maps is None or self.arrays is None:
            raise ValueError(self._unreadable or "none are loaded")
        config = InstancesConfig.model_validate(message["config"])
        follower = self._follower(message["lane"], maps, box)
        if message["lane"] == "slices":
            labels_ZYX = self._rename(follower.segment(config), box)
            return {"labels": self._save("labels", message, labels_ZYX)}
        file, labels_ZYX = self.arrays.take(box.shape)
        try:
            self._newest = box, follower.segment(config, labels_ZYX)
            if not message.get("seeds", True):
                return {"labels": file}
            seeds_ZYX = follower.find_seeds(config)
            if self._sent is None or self._sent[0] is not seeds_ZYX:
                self._sent = seeds_ZYX, self._save("seeds", message, seeds_ZYX)
            return {"labels": file, "seeds": self._sent[1]}
        except BaseException:
            self.arrays.let_go.put(file)
            raise

    def _follower(self, lane: Lane, maps: NDArray[np.uint8], box: Box) -> Follower:
        """Return what segments a box of the maps, the last one where it is the same."""
        from napari_volseg.instances import Follower

        known = self._followers.get(lane)
        if known is None or known[0] is not maps or known[1] != box:
            maps_CZYX = np.ascontiguousarray(maps[:, *box.slices])
            known = self._followers[lane] = maps, box, Follower(maps_CZYX)
        return known[2]

    def _rename(self, labels_ZYX: NDArray[np.int32], box: Box) -> NDArray[np.int32]:
        """Give instances the ids, and so the colours, that they have in the box."""
        newest = self._newest
        if newest is None or not newest[0].contains(box):
            return labels_ZYX
        return name_alike(labels_ZYX, newest[1][box.within(newest[0])])


def name_alike(
    labels_ZYX: NDArray[np.int32], known_ZYX: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return labels in which each instance has the id that it overlaps most.

    An id is given to one instance only, the one with the largest overlap; instances
    without one get ids beyond all others.
    """
    n = int(labels_ZYX.max(initial=0)) + 1
    pairs = known_ZYX.reshape(-1).astype(np.int64) * n + labels_ZYX.reshape(-1)
    pairs[(known_ZYX.reshape(-1) <= 0) | (labels_ZYX.reshape(-1) <= 0)] = 0
    # In runs: neighbours are of one pair mostly.
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    keys, which = np.unique(pairs[starts], return_inverse=True)
    counts = np.bincount(which, np.diff(starts, append=pairs.size))
    counts[keys == 0] = 0
    names = np.zeros(n, np.int32)
    taken: set[int] = set()
    for key in keys[np.argsort(-counts, kind="stable")]:
        known, new = divmod(int(key), n)
        if known > 0 and names[new] == 0 and known not in taken:
            names[new] = known
            taken.add(known)
    free = int(known_ZYX.max(initial=0))
    missing = np.flatnonzero(names[1:] == 0) + 1
    names[missing] = free + 1 + np.arange(missing.size)
    return names[labels_ZYX]
