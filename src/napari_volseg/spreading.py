"""Predict blocks on the workers of dask.distributed.

What is spread is the function that any process predicts blocks with: the folder of the
job and the numbers of some blocks travel, nothing else. Finished blocks are marked in
the folder. A worker that is killed costs the blocks it had begun, and all others are
kept, whatever goes away.
"""

from __future__ import annotations

import heapq
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.blocks import BlockGrid
from napari_volseg.errors import DataError
from napari_volseg.io import write_text
from napari_volseg.mapjob import BLOCKS, MapJob
from napari_volseg.mapping import predict_blocks
from napari_volseg.processors import count_processors
from napari_volseg.windows import count_touching

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["SpreadStep", "check_scheduler", "split_tiles", "spread_blocks"]

_TURN = "turn"
"""File that says on whose behalf workers may write blocks."""
_TASKS_PER_WORKER = 4
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.5
_LOST_SECONDS = 20.0
_WAIT_SECONDS = 30.0
_START_SECONDS = 300.0
_TURN_SECONDS = 1.0
_MISSES = 5
"""Reads of the turn in a row, without this client's token, that end a turn."""

SpreadStep = tuple[tuple[int, ...], int]
"""Blocks that were finished since the last step, and how many workers there are."""


class _LostError(Exception):
    """A task is gone, as when the scheduler is."""


def spread_blocks(
    job: MapJob,
    tiles: Sequence[Sequence[int]],
    scheduler: str,
    device: str = "auto",
) -> Generator[SpreadStep]:
    """Predict blocks of a prepared job on the workers of a scheduler.

    Parameters
    ----------
    job
        All workers must see its folder under the same name, as well as model and
        image.
    tiles
        Blocks that are best predicted together; columns are divided where there are
        fewer of them than workers can do with.
    scheduler
        ``local``, ``processes=N`` or the address of a scheduler, ``tcp://host:port``.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``, on each worker.

    Yields
    ------
    SpreadStep
        Several a second, empty ones included.

    Raises
    ------
    DataError
        If there is no such scheduler, it goes away, or a block cannot be predicted.
        Finished blocks are kept.
    """
    check_scheduler(scheduler)
    known = job.ledger.finished()
    turn = job.folder / BLOCKS / _TURN
    token = secrets.token_hex(8)
    with _connected(scheduler) as client:
        n_workers = max(1, len(_workers(client)))
        tasks = iter(split_tiles(tiles, job.grid, n_workers, _depth_cost(job)))
        running: dict[Future, Sequence[int]] = {}
        write_text(turn, token)
        next_look = 0.0
        has_more = True
        try:
            while has_more or running:
                with _said_when_lost(client, scheduler, job):
                    workers = _workers(client)
                    # Few at a time: thousands of tasks slow a scheduler down.
                    while has_more and len(running) < 2 * max(1, len(workers)):
                        task = next(tasks, None)
                        has_more = task is not None
                        if task is not None:
                            future = _submit(client, job.folder, task, device, token)
                            running[future] = task
                    for future in [f for f in running if f.done()]:
                        _check(future, scheduler)
                        del running[future]
                fresh: tuple[int, ...] = ()
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + _LOOK_SECONDS
                    fresh = tuple(sorted(job.ledger.finished() - known))
                    known.update(fresh)
                yield fresh, len(workers)
                time.sleep(_POLL_SECONDS)
            yield tuple(sorted(job.ledger.finished() - known)), len(workers)
        finally:
            with suppress(OSError):
                turn.unlink()  # workers that go on by themselves stop here
            with suppress(Exception):  # the scheduler may be gone
                client.cancel(list(running), asynchronous=False)


