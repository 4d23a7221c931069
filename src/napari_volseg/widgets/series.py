"""Predictions of several time points or channels, shown as layers with that axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QObject, Signal

from napari_volseg.events import Finished
from napari_volseg.geometry import Size
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.layers import METADATA_KEY, placement
from napari_volseg.widgets.outputs import MAPS, add_beside
from napari_volseg.widgets.parts import Part
from napari_volseg.widgets.results import read_prediction_result
from napari_volseg.widgets.threads import make_worker

__all__ = ["Series"]

_running: set[Series] = set()


class Series(QObject):
    """Collects the folders of predictions along a layer's first axis."""

    delivered = Signal(object)
    """The layers that were added: three images and a labels layer with four axes."""
    failed = Signal(str)
    begun = Signal(object, str)
    """A job began, and which of how many it is, in words."""

    def __init__(self, viewer: Any, layer: Image, start: Size) -> None:
        super().__init__()
        self.folders: dict[int, Path] = {}
        """By their place along the axis."""
        self._due: list[Callable[[], None]] = []
        self._viewer = viewer
        self._name = str(layer.name)
        self._options = _options(layer, start)
        data = layer.data[0] if layer.multiscale else layer.data
        self._length = int(data.shape[0])

    def start(self, parts: Sequence[Part], make: Callable[[Part], Path]) -> None:
        """Predict one part after the other; what is done is shown when one stops.

        Parameters
        ----------
        make
            Makes the job folder of a part, in a thread.
        """
        _running.add(self)
        self._due = [
            partial(self._run, part, make, f"{number} of {len(parts)}")
            for number, part in enumerate(parts, start=1)
        ]
        self._due.pop(0)()

    def _run(self, part: Part, make: Callable[[Part], Path], words: str) -> None:
        title = f"VolSeg prediction {words} of '{self._name}'"
        job = Job(self._viewer, "predict", title)
        self.begun.emit(job, words)
        job.finished.connect(partial(self._take, part, job))
        job.start(partial(make, part))

    def _take(self, part: Part, job: Job, result: Finished) -> None:
        if result.reason == "completed" and job.folder is not None:
            assert part.index is not None
            self.folders[part.index] = job.folder
            if self._due and not job.window_is_gone:
                self._due.pop(0)()
                return
        _running.discard(self)
        if self.folders and not job.window_is_gone:
            self._deliver()

    def _deliver(self) -> None:
        """Read what was predicted in a thread, and add it as layers."""
        worker = make_worker(self._make)
        worker.returned.connect(self._add)
        worker.errored.connect(lambda error: self.failed.emit(str(error)))
        worker.start()

    def _make(self) -> list[Any]:
        """Stack the results; what was not predicted is empty."""
        import dask.array as da  # slow to import, so here: in the thread

        results = {i: read_prediction_result(f) for i, f in self.folders.items()}
        first = next(iter(results.values()))
        empty = np.broadcast_to(np.uint8(0), first.maps_CZYX.shape[1:])

        def stack(volumes: dict[int, Any]) -> Any:
            some = next(iter(volumes.values()))
            nothing = empty.astype(some.dtype)
            return da.stack(  # type: ignore[no-untyped-call]
                [
                    da.asarray(volumes.get(i, nothing))  # type: ignore[no-untyped-call]
                    for i in range(self._length)
                ]
            )

        layers: list[Any] = []
        for channel, (role, look) in enumerate(MAPS.items()):
            maps = {i: r.maps_CZYX[channel] for i, r in results.items()}
            options = {"contrast_limits": (0, 255), **look, **self._options}
            layers.append(Image(stack(maps), **self._named(role), **options))
        instances = stack({i: r.instances_ZYX for i, r in results.items()})
        layers.append(
            Labels(instances, opacity=0.5, **self._named("instances"), **self._options)
        )
        return layers

    def _named(self, role: str) -> dict[str, Any]:
        origin = {"image": self._name, "role": role}
        return {
            "name": f"{self._name} · {role}",
            "metadata": {METADATA_KEY: origin},
        }

    def _add(self, layers: list[Any]) -> None:
        for layer in layers:
            add_beside(self._viewer, layer)
        self.delivered.emit(layers)


def _options(layer: Image, start: Size) -> dict[str, Any]:
    """Return the keywords that place four axes where those of the image are."""
    translate = np.array(layer.translate, float)
    translate[-3:] = placement(layer).layer_options(start)["translate"]
    return {
        "scale": np.array(layer.scale, float),
        "translate": translate,
        "rotate": np.array(layer.rotate, float),
        "shear": np.array(layer.shear, float),
        "affine": np.array(layer.affine.affine_matrix, float),
        "units": tuple(str(unit) for unit in layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }
