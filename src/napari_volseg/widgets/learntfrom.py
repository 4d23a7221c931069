"""The layers that a training learns from, and what is painted in them now."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_volseg.errors import DataError
from napari_volseg.runs import read_config
from napari_volseg.runs.folder import PAIRS
from napari_volseg.volume import Volume
from napari_volseg.widgets.layers import check_aligned, labels_array, plain, voxel_size
from napari_volseg.widgets.outputs import role_of
from napari_volseg.widgets.regions import Region, capture_region
from napari_volseg.widgets.snapshots import (
    COPY_AT_ONCE,
    Annotated,
    PairSnapshot,
    own_rule,
)

__all__ = ["LearntFrom", "layers_of_run"]


class LearntFrom:
    """The layers that a training learns from, for as long as they exist.

    Parameters
    ----------
    images, labels
        One of each for every pair; None where the layer is not known.
    annotated
        How labels count whose layer does not say it itself.
    keeps_region
        Whether they count where they did when they were handed in last, because the
        region layer is not known.
    """

    def __init__(
        self,
        images: Sequence[Layer | None],
        labels: Sequence[Layer | None],
        annotated: Annotated,
        *,
        keeps_region: bool = False,
    ) -> None:
        self._images = [_reference(layer) for layer in images]
        self._labels = [_reference(layer) for layer in labels]
        self._names = ["" if layer is None else str(layer.name) for layer in labels]
        self._region = _reference(annotated.region)
        self._region_name = "" if annotated.region is None else annotated.region.name
        self._annotated = replace(annotated, region=None)
        self.keeps_region = keeps_region

    def __len__(self) -> int:
        return len(self._labels)

    def names(self) -> list[str]:
        """Return the names of the images, empty where one is gone."""
        layers = [None if ref is None else ref() for ref in self._images]
        return ["" if layer is None else str(layer.name) for layer in layers]

    def choose(self, pair: int, labels: Layer) -> None:
        """Take the labels of a pair from this layer from now on."""
        self._labels[pair] = _reference(labels)
        self._names[pair] = str(labels.name)

    def labels(self, viewer: Any, pair: int) -> Labels | None:
        """Return the labels layer of a pair while it is in the viewer."""
        layer = _alive(self._labels[pair], viewer)
        return layer if isinstance(layer, Labels) else None

    def capture(self, viewer: Any) -> list[PairSnapshot]:
        """Return what is painted now; large labels are locked, not copied.

        Raises
        ------
        DataError
            If a layer was removed, is no volume or was moved away from its image.
        """
        annotated = self._annotated
        if self._region is not None:
            region = _alive(self._region, viewer)
            if region is None:
                raise DataError(
                    f"the region layer '{self._region_name}' was removed, so nobody "
                    "can say where labels count: undo that, or train anew with another"
                )
            annotated = replace(annotated, region=region)
        return [self._capture(viewer, pair, annotated) for pair in range(len(self))]

    def _capture(self, viewer: Any, pair: int, annotated: Annotated) -> PairSnapshot:
        layer = self.labels(viewer, pair)
        if layer is None:
            name = self._names[pair]
            raise DataError(
                f"the labels layer '{name}' was removed: choose the layer that holds "
                "its labels now"
                if name
                else "no labels are chosen: choose the layer that holds them"
            )
        annotated = own_rule(layer) or annotated
        data = labels_array(layer)
        image = _alive(self._images[pair], viewer)
        if image is not None:
            check_aligned(image, layer, data.shape)
        region = None
        if annotated.region is not None:
            region = capture_region(annotated.region, layer, data.shape)
            if region.labels is not None:
                region = Region(region.name, labels=np.array(region.labels) != 0)
        # The labels stand in for the image, of which only the shape is asked for.
        grid = Volume(data, voxel_size(layer), str(layer.name))
        locked = None
        if isinstance(data, np.ndarray) and data.nbytes <= COPY_AT_ONCE:
            data = data.copy()
        else:
            locked = weakref.ref(layer)
        return PairSnapshot(
            grid, None, data, str(layer.name), annotated, region, locked
        )


def layers_of_run(viewer: Any, folder: Path) -> LearntFrom:
    """Find the layers of a run by their names, as another session left them.

    Where no layer has the name of the labels, none is chosen. Where labels counted
    in a region, they count there still.
    """
    try:
        entries = json.loads((folder / PAIRS).read_text("utf-8"))["pairs"]
        data = read_config(folder).data
    except (OSError, ValueError, KeyError, TypeError):
        return LearntFrom([], [], Annotated())
    layers = [layer for layer in map(plain, viewer.layers) if role_of(layer) is None]
    images = {str(layer.name): layer for layer in layers if isinstance(layer, Image)}
    labels = {str(layer.name): layer for layer in layers if isinstance(layer, Labels)}
    in_region = data.annotated == "everywhere" and any(e["annotated"] for e in entries)
    return LearntFrom(
        [images.get(entry["name"]) for entry in entries],
        [labels.get(entry.get("labels_name")) for entry in entries],
        Annotated(data.annotated, data.background_id),
        keeps_region=in_region,
    )


def _reference(layer: Layer | None) -> weakref.ref[Layer] | None:
    return None if layer is None else weakref.ref(plain(layer))


def _alive(reference: weakref.ref[Layer] | None, viewer: Any) -> Layer | None:
    """Return a layer if it is in the viewer still."""
    layer = None if reference is None else reference()
    return layer if any(plain(other) is layer for other in viewer.layers) else None
