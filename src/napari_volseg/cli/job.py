"""Do a job in this process, with its progress in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from napari_volseg.cli.progress import Reporter, interruptible
from napari_volseg.errors import DataError
from napari_volseg.events import Finished

__all__ = ["run_in_terminal"]


def run_in_terminal(
    folder: Path, *, resume: bool = False, scheduler: str | None = None
) -> tuple[Finished, int]:
    """Do the job of a folder; return how it ended and the exit code for that.

    A failure is printed: exit code 2 for what the user can mend, else 1. A job
    that Ctrl-C stopped has the code 130.
    """
    from napari_volseg.worker import run_job

    errors: list[Exception] = []
    with interruptible() as interrupt, Reporter() as report:
        finished = run_job(
            folder,
            resume=resume,
            scheduler=scheduler,
            show=report,
            should_stop=interrupt,
            on_error=errors.append,
        )
    if finished.reason == "failed":
        sys.stderr.write(f"volseg: error: {finished.message}\n")
        mendable = bool(errors) and isinstance(errors[0], DataError)
        return finished, 2 if mendable else 1
    return finished, 130 if interrupt.asked else 0
