"""How far a job is, and how long it will take."""

from __future__ import annotations

from qtpy.QtWidgets import QProgressBar

from napari_volseg.events import Progress
from napari_volseg.widgets.messages import duration_words

__all__ = ["REFRESH_MS", "ProgressLine", "done_share"]

REFRESH_MS = 1000
"""How often a dock shows what a job says: each repaint makes napari's window late."""


class ProgressLine(QProgressBar):
    """A progress bar that also says how long it will take."""

    def begin(self, text: str) -> None:
        """Show that work goes on whose length is not known.

        Without the animation of a busy bar: where OpenGL runs in software, each of
        its frames costs napari's event loop some 40 ms.
        """
        self.setRange(0, 1000)
        self.setValue(0)
        self.setFormat(text)
        self.setAccessibleDescription(text)

    def show_progress(self, progress: Progress) -> None:
        """Show how far the job is."""
        share = done_share(progress)
        self.setRange(0, 1000)
        self.setValue(round(1000 * share))
        text = f"{100 * share:.0f} %"
        done, total = progress.blocks
        if total > 1 and progress.state == "running":
            text = f"{text} · block {done}/{total}"
        if progress.state not in ("running",):
            text = f"{text} · {progress.state}"
        elif progress.remaining is not None:
            text = f"{text} · {duration_words(progress.remaining)} left"
        self.setFormat(text)
        self.setAccessibleDescription(text)


def done_share(progress: Progress) -> float:
    """Return which share of the work is done: of the time where that is known.

    A budget of minutes or a score that stalls may end a training long before its
    last step.
    """
    if progress.remaining is not None and progress.elapsed > 0:
        return progress.elapsed / (progress.elapsed + max(0.0, progress.remaining))
    return min(1.0, progress.step / max(1, progress.total))
