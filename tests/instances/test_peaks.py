import numpy as np
import pytest
from scipy import ndimage

from napari_volseg.instances.peaks import separate_peaks

NEVER = 256


def _profile(*heights):
    return np.array(heights, np.uint8).reshape(1, 1, -1)


def _separate(distance, depth, min_size=1, chosen=None):
    chosen = distance > 0 if chosen is None else chosen
    return separate_peaks(distance, chosen, depth, min_size)


@pytest.mark.parametrize(("depth", "expected"), [(40, 2), (50, 2), (51, 1), (NEVER, 1)])
def test_two_peaks_are_told_apart_by_the_valley_between_them(depth, expected):
    regions = _separate(_profile(100, 150, 100, 200, 120), depth)
    assert regions.max() == expected


def test_the_lower_peak_decides():
    assert _separate(_profile(90, 110, 100, 250, 90), 20).max() == 1
    assert _separate(_profile(90, 130, 100, 250, 90), 20).max() == 2


def test_a_peak_too_small_joins_its_neighbour_and_an_island_is_dropped():
    distance = _profile(200, 100, 220, 210, 200, 0, 90)
    regions = _separate(distance, 20, min_size=2)
    assert regions.ravel().tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_three_peaks_that_meet_in_one_voxel():
    distance = np.full((1, 5, 5), 50, np.uint8)
    for y, x in ((0, 0), (0, 4), (4, 2)):
        distance[0, y, x] = 200
    assert _separate(distance, 100).max() == 3


def test_without_depth_regions_are_connected_components(rng):
    distance = rng.integers(0, 256, (12, 20, 20)).astype(np.uint8)
    chosen = distance > 245
    expected, n = ndimage.label(chosen, np.ones((3, 3, 3)))
    regions = _separate(distance, NEVER, chosen=chosen)
    together = {*zip(regions.ravel().tolist(), expected.ravel().tolist(), strict=True)}
    assert regions.max() == n > 1
    assert len(together) == n + 1


@pytest.mark.parametrize("depth", [1, 20, 80, NEVER])
def test_regions_cover_what_was_chosen_in_raster_order(rng, depth):
    noise = ndimage.gaussian_filter(rng.random((16, 32, 32)), 2)
    distance = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    chosen = distance > 100
    before = chosen.copy(), distance.copy()
    regions = _separate(distance, depth, chosen=chosen)
    np.testing.assert_array_equal(regions > 0, chosen)
    firsts = [np.flatnonzero(regions.ravel() == i)[0] for i in np.unique(regions)[1:]]
    assert firsts == sorted(firsts)
    for region in range(1, regions.max() + 1):
        assert ndimage.label(regions == region, np.ones((3, 3, 3)))[1] == 1
    np.testing.assert_array_equal(chosen, before[0])
    np.testing.assert_array_equal(distance, before[1])


def test_more_depth_never_makes_more_regions(rng):
    noise = ndimage.gaussian_filter(rng.random((16, 32, 32)), 1.5)
    distance = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    counts = [_separate(distance, d).max() for d in (1, 5, 10, 20, 40, 80, NEVER)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_nothing_chosen_gives_nothing():
    assert not _separate(np.zeros((2, 3, 4), np.uint8), 10).any()


def test_more_peaks_than_were_reserved_for(rng):
    distance = np.zeros((4, 120, 120), np.uint8)
    distance[::2, ::2, ::2] = 200
    assert _separate(distance, 10).max() == 2 * 60 * 60
