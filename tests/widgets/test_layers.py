"""Layers become volumes with the right voxels, sizes and words."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_volseg.errors import DataError
from napari_volseg.widgets.layers import (
    check_aligned,
    image_volume,
    labels_array,
    layer_source,
    placement,
    voxel_size,
    voxel_words,
)
from napari_volseg.widgets.readers import lazy

SHAPE = (4, 5, 6)


def image(data: Any = None, **options: Any) -> Image:
    data = np.zeros(SHAPE, np.uint8) if data is None else data
    return Image(data, **{"name": "em"} | options)


@pytest.mark.parametrize(
    ("units", "scale", "size"),
    [
        ("nm", (30, 8, 8), (30, 8, 8)),
        ("um", (0.03, 0.008, 0.008), (30, 8, 8)),
        (("um", "nm", "nm"), (0.03, 8, 8), (30, 8, 8)),
        ("mm", (1e-3, 1e-3, 1e-3), (1000, 1000, 1000)),
        (None, (4, 1, 1), (4, 1, 1)),
    ],
)
def test_voxel_size_is_nm_whatever_the_unit(units: Any, scale: Any, size: Any) -> None:
    units = (units,) * 3 if isinstance(units, str) else units
    assert voxel_size(image(scale=scale, units=units)) == size


def test_a_scale_without_unit_says_so() -> None:
    assert "no unit" in voxel_words(image(scale=(4, 1, 1)))
    assert voxel_words(image(scale=(30, 8, 8), units=("nm",) * 3)) == "30 × 8 × 8 nm"


@pytest.mark.parametrize(
    "options",
    [
        {"units": ("pixel", "nm", "nm")},
        {"units": ("s", "s", "s")},
        {"scale": (1, 1, -1)},
    ],
)
def test_units_that_are_no_lengths_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="em"):
        voxel_size(image(**options))


def test_multiscale_gives_full_resolution() -> None:
    levels = [np.arange(8**3).reshape(8, 8, 8), np.zeros((4, 4, 4), int)]
    volume = image_volume(image(levels, multiscale=True))
    assert np.array_equal(volume.read()[0], levels[0])


@pytest.mark.parametrize("n_channels", [3, 4])
@pytest.mark.parametrize("is_lazy", [False, True])
def test_colour_becomes_channels_without_alpha(n_channels: int, is_lazy: bool) -> None:
    data = np.random.default_rng(0).integers(0, 255, (*SHAPE, n_channels), np.uint8)
    given = dask.array.from_array(data) if is_lazy else data
    volume = image_volume(image(given, rgb=True))
    assert np.array_equal(volume.read(), np.moveaxis(data, -1, 0)[:3])


def test_four_axes_are_channels_first() -> None:
    data = np.zeros((2, *SHAPE), np.uint16)
    volume = image_volume(image(data, scale=(1, 30, 8, 8)))
    assert (volume.n_channels, volume.voxel_size) == (2, (30, 8, 8))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 6), {}),
        ((5, 6, 3), {"rgb": True}),
        ((9, *SHAPE), {}),
        ((2, *SHAPE), {"axis_labels": ("t", "z", "y", "x")}),
        ((1, 2, *SHAPE), {}),
    ],
)
def test_what_is_no_volume_is_refused_by_name(shape: Any, options: Any) -> None:
    with pytest.raises(DataError, match="'em'"):
        image_volume(image(np.zeros(shape, np.uint8), **options))


def test_many_named_channels_are_accepted() -> None:
    data = np.zeros((9, *SHAPE), np.uint8)
    assert image_volume(image(data, axis_labels=("c", "z", "y", "x"))).n_channels == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", (2, 1, 1)),
        ("translate", (0, 3, 0)),
        ("rotate", (0, 0, 10)),
        ("shear", (0, 0.1, 0)),
        ("units", ("um",) * 3),
    ],
)
def test_labels_elsewhere_are_refused_in_words(name: str, value: Any) -> None:
    labels = Labels(np.zeros(SHAPE, int), name="cells", **{name: value})
    with pytest.raises(DataError, match=rf"'cells' and 'em'.*{name}"):
        check_aligned(image(), labels, SHAPE)


def test_labels_of_another_shape_are_refused_with_both() -> None:
    labels = Labels(np.zeros((4, 5, 7), int), name="cells")
    with pytest.raises(DataError, match=r"\(4, 5, 7\).*\(4, 5, 6\)"):
        check_aligned(image(), labels, SHAPE)


def test_two_dimensional_labels_are_refused() -> None:
    with pytest.raises(DataError, match="'cells'"):
        labels_array(Labels(np.zeros((5, 6), int), name="cells"))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (30, 8, 8), "translate": (1, 2, 3)},
        {"scale": (30, 8, 8), "rotate": (0, 0, 30), "shear": (0, 0, 0.2)},
        {"affine": np.diag([2.0, 3.0, 4.0, 1.0]), "scale": (3, 1, 1)},
    ],
)
def test_a_part_lies_where_it_was_cut(options: dict[str, Any]) -> None:
    whole = image(**options)
    start = (1, 2, 3)
    part = Image(whole.data[1:, 2:, 3:], **placement(whole).layer_options(start))
    assert np.allclose(part.data_to_world((0, 0, 0)), whole.data_to_world(start))
    assert np.allclose(part.data_to_world((1, 1, 1)), whole.data_to_world((2, 3, 4)))


def test_placement_leaves_the_channel_axis_out() -> None:
    layer = image(np.zeros((2, *SHAPE)), scale=(1, 30, 8, 8), translate=(0, 1, 2, 3))
    place = placement(layer)
    assert place.scale.tolist() == [30, 8, 8]
    assert place.translate.tolist() == [1, 2, 3]
    assert place.affine.shape == (4, 4)


def test_a_source_counts_only_while_the_layer_shows_it() -> None:
    data = lazy(np.zeros(SHAPE, np.uint8))
    origin = {"source": "em.h5:raw", "token": data.name}
    layer = image(data, metadata={"napari-volseg": origin})
    assert layer_source(layer) == "em.h5:raw"
    layer.data = data + 1
    assert layer_source(layer) is None
    assert layer_source(image()) is None
