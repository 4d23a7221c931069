"""Ask what a training would do, in a process of its own, while settings change."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QWidget

from napari_volseg.config import Config, dump_config
from napari_volseg.errors import DataError
from napari_volseg.io import write_text
from napari_volseg.runs import create_run
from napari_volseg.runs.folder import CONFIG
from napari_volseg.runs.pairs import Role
from napari_volseg.widgets.helper import Cancelled, ask
from napari_volseg.widgets.snapshots import PairSnapshot
from napari_volseg.widgets.threads import make_worker

__all__ = ["DELAY_MS", "Planner"]

DELAY_MS = 1200
"""How long settings must stay as they are before a plan is asked for."""
_REMEMBERED = 16
_MOST_BYTES = 2**30
"""Images and labels in memory beyond this are not copied just to plan."""

Pairs = Sequence[tuple[PairSnapshot, Role]]


@dataclass
class _Desk:
    """The folder that plans are made in, shared with threads."""

    folder: Path | None = None
    data_version: int = -1
    ticket: int = 0
    is_closed: bool = False

    def clear(self) -> None:
        """Remove the folder and make every question still open end."""
        self.ticket += 1
        self.data_version = -1
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def close(self, *_: object) -> None:
        """Clear, for ever."""
        self.is_closed = True
        self.clear()


class Planner(QObject):
    """Tells the plan of a training some time after the last change.

    The newest question counts: asking again ends the process of an older one.
    Answers are remembered until the data change.
    """

    asked = Signal()
    """A process was started; an answer takes some seconds."""
    planned = Signal(object)
    """The plan, as `planning.TrainPlan.summary` with free memory and settings."""
    refused = Signal(str)
    """Why training would not start, or why there is no plan."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._desk = _Desk()
        self._remembered: OrderedDict[tuple[int, str], dict[str, Any] | str] = (
            OrderedDict()
        )
        self._question: tuple[Config, Pairs, int] | None = None
        self._is_busy = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._ask)
        # Not a method of this object, which is half gone by then.
        parent.destroyed.connect(self._desk.close)

    def request(self, config: Config, pairs: Pairs, data_version: int) -> None:
        """Ask for a plan.

        Parameters
        ----------
        config
            The whole configuration.
        pairs
            Live snapshots of the chosen layers.
        data_version
            Another number whenever the layers or what they hold changed.
        """
        self._question = config, pairs, data_version
        known = self._remembered.get((data_version, config.model_dump_json()))
        if known is not None:
            self.cancel()
            self._tell(known)
            return
        self._timer.start(DELAY_MS)

    def cancel(self) -> None:
        """End what is asked; nothing is told."""
        self._timer.stop()
        self._desk.ticket += 1
        self._question = None

    def close(self) -> None:
        """Cancel and remove the files."""
        self.cancel()
        self._desk.clear()

    def _ask(self) -> None:
        if self._question is None:
            return
        self._desk.ticket += 1  # ends an older process
        if self._is_busy:
            self._timer.start(100)
            return
        config, pairs, version = self._question
        key = (version, config.model_dump_json())
        self._is_busy = True
        worker = make_worker(
            _plan, self._desk, config, pairs, version, self._desk.ticket
        )
        worker.returned.connect(lambda answer: self._take(key, answer))
        worker.errored.connect(lambda error: self._take(key, str(error)))
        worker.start()
        self.asked.emit()

    def _take(self, key: tuple[int, str], answer: dict[str, Any] | str | None) -> None:
        self._is_busy = False
        if answer is None or self._desk.is_closed:
            return
        self._remembered[key] = answer
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        if self._question is None:
            return
        config, _, version = self._question
        if key == (version, config.model_dump_json()):
            self._tell(answer)

    def _tell(self, answer: dict[str, Any] | str) -> None:
        if isinstance(answer, str):
            self.refused.emit(answer)
        else:
            self.planned.emit(answer)


def _plan(
    desk: _Desk, config: Config, pairs: Pairs, data_version: int, ticket: int
) -> dict[str, Any] | str | None:
    """Return the plan, why there is none, or None when nobody waits any more."""

    def is_cancelled() -> bool:
        return desk.ticket != ticket

    try:
        if desk.data_version != data_version or desk.folder is None:
            _lay_out(desk, config, pairs, data_version)
        if is_cancelled() or desk.folder is None:
            return None
        run = desk.folder / "plan"
        write_text(run / CONFIG, dump_config(config))
        return ask(["plan", str(run)], is_cancelled)
    except DataError as error:
        return str(error)
    except Cancelled:
        return None
    finally:
        if desk.is_closed:
            desk.clear()


def _lay_out(desk: _Desk, config: Config, pairs: Pairs, data_version: int) -> None:
    """Write the data of a run that is only planned."""
    if sum(_bytes_in_memory(snapshot) for snapshot, _ in pairs) > _MOST_BYTES:
        raise DataError(
            "memory and settings of volumes this large in memory are told once "
            "training starts; volumes opened from files are planned before"
        )
    built = [snapshot.build(role) for snapshot, role in pairs]
    if desk.folder is not None:
        shutil.rmtree(desk.folder, ignore_errors=True)
    desk.folder = Path(tempfile.mkdtemp(prefix="volseg-plan-"))
    create_run(config, built, desk.folder, "plan")
    desk.data_version = data_version


def _bytes_in_memory(snapshot: PairSnapshot) -> int:
    labels = 4 * int(snapshot.labels.size)
    if snapshot.source is not None:
        return labels
    return labels + int(getattr(snapshot.image.data, "nbytes", 0))
