"""A finished prediction: read from its folder in a thread, added as layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_volseg.events import Finished
from napari_volseg.io import open_volume, read_labels
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.layers import Placement
from napari_volseg.widgets.outputs import MAPS, add_instances, add_map
from napari_volseg.widgets.readers import lazy

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

    def __init__(
        self, viewer: Any, job: Job, place: Placement, image: str, model: Path
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._job = job
        self._place = place
        self._image = image
        self._model = model
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
            return
        worker = create_worker(
            read_prediction_result, self._job.folder, _start_thread=False
        )
        worker.returned.connect(self._add)
        worker.errored.connect(self._give_up)
        worker.start()

    def _add(self, prediction: Prediction) -> None:
        if self._job.window_is_gone:
            _undelivered.discard(self)
            return  # the result is in the run folder
        origin = {
            "prediction": str(prediction.folder),
            "model": str(self._model),
            "image": self._image,
        }
        prefix = f"{self._image} · "
        common = (self._place, prefix, origin)
        self._steps = [
            partial(add_map, self._viewer, role, prediction.maps_CZYX[channel], *common)
            for channel, role in enumerate(MAPS)
        ]
        self._steps.append(partial(self._add_labels, prediction, *common))
        self._stepper.start()

    def _add_labels(
        self, prediction: Prediction, place: Placement, prefix: str, origin: Any
    ) -> Any:
        labels = add_instances(
            self._viewer, prediction.instances_ZYX, place, prefix, origin
        )
        if prediction.table is not None:
            labels.features = prediction.table
        return labels

    def _step(self) -> None:
        """Add one layer at a time, so that napari answers in between."""
        if self._steps and not self._job.window_is_gone:
            self._layers.append(self._steps.pop(0)())
            return
        self._stepper.stop()
        _undelivered.discard(self)
        if not self._job.window_is_gone:
            self.delivered.emit(self._layers)

    def _give_up(self, error: Exception) -> None:
        _undelivered.discard(self)


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
