"""The maps of a prediction as layers that fill up block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer

from napari_volseg.events import Event, Progress
from napari_volseg.geometry import Box, Size
from napari_volseg.io import open_volume
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.layers import METADATA_KEY, Placement, plain
from napari_volseg.widgets.outputs import MAPS, add_beside, free_name, make_map
from napari_volseg.widgets.readers import lazy
from napari_volseg.widgets.threads import make_worker

__all__ = ["MapStream"]

_IN_MEMORY = 512 * 2**20
"""Bytes of maps up to which they are held in memory; larger ones stay in their file."""
_REFRESH_MS = 1000
_STEP_MS = 20
_FIRST = "boundary"
"""The map that is shown while the others fill up unseen."""


class MapStream(QObject):
    """Shows the maps of a running prediction where they are final.

    The blocks are read in a thread. Until `settle` the layers do not count as a
    prediction, so that nothing makes instances of maps that are not whole.
    """

    def __init__(
        self, viewer: Any, place: Placement, image: str, start: Size = (0, 0, 0)
    ) -> None:
        super().__init__()
        self.layers: dict[str, Any] = {}
        self._viewer = viewer
        self._place = place
        self._image = image
        self._start = start
        self._state = "arriving "
        self._maps: Any = None
        self._ready: list[Box] = []
        self._is_reading = False
        self._is_over = False
        self._job: Job | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REFRESH_MS)
        self._timer.timeout.connect(self._read)
        self._missing: list[tuple[int, str]] = []
        self._adding = QTimer(self)
        self._adding.setInterval(_STEP_MS)
        self._adding.timeout.connect(self._add)

    def follow(self, job: Job) -> None:
        """Show what a job finishes from now on."""
        self._job = job
        self._name("arriving ")
        job.event.connect(self._note)

    def stop(self) -> None:
        """Show what is done of a prediction that ended too soon, and name it so."""
        self._timer.stop()
        if not self._is_reading:
            self._read()
        self._name("partial ")

    def end(self) -> None:
        """Add and change no layers from now on: the maps are whole.

        Whoever delivers them can then decide by `layers` what is still to be made.
        """
        self._timer.stop()
        self._adding.stop()
        for _ in range(len(self._missing)):
            self._add()
        self._ready = []
        self._is_over = True

    def settle(self, origin: dict[str, Any]) -> dict[str, Any]:
        """Make the layers that are still there a prediction; return them by role.

        Parameters
        ----------
        origin
            What the layers say of where they come from.
        """
        self.end()
        here = {id(layer) for layer in map(plain, self._viewer.layers)}
        self.layers = {
            role: layer for role, layer in self.layers.items() if id(layer) in here
        }
        for role, layer in self.layers.items():
            layer.metadata[METADATA_KEY] = {**origin, "role": role}
        for layer in self.layers.values():
            layer.refresh()
        self._name("")
        return self.layers

    def complete(self, folder: Path) -> Any:
        """Read what is missing and return the maps; call it in a thread."""
        stored = open_volume(str(folder / "maps.zarr")).data
        if not self.layers:
            return lazy(stored)
        if isinstance(self._maps, np.ndarray):
            for z in range(0, stored.shape[1], 64):
                self._maps[:, z : z + 64] = stored[:, z : z + 64]
        return self._maps

    def _name(self, what: str) -> None:
        self._state = what
        for role, layer in self.layers.items():
            wanted = f"{self._image} · {what}{role}"
            if layer.name != wanted:
                layer.name = free_name(self._viewer, wanted)

    def _note(self, event: Event) -> None:
        if isinstance(event, Progress) and event.ready:
            self._ready += boxes_of(event.ready)
            if not self._timer.isActive() and not self._is_reading:
                self._timer.start()

    def _read(self) -> None:
        folder = None if self._job is None else self._job.folder
        if folder is None or not self._ready:
            return
        boxes, self._ready = self._ready, []
        self._is_reading = True
        worker = make_worker(read_boxes, folder, self._maps, boxes)
        worker.returned.connect(self._show)
        worker.finished.connect(self._end)
        worker.start()

    def _end(self) -> None:
        self._is_reading = False
        if self._ready:
            self._timer.start()

    def _show(self, maps: Any) -> None:
        job = self._job
        if job is None or job.window_is_gone or self._is_over:
            return
        if self._maps is None:
            self._begin(maps)
        for layer in self.layers.values():
            if layer.visible:
                layer.refresh()

    def _begin(self, maps: Any) -> None:
        self._maps = maps
        self._missing = list(enumerate(MAPS))
        self._adding.start()

    def _add(self) -> None:
        """Add one layer at a time, so that napari answers in between."""
        is_gone = self._job is not None and self._job.window_is_gone
        if is_gone or not self._missing:
            self._adding.stop()
            return
        channel, role = self._missing.pop(0)
        prefix = f"{self._image} · {self._state}"
        map_ZYX = self._maps[channel]
        layer = make_map(role, map_ZYX, self._place, prefix, {}, start=self._start)
        add_beside(self._viewer, layer)
        layer.visible = role == _FIRST
        self.layers[role] = layer


def boxes_of(numbers: tuple[int, ...]) -> list[Box]:
    """Return the boxes that a `Progress` says are ready."""
    rows = np.asarray(numbers, int).reshape(-1, 2, 3).tolist()
    return [Box(tuple(start), tuple(stop)) for start, stop in rows]


def read_boxes(folder: Path, maps: Any, boxes: list[Box]) -> Any:
    """Read boxes of the maps into an array; into a new one when there is none yet.

    Maps that are too large for memory are returned as they are stored, to be read as
    they are looked at.
    """
    stored = open_volume(str(folder / "maps.zarr")).data
    if maps is None:
        size = int(np.prod(stored.shape))
        maps = np.zeros(stored.shape, np.uint8) if size <= _IN_MEMORY else lazy(stored)
    if isinstance(maps, np.ndarray):
        for box in boxes:
            key = (slice(None), *box.slices)
            maps[key] = stored[key]
    return maps
