"""What a training has reached so far, as points to plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from napari_volseg.charts import round_step
from napari_volseg.events import Event, Progress, Validated

__all__ = ["Curves", "shown_range"]

_MAX_POINTS = 2000


class Curves:
    """Loss and score against the step; long runs are thinned evenly."""

    def __init__(self) -> None:
        self.loss: list[tuple[float, float]] = []
        self.score: list[tuple[float, float]] = []

    def add(self, event: Event) -> bool:
        """Take what an event says; return whether there is more to draw."""
        if isinstance(event, Progress) and event.loss is not None:
            _append(self.loss, event.step, event.loss)
            return True
        if isinstance(event, Validated) and "f1_50" in event.metrics:
            _append(self.score, event.step, event.metrics["f1_50"])
            return True
        return False


def shown_range(values: Sequence[float]) -> tuple[float, float]:
    """Return a range around the finite values that seldom changes as they grow.

    Its ends are multiples of a round tenth to quarter of the span: axes are the costly
    part of a plot, and are drawn anew only when their range changes.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low == high:
        low, high = low - abs(low) / 10 - 0.1, high + abs(high) / 10 + 0.1
    unit = round_step((high - low) / 10)
    return math.floor(low / unit) * unit, math.ceil(high / unit) * unit


def _append(points: list[tuple[float, float]], step: float, value: float) -> None:
    while points and points[-1][0] >= step:
        points.pop()  # a resumed run repeats the steps after its checkpoint
    points.append((step, value))
    if len(points) > _MAX_POINTS:
        del points[1:-1:2]
