"""Which runs there are, and how far each has come."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_volseg.config import parse_tree, read_text
from napari_volseg.errors import DataError
from napari_volseg.events import CheckpointSaved, Progress, Validated, from_json
from napari_volseg.io import expand_home
from napari_volseg.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    MODEL,
    PAIRS,
    has_checkpoint,
    is_run,
    read_config,
)
from napari_volseg.runs.log import EVENTS, RESULT, read_result
from napari_volseg.runs.ownership import is_locked

__all__ = [
    "RunLister",
    "RunSummary",
    "State",
    "default_runs_dir",
    "list_runs",
    "newest_model",
]

State = Literal[
    "new", "running", "interrupted", "completed", "stopped", "converged", "failed"
]
"""Interrupted: the worker ended without a word, so the run can be resumed."""

_TAIL_BYTES = 2**16, 2**22
"""How much of a log is read, and how much if what is looked for is not in it."""
_NAME = re.compile(r"^experiment_name:.*(\n([ \t].*)?)*", re.MULTILINE)
"""The line of the name, and those that continue it."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run at a glance."""

    folder: Path
    name: str
    state: State
    created: str
    """ISO 8601 with time zone; empty when the folder does not say."""
    step: int
    score: float | None
    """``f1_50`` of the model, or of the best validation so far."""
    has_model: bool
    has_checkpoint: bool
    preset: str
    """``experiment_name`` of its configuration."""
    message: str
    """How it ended, in words; empty while it has not."""


def default_runs_dir() -> Path:
    """Return the folder of runs: VOLSEG_RUNS, else ``volseg-runs`` at home."""
    chosen = os.environ.get("VOLSEG_RUNS")
    return expand_home(chosen) if chosen else Path.home() / "volseg-runs"


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs of a folder, newest first; an empty list when it is not there."""
    try:
        folders = [entry for entry in Path(runs_dir).iterdir() if is_run(entry)]
    except OSError:
        return []
    runs = [_summarise(folder.absolute()) for folder in folders]
    return sorted(runs, key=lambda run: (run.created, run.name), reverse=True)


class RunLister:
    """Lists the runs of a folder again and again; reads only what has changed.

    Parameters
    ----------
    runs_dir
        The folder of runs.
    """

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = Path(runs_dir)
        self._known: dict[Path, tuple[object, RunSummary]] = {}

    def __call__(self) -> list[RunSummary]:
        """Return what `list_runs` does."""
        try:
            folders = [e.absolute() for e in self.runs_dir.iterdir() if is_run(e)]
        except OSError:
            folders = []
        known = self._known
        self._known = {}
        for folder in folders:
            signature = _signature(folder)
            before = known.get(folder)
            if before is None or before[0] != signature:
                before = signature, _summarise(folder)
            self._known[folder] = before
        runs = [run for _, run in self._known.values()]
        return sorted(runs, key=lambda run: (run.created, run.name), reverse=True)


def newest_model(runs_dir: Path) -> Path | None:
    """Return the model file that was written last, None when there is none."""
    try:
        models = list(Path(runs_dir).glob(f"*/{MODEL}"))
        return max(models, key=lambda path: path.stat().st_mtime_ns, default=None)
    except OSError:
        return None


def _signature(folder: Path) -> object:
    """Return what differs whenever the summary of a run would."""
    found: list[object] = [is_locked(folder)]
    for name in (CONFIG, EVENTS, RESULT, MODEL, CHECKPOINTS):
        try:
            stat = (folder / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append(None)
    return found


def _summarise(folder: Path) -> RunSummary:
    step, score = _progress(folder)
    state, message, metrics = _state(folder)
    return RunSummary(
        folder=folder,
        name=folder.name,
        state=state,
        created=_created(folder),
        step=step,
        score=metrics.get("f1_50", score),
        has_model=(folder / MODEL).is_file(),
        has_checkpoint=has_checkpoint(folder),
        preset=_preset(folder),
        message=message,
    )


def _state(folder: Path) -> tuple[State, str, Mapping[str, float]]:
    if is_locked(folder):
        return "running", "", {}
    try:
        result = read_result(folder)
    except DataError as error:
        return "failed", str(error), {}
    if result is not None:
        return result.reason, result.message, result.metrics
    return ("interrupted" if (folder / EVENTS).exists() else "new"), "", {}


def _created(folder: Path) -> str:
    try:
        return str(json.loads((folder / PAIRS).read_text("utf-8"))["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _preset(folder: Path) -> str:
    try:
        lines = _NAME.search(read_text(folder / CONFIG))
        with suppress(DataError):
            # All of a configuration takes a hundred times as long to read.
            if lines is not None:
                return str(parse_tree(lines[0], CONFIG)["experiment_name"])
        return read_config(folder).experiment_name
    except DataError:
        return ""


def _progress(folder: Path) -> tuple[int, float | None]:
    """Return the newest step and best score, from the end of the log."""
    step: int | None = None
    for n_bytes in _TAIL_BYTES:
        try:
            with (folder / EVENTS).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - n_bytes))
                lines = file.read().splitlines()
        except OSError:
            return 0, None
        for line in reversed(lines):
            if step is None:
                event = from_json(line.decode("utf-8", "replace"))
                if isinstance(event, Progress | CheckpointSaved | Validated):
                    step = event.step
            if b'"Validated"' in line:
                event = from_json(line.decode("utf-8", "replace"))
                if isinstance(event, Validated) and event.best:
                    return step or event.step, event.metrics.get("f1_50")
        if size <= n_bytes:
            break
    return step or 0, None
