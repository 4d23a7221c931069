"""Choose the fastest form of a network for a prediction, by trying all.

A form is used only where its maps agree with those of PyTorch in float32.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.events import Event, Notice
from napari_volseg.forms import Form, list_forms
from napari_volseg.formtrials import Trial, known_trials
from napari_volseg.mapjob import MapJob
from napari_volseg.windows import read_window

__all__ = ["choose_form", "choose_trial"]

_logger = logging.getLogger(__name__)

_MIN_WINDOWS = 60
"""Where fewer are left, nothing is tried; a trial takes about ten passes."""
_WORTH_SECONDS = 120.0
"""A prediction that would take less in the default form is not worth a trial."""
_GAIN = 1.05
"""How much faster than the default a form must be."""
_NO_OPENVINO = (
    "OpenVINO computes networks on processors only, and where it is installed "
    "(pip install 'napari-volseg[openvino]'): {} is used instead"
)


def choose_form(
    job: MapJob,
    model_path: Path,
    block_ids: Sequence[int],
    n_windows: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, MapJob]:
    """Find the form in which the rest of a prediction is computed, saying which.

    A prediction that goes on keeps its form where that works. Forms are tried where at
    least 60 windows are left and the default form would take two minutes or more;
    OpenVINO that is asked for by name is always tried, as it may crash.

    Parameters
    ----------
    block_ids
        Blocks that are not predicted yet.
    n_windows
        Windows that are left.

    Returns
    -------
    MapJob
        The job in its form, which the folder of the job remembers.
    """
    default, backend = job.default_form, job.inference.backend
    forms = list_forms(default, backend, exact=job.exact)
    if not block_ids or (job.has_form and job.forward.form.engine == "eager"):
        return job
    if not forms:
        yield Notice(_NO_OPENVINO.format(default.label), "warning")
        return job
    is_free = backend != "openvino" and not job.has_form
    if is_free and (len(forms) == 1 or n_windows < _MIN_WINDOWS):
        return job
    try:
        windows = _sample(job, block_ids)
    except DataError:
        return job  # said where it is predicted, with the blocks before it kept
    if job.has_form:
        forms = [job.forward.form]  # it works where it was begun, and here?
    if is_free:
        if _seconds(job, windows) * n_windows < _WORTH_SECONDS:
            return job
        yield Notice("Trying in which form this machine computes the network fastest …")
    trials = known_trials(model_path, forms, windows, should_stop)
    if should_stop():
        return job
    for trial in trials:
        _logger.info("%s: %s", trial.form.label, _describe(trial))
    chosen = choose_trial(trials, default)
    job = job.in_form(chosen.form if chosen else default)
    job.remember_form()
    yield _verdict(chosen, trials, default)
    return job


def choose_trial(trials: Sequence[Trial], default: Form) -> Trial | None:
    """Return the fastest trial whose maps agree, None if there is none.

    The default form stays where no other is clearly faster.
    """
    good = [t for t in trials if t.agrees]
    if not good:
        return None
    best = min(good, key=lambda t: t.seconds)
    usual = next((t for t in good if t.form == default), None)
    if usual is not None and usual.seconds < _GAIN * best.seconds:
        return usual
    return best


def _describe(trial: Trial) -> str:
    if trial.failure:
        return trial.failure
    return (
        f"{trial.seconds:.3f} s a pass, {trial.mean:.3f} grey levels from float32 "
        f"on average, {trial.high:.2f} in 99.9 %"
    )


def _verdict(chosen: Trial | None, trials: Sequence[Trial], default: Form) -> Notice:
    """Say in which form the network is computed, and why."""
    usual = next((t for t in trials if t.form == default), None)
    if chosen is None:
        reasons = "; ".join(
            f"{t.form.label}: {t.failure or 'its maps would differ visibly'}"
            for t in trials
        )
        return Notice(
            f"The network is computed by {default.label}, because no other form works "
            f"here ({reasons or 'there was not the time to try'})",
            "warning",
        )
    said = f"The network is computed by {chosen.form.label}"
    if chosen.form == default:
        return Notice(f"{said}, the fastest form here")
    if usual is None:
        return Notice(said)
    if usual.failure:
        return Notice(f"{said}, because {default.label} fails here")
    if not usual.agrees:
        return Notice(f"{said}, because maps of {default.label} would differ visibly")
    gain = usual.seconds / chosen.seconds
    return Notice(f"{said}, {gain:.1f} times as fast here as {default.label}")


def _seconds(job: MapJob, windows: NDArray[np.float32]) -> float:
    """Return what a window takes as the job stands."""
    started = time.perf_counter()
    job.forward(windows[:1])
    return time.perf_counter() - started


def _sample(job: MapJob, block_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return two batches of windows of blocks that are due, the middle one first."""
    middle = len(block_ids) // 2
    order = [*block_ids[middle:], *block_ids[:middle]]
    chosen = [i for i in order[:20] if not job.is_empty(i)][:2] or order[:1]
    windows = []
    for block_id in chosen:
        box = job.grid.box(block_id)
        plan = job.plan(box)
        corner = [starts[len(starts) // 2] for starts in plan.starts]
        windows.append(read_window(job.image, job.range_C2, plan, corner))
    n = 2 * job.forward.batch_size
    return np.stack([windows[i % len(windows)] for i in range(n)])
