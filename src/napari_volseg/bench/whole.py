"""Training, predicting and segmenting, one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_volseg.bench.machine import Clock, disk_speed, peak_memory
from napari_volseg.bench.predicting import Predicting, measure_predicting
from napari_volseg.bench.segmenting import Segmenting, measure_segmenting
from napari_volseg.bench.training import Training, read_profile
from napari_volseg.devices import available_memory
from napari_volseg.geometry import Size
from napari_volseg.planning import TrainPlan
from napari_volseg.processors import count_processors
from napari_volseg.profiling import profile_loading
from napari_volseg.runs import TrainingPair
from napari_volseg.settling import settle

__all__ = ["Bench", "bench"]

_TRAINING = 0.4
"""Share of the time; predicting has its own, segmenting takes what it takes."""
_MOST_STEPS = 50


@dataclass(frozen=True, slots=True)
class Bench:
    """Speeds of one machine; minutes are extrapolated from seconds."""

    device: str
    processors: int
    memory_gb: float
    """Free on the device at the start."""
    disk_mb_per_second: float
    """Written to the folder, and flushed."""
    architecture: str
    patch_size: Size
    patches_per_step: int
    train: Training
    predict: Predicting
    segment: Segmenting
    peak_memory_gb: float
    """Of this process, all the while."""
    seconds: float
    """That measuring took."""


def bench(
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    folder: Path,
    *,
    seconds: float = 40.0,
    now: Clock = time.perf_counter,
) -> Bench:
    """Train some steps, predict and segment generated volumes, and keep nothing.

    Parameters
    ----------
    plan, pairs
        The training; its network is predicted with, its weights being random.
    folder
        An empty folder, on the disk that counts.
    seconds
        About how long, on a machine on which a step takes a second or less: a few
        steps, some windows and one volume are the least.
    now
        The clock, in seconds.

    Raises
    ------
    DataError
        If memory or the disk does not suffice.
    """
    started = now()
    free = available_memory(plan.compute.device)
    disk = disk_speed(folder, now)
    plan = settle(plan)
    profile = profile_loading(
        plan,
        pairs,
        folder,
        steps=_MOST_STEPS,
        threads=(plan.config.system.training.num_workers,),
        seconds=_TRAINING * seconds,
        now=now,
    )
    predicting = measure_predicting(plan, folder, seconds, disk, now)
    segmenting = measure_segmenting(plan.config.inference, folder, disk, now)
    return Bench(
        device=plan.device_in_words,
        processors=count_processors(),
        memory_gb=free / 1e9,
        disk_mb_per_second=disk / 1e6,
        architecture=plan.config.model.architecture,
        patch_size=plan.patch_size,
        patches_per_step=profile.batch_size,
        train=read_profile(profile),
        predict=predicting,
        segment=segmenting,
        peak_memory_gb=peak_memory() / 1e9,
        seconds=now() - started,
    )
