"""The layers that ``volseg view`` opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_volseg.io import write_hdf5
from napari_volseg.views import Shown
from napari_volseg.widgets.looking import shown_layers
from napari_volseg.widgets.readers import read_volumes

SHAPE = (4, 8, 10)
NM = (30.0, 8.0, 8.0)


def _layers(shown: Shown) -> list[Layer]:
    return [Layer.create(*layer) for layer in shown_layers(shown)]


def test_image_maps_and_instances_become_layers_of_their_kind(tmp_path: Path) -> None:
    raw = np.arange(4 * 8 * 10, dtype=np.uint16).reshape(SHAPE)
    labels = (raw > 100).astype(np.int32)
    maps = np.stack([np.full(SHAPE, v, np.uint8) for v in (1, 2, 3)])
    path = tmp_path / "em.h5"
    write_hdf5(path, {"raw": raw, "main": labels, "maps": maps}, NM)
    (image,) = _layers(Shown("em", f"{path}:raw[1:3]", "image"))
    assert isinstance(image, Image)
    np.testing.assert_array_equal(np.asarray(image.data), raw[1:3])
    assert tuple(image.scale) == NM
    (instances,) = _layers(Shown("cells", f"{path}:main", "labels"))
    assert isinstance(instances, Labels)
    np.testing.assert_array_equal(instances.data, labels)
    channels = _layers(Shown("test", f"{path}:maps", "maps"))
    assert [layer.name for layer in channels] == [
        "test · mask", "test · boundary", "test · distance",
    ]  # fmt: skip
    assert [int(np.asarray(layer.data).max()) for layer in channels] == [1, 2, 3]


def test_results_dropped_on_napari_are_maps_and_labels(tmp_path: Path) -> None:
    maps, labels = np.zeros((3, *SHAPE), np.uint8), np.ones(SHAPE, np.int32)
    write_hdf5(tmp_path / "predictions.h5", {"main": maps}, NM)
    write_hdf5(tmp_path / "segmentation.h5", {"main": labels}, NM)
    assert len(read_volumes(str(tmp_path / "predictions.h5"))) == 3
    (layer,) = read_volumes(str(tmp_path / "segmentation.h5"))
    assert layer[2] == "labels"
