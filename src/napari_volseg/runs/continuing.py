"""Train a run on that has used up its budget."""

from __future__ import annotations

from math import ceil
from pathlib import Path

from napari_volseg.errors import DataError
from napari_volseg.events import Progress
from napari_volseg.runs.folder import has_checkpoint, read_config
from napari_volseg.runs.log import read_events

__all__ = ["longer_budget"]


def longer_budget(folder: Path, minutes: float) -> list[str]:
    """Return the settings with which a run that has ended goes on for a while.

    Give them to `amend_run` and resume. A budget of minutes is raised by `minutes`,
    one of epochs by as many as the run did in that time. Early stopping is off: who
    asks for more wants it.

    Parameters
    ----------
    folder
        A run that does not train at the moment.
    minutes
        Minutes of training to add, above 0.

    Raises
    ------
    DataError
        If the run has no checkpoint to go on from, or never took a step.
    """
    config = read_config(folder)
    done = next((e for e in reversed(_progress(folder)) if e.step > 0), None)
    if done is None or not has_checkpoint(folder):
        raise DataError(
            f"the run '{folder.name}' has nothing to go on from: train it anew"
        )
    used = max(done.elapsed, 1e-3) / 60
    epochs = max(1, done.epoch)
    more = max(1, ceil(epochs * minutes / used))
    overrides = ["monitor.early_stopping.enabled=false"]
    budget = config.optimization
    if budget.max_minutes:
        overrides.append(f"optimization.max_minutes={used + minutes:.4f}")
        # Twice what the minutes will suffice for, so that they decide.
        more *= 2
    wanted = max(epochs + more, budget.max_epochs if budget.max_minutes else 0)
    return [*overrides, f"optimization.max_epochs={wanted}"]


def _progress(folder: Path) -> list[Progress]:
    return [event for event in read_events(folder) if isinstance(event, Progress)]