def split_tiles(
    tiles: Sequence[Sequence[int]],
    grid: BlockGrid,
    n_workers: int,
    cost: Callable[[int, int], int],
) -> Iterator[list[int]]:
    """Divide columns of blocks along z where that lets equal workers end sooner.

    Windows across a cut are computed on both sides of it.

    Parameters
    ----------
    cost
        Work of the levels of blocks from the first up to before the second.
    """
    if not tiles:
        return
    n_parts = _choose_parts(len(tiles), grid.counts[0], n_workers, cost)
    levels_of_block = grid.counts[1] * grid.counts[2]
    for tile in tiles:
        levels = sorted({i // levels_of_block for i in tile})
        for part in map(set, _parts(levels, n_parts)):
            yield [i for i in tile if i // levels_of_block in part]


def _choose_parts(
    n_tiles: int, n_levels: int, n_workers: int, cost: Callable[[int, int], int]
) -> int:
    """Return into how many parts columns are divided for the earliest end."""

    def end(n_parts: int) -> int:
        parts = _parts(range(n_levels), n_parts)
        costs = [cost(part[0], part[-1] + 1) for part in parts] * n_tiles
        loads = [0] * n_workers
        for one in sorted(costs, reverse=True):
            heapq.heapreplace(loads, loads[0] + one)
        return max(loads)

    most = max(1, _TASKS_PER_WORKER * n_workers // n_tiles)
    return min(range(1, min(most, n_levels) + 1), key=end)


def _parts(levels: Sequence[int], n_parts: int) -> list[Sequence[int]]:
    n = min(n_parts, len(levels))
    return [levels[k * len(levels) // n : (k + 1) * len(levels) // n] for k in range(n)]


def _depth_cost(job: MapJob) -> Callable[[int, int], int]:
    """Return what says how many windows levels of blocks take along z."""
    starts, depth, edge = job.plan().starts[0], job.window[0], job.grid.block[0]
    return lambda first, stop: count_touching(starts, depth, first * edge, stop * edge)


def _submit(
    client: Client, folder: Path, task: Sequence[int], device: str, token: str
) -> Future:
    hosts: dict[str, int] = {}
    for address in _workers(client):
        host = address.rpartition(":")[0]
        hosts[host] = hosts.get(host, 0) + 1
    name = f"volseg-{token}-{task[0]}-{task[-1]}"
    return client.submit(
        _work, str(folder), list(task), device, token, hosts, key=name, pure=False
    )


def _work(
    folder: str, block_ids: list[int], device: str, token: str, hosts: dict[str, int]
) -> int:
    """Predict blocks in a worker, as long as it is this client's turn."""
    import torch
    from distributed import get_worker

    keep_freed_memory()  # dask asks its workers to give all back at once
    host = str(get_worker().address).rpartition(":")[0]
    torch.set_num_threads(max(1, count_processors() // hosts.get(host, 1)))
    turn = _Turn(Path(folder) / BLOCKS / _TURN, token)
    return predict_blocks(Path(folder), block_ids, device, turn.is_over)


class _Turn:
    """Whether workers may still write blocks on behalf of a client.

    On a network file system a read may fail, or give what was there before, while it
    still is the client's turn. A token counts as another client's when its own was read
    before.
    """

    def __init__(self, path: Path, token: str) -> None:
        self._path, self._token = path, token
        self._next_look = 0.0
        self._n_missed = 0
        self._was_read = False

    def is_over(self) -> bool:
        if self._n_missed < _MISSES and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _TURN_SECONDS
            self._look()
        return self._n_missed >= _MISSES

    def _look(self) -> None:
        try:
            found = self._path.read_text("utf-8")
        except (OSError, ValueError):
            found = ""
        if found == self._token:
            self._n_missed, self._was_read = 0, True
        else:
            self._n_missed += _MISSES if found and self._was_read else 1


def _workers(client: Client) -> list[str]:
    """Return the addresses of the workers, as last heard."""
    return list(client.scheduler_info(n_workers=-1).get("workers", ()))


def _check(future: Future, scheduler: str) -> None:
    """Raise what made a task fail."""
    from distributed import KilledWorker

    if future.status == "finished":
        return
    if future.status != "error":
        raise _LostError(future.status)
    error = future.exception()
    if isinstance(error, KilledWorker):
        raise DataError(
            "workers were killed again and again while they predicted the same blocks, "
            "probably out of memory: lower inference.memory_gb or "
            "inference.window_size, or use fewer workers; finished blocks are kept, "
            "and --resume goes on"
        ) from error
    if isinstance(error, ModuleNotFoundError):
        raise DataError(
            f"a worker of {scheduler} cannot import {error.name}: install the same "
            "napari-volseg where the workers run"
        ) from error
    raise error


@contextmanager
def _said_when_lost(client: Client, scheduler: str, job: MapJob) -> Iterator[None]:
    """Raise DataError when the scheduler is gone, whatever the client makes of it."""
    cause: Exception | None = None
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        # The connection is lost in another thread, in the middle of anything.
        if _is_connected(client) and not isinstance(error, _LostError):
            raise
        cause = error
    if cause or not _is_connected(client):
        n = len(job.ledger.finished())
        raise DataError(
            f"the scheduler {scheduler} went away: {n} finished blocks are kept, start "
            "it again and resume the prediction (--resume)"
        ) from cause


def _is_connected(client: Client) -> bool:
    return client.status in ("running", "connecting")


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    """Connect to a scheduler, or start one on this machine for as long as needed."""
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise DataError(
            "--scheduler needs dask.distributed: pip install 'napari-volseg[cluster]'"
        ) from None
    settings = {
        "distributed.comm.timeouts.connect": _LOST_SECONDS,
        "distributed.client.scheduler-info-interval": "500ms",
    }
    with dask.config.set(settings):
        if scheduler == "local" or scheduler.startswith("processes="):
            n = _n_processes(scheduler)
            with (
                _local_cluster(n) as cluster,
                Client(cluster, set_as_default=False) as client,
            ):
                client.wait_for_workers(n, _START_SECONDS)
                yield client
            return
        try:
            client = Client(scheduler, timeout=_WAIT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"there is no scheduler at {scheduler}: start one with 'dask "
                "scheduler', or give local or processes=N"
            ) from error
        with client:
            yield client


def check_scheduler(scheduler: str) -> None:
    """Raise DataError when a text cannot be a scheduler."""
    text = scheduler.removeprefix("processes=")
    is_number = text != scheduler and text.isdecimal() and 1 <= int(text) <= 1024
    if scheduler != "local" and "://" not in scheduler and not is_number:
        raise DataError(
            f"'{scheduler}' is no scheduler: give local, processes=N or tcp://host:port"
        )


def _visible_gpu(i: int, visible: str) -> str:
    """Return the name of a GPU, a number or a UUID, among those that CUDA may use.

    Parameters
    ----------
    visible
        Names with commas between them; empty when CUDA may use all.
    """
    names = [name for part in visible.split(",") if (name := part.strip())]
    return names[i] if i < len(names) else str(i)


def _n_processes(scheduler: str) -> int:
    if scheduler != "local":
        return int(scheduler.removeprefix("processes="))
    import torch

    return torch.cuda.device_count() or max(1, count_processors() // 4)


@contextmanager
def _local_cluster(n: int) -> Iterator[Any]:
    """Start worker processes on this machine; nothing listens beyond it."""
    import torch
    from distributed import Nanny, Scheduler, SpecCluster

    n_gpus = torch.cuda.device_count()
    quiet = logging.ERROR
    threads = str(max(1, count_processors() // n))
    here = {"host": "127.0.0.1", "dashboard": False}
    workers = {}
    with tempfile.TemporaryDirectory(prefix="volseg-workers-") as scratch:
        for i in range(n):
            env = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
            if n_gpus:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
                env["CUDA_VISIBLE_DEVICES"] = _visible_gpu(i % n_gpus, visible)
            options = {
                **here,
                "nthreads": 1,
                "memory_limit": 0,
                "local_directory": scratch,
                "silence_logs": quiet,
                "env": env,
            }
            workers[i] = {"cls": Nanny, "options": options}
        spec = {"cls": Scheduler, "options": {**here, "port": 0}}
        with SpecCluster(workers, spec, silence_logs=quiet) as cluster:
            yield cluster
