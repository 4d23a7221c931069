"""The process that works on arrays for a review; see `client` for who asks."""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from napari_volseg.review.operations import OPERATIONS

__all__ = ["serve"]


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Answer the lines of `stdin` until they end.

    When they end on the real standard input, whoever asked is gone, and so is this
    process at once, even in the middle of an operation.
    """
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    place: dict[str, Path] = {}

    def listen() -> None:
        for line in stdin:
            message = json.loads(line)
            if "folder" in message:
                place["folder"] = Path(message["folder"])
            else:
                requests.put(message)
        if stdin is sys.stdin.buffer:
            if place:
                shutil.rmtree(place["folder"], ignore_errors=True)
            os._exit(0)
        requests.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (request := requests.get()) is not None:
        answer = _answer(place["folder"], request)
        stdout.write(json.dumps(answer).encode() + b"\n")
        stdout.flush()


def _answer(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    ticket = request["ticket"]
    try:
        arrays = {
            # Copy on write: kernels are compiled once more for what is read-only.
            name: np.load(folder / file, mmap_mode="c", allow_pickle=False)
            for name, file in request["arrays"].items()
        }
        work = OPERATIONS[request["operation"]]
        results, values = work(arrays, request["options"])
        files = {name: f"{ticket}-out-{name}.npy" for name in results}
        for name, file in files.items():
            np.save(folder / file, results[name])
    except (ValueError, OSError, MemoryError) as error:
        return {"ticket": ticket, "error": str(error) or "not enough memory"}
    return {"ticket": ticket, "arrays": files, "values": values}
