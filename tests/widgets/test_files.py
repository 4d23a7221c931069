"""Open, save and generate volumes through the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_volseg.errors import DataError
from napari_volseg.io import write_hdf5
from napari_volseg.widgets.layers import layer_source, voxel_size
from napari_volseg.widgets.readers import get_reader, read_volumes
from napari_volseg.widgets.writers import write_layers

SHAPE = (4, 20, 24)
VOXEL_SIZE = (30.0, 8.0, 8.0)


@pytest.fixture
def file(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "em.h5"
    raw = rng.integers(0, 255, SHAPE, np.uint8)
    labels = (raw > 128).astype(np.uint16) * 300
    write_hdf5(path, {"raw": raw, "labels": labels}, VOXEL_SIZE)
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_file_opens_with_units_and_labels(viewer: Any, file: Path) -> None:
    viewer.open(file, plugin="napari-volseg")
    image = next(each for each in viewer.layers if isinstance(each, Image))
    labels = next(each for each in viewer.layers if isinstance(each, Labels))
    assert voxel_size(image) == voxel_size(labels) == VOXEL_SIZE
    assert {str(unit) for unit in image.units} == {"nanometer"}
    assert layer_source(image) == f"{file}:raw"
    with h5py.File(file) as h5:
        assert np.array_equal(np.asarray(image.data), h5["raw"][...])
        assert np.array_equal(labels.data, h5["labels"][...])
    labels.data_setitem((np.array([0]),) * 3, 5)
    assert labels.data[0, 0, 0] == 5


def test_an_image_is_not_read_before_it_is_looked_at(file: Path) -> None:
    (data, _, kind), *_ = [
        layer for layer in read_volumes(str(file)) if layer[2] == "image"
    ]
    assert kind == "image"
    assert not isinstance(data, np.ndarray)


def test_maps_open_as_a_prediction(viewer: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    write_hdf5(path, {"maps": np.zeros((3, *SHAPE), np.uint8)}, VOXEL_SIZE)
    viewer.open(path, plugin="napari-volseg")
    names = [layer.name for layer in viewer.layers]
    assert names == ["out · mask", "out · boundary", "out · distance"]


def test_channels_stay_together(viewer: Any, tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    write_hdf5(path, {"raw": np.zeros((2, *SHAPE), np.uint8)}, VOXEL_SIZE)
    (layer,) = viewer.open(path, plugin="napari-volseg")
    assert layer.data.shape == (2, *SHAPE)
    assert voxel_size(layer) == VOXEL_SIZE


@pytest.mark.parametrize("path", ["a.tif", ["a.h5", "b.tif"]])
def test_other_files_are_left_to_others(path: Any) -> None:
    assert get_reader(path) is None


def test_a_file_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "bad.h5"
    path.write_bytes(b"not HDF5 at all")
    reader = get_reader(str(path))
    assert reader is not None
    with pytest.raises(DataError, match=r"bad\.h5"):
        reader(str(path))


def test_saved_layers_open_again(viewer: Any, tmp_path: Path, add_pair: Any) -> None:
    image, labels = add_pair(viewer)
    path = tmp_path / "saved.h5"
    assert viewer.layers.save(str(path), plugin="napari-volseg") == [str(path)]
    viewer.layers.clear()
    viewer.open(path, plugin="napari-volseg")
    assert len(viewer.layers) == 2
    for layer in viewer.layers:
        kept = labels if isinstance(layer, Labels) else image
        assert np.array_equal(np.asarray(layer.data), kept.data)
        assert voxel_size(layer) == VOXEL_SIZE


def test_different_voxels_cannot_share_a_file(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, np.uint8)
    layers: list[Any] = [
        (data, {"name": "a", "scale": (1, 1, 1)}, "image"),
        (data, {"name": "b", "scale": (2, 1, 1)}, "image"),
    ]
    with pytest.raises(DataError, match="voxel sizes"):
        write_layers(str(tmp_path / "x.h5"), layers)
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize("key", ["vesicles", "cells"])
def test_samples_open(viewer: Any, key: str) -> None:
    image, labels = viewer.open_sample("napari-volseg", key)
    assert isinstance(labels, Labels)
    assert voxel_size(image) == voxel_size(labels)
    assert labels.data.max() > 5
