"""Show a job in the terminal, and let Ctrl-C end it in two steps."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self, assert_never

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from napari_volseg.cli.words import duration
from napari_volseg.events import (
    CheckpointSaved,
    Event,
    Finished,
    Notice,
    PreviewReady,
    Started,
    Validated,
)
from napari_volseg.events import Progress as ProgressEvent

__all__ = ["Interrupt", "Reporter", "counting", "interruptible"]

_PLAIN_SECONDS = 10.0
_SHOWN_METRICS = (
    "f1_50",
    "ap",
    "adapted_rand_error",
    "mask_dice",
    "boundary_f1",
    "distance_rmse",
    "distance_ssim",
    "distance_psnr",
)


class Interrupt:
    """Whether the user asked for an end, and how urgently."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Return whether the job should stop."""
        return self.asked


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Make the first Ctrl-C ask for a stop that keeps the work, the second abort.

    SIGTERM, which clusters send before they kill, asks for a stop too. A
    signal that is ignored, as under ``nohup``, stays ignored.
    """
    interrupt = Interrupt()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True
        _tell("stopping after this step and keeping the work; Ctrl-C again aborts")

    numbers = [signal.SIGINT, signal.SIGTERM]
    active = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in active}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows how many of all are done, on a terminal only."""
    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"))
    with Progress(
        *columns,
        TextColumn(what),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Reporter:
    """Prints a job's events on standard error: a live bar, or plain lines.

    A terminal that goes away ends the printing, never the job.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[detail]}"),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._started: Started | None = None
        self._score = ""
        self._next_line = 0.0
        self._broken = False

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self._broken:
            return
        try:
            self._show(event)
        except OSError:
            self._broken = True

    def _show(self, event: Event) -> None:
        match event:
            case Started():
                self._begin(event)
            case ProgressEvent():
                self._advance(event)
            case Validated():
                self._validated(event)
            case Notice():
                style = {"info": None, "warning": "yellow", "error": "red"}[event.level]
                self._line(event.message, style=style)
            case CheckpointSaved() | PreviewReady() | Finished():
                return
            case _:
                assert_never(event)

    def _begin(self, event: Started) -> None:
        verb = "training" if event.job == "train" else "predicting"
        unit = "steps at most" if event.job == "train" else "windows"
        resumed = f" from step {event.step}" if event.step else ""
        memory = (
            f", about {event.memory_bytes / 1e9:.1f} GB" if event.memory_bytes else ""
        )
        self._line(f"{verb} on {event.device}: {event.total} {unit}{resumed}{memory}")
        self._started = event
        if self._live:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(
                verb, total=event.total, completed=event.step, detail=""
            )

    def _advance(self, event: ProgressEvent) -> None:
        state = event.state if event.state != "running" else ""
        loss = "" if event.loss is None else f"loss {event.loss:.4f}"
        left = "" if event.remaining is None else f"{duration(event.remaining)} left"
        detail = "  ".join(part for part in (loss, self._score, left, state) if part)
        if self._live and self._task is not None:
            self._bar.update(
                self._task, completed=event.step, total=event.total, detail=detail
            )
            return
        now = time.monotonic()
        if now >= self._next_line or event.step >= event.total:
            self._next_line = now + _PLAIN_SECONDS
            self._line(f"step {event.step}/{event.total}  {detail}")

    def _validated(self, event: Validated) -> None:
        shown = [
            f"{name} {event.metrics[name]:.3f}"
            for name in _SHOWN_METRICS
            if name in event.metrics
        ]
        if "f1_50" in event.metrics:
            self._score = f"F1 {event.metrics['f1_50']:.3f}"
        best = "  (best so far)" if event.best else ""
        self._line(f"validation at step {event.step}: {'  '.join(shown)}{best}")

    def _line(self, text: str, **kwargs: Any) -> None:
        self._console.print(text, markup=False, soft_wrap=True, **kwargs)


def _tell(text: str) -> None:
    try:
        sys.stderr.write(f"\nvolseg: {text}\n")
        sys.stderr.flush()
    except (OSError, RuntimeError):  # gone, or in the middle of a write
        return
