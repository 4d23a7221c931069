"""Instances that follow the thresholds, computed in a process of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.retuning import Failed, Retuned, Retuner
from napari_volseg.widgets.threads import make_worker

__all__ = ["Tuning"]

_POLL_MS = 20


class Tuning(QObject):
    """Segments the maps of one box again and again, always with the newest wish.

    Maps are read and handed over in a thread; the first request starts that.
    """

    retuned = Signal(object)
    """A `Retuned`; its labels cover `box`."""
    sliced = Signal(object)
    """A `Retuned` of the slices that were asked for; those of `box` come later."""
    failed = Signal(str)

    def __init__(
        self, maps: Sequence[Any], box: Box, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.box = box
        self._maps = maps
        self._retuner: Retuner | None = None
        self._wish: tuple[InstancesConfig, Box | None, bool] | None = None
        self._ticket = 0
        self._is_loading = False
        self._is_closed = False
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)

    def request(
        self, config: InstancesConfig, slices: Box | None = None, *, seeds: bool = True
    ) -> None:
        """Ask for instances; an older request that waits is dropped.

        Parameters
        ----------
        slices
            The part that is looked at, in the voxels of the maps and inside `box`: it
            is answered first.
        seeds
            Whether the seeds are wanted, too.
        """
        self._wish = config, slices, seeds
        if self._retuner is not None:
            self._send()
        elif not self._is_loading:
            self._is_loading = True
            worker = make_worker(_load, self._maps, self.box)
            worker.returned.connect(self._take)
            worker.errored.connect(self._lose)
            worker.start()

    def close(self) -> None:
        """End the process; nothing is said afterwards."""
        self._is_closed = True
        self._timer.stop()
        if self._retuner is not None:
            self._retuner.close()
            self._retuner = None

    def _take(self, retuner: Retuner) -> None:
        if self._is_closed:
            retuner.close()
            return
        self._is_loading = False
        self._retuner = retuner
        self._send()

    def _lose(self, error: Exception) -> None:
        self._is_loading = False
        if not self._is_closed:
            self.failed.emit(str(error))

    def _send(self) -> None:
        if self._retuner is not None and self._wish is not None:
            (config, slices, seeds), self._wish = self._wish, None
            if slices is not None:
                self._retuner.request(config, _moved(slices, self.box), "slices")
            self._ticket = self._retuner.request(config, seeds=seeds)
            self._timer.start()

    def _poll(self) -> None:
        if self._retuner is None:
            return
        first = self._retuner.poll("slices")
        if isinstance(first, Retuned):
            self.sliced.emit(first)
        answer = self._retuner.poll()
        if isinstance(answer, Retuned):
            if answer.ticket == self._ticket:
                self._timer.stop()
            self.retuned.emit(answer)
        elif isinstance(answer, Failed):
            self.close()
            self._is_closed = False
            self.failed.emit(answer.message)


def _moved(part: Box, box: Box) -> Box:
    """Return a part of a box in the box's own voxels."""
    z, y, x = part.within(box)
    return Box((z.start, y.start, x.start), (z.stop, y.stop, x.stop))


def _load(maps: Sequence[Any], box: Box) -> Retuner:
    maps_CZYX = np.stack([np.asarray(channel[box.slices]) for channel in maps])
    retuner = Retuner()
    try:
        retuner.load(maps_CZYX)
    except BaseException:
        retuner.close()
        raise
    return retuner
