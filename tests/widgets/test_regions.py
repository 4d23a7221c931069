"""What is drawn around counts, where napari shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels, Shapes

from napari_volseg.errors import DataError
from napari_volseg.widgets.meter import count_pairs
from napari_volseg.widgets.regions import capture_region
from napari_volseg.widgets.snapshots import Annotated, capture_pair

SHAPE = (5, 20, 20)
SCALE = (30, 8, 8)


def image(**options: Any) -> Image:
    options = {"scale": SCALE, "units": ("nm",) * 3} | options
    return Image(np.zeros(SHAPE, np.uint8), name="em", **options)


def region(shapes: Any, shape_type: str = "rectangle", **options: Any) -> Shapes:
    ndim = np.shape(shapes[0])[1] if shapes else 3
    options = {"scale": SCALE[-ndim:], "units": ("nm",) * ndim} | options
    return Shapes(
        shapes or None, shape_type=shape_type, ndim=ndim, name="region", **options
    )


def rectangle(z: float | None) -> Any:
    corners = np.array([[2, 3], [2, 9], [7, 9], [7, 3]], float)
    return corners if z is None else np.insert(corners, 0, z, axis=1)


def mask(layer: Any, all_slices: bool = False, **options: Any) -> Any:
    return capture_region(layer, image(**options), SHAPE).mask(SHAPE, all_slices)


def test_a_shape_counts_in_its_slice() -> None:
    result = mask(region([rectangle(2)]))
    expected = np.zeros(SHAPE, bool)
    expected[2, 2:8, 3:10] = True
    assert np.array_equal(result, expected)


def test_a_shape_counts_in_all_slices_when_asked() -> None:
    result = mask(region([rectangle(2)]), all_slices=True)
    assert result[:, 2:8, 3:10].all()
    assert result.sum() == 5 * 6 * 7


def test_a_flat_layer_counts_in_every_slice_because_it_is_shown_in_every_slice() -> (
    None
):
    assert mask(region([rectangle(None)])).sum() == 5 * 6 * 7


def test_shapes_in_two_slices_leave_what_is_between_open() -> None:
    result = mask(region([rectangle(1), rectangle(3)]))
    assert result.any(axis=(1, 2)).tolist() == [False, True, False, True, False]


def test_shapes_drawn_in_another_view_count_there() -> None:
    corners = np.array([[1, 6, 2], [1, 6, 9], [3, 6, 9], [3, 6, 2]], float)
    result = mask(region([corners]))
    assert result[1:4, 6, 2:10].all()
    assert result.sum() == 3 * 8


def test_an_ellipse_is_round() -> None:
    result = mask(region([rectangle(2)], "ellipse"))
    assert result[2, 4, 6]
    assert not result[2, 2, 3]


def test_a_region_with_a_placement_of_its_own_is_moved_to_the_image() -> None:
    moved = region([rectangle(2)], scale=(30, 4, 4), translate=(30, 0, 8))
    result = mask(moved)
    assert result.any(axis=(1, 2)).tolist() == [False, False, False, True, False]
    assert result[3, 1:4, 3:6].all()


def test_painted_labels_are_a_region_too() -> None:
    painted = np.zeros(SHAPE, int)
    painted[1, 2:4] = 3
    layer = Labels(painted, name="region", scale=SCALE, units=("nm",) * 3)
    assert np.array_equal(mask(layer), painted != 0)


@pytest.mark.parametrize(
    "layer",
    [
        region([]),
        region([np.array([[0, 1, 1], [0, 5, 5]], float)], "line"),
        region([rectangle(0) + np.array([[0], [0], [3], [3]]) * [1, 1, 1]]),
        Labels(np.zeros(SHAPE, int), name="region", scale=SCALE, units=("nm",) * 3),
        region([rectangle(2) + 100]),
    ],
)
def test_a_region_that_covers_nothing_is_refused_by_name(layer: Any) -> None:
    with pytest.raises(DataError, match="'region'"):
        mask(layer)


@pytest.fixture
def painted() -> Labels:
    data = np.zeros(SHAPE, np.int32)
    data[1, 2:4, 2:4] = 1
    data[1, 6:8, 6:8] = 2
    data[3, 0, 0] = 9
    return Labels(data, name="cells", scale=SCALE, units=("nm",) * 3)


@pytest.mark.parametrize(
    ("annotated", "n_voxels", "words"),
    [
        (Annotated(), 2000, "100 % annotated · 3 instances"),
        (Annotated("painted_slices"), 800, "40 % annotated · 3 instances"),
        (Annotated("painted_voxels", 9), 9, "0.45 % annotated · 2 instances"),
        (
            Annotated(region=region([rectangle(1)])),
            42,
            "2.1 % annotated · 2 instances",
        ),
    ],
)
def test_what_counts_is_what_was_chosen(
    painted: Labels, annotated: Annotated, n_voxels: int, words: str
) -> None:
    snapshot = capture_pair(image(), painted, annotated)
    counted = snapshot.build().volume.annotated_ZYX
    assert (2000 if counted is None else counted.sum()) == n_voxels
    (pair,) = count_pairs([(snapshot, "train")])
    assert pair.words == words
    assert pair.counted.n_annotated == n_voxels


def test_painting_after_the_capture_changes_nothing(painted: Labels) -> None:
    layer = image()
    snapshot = capture_pair(layer, painted, Annotated())
    before = painted.data.copy()
    painted.data[:] = 7
    layer.data[:] = 7
    pair = snapshot.build()
    assert np.array_equal(pair.volume.labels_ZYX, before)
    assert not pair.volume.image.read().any()


def test_labels_too_large_to_copy_are_locked(
    painted: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_volseg.widgets.snapshots.COPY_AT_ONCE", 100)
    snapshot = capture_pair(image(), painted, Annotated())
    assert snapshot.locked is not None
    assert snapshot.locked() is painted
    assert capture_pair(image(), painted, Annotated(), copy=False).locked is None


def test_empty_labels_are_refused_by_name(painted: Labels) -> None:
    painted.data[:] = 0
    with pytest.raises(DataError, match=r"em.*empty"):
        capture_pair(image(), painted, Annotated()).build()
