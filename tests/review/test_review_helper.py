"""What the process of a review answers, through the real process once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from napari_volseg.errors import DataError
from napari_volseg.review import Helper, HelperGone, reshaping

VOXEL_SIZE = (1.0, 1.0, 1.0)


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.close()


def dumbbell() -> np.ndarray:
    """Two balls that touch."""
    grid = np.indices((11, 11, 22))
    left = ((grid - np.reshape((5, 5, 6), (3, 1, 1, 1))) ** 2).sum(0) <= 20
    right = ((grid - np.reshape((5, 5, 14), (3, 1, 1, 1))) ** 2).sum(0) <= 20
    return left | right


def test_the_process_splits_and_says_what_it_cannot(helper: Helper) -> None:
    inside = dumbbell()
    points = np.array([[5, 5, 3], [5, 5, 17]], float)
    options = {"voxel_size": VOXEL_SIZE}
    arrays, _ = helper.ask("split", {"object": inside, "points": points}, options)
    pieces = arrays["pieces"]
    assert ((pieces > 0) == inside).all()
    assert (pieces[5, 5, :10][inside[5, 5, :10]] == 1).all()
    assert (pieces[5, 5, 11:][inside[5, 5, 11:]] == 2).all()
    with pytest.raises(DataError, match="same place"):
        helper.ask("split", {"object": inside, "points": points[[0, 0]]}, options)
    labels = inside.astype(np.uint32)
    table, _ = helper.ask("table", {"labels": labels}, options)
    assert table["voxels"].tolist() == [inside.sum()]


def test_a_process_that_dies_is_told_and_replaced() -> None:
    helper = Helper([sys.executable, "-c", "raise SystemExit(7)"])
    for _ in range(2):
        with pytest.raises(DataError, match="code 7"):
            helper.ask("split", {})
    helper.close()


def test_closing_lets_go_of_who_waits_and_of_the_process() -> None:
    code = "# napari_volseg\nimport time; time.sleep(600)"
    helper = Helper([sys.executable, "-c", code])
    said: list[Exception] = []

    def ask() -> None:
        try:
            helper.ask("split", {})
        except HelperGone as error:
            said.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while helper._process is None:
        pass
    process = psutil.Process(helper._process.pid)
    helper.close()
    thread.join(timeout=20)
    assert len(said) == 1
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    with pytest.raises(HelperGone):
        helper.ask("split", {})


def test_cancelling_ends_the_process() -> None:
    code = "# napari_volseg\nimport time; time.sleep(600)"
    helper = Helper([sys.executable, "-c", code])
    with pytest.raises(HelperGone):
        helper.ask("split", {}, is_cancelled=lambda: True)
    assert helper._process is None


def test_a_line_cuts_where_it_is_drawn() -> None:
    inside = dumbbell()
    line = np.array([[-2.0, 9.0], [12.0, 12.0]])
    markers = np.zeros(inside.shape, np.int32)
    markers[5] = reshaping.cut_by_line(inside[5], line)
    pieces = reshaping.split(inside, markers, None, VOXEL_SIZE)
    left, right = pieces[5, 5, 4], pieces[5, 5, 16]
    assert {left, right} == {1, 2}
    assert ((pieces > 0) == inside).all()
    # In the other slices the parts are divided at the waist.
    assert (pieces[3, 5, :10][inside[3, 5, :10]] == left).all()
    with pytest.raises(DataError, match="does not cross"):
        reshaping.cut_by_line(inside[5], np.array([[0.0, 0.0], [0.0, 5.0]]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_line_cuts_in_the_slice_it_is_drawn_in(axis: int) -> None:
    inside = dumbbell()
    line = np.array([[5.0, -2.0, 9.0], [5.0, 12.0, 12.0]])
    expected = np.zeros(inside.shape, np.int32)
    expected[5] = reshaping.cut_by_line(inside[5], line[:, 1:])
    order = [1, 2]
    order.insert(axis, 0)
    turned = np.transpose(inside, order)
    markers = reshaping.mark_sides(turned, line[:, order], axis, 5)
    assert (markers == np.transpose(expected, order)).all()


def test_a_diagonal_line_has_no_gaps() -> None:
    square = np.ones((30, 30), bool)
    for slope in (1, 0.37, -0.8, 3.3):
        ends = np.array([[15 - slope * 16, -1.0], [15 + slope * 16, 31.0]])
        markers = reshaping.cut_by_line(square, ends)
        assert set(np.unique(markers)) == {0, 1, 2}


def test_a_split_follows_the_boundary_of_the_maps() -> None:
    inside = np.zeros((5, 9, 20), bool)
    inside[1:4, 1:8, 1:19] = True
    maps = np.zeros((3, *inside.shape), np.uint8)
    maps[0][inside] = 255
    maps[2][inside] = 200
    maps[1, :, :, 5] = 255
    markers = reshaping.mark_points(inside, np.array([[2, 4, 3], [2, 4, 16]]))
    pieces = reshaping.split(inside, markers, maps, VOXEL_SIZE)
    assert (pieces[inside & (np.indices(inside.shape)[2] < 5)] == 1).all()
    assert (pieces[inside & (np.indices(inside.shape)[2] > 5)] == 2).all()


def test_fragments_without_a_point_go_to_the_nearest_piece() -> None:
    inside = dumbbell()
    inside[5, 5, 20] = True
    markers = reshaping.mark_points(inside, np.array([[5, 5, 4], [5, 5, 15]]))
    pieces = reshaping.split(inside, markers, None, VOXEL_SIZE)
    assert pieces[5, 5, 20] == 2


def test_growing_stops_at_others_at_the_mask_and_at_its_reach() -> None:
    mask = np.full((1, 1, 12), 255, np.uint8)
    mask[0, 0, 9:] = 0
    inside = np.zeros(mask.shape, bool)
    inside[0, 0, 4] = True
    free = np.ones(mask.shape, bool)
    free[0, 0, 2] = False
    grown = reshaping.grow(inside, free, mask, 0.5, reach=3)
    assert np.flatnonzero(grown).tolist() == [3, 4, 5, 6, 7]
    grown = reshaping.grow(inside, free, mask, 0.5, reach=8)
    assert np.flatnonzero(grown).tolist() == [3, 4, 5, 6, 7, 8]


def test_shrinking_follows_the_mask_but_never_to_nothing() -> None:
    inside = np.ones((1, 1, 4), bool)
    mask = np.array([[[10, 200, 255, 100]]], np.uint8)
    assert reshaping.shrink(inside, mask, 0.5)[0, 0].tolist() == [0, 1, 1, 0]
    with pytest.raises(DataError, match="nothing would be left"):
        reshaping.shrink(inside, mask, 1.0)


def test_holes_are_filled_in_space_and_in_slices() -> None:
    tube = np.ones((4, 5, 5), bool)
    tube[:, 2, 2] = False  # open at both ends, closed in each slice
    assert reshaping.fill(tube).all()


def test_segmenting_again_stays_where_it_may() -> None:
    from napari_volseg.config import InstancesConfig

    maps = np.zeros((3, 6, 20, 40), np.uint8)
    for centre in (10, 30):
        maps[0, 1:5, 4:16, centre - 6 : centre + 6] = 255
        maps[2, 2:4, 8:12, centre - 2 : centre + 2] = 255
    free = np.ones(maps.shape[1:], bool)
    config = InstancesConfig(min_size=1, distance=0.0)
    both = reshaping.segment_again(maps, free, config)
    assert both.max() == 2
    free[:, :, 20:] = False
    one = reshaping.segment_again(maps, free, config)
    assert one.max() == 1
    assert not one[~free].any()
