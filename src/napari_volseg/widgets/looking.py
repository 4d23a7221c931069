"""napari on the volumes of a result: the process that ``volseg view`` starts."""

from __future__ import annotations

import json
import sys

from napari_volseg.io import open_volume
from napari_volseg.views import Shown
from napari_volseg.widgets.readers import (
    LayerData,
    image_layer,
    labels_layer,
    maps_layers,
)

__all__ = ["main", "shown_layers"]


def shown_layers(shown: Shown) -> list[LayerData]:
    """Return the layers of one volume.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    volume = open_volume(shown.source)
    if shown.kind == "maps":
        return maps_layers(shown.source, volume, shown.name)
    if shown.kind == "labels":
        return [labels_layer(shown.source, volume, shown.name)]
    return [image_layer(shown.source, volume, shown.name)]


def main(volumes: str) -> None:
    """Open napari and stay until it is closed.

    Parameters
    ----------
    volumes
        JSON: a list with the fields of `Shown`.
    """
    import napari
    from napari.layers import Layer

    viewer = napari.Viewer(title="volseg view")
    for fields in json.loads(volumes):
        for data, options, kind in shown_layers(Shown(**fields)):
            viewer.add_layer(Layer.create(data, options, kind))
    napari.run()


if __name__ == "__main__":
    main(sys.argv[1])
