"""One trial of a sweep: a run in a process of its own, which may be stopped early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_volseg.events import Event, Finished, Progress, Validated
from napari_volseg.runs import Worker, follow

__all__ = ["Launch", "Outcome", "Report", "run_trial"]

Launch = Callable[[Path, bool], Worker]
"""Starts the worker of a run; the second argument says whether to resume it."""

Report = Callable[[int, float], bool]
"""Takes the number of a validation and its score; returns whether to give up."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended."""

    state: Literal["completed", "pruned", "failed", "interrupted"]
    score: float | None
    step: int
    message: str


def run_trial(
    folder: Path,
    metric: str,
    *,
    launch: Launch,
    resume: bool = False,
    report: Report = lambda n, score: False,
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Train the run of a folder to its end, or until it is given up.

    Parameters
    ----------
    folder
        A run folder.
    metric
        The score, a key of the metrics of a validation.
    report
        Called at every validation; True stops the worker, which keeps its work.
    should_stop
        Asked several times a second; True stops the worker too.

    Returns
    -------
    Outcome
        The score is that of the finished model, else of the best validation.
    """
    worker = launch(folder, resume)
    seen = _Seen(metric)
    asked: Literal["", "pruned", "interrupted"] = ""
    try:
        for event in follow(folder, worker):
            if should_stop() and not asked:
                asked = "interrupted"
                worker.stop()
            if event is None:
                continue
            show(event)
            score = seen.take(event)
            if score is not None and report(seen.n_scores, score) and not asked:
                asked = "pruned"
                worker.stop()
    finally:
        # Also after a second Ctrl-C, and when the terminal has gone.
        if worker.alive:
            worker.kill()
    return seen.outcome(asked)


class _Seen:
    """What a trial's events have said so far."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._scores: list[tuple[bool, float]] = []
        self._step = 0
        self._finished: Finished | None = None

    @property
    def n_scores(self) -> int:
        return len(self._scores)

    def take(self, event: Event) -> float | None:
        """Note an event; return the score when it is a validation that has one."""
        if isinstance(event, Progress):
            self._step = max(self._step, event.step)
        elif isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, Validated) and self._metric in event.metrics:
            score = event.metrics[self._metric]
            self._scores.append((event.best, score))
            return score
        return None

    def outcome(self, asked: Literal["", "pruned", "interrupted"]) -> Outcome:
        finished = self._finished
        if finished is None or finished.reason == "failed":
            message = finished.message if finished else "the worker said nothing"
            return Outcome(asked or "failed", self._best(), self._step, message)
        if asked and finished.reason == "stopped":
            return Outcome(asked, self._best(), self._step, finished.message)
        score = finished.metrics.get(self._metric, self._best())
        if score is None:
            message = f"it has no score '{self._metric}': nothing was validated"
            return Outcome("failed", None, self._step, message)
        return Outcome("completed", score, self._step, finished.message)

    def _best(self) -> float | None:
        best = [score for is_best, score in self._scores if is_best]
        if best:
            return best[-1]
        return self._scores[-1][1] if self._scores else None
