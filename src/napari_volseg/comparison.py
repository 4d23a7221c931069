"""Runs side by side: scores, losses, time, size, and the settings that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_volseg.errors import DataError
from napari_volseg.events import Event, Progress, Started, Validated
from napari_volseg.models import count_weights
from napari_volseg.results import RESULTS, read_scores
from napari_volseg.runs import list_runs, read_config, read_events

__all__ = ["Curves", "RunFacts", "differing_settings", "read_facts"]

Point = tuple[float, float]

_UNCOMPARED = ("automatic.kept",)


@dataclass(frozen=True, slots=True)
class Curves:
    """How a run went, as points (step, value)."""

    loss: tuple[Point, ...]
    """Total training loss."""
    val_loss: tuple[Point, ...]
    score: tuple[Point, ...]
    """``f1_50`` on held-out voxels."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is compared of one run; None where a run has not come so far."""

    name: str
    folder: Path
    state: str
    device: str
    step: int
    seconds: float | None
    """Time of training, all sessions together."""
    loss: float | None
    """Training loss at the end."""
    val_loss: float | None
    """Loss on held-out voxels, of the best validation."""
    score: float | None
    """``f1_50`` on held-out voxels, of the best validation."""
    test: Mapping[str, float]
    """Mean metrics of the last ``volseg test``; empty before one."""
    n_weights: int | None
    """Numbers that the model holds."""
    model_bytes: int | None
    curves: Curves
    settings: Mapping[str, Any]
    """Every setting by its dotted key."""


def read_facts(folder: Path) -> RunFacts:
    """Read what there is to compare of a run, also while it runs.

    Raises
    ------
    DataError
        If the folder is no run or its configuration cannot be read.
    """
    folder = Path(folder).absolute()
    summary = next((s for s in list_runs(folder.parent) if s.folder == folder), None)
    if summary is None:
        raise DataError(f"{folder} is not a run folder: 'volseg runs' lists yours")
    events = _without_lost_steps(read_events(folder))
    progress = [e for e in events if isinstance(e, Progress)]
    validated = [e for e in events if isinstance(e, Validated)]
    best = next((e for e in reversed(validated) if e.best), None)
    losses = [(e.step, e.loss) for e in progress if e.loss is not None]
    scores = read_scores(folder / RESULTS)
    n_weights, model_bytes = _size(folder / "model.safetensors")
    return RunFacts(
        name=folder.name,
        folder=folder,
        state=summary.state,
        device=next((e.device for e in reversed(events) if isinstance(e, Started)), ""),
        step=max((e.step for e in progress), default=summary.step),
        seconds=max((e.elapsed for e in progress), default=None),
        loss=losses[-1][1] if losses else None,
        val_loss=best.metrics.get("loss") if best else None,
        score=summary.score,
        test=scores.mean if scores else {},
        n_weights=n_weights,
        model_bytes=model_bytes,
        curves=Curves(
            tuple(losses), _curve(validated, "loss"), _curve(validated, "f1_50")
        ),
        settings=dict(_flatten(read_config(folder).model_dump(mode="json"))),
    )


def differing_settings(runs: Sequence[RunFacts]) -> dict[str, tuple[Any, ...]]:
    """Return the settings that are not the same in all runs, a value for each run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: tuple(run.settings.get(key) for run in runs) for key in keys}
    return {
        key: found
        for key, found in values.items()
        if key not in _UNCOMPARED and any(value != found[0] for value in found)
    }


def _without_lost_steps(events: Sequence[Event]) -> list[Event]:
    """Leave out what a crash lost: steps that a later session did again."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Started):
            kept = [e for e in kept if getattr(e, "step", 0) <= event.step]
        kept.append(event)
    return kept


def _curve(validated: Sequence[Validated], metric: str) -> tuple[Point, ...]:
    return tuple((e.step, e.metrics[metric]) for e in validated if metric in e.metrics)


def _size(model: Path) -> tuple[int | None, int | None]:
    try:
        return count_weights(model), model.stat().st_size
    except (DataError, OSError):
        return None, None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
