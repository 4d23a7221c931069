"""Train with processes that a cluster's launcher started, on one node or several.

``torchrun``, or a job script, starts the same command in every process and says
through the environment who is who. Rank 0 does the job as ever; the others wait for
its orders.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_volseg.errors import DataError
from napari_volseg.events import Event
from napari_volseg.failures import JobError
from napari_volseg.runs import Control, TrainingPair, read_run

if TYPE_CHECKING:
    from napari_volseg.distributed import Group
    from napari_volseg.planning import TrainPlan

__all__ = ["Place", "assist_in_cluster", "lead_cluster", "place_in_cluster"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among all that were started."""

    rank: int
    size: int
    local_rank: int
    """Its number on its node."""
    local_size: int
    """Processes on its node."""


def place_in_cluster() -> Place | None:
    """Return the place that the environment gives this process, None without one.

    Raises
    ------
    DataError
        If the environment says half of it.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = [name for name in names if os.environ.get(name)]
    if "RANK" not in given or os.environ.get("WORLD_SIZE") == "1":
        return None
    if len(given) < len(names):
        raise DataError(
            f"RANK is set but {', '.join(n for n in names if n not in given)} is not: "
            "start with torchrun, or see docs/cluster.md"
        )
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(local_rank + 1)))
    except ValueError:
        raise DataError(
            "RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: start with "
            "torchrun, or see docs/cluster.md"
        ) from None
    if not 0 <= rank < size:
        raise DataError(f"RANK is {rank}, but must be below WORLD_SIZE, {size}")
    return Place(rank, size, local_rank, local_size)


def lead_cluster(
    place: Place,
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    folder: Path,
    *,
    resume: bool,
    read_control: Callable[[], Control],
) -> Iterator[Event]:
    """Train as rank 0; see `training.train`.

    Raises
    ------
    JobError
        If another process is lost.
    """
    from napari_volseg.distributed import PeerLostError
    from napari_volseg.training import train

    try:
        group = _join(place)
        group.send({"folder": str(folder), "plan": plan.to_json()})
        yield from train(
            plan,
            pairs,
            folder,
            resume=resume,
            read_control=read_control,
            group=group,
        )
    except PeerLostError as error:
        raise JobError(
            "another process of the training is lost, and its output says why: resume "
            "from the last checkpoint"
        ) from error


def assist_in_cluster(place: Place) -> int:
    """Train as one of the other ranks; return the exit code."""
    from napari_volseg.distributed import PeerLostError
    from napari_volseg.planning import plan_from_json
    from napari_volseg.replicas import assist

    # A launcher asks every process to stop. Rank 0 alone decides when that is.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        group = _join(place)
        order = group.receive()
        folder = Path(order["folder"])
        _, pairs = read_run(folder)
        assist(plan_from_json(order["plan"]), pairs, folder, group)
    except PeerLostError as error:
        sys.stderr.write(f"volseg: {error}\n")
        return 1
    return 0


def _join(place: Place) -> Group:
    import torch

    from napari_volseg.devices import use_gpu, use_threads
    from napari_volseg.distributed import join_by_address

    threading.Thread(target=_end_with_launcher, daemon=True).start()
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_gpus and place.local_rank >= n_gpus:
        raise DataError(
            f"{place.local_size} processes were started on a node with {n_gpus} GPUs: "
            f"start {n_gpus} (torchrun --nproc-per-node {n_gpus})"
        )
    if n_gpus:
        use_gpu(place.local_rank)
    else:
        use_threads(place.local_size)
    return join_by_address("cuda" if n_gpus else "cpu")


def _end_with_launcher() -> None:
    """End this process when the one that started it is gone."""
    launcher = os.getppid()
    while os.getppid() == launcher:
        time.sleep(0.5)
    os._exit(1)
