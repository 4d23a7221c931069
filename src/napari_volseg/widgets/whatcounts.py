"""Layers that show what counts as annotated, and what of it is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from napari.utils.colormaps import DirectLabelColormap

from napari_volseg.counting import GAP, HELD_OUT, LEARNT, WhatCounts
from napari_volseg.geometry import Box, Size
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain
from napari_volseg.widgets.meter import CountedPair
from napari_volseg.widgets.outputs import add_beside, move

__all__ = ["LEGEND", "WhatCountsLayers", "view_of"]

ROLE = "what counts"
_MEANINGS = {
    LEARNT: ("counts", "#56b4e9"),
    HELD_OUT: ("held out for validation", "#e69f00"),
    GAP: ("gap around it", "#999999"),
}
"""Two colours that all eyes tell apart, and gray."""
LEGEND = " · ".join(
    f'<span style="color:{color}">■</span>&nbsp;{words.replace(" ", "&nbsp;")}'
    for words, color in _MEANINGS.values()
)


class WhatCountsLayers:
    """One labels layer of ours for each pair, made, followed and taken away."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._layers: dict[tuple[int, str], Labels] = {}

    def show(
        self,
        pairs: Sequence[CountedPair],
        images: Sequence[Layer | None],
        plan: Mapping[str, Any] | None,
    ) -> None:
        """Show what counts of each pair; what is held out once a plan says it."""
        wanted: dict[tuple[int, str], Labels] = {}
        for number, (pair, image) in enumerate(zip(pairs, images, strict=False)):
            if image is None:
                continue
            view = view_of(pair, number, plan)
            key = number, str(image.name)
            layer = self._layers.get(key)
            if layer is None or not self._is_shown(layer):
                layer = _make(view, f"{image.name} · {ROLE}", image)
                add_beside(self._viewer, layer)
            else:
                move(layer, placement(image).layer_options())
                layer.data = view
            wanted[key] = layer
        for key in self._layers.keys() - wanted.keys():
            self._take_away(self._layers[key])
        self._layers = wanted

    def remove(self) -> None:
        """Take our layers away."""
        for layer in self._layers.values():
            self._take_away(layer)
        self._layers = {}

    def are_gone(self) -> bool:
        """Whether layers were shown and the user took all of them away."""
        layers = self._layers.values()
        return bool(layers) and not any(self._is_shown(layer) for layer in layers)

    def _is_shown(self, layer: Layer) -> bool:
        return any(other is layer for other in map(plain, self._viewer.layers))

    def _take_away(self, layer: Layer) -> None:
        if self._is_shown(layer):
            self._viewer.layers.remove(layer)


def view_of(
    pair: CountedPair, number: int, plan: Mapping[str, Any] | None
) -> WhatCounts:
    """Return what counts of a pair, and what a plan holds out of it."""
    snapshot = pair.snapshot
    held_out, guard = _held_out(number, plan)
    if pair.role == "val":
        held_out, guard = [Box.whole(snapshot.image.shape_ZYX)], (0, 0, 0)
    return WhatCounts(
        snapshot.labels,
        snapshot.annotated.rule,
        pair.counter.region_ZYX,
        pair.counter.counted_Z,
        held_out,
        guard,
    )


def _held_out(number: int, plan: Mapping[str, Any] | None) -> tuple[list[Box], Size]:
    if plan is None:
        return [], (0, 0, 0)
    boxes = [
        Box(tuple(held["box"]["start"]), tuple(held["box"]["stop"]))
        for held in plan["held_out"]
        if held["pair"] == number
    ]
    z, y, x = plan["guard"]
    return boxes, (int(z), int(y), int(x))


def _make(view: WhatCounts, name: str, image: Layer) -> Labels:
    colors: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    colors |= {value: color for value, (_, color) in _MEANINGS.items()}
    layer = Labels(
        view,
        name=name,
        colormap=DirectLabelColormap(color_dict=colors),
        opacity=0.35,
        features={
            "index": np.array([0, *_MEANINGS]),
            "meaning": ["ignored", *(words for words, _ in _MEANINGS.values())],
        },
        metadata={METADATA_KEY: {"role": ROLE, "helper": True}},
        **placement(image).layer_options(),
    )
    layer.editable = False
    return layer
