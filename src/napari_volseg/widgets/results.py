"""A finished prediction: read from its folder in a thread, added as layers.

Layers are made in the thread too, so that the GUI thread only has to hang them in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QObject, QTimer, Signal

from napari_volseg.events import Finished
from napari_volseg.geometry import Size
from napari_volseg.io import open_volume, read_labels
from napari_volseg.runs.prediction import REQUEST
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.layers import METADATA_KEY, Placement, plain
from napari_volseg.widgets.outputs import MAPS, add_beside, make_instances, make_map
from napari_volseg.widgets.readers import lazy
from napari_volseg.widgets.stream import MapStream
from napari_volseg.widgets.threads import make_worker

__all__ = ["Delivery", "Prediction", "read_prediction_result"]

_IN_MEMORY = 512 * 2**20
"""Bytes up to which instances are loaded, so that they can be corrected."""

_undelivered: set[Delivery] = set()


@dataclass(frozen=True)
class Prediction:
    """What a prediction folder holds."""

    folder: Path
    maps_CZYX: Any
    """uint8, read from the OME-Zarr as it is looked at."""
    instances_ZYX: Any
    table: Any
    """A data frame, one row for each instance; its `index` column is the label id."""


class Delivery(QObject):
    """Brings the result of a job into its viewer, with or without the dock."""

    delivered = Signal(object)
    """The layers that were added: three images and a labels layer."""
    failed = Signal(str)
    """Why there are none, in words."""

    def __init__(
        self,
        viewer: Any,
        job: Job,
        place: Placement,
        image: str,
        model: Path,
        stream: MapStream,
        start: Size = (0, 0, 0),
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._job = job
        self._place = place
        self._image = image
        self._model = model
        self._stream = stream
        self._start = start
        self._steps: list[Callable[[], Any]] = []
        self._layers: list[Any] = []
        self._stepper = QTimer(self)
        self._stepper.setInterval(20)
        self._stepper.timeout.connect(self._step)
        _undelivered.add(self)
        job.finished.connect(self._fetch)

    def _fetch(self, result: Finished) -> None:
        if result.reason != "completed" or self._job.folder is None:
            _undelivered.discard(self)
            if not self._job.window_is_gone:
                self._stream.stop()
            return
        self._stream.end()
        worker = make_worker(self._make, self._job.folder)
        worker.returned.connect(self._add)
        worker.errored.connect(self._give_up)
        worker.start()

    def _make(self, folder: Path) -> list[Any]:
        """Read the result and make its layers, in the thread."""
        prediction = read_prediction_result(folder)
        maps_CZYX = self._stream.complete(folder)
        common = (self._place, f"{self._image} · ", self._origin(folder))
        layers: list[Any] = [
            make_map(role, maps_CZYX[channel], *common, start=self._start)
            for channel, role in enumerate(MAPS)
            if not self._stream.layers
        ]
        labels = make_instances(
            prediction.instances_ZYX, *common, start=self._start, visible=False
        )
        labels.metadata[METADATA_KEY]["thresholds"] = _thresholds(folder)
        if prediction.table is not None:
            labels.features = prediction.table
        return [*layers, labels]

    def _add(self, layers: list[Any]) -> None:
        if self._job.window_is_gone:
            _undelivered.discard(self)
            return  # the result is in the run folder
        self._layers = layers
        arrived = [self._settle] if self._stream.layers else []
        self._steps = [*arrived, *(partial(self._add_one, layer) for layer in layers)]
        self._steps.append(partial(self._show, layers[-1]))
        self._stepper.start()

    def _origin(self, folder: Path) -> dict[str, Any]:
        return {
            "prediction": str(folder),
            "model": str(self._model),
            "image": self._image,
        }

    def _settle(self) -> None:
        """Let the maps that arrived block by block be those of the prediction."""
        assert self._job.folder is not None
        arrived = self._stream.settle(self._origin(self._job.folder))
        for layer in arrived.values():
            layer.visible = False
        self._layers = [*arrived.values(), *self._layers]

    def _add_one(self, layer: Any) -> None:
        add_beside(self._viewer, layer)

    def _show(self, labels: Any) -> None:
        """Show the instances, and select them unless the user is painting."""
        labels.visible = True
        active = self._viewer.layers.selection.active
        is_painting = isinstance(plain(active), Labels) and active.mode != "pan_zoom"
        if not is_painting:
            self._viewer.layers.selection.active = labels

    def _step(self) -> None:
        """Add one layer at a time, so that napari answers in between."""
        if self._steps and not self._job.window_is_gone:
            self._steps.pop(0)()
            return
        self._stepper.stop()
        _undelivered.discard(self)
        if not self._job.window_is_gone:
            self.delivered.emit(self._layers)

    def _give_up(self, error: Exception) -> None:
        _undelivered.discard(self)
        self.failed.emit(f"the result in {self._job.folder} cannot be read: {error}")


def _thresholds(folder: Path) -> Any:
    """Return the thresholds that were asked for; None when they were the model's."""
    try:
        return json.loads((folder / REQUEST).read_text("utf-8"))["instances"]
    except (OSError, ValueError, KeyError):
        return None


def read_prediction_result(folder: Path) -> Prediction:
    """Open what a prediction wrote; small instances are loaded, maps stay lazy."""
    source = str(folder / "instances.zarr")
    instances: Any = open_volume(source).data
    if instances.nbytes <= _IN_MEMORY:
        instances = read_labels(source)
    else:
        instances = lazy(instances)
    table_path = folder / "instances.csv"
    table = _read_table(table_path) if table_path.exists() else None
    maps_CZYX = lazy(open_volume(str(folder / "maps.zarr")).data)
    return Prediction(folder, maps_CZYX, instances, table)


def _read_table(path: Path) -> Any:
    import pandas  # slow to import, so here: in the thread

    return pandas.read_csv(path)
