"""The preview of a training in the viewer: a box to drag and four layers."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer, Shapes
from qtpy.QtCore import QObject, QTimer

from napari_volseg.geometry import Box, Size
from napari_volseg.runs.control import PreviewBox
from napari_volseg.widgets.job import Job, Preview
from napari_volseg.widgets.layers import METADATA_KEY, Placement, placement, plain
from napari_volseg.widgets.outputs import MAPS

__all__ = ["BOX_NAME", "LivePreview"]

BOX_NAME = "volseg: preview box"
PREFIX = "preview: "
MAX_VOXELS = 2 * 2**20
"""A larger box would take the time that training needs."""

_SETTLE_MS = 400
_SHOWN_FIRST = ("boundary", "instances")


class LivePreview(QObject):
    """Shows the previews of a job and tells it where the user wants them.

    The box is a rectangle without a slice of its own: it lies in all slices,
    and the preview follows the slice that is looked at.
    """

    def __init__(
        self, viewer: Any, images: Sequence[Layer], job: Job, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._images = [weakref.ref(plain(image)) for image in images]
        self._shapes = [_shape_ZYX(image) for image in images]
        self._places = [placement(image) for image in images]
        self._job = job
        self._layers: dict[str, weakref.ref[Any]] = {}
        self._rectangle: weakref.ref[Shapes] | None = None
        self._asked: PreviewBox | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._ask)
        job.preview.connect(self.show)
        job.finished.connect(self._cut)
        viewer.dims.events.current_step.connect(self._settle)
        parent.destroyed.connect(_disconnector(viewer, self._settle))

    def show(self, preview: Preview) -> None:
        """Put a preview into its layers, making them when they are not there."""
        event = preview.event
        if not 0 <= event.pair < len(self._images):
            return
        place = self._places[event.pair]
        if self._rectangle is None:
            self._asked = (event.pair, event.start, event.stop)
            self._add_rectangle(event.start, event.stop, place)
        for channel, role in enumerate(MAPS):
            self._update(role, preview.maps_CZYX[channel], place, event.start)
        self._update("instances", preview.instances_ZYX, place, event.start)

    def _update(self, role: str, data: Any, place: Placement, start: Size) -> None:
        options = place.layer_options(start)
        layer = self._layers[role]() if role in self._layers else None
        if layer is not None and layer in map(plain, self._viewer.layers):
            for name, value in options.items():
                if not _equal(getattr(layer, name), value):
                    setattr(layer, name, value)
            layer.data = data
            return
        options |= {
            "name": f"{PREFIX}{role}",
            "metadata": {METADATA_KEY: {"role": role, "preview": True}},
            "visible": role in _SHOWN_FIRST,
        }
        # Layers of an earlier run in this viewer are taken over.
        self._remove(f"{PREFIX}{role}")
        if role == "instances":
            layer = self._viewer.add_labels(data, opacity=0.5, **options)
        else:
            look = {k: v for k, v in MAPS[role].items() if k != "visible"}
            layer = self._viewer.add_image(
                data, contrast_limits=(0, 255), **look, **options
            )
        self._layers[role] = weakref.ref(plain(layer))
        self._keep_active()

    def _remove(self, name: str) -> None:
        for layer in list(self._viewer.layers):
            origin = layer.metadata.get(METADATA_KEY, {})
            if layer.name == name and origin.get("preview"):
                self._viewer.layers.remove(layer)

    def _add_rectangle(self, start: Size, stop: Size, place: Placement) -> None:
        (_, y0, x0), (_, y1, x1) = start, stop
        low = np.array([y0, x0]) - 0.5
        high = np.array([y1, x1]) - 0.5
        corners = [low, (low[0], high[1]), high, (high[0], low[1])]
        self._remove(BOX_NAME)
        layer = self._viewer.add_shapes(
            [np.array(corners)],
            shape_type="rectangle",
            name=BOX_NAME,
            scale=place.scale[-2:],
            translate=place.translate[-2:],
            rotate=place.rotate[-2:, -2:],
            units=place.units[-2:],
            edge_color="yellow",
            face_color="transparent",
            edge_width=max(1.0, float((high - low).max()) / 100),
            metadata={METADATA_KEY: {"role": "box", "preview": True}},
        )
        layer.mode = "select"
        shapes = plain(layer)
        shapes.events.data.connect(self._settle)
        self._rectangle = weakref.ref(shapes)
        self._keep_active()

    def _keep_active(self) -> None:
        """Leave the layer that the user paints on selected."""
        labels = [
            layer
            for layer in map(plain, self._viewer.layers)
            if isinstance(layer, Labels) and METADATA_KEY not in layer.metadata
        ]
        if labels:
            self._viewer.layers.selection.active = labels[-1]

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
        layer = None if self._rectangle is None else self._rectangle()
        if layer is None or not len(layer.data) or self._asked is None:
            return None
        corners = np.asarray(layer.data[0], float)
        world = np.array([layer.data_to_world(corner) for corner in corners])
        z_world = float(self._viewer.dims.point[-3])
        pairs = [self._asked[0], *range(len(self._images))]
        for pair in pairs:
            image = self._images[pair]()
            if image is None:
                continue
            voxels = np.array(
                [_to_voxels(image, (z_world, *point[-2:])) for point in world]
            )
            box = self._fit(voxels, self._shapes[pair])
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
        _disconnector(self._viewer, self._settle)()


def _disconnector(viewer: Any, callback: Any) -> Any:
    def disconnect(*_: object) -> None:
        viewer.dims.events.current_step.disconnect(callback)

    return disconnect


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


def _equal(old: Any, new: Any) -> bool:
    if isinstance(new, tuple):
        return tuple(str(value) for value in old) == new
    old = getattr(old, "affine_matrix", old)
    return np.shape(old) == np.shape(new) and bool(np.allclose(old, new))
