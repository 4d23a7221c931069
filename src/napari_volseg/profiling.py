"""Measure whether patches are ready when the network wants them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Literal

import numpy as np

from napari_volseg.learner import Learner
from napari_volseg.planning import TrainPlan
from napari_volseg.preparing import prepare_patches
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import Batch, PatchSource, batches
from napari_volseg.settling import settle

__all__ = ["LoadingProfile", "Trial", "judge", "profile_loading"]

STAGES = ("read", "crop", "augment", "collate")
"""What preparing a patch consists of."""

_TOLERATED = 0.05
"""Share of a step that may be lost to data."""
_WARM_UP = 2
_REPEATS = 3
_UNSTEADY = (
    " Steps differ in time by more than data can explain: other programs compute on "
    "this machine, so measure again when it is idle."
)
_FAR = 2**30
"""First of steps that no trial reaches: their patches were not read before."""

Verdict = Literal["ready", "slow", "contended"]


@dataclass(frozen=True, slots=True)
class Trial:
    """Steps of training with patches that were prepared by some threads."""

    threads: int
    wait_ms: float
    """Time per step that the network waited for its batches."""
    step_ms: float
    """Time per step that the network worked."""
    lost: float
    """Share of the time that data cost: the wait, and what the step took longer than
    one on data lying ready, but no more than preparing its patches takes."""


@dataclass(frozen=True, slots=True)
class LoadingProfile:
    """What data cost a training."""

    device: str
    patch_size: tuple[int, ...]
    batch_size: int
    """Patches of one step."""
    cache: str
    prepare_seconds: float
    """Time to read the volumes and make their targets, once."""
    stages_ms: dict[str, float]
    """Time per patch of each stage, on one thread."""
    annotated: float
    """Share of the voxels of a patch that are learnt from."""
    ready_step_ms: float
    """Time of a step on data that lie ready."""
    trials: tuple[Trial, ...]
    threads: int
    """Threads that the configuration asks for."""
    verdict: Verdict
    advice: str
    """The verdict in words, and what to change."""


def profile_loading(
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    folder: Path,
    *,
    steps: int = 20,
    threads: Sequence[int] = (),
    seconds: float = inf,
    now: Callable[[], float] = time.perf_counter,
) -> LoadingProfile:
    """Train for some steps, and measure what is spent on data.

    Time is taken around the request for the next batches, and around the step,
    which ends when its loss has arrived from the device.

    Parameters
    ----------
    plan, pairs
        The training.
    folder
        Where volumes are kept on disk, if the plan says so.
    steps
        Steps of each trial, at least 1; some more are taken to warm up.
    threads
        Numbers of threads to try, beside the one that is configured; by default
        0, 1, 2 and 4 as far as there are processors.
    seconds
        Of each trial, after which it takes no more steps; one on data that lie ready
        and one on others are the least.
    now
        The clock, in seconds.
    """
    plan = settle(plan)
    started = now()
    source = prepare_patches(plan, pairs, folder)
    prepare_seconds = now() - started
    patches = plan.config.system.training.patches_per_batch * plan.micro_batches
    stages, annotated = _time_stages(source, plan.micro_batches, now)
    learner = Learner(plan)
    learner.learn(_ready(source, plan))
    configured = plan.config.system.training.num_workers
    trials, ready = [], []
    for number, n_threads in enumerate(_to_try(threads, configured)):
        wait, step, bare = _try(
            learner, source, plan, n_threads, steps, seconds, number, now
        )
        ready.append(bare)
        trials.append((n_threads, wait, step))
    ready_step, preparing = median(ready), sum(stages.values())
    results = tuple(
        Trial(
            n,
            1000 * wait,
            1000 * step,
            (wait + min(max(0.0, step - ready_step), preparing)) / (wait + step),
        )
        for n, wait, step in trials
    )
    verdict, advice = judge(results, configured, stages)
    strays = max(abs(step - ready_step) for _, _, step in trials) - preparing
    if strays > _TOLERATED * ready_step:
        advice += _UNSTEADY
    return LoadingProfile(
        device=str(plan.compute),
        patch_size=plan.patch_size,
        batch_size=patches,
        cache=plan.cache.mode,
        prepare_seconds=prepare_seconds,
        stages_ms={name: 1000 * stages[name] / patches for name in STAGES},
        annotated=annotated,
        ready_step_ms=1000 * ready_step,
        trials=results,
        threads=configured,
        verdict=verdict,
        advice=advice,
    )


def judge(
    trials: Sequence[Trial], configured: int, stages: dict[str, float]
) -> tuple[Verdict, str]:
    """Say whether data hold the network up, and what to change.

    Parameters
    ----------
    trials
        One with the configured number of threads among them.
    stages
        Time of each stage, in any unit.
    """
    current = next(t for t in trials if t.threads == configured)
    share = current.wait_ms / (current.wait_ms + current.step_ms)
    facts = (
        f"With {_threads(configured)} the network waits {current.wait_ms:.1f} ms for "
        f"data in each step of {current.wait_ms + current.step_ms:.1f} ms "
        f"({share:.0%}), and {current.lost:.0%} of the time is lost to data in all"
    )
    if current.lost <= _TOLERATED:
        return "ready", f"{facts}: data are ready in time."
    best = min(trials, key=lambda t: (round(t.wait_ms + t.step_ms, 1), t.threads))
    longest = max(stages, key=lambda name: stages[name])
    part = stages[longest] / max(sum(stages.values()), 1e-12)
    advice = {
        "read": "keep the data in memory (data.cache=ram) or on a faster disk",
        "crop": "lower augmentation.affine and augmentation.elastic",
        "augment": "take a lighter augmentation.preset",
        "collate": "lower system.training.batch_size",
    }[longest]
    rest = f"most of the preparation ({part:.0%}) is to {longest} patches: {advice}."
    gain = (current.wait_ms + current.step_ms) / (best.wait_ms + best.step_ms)
    if best.threads != configured and gain > 1 + _TOLERATED:
        rest = (
            f"system.training.num_workers={best.threads} makes steps {gain:.2f} times "
            f"as fast; {rest}"
        )
    if share > _TOLERATED / 2:
        return "slow", f"{facts}. Data are too slow: {rest}"
    return "contended", (
        f"{facts}. Threads take processor time from the network, because both compute "
        f"on the same cores: {rest}"
    )


def _threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def _to_try(threads: Sequence[int], configured: int) -> list[int]:
    some = threads or [n for n in (0, 1, 2, 4) if n <= (os.cpu_count() or 1)]
    return sorted({*some, configured})


def _time_stages(
    source: PatchSource, micro_batches: int, now: Callable[[], float]
) -> tuple[dict[str, float], float]:
    """Return the seconds of each stage in one step, and the share that is learnt."""
    spent = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        started = now()
        yield
        spent[name] += now() - started

    watched = PatchSource(source.volumes, source.config, source.patch_size, stage)
    shares = [
        float(watched.batch(_FAR + step, i).valid_BCZYX.float().mean())
        for step in range(_REPEATS)
        for i in range(micro_batches)
    ]
    return {k: v / _REPEATS for k, v in spent.items()}, float(np.mean(shares))


def _ready(source: PatchSource, plan: TrainPlan) -> list[Batch]:
    device = plan.compute.device
    made = [source.batch(0, i) for i in range(plan.micro_batches)]
    return [
        Batch(
            batch.image_BCZYX.to(device),
            batch.targets_BCZYX.to(device),
            batch.valid_BCZYX.to(device),
        )
        for batch in made
    ]


def _try(
    learner: Learner,
    source: PatchSource,
    plan: TrainPlan,
    n_threads: int,
    steps: int,
    seconds: float,
    number: int,
    now: Callable[[], float],
) -> tuple[float, float, float]:
    """Return the mean seconds of waiting, of a step, and of one on ready data."""
    ready = _ready(source, plan)
    bare: list[float] = []
    waits: list[float] = []
    works: list[float] = []
    began = now()
    for _ in range(max(3, steps // 2)):
        if bare and now() - began > seconds / 2:
            break
        started = now()
        learner.learn(ready)
        bare.append(now() - started)
    # Steps of its own for each trial: patches that were read before are cached.
    first = 1000 * (number + 1)
    stream = batches(
        source,
        first,
        range(plan.micro_batches),
        n_threads,
        device=plan.compute.device,
    )
    with closing(stream):  # type: ignore[type-var]  # batches() is a generator
        for step in range(_WARM_UP + steps):
            is_over = now() - began > seconds
            if is_over and works:
                break
            started = now()
            batch = next(stream)
            arrived = now()
            learner.learn(batch)
            if step >= _WARM_UP or is_over:
                waits.append(arrived - started)
                works.append(now() - arrived)
    return mean(waits), mean(works), mean(bare)
