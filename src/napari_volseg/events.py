"""What a run says: one frozen dataclass a kind, one JSON line each.

Events carry plain numbers, strings and paths, never arrays. A generator of
events begins with `Started` and ends with `Finished`; errors are raised.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = [
    "CheckpointSaved",
    "Event",
    "Finished",
    "Notice",
    "PreviewReady",
    "Progress",
    "Reason",
    "Started",
    "Validated",
    "from_json",
    "to_json",
]

Reason = Literal["completed", "stopped", "converged", "failed"]
"""Why a job ended."""


@dataclass(frozen=True, slots=True)
class Started:
    """The job is set up and its first step is next."""

    job: Literal["train", "predict"]
    device: str
    """The device and number format in words: ``cpu, bf16``."""
    total: int
    """Steps of training, or windows of prediction, that are planned."""
    step: int = 0
    """Where it starts: 0, or the step of the checkpoint it resumes from."""
    memory_bytes: int = 0
    """Estimated peak of working memory."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Work done so far; at most a few of these a second."""

    step: int
    """Optimizer updates, or windows predicted; while segmenting, steps of that."""
    total: int
    """What `step` will be at the end; under a time budget, an estimate."""
    elapsed: float
    """Seconds of work so far, earlier sessions of a resumed run included."""
    remaining: float | None = None
    """Estimated seconds until the end; None when nothing is known."""
    epoch: int = 0
    loss: float | None = None
    """Mean total training loss since the last Progress."""
    losses: tuple[float, ...] = ()
    """The same for mask, boundary and distance, unweighted."""
    lr: float | None = None
    skipped: int = 0
    """Steps so far whose loss or gradient was not finite; they changed nothing."""
    state: Literal["running", "paused", "validating", "segmenting"] = "running"
    blocks: tuple[int, int] = (0, 0)
    """Blocks of a prediction that are finished, skipped ones included, and all."""
    ready: tuple[int, ...] = ()
    """Where the maps became final since the last Progress: six numbers a box, its start
    and stop along z, y and x in voxels. ``maps.zarr`` may be read there from now on; it
    is 0 where nothing was predicted yet."""


@dataclass(frozen=True, slots=True)
class Validated:
    """The held-out voxels were predicted and scored.

    At step 0 with the model whose weights a training begins with.
    """

    step: int
    metrics: Mapping[str, float]
    """``loss`` and the instance metrics of `metrics.evaluate`."""
    best: bool
    """True when this is the best score so far."""


@dataclass(frozen=True, slots=True)
class PreviewReady:
    """Maps and instances of the preview box were written."""

    step: int
    path: str
    """NPZ inside the run folder: ``maps`` (uint8 CZYX), ``instances`` (ZYX)."""
    pair: int
    """Index of the training pair the box lies in."""
    start: tuple[int, int, int]
    stop: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """The state of the run is safe on disk."""

    step: int
    path: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence the user should read."""

    message: str
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every job."""

    reason: Reason
    message: str
    path: str | None = None
    """The model file of a training, the folder of a prediction."""
    metrics: Mapping[str, float] = field(default_factory=dict)


Event = (
    Started | Progress | Validated | PreviewReady | CheckpointSaved | Notice | Finished
)

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


def to_json(event: Event) -> str:
    """Return the event as one line of JSON, without the line feed."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)})


def from_json(line: str) -> Event | None:
    """Return the event of a JSON line; None for a torn or foreign line."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("event")]
        known = {f.name for f in dataclasses.fields(kind)}
        values = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in fields.items()
            if key in known
        }
        event: Event = kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return event
