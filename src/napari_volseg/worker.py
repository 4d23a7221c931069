"""Do a job: read its folder, run the engine, write down what it says.

The same code runs in the process that napari launches and in the command line.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice
from napari_volseg.failures import explain
from napari_volseg.io import write_json
from napari_volseg.joblog import LogKeeper, logging_to, sweep
from napari_volseg.priority import step_back
from napari_volseg.ranks import lead_cluster, place_in_cluster, supervise
from napari_volseg.runs import (
    Control,
    ControlReader,
    EventLog,
    begin_session,
    has_checkpoint,
    is_prediction,
    lock,
    read_prediction,
    read_run,
    settle_config,
    write_result,
)

__all__ = ["run_job", "serve"]

_logger = logging.getLogger(__name__)


def run_job(
    folder: Path,
    *,
    resume: bool = False,
    scheduler: str | None = None,
    show: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_error: Callable[[Exception], None] = lambda error: None,
) -> Finished:
    """Do the job of a folder to its end, in this process.

    Parameters
    ----------
    folder
        The folder of a run or prediction.
    resume
        Continue a run from its last checkpoint, a prediction after its last block.
    scheduler
        Where to predict blocks, as `inference.predict` takes it.
    show
        Called with every event, on this thread.
    should_stop
        Asked at every step, beside ``control.json``.
    on_error
        Called with what made the job fail, after it was written down.

    Returns
    -------
    Finished
        Also written to ``result.json``, as the last thing.

    Raises
    ------
    DataError
        If another process works in the folder, or it cannot be written.
    """
    folder = Path(folder).absolute()
    with lock(folder), logging_to(folder / "worker.log"):
        sweep(folder)
        journal = _Journal(folder, show)
        error: Exception | None = None
        try:
            finished = _work(folder, resume, scheduler, should_stop, journal)
        except Exception as caught:
            _logger.exception("the job failed")
            error = caught
            finished = Finished("failed", explain(caught, folder))
        journal(finished)
        try:
            write_result(folder, finished)
        except DataError:
            _logger.exception("the result could not be written: %s", finished.message)
    if error is not None:
        on_error(error)
    return finished


def serve(folder: Path, *, resume: bool, with_parent: bool) -> int:
    """Be the worker process of a job; return its exit code.

    Parameters
    ----------
    folder, resume
        As for `run_job`.
    with_parent
        End as soon as standard input closes, which it does when the process
        that launched this one ends; unless ``control.json`` says *detached*.
    """
    faulthandler.enable()
    os.umask(0o077)
    folder = Path(folder).absolute()
    if with_parent:
        watcher = threading.Thread(target=_end_with_parent, args=(folder,), daemon=True)
        watcher.start()
    else:
        begin_session(folder, resume=resume)
    step_back()
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    finished = run_job(
        folder, resume=resume, show=LogKeeper(folder), should_stop=asked.is_set
    )
    return 1 if finished.reason == "failed" else 0


class _Journal:
    """Writes events down and shows them; says once when the disk refuses them."""

    def __init__(self, folder: Path, show: Callable[[Event], None]) -> None:
        self._log = EventLog(folder)
        self._show = show
        self._warned = False

    def __call__(self, event: Event) -> None:
        written = self._log.append(event)
        self._show(event)
        if not written and not self._warned:
            self._warned = True
            _logger.warning("events are lost: %s", self._log.error)
            self._show(
                Notice(
                    f"Progress cannot be written ({self._log.error}); work goes on: "
                    "free some space on the disk of the run folder",
                    "warning",
                )
            )


def _work(
    folder: Path,
    resume: bool,
    scheduler: str | None,
    should_stop: Callable[[], bool],
    journal: Callable[[Event], None],
) -> Finished:
    reader = ControlReader(folder)

    def read_control() -> Control:
        control = reader()
        return replace(control, stop=True, pause=False) if should_stop() else control

    if is_prediction(folder):
        events = _predict(folder, lambda: read_control().stop, resume, scheduler)
    else:
        events = _train(folder, resume, read_control)
    try:
        for event in events:
            if isinstance(event, Finished):
                return event
            journal(event)
    finally:
        if isinstance(events, Generator):
            events.close()  # it holds device memory until then
    raise RuntimeError("the engine ended without saying how")


def _train(
    folder: Path, resume: bool, read_control: Callable[[], Control]
) -> Iterator[Event]:
    config, pairs = read_run(folder)
    from napari_volseg.planning import plan_training
    from napari_volseg.settling import batch_asked, keep_step, settle

    before = _old_plan(folder)
    resume = resume and has_checkpoint(folder)
    place = place_in_cluster()
    n_ranks = place.size if place else None
    plan = settle(plan_training(config, pairs, folder, n_ranks=n_ranks))
    if config.automatic.enabled:
        # From now on the run is what was chosen, also when it is resumed.
        config = plan.config
        settle_config(folder, config)
    if resume:
        plan = keep_step(plan, config, before)
    why = {key: before[key] for key in ("choices", "fingerprint") if key in before}
    summary = {**plan.summary(), "batch_asked": batch_asked(config)}
    write_json(folder / "plan.json", why | summary)
    if place is not None:
        return lead_cluster(
            place, plan, pairs, folder, resume=resume, read_control=read_control
        )
    if plan.n_ranks > 1:
        return supervise(
            folder,
            {"plan": plan.to_json(), "resume": resume},
            plan.n_ranks,
            rank_timeout=config.system.training.rank_timeout,
            should_stop=lambda: read_control().stop,
        )
    from napari_volseg.devices import use_gpu
    from napari_volseg.training import train

    if plan.gpus:
        use_gpu(plan.gpus[0])
    events = train(plan, pairs, folder, resume=resume, read_control=read_control)
    if resume:
        return events
    from napari_volseg.annotation_check.reminder import with_reminder

    return with_reminder(events, [pair.volume for pair in pairs])


def _old_plan(folder: Path) -> dict[str, Any]:
    """Return what the last session resolved, and why; empty before the first."""
    try:
        plan = json.loads((folder / "plan.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _predict(
    folder: Path,
    should_stop: Callable[[], bool],
    resume: bool = False,
    scheduler: str | None = None,
) -> Iterator[Event]:
    request = read_prediction(folder)
    from napari_volseg.inference import predict

    return predict(
        request.model,
        request.image,
        folder,
        inference=request.inference,
        instances=request.instances,
        device=request.device,
        mask_ZYX=request.mask_ZYX,
        resume=resume,
        scheduler=scheduler,
        should_stop=should_stop,
    )


def _end_with_parent(folder: Path) -> None:
    """End this process when standard input does: whoever launched it is gone."""
    while True:
        try:
            # Not sys.stdin: a buffered reader blocked at exit aborts Python.
            if not os.read(0, 4096):
                break
        except OSError:
            break
    if not ControlReader(folder)().detached:
        # At once and without clean-up: checkpoints are atomic, and a normal
        # exit would wait for threads that compute.
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(1)
