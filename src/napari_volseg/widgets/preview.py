"""The preview of a training in the viewer: a box to drag and four layers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer, Shapes
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QWidget

from napari_volseg.geometry import Box, Size
from napari_volseg.runs.control import PreviewBox
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.job import Job, Preview
from napari_volseg.widgets.layers import METADATA_KEY, Placement, placement, plain
from napari_volseg.widgets.outputs import (
    MAPS,
    add_beside,
    claim,
    is_ours,
    mark_edited,
    move,
)

__all__ = ["BOX_NAME", "LivePreview"]

BOX_NAME = "volseg: preview box"
PREFIX = "preview: "
MAX_VOXELS = 2 * 2**20
"""A larger box would take the time that training needs."""

_SETTLE_MS = 400
_STEP_MS = 20
_SHOWN_FIRST = ("boundary", "instances")


class _Image:
    """Where the image of a pair lay when the run began."""

    def __init__(self, layer: Layer) -> None:
        self.layer = weakref.ref(plain(layer))
        self.shape_ZYX = _shape_ZYX(layer)
        self.place = placement(layer)


class LivePreview(QObject):
    """Shows the previews of a job and tells it where the user wants them.

    The box is a rectangle without a slice of its own: it lies in all slices,
    and the preview follows the slice that is looked at. It deletes itself when the
    job has ended and all is shown.
    """

    def __init__(
        self, viewer: Any, images: Sequence[Layer | None], job: Job, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._images = [None if image is None else _Image(image) for image in images]
        self._job = job
        self._rectangle: weakref.ref[Shapes] | None = None
        self._asked: PreviewBox | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._ask)
        self._waiting: Preview | None = None
        self._is_cut = False
        self._steps_left: list[Callable[[], None]] = []
        self._stepper = QTimer(self)
        self._stepper.setInterval(_STEP_MS)
        self._stepper.timeout.connect(self._step)
        job.preview.connect(self.show)
        job.finished.connect(self._cut)
        self._connections = Connections(self)
        self._connections.add(viewer.dims.events.current_step, self._settle)

    def show(self, preview: Preview) -> None:
        """Put a preview into its layers, making them when they are not there.

        One that comes while another is being shown waits; of those only the newest.
        """
        self._waiting = preview
        if not self._steps_left:
            self._begin()

    def _begin(self) -> None:
        preview, self._waiting = self._waiting, None
        if preview is None:
            return
        event = preview.event
        image = self._images[event.pair] if event.pair < len(self._images) else None
        if image is None or any(np.greater(event.stop, image.shape_ZYX)):
            return
        if self._rectangle is None:
            self._asked = (event.pair, event.start, event.stop)
            self._add_rectangle(event.start, event.stop, image.place)
        options = image.place.layer_options(event.start)
        arrays = [*preview.maps_CZYX, preview.instances_ZYX]
        self._steps_left = [
            partial(self._update, role, array, options)
            for role, array in zip((*MAPS, "instances"), arrays, strict=True)
        ]
        self._stepper.start()

    def _step(self) -> None:
        """Update one layer at a time, so that napari answers in between."""
        if self._steps_left:
            self._steps_left.pop(0)()
            return
        self._stepper.stop()
        self._begin()
        if self._is_cut and not self._stepper.isActive():
            self.deleteLater()

    def _update(self, role: str, data: Any, options: dict[str, Any]) -> None:
        layer = self._find(role)
        if layer is not None:
            move(layer, options)
            layer.data = data
            return
        options = options | {
            "name": f"{PREFIX}{role}",
            "metadata": {METADATA_KEY: {"role": role, "preview": True}},
            "visible": role in _SHOWN_FIRST,
        }
        made: Layer
        if role == "instances":
            made = Labels(data, opacity=0.5, **options)
            made.events.paint.connect(mark_edited)
        else:
            look = MAPS[role] | {"contrast_limits": (0, 255), "opacity": 0.6}
            made = Image(data, **(look | options))
        claim(made)
        add_beside(self._viewer, made)

    def _find(self, role: str) -> Any:
        """Return our layer of a role, also of an earlier run in this viewer.

        One that was painted on is the user's from then on, and so is a duplicate.
        """
        for layer in filter(is_ours, map(plain, self._viewer.layers)):
            origin = layer.metadata.get(METADATA_KEY, {})
            is_free = "preview" in origin and not origin.get("edited")
            if is_free and origin["role"] == role:
                return layer
        return None

    def _add_rectangle(self, start: Size, stop: Size, place: Placement) -> None:
        (_, y0, x0), (_, y1, x1) = start, stop
        low = np.array([y0, x0]) - 0.5
        high = np.array([y1, x1]) - 0.5
        corners = [low, (low[0], high[1]), high, (high[0], low[1])]
        layer = self._find("box")
        if layer is not None:  # the user's box of an earlier run stays
            self._follow_rectangle(layer)
            return
        layer = Shapes(
            [np.array(corners)],
            shape_type="rectangle",
            name=BOX_NAME,
            **place.plane_options(),
            edge_color="yellow",
            face_color="transparent",
            edge_width=max(0.3, float((high - low).max()) / 300),
            metadata={METADATA_KEY: {"role": "box", "preview": True}},
        )
        layer.mode = "select"
        claim(layer)
        add_beside(self._viewer, layer)
        self._follow_rectangle(layer)

    def _follow_rectangle(self, layer: Shapes) -> None:
        self._connections.add(layer.events.data, self._settle)
        self._rectangle = weakref.ref(layer)
        self._settle()

    def _settle(self, event: object = None) -> None:
        if self._rectangle is not None:
            self._timer.start()

    def _ask(self) -> None:
        box = self.box()
        if box is not None and box != self._asked:
            self._asked = box
            self._job.ask(preview_box=box)

    def box(self) -> PreviewBox | None:
        """Return the pair and box that the rectangle and the slice choose."""
        shapes = None if self._rectangle is None else self._rectangle()
        if shapes is None or not len(shapes.data) or self._asked is None:
            return None
        if self._viewer.dims.ndim < 3:  # of all layers only the box is left
            return None
        corners = np.asarray(shapes.data[0], float)
        world = np.array([shapes.data_to_world(corner) for corner in corners])
        z_world = float(self._viewer.dims.point[-3])
        pairs = [self._asked[0], *range(len(self._images))]
        for pair in pairs:
            image = self._images[pair]
            layer = None if image is None else image.layer()
            if image is None or layer is None:
                continue
            voxels = np.array(
                [_to_voxels(layer, (z_world, *point[-2:])) for point in world]
            )
            box = self._fit(voxels, image.shape_ZYX)
            if box is not None:
                return pair, box.start, box.stop
        return None

    def _fit(self, corners: Any, shape_ZYX: Size) -> Box | None:
        """Return the box around the corners inside a volume; None when outside.

        The depth stays as it was, and the slices too while the one that is
        looked at is among them.
        """
        assert self._asked is not None
        _, asked_start, asked_stop = self._asked
        z = round(float(corners[0, 0]))
        low = np.floor(corners.min(axis=0) + 0.5).astype(int)
        high = np.floor(corners.max(axis=0) + 0.5).astype(int)
        if not 0 <= z < shape_ZYX[0] or (high[1:] <= 0).any():
            return None
        if (low[1:] >= np.array(shape_ZYX[1:])).any():
            return None
        depth = min(asked_stop[0] - asked_start[0], shape_ZYX[0])
        z0 = asked_start[0]
        if not z0 <= z < z0 + depth:
            z0 = min(max(0, z - depth // 2), shape_ZYX[0] - depth)
        y0, x0 = (int(v) for v in np.maximum(low[1:], 0))
        y1, x1 = (
            int(v) for v in np.maximum(np.minimum(high[1:], shape_ZYX[1:]), (1, 1))
        )
        y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)
        excess = (depth * (y1 - y0) * (x1 - x0) / MAX_VOXELS) ** 0.5
        if excess > 1:
            y0, y1 = _shrink(y0, y1, excess)
            x0, x1 = _shrink(x0, x1, excess)
        return Box((z0, y0, x0), (z0 + depth, y1, x1))

    def _cut(self, *_: object) -> None:
        self._timer.stop()
        self._job.preview.disconnect(self.show)
        self._connections.close()
        self._is_cut = True
        if not self._stepper.isActive():
            self.deleteLater()


def _shrink(start: int, stop: int, factor: float) -> tuple[int, int]:
    length = max(1, int((stop - start) / factor))
    first = (start + stop - length) // 2
    return first, first + length


def _to_voxels(image: Image, world: Sequence[float]) -> Any:
    lead = (0.0,) * (image.ndim - 3)
    return np.asarray(image.world_to_data((*lead, *world)), float)[-3:]


def _shape_ZYX(image: Layer) -> Size:
    shape = (image.data[0] if image.multiscale else image.data).shape
    z, y, x = shape[-4:-1] if image.rgb else shape[-3:]
    return int(z), int(y), int(x)
