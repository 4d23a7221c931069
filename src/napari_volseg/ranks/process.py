"""Be one of several processes that train together on this machine."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_volseg.errors import DataError
from napari_volseg.failures import explain
from napari_volseg.ranks.messages import beat_line, event_line, failure_line
from napari_volseg.runs import ControlReader, read_run

__all__ = ["serve_rank"]

_logger = logging.getLogger(__name__)


def serve_rank() -> int:
    """Do what the first line of standard input says; return the exit code.

    The process ends at once when standard input does: its supervisor is gone.
    Standard output carries lines for the supervisor, and nothing else.
    """
    faulthandler.enable()
    os.umask(0o077)
    spec = json.loads(_read_line())
    channel = os.dup(1)
    os.dup2(2, 1)  # what libraries print belongs into the log
    tell = _Channel(channel)
    _log_as(spec["rank"])
    asked = threading.Event()
    place = Path(spec["rendezvous"]).parent
    threading.Thread(target=_obey, args=(asked, place), daemon=True).start()
    try:
        _train(spec, tell, asked)
    except Exception as error:  # noqa: BLE001  # everything is passed on
        return _report(error, Path(spec["folder"]), tell)
    return 0


def _train(
    spec: dict[str, Any],
    tell: Callable[[bytes], None],
    asked: threading.Event,
) -> None:
    from napari_volseg.devices import use_gpu, use_threads
    from napari_volseg.distributed import join_by_file
    from napari_volseg.planning import plan_from_json
    from napari_volseg.replicas import assist
    from napari_volseg.training import train

    rank, size, folder = spec["rank"], spec["size"], Path(spec["folder"])
    plan = plan_from_json(spec["plan"])
    if plan.gpus:
        use_gpu(plan.gpus[rank])
    else:
        use_threads(size)
    group = join_by_file(rank, size, Path(spec["rendezvous"]), plan.compute.device)
    beat = _Beat(tell, lambda: (group.phase, group.n_turns, group.longest_step))
    beat.start(spec["rank_timeout"] / 5)
    _, pairs = read_run(folder)
    if not group.leads:
        assist(plan, pairs, folder, group)
        return
    reader = ControlReader(folder)
    for event in train(
        plan,
        pairs,
        folder,
        resume=spec["resume"],
        read_control=lambda: (
            replace(reader(), stop=True, pause=False) if asked.is_set() else reader()
        ),
        group=group,
    ):
        tell(event_line(event))


class _Channel:
    """Writes whole lines for the supervisor, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, line: bytes) -> None:
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]


class _Beat:
    """Says again and again what this process does."""

    def __init__(
        self, tell: Callable[[bytes], None], ask: Callable[[], tuple[str, int, float]]
    ) -> None:
        self._tell = tell
        self._ask = ask

    def start(self, every: float) -> None:
        """Begin, with `every` seconds between two beats, at most one."""
        pause = min(1.0, every)
        threading.Thread(target=self._run, args=(pause,), daemon=True).start()

    def _run(self, pause: float) -> None:
        while True:
            try:
                self._tell(beat_line(*self._ask()))
            except OSError:
                return  # the supervisor is gone; the end of standard input ends us
            time.sleep(pause)


def _read_line() -> bytes:
    """Read one line, not a byte more: what follows is for the thread that obeys."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            sys.exit("the supervisor ended before it said what to do")
        line += part
    return line


def _obey(asked: threading.Event, place: Path) -> None:
    """Wait for the word to stop, or for the end of the supervisor."""
    while True:
        try:
            # Not sys.stdin: a buffered reader blocked at exit aborts Python.
            word = os.read(0, 4096)
        except OSError:
            word = b""
        if not word:
            shutil.rmtree(place, ignore_errors=True)
            os._exit(1)  # at once, also when the main thread waits for a peer
        asked.set()


def _report(error: Exception, folder: Path, tell: Callable[[bytes], None]) -> int:
    if type(error).__name__ == "PeerLostError":
        _logger.info("%s", error)
        line = failure_line("lost", str(error))
    else:
        _logger.error("this process failed", exc_info=error)
        blame = "data" if isinstance(error, DataError) else "defect"
        line = failure_line(blame, explain(error, folder))  # type: ignore[arg-type]
    for stream in (sys.stderr, sys.stdout):
        stream.flush()
    try:
        tell(line)
    except OSError:
        return 1
    return 1


def _log_as(rank: int) -> None:
    """Log to standard error, which is the job's log, under the rank's name."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)s [rank {rank}] %(message)s")
    )
    logger = logging.getLogger("napari_volseg")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
