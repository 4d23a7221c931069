"""What a training has reached so far, as points to plot."""

from __future__ import annotations

from napari_volseg.events import Event, Progress, Validated

__all__ = ["Curves"]

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


def _append(points: list[tuple[float, float]], step: float, value: float) -> None:
    while points and points[-1][0] >= step:
        points.pop()  # a resumed run repeats the steps after its checkpoint
    points.append((step, value))
    if len(points) > _MAX_POINTS:
        del points[1:-1:2]
