import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.instances.seeds import _large_tile, find_seeds, sow, survey

NEVER = 256
TOUCHING = np.ones((3, 3, 3))


def _profile(*heights):
    return np.array(heights, np.uint8).reshape(1, 1, -1)


def _maps(distance, chosen=None):
    mask = np.ones(distance.shape, bool) if chosen is None else chosen
    return np.stack([mask * np.uint8(255), 0 * distance, distance])


def _config(depth, min_size=1):
    share = 1.1 if depth == NEVER else depth / 255
    return InstancesConfig(seed_distance=0, seed_depth=share, min_seed_size=min_size)


def _separate(distance, depth, min_size=1, chosen=None):
    return find_seeds(_maps(distance, chosen), _config(depth, min_size))


def _smooth(rng, shape, sigma):
    noise = ndimage.gaussian_filter(rng.random(shape), sigma)
    return (255 * (noise - noise.min()) / max(np.ptp(noise), 1e-9)).astype(np.uint8)


def separate_slowly(heights, depth, min_size):
    """The same rule, level by level."""
    above, known = np.zeros(heights.shape, int), {}
    for level in range(255, 0, -1):
        here, n = ndimage.label(heights >= level, TOUCHING)
        sizes, found = np.bincount(here.ravel(), minlength=n + 1), {}
        for piece in range(1, n + 1):
            inside = np.unique(above[here == piece])
            parts = [known[i] for i in inside if i]
            top = max((top for top, _ in parts), default=0)
            if top == 0 and sizes[piece] >= max(min_size, 1):
                top = level
            done = [seed for _, seeds in parts for seed in seeds]
            peaks = [
                above == i
                for i in inside
                if i and not known[i][1] and known[i][0] >= level + max(depth, 1)
            ]
            if len(parts) > 1 and (done or len(peaks) > 1):
                done += peaks
            found[piece] = (top, done)
        above, known = here, found
    pieces = [above == i for i, (top, seeds) in known.items() if top and not seeds]
    pieces += [seed for _, seeds in known.values() for seed in seeds]
    pieces.sort(key=lambda piece: np.flatnonzero(piece.ravel())[0])
    seeds = np.zeros(heights.shape, np.int32)
    for number, piece in enumerate(pieces, 1):
        assert not seeds[piece].any()
        seeds[piece] = number
    return seeds


@st.composite
def problems(draw):
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    distance = _smooth(rng, shape, draw(st.sampled_from([0, 0.5, 1, 2])))
    distance //= draw(st.sampled_from([1, 16, 50]))
    chosen = rng.random(shape) < draw(st.sampled_from([0.5, 0.9, 1.0]))
    depth = draw(st.sampled_from([0, 1, 3, 10, 40, NEVER]))
    return distance, chosen, depth, draw(st.sampled_from([0, 1, 2, 5, 9, 30]))


EDGES = st.sampled_from([2, 4, 6, 64])


@settings(max_examples=80, deadline=None)
@given(problems(), st.tuples(EDGES, EDGES, EDGES), st.integers(1, 2))
def test_every_division_into_tiles_gives_the_plain_rule(problem, tile, threads):
    distance, chosen, depth, min_size = problem
    maps, config = _maps(distance, chosen), _config(depth, min_size)
    expected = separate_slowly(np.where(chosen, distance, 0), depth, min_size)

    np.testing.assert_array_equal(find_seeds(maps, config), expected)
    seeds, n = sow(maps, config, threads, tile)
    assert n == expected.max()
    np.testing.assert_array_equal(seeds > 0, expected > 0)
    pairs = np.unique(np.stack([seeds.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == n + (not (seeds > 0).all())


@settings(max_examples=60, deadline=None)
@given(problems(), st.tuples(EDGES, EDGES, EDGES), st.lists(st.integers(0, 255)))
def test_a_terrain_serves_every_distance(problem, tile, floors):
    distance, chosen, depth, min_size = problem
    maps, config = _maps(distance, chosen), _config(depth, min_size)
    terrain = survey(maps, config, 1, tile)
    for floor in floors:
        config = config.model_copy(update={"seed_distance": floor / 255})
        expected = find_seeds(maps, config)

        np.testing.assert_array_equal(
            find_seeds(maps, config, terrain=terrain), expected
        )


@pytest.mark.parametrize(
    ("shape", "threads", "expected"),
    [
        ((256, 256, 256), 2, (256, 128, 128)),
        ((256, 256, 256), 8, (128, 64, 128)),
        ((9, 256, 256), 1, (64, 256, 128)),
        ((20, 30, 40), 2, (64, 64, 128)),
        ((4096, 4096, 4096), 2, (256, 128, 128)),
    ],
)
def test_a_terrain_has_few_tiles_but_two_a_thread(shape, threads, expected):
    assert _large_tile(Box.whole(shape), threads) == expected


def test_the_plain_rule_tells_peaks_apart_here(rng):
    distance = _smooth(rng, (12, 30, 30), 2)
    counts = [separate_slowly(distance, d, 5).max() for d in (5, 40, NEVER)]
    assert counts[0] > counts[1] > counts[2] >= 1


@pytest.mark.parametrize(("depth", "expected"), [(40, 2), (50, 2), (51, 1), (NEVER, 1)])
def test_two_peaks_are_told_apart_by_the_valley_between_them(depth, expected):
    seeds = _separate(_profile(100, 150, 100, 200, 120), depth)
    assert seeds.max() == expected


def test_a_seed_is_the_part_above_the_valley():
    seeds = _separate(_profile(100, 150, 110, 100, 180, 200, 120, 90), 40)
    assert seeds.ravel().tolist() == [0, 1, 1, 0, 2, 2, 2, 0]


def test_the_lower_peak_decides():
    assert _separate(_profile(90, 110, 100, 250, 90), 20).max() == 1
    assert _separate(_profile(90, 130, 100, 250, 90), 20).max() == 2


def test_a_peak_too_small_is_none_and_an_island_is_dropped():
    distance = _profile(200, 100, 220, 210, 200, 0, 90)
    seeds = _separate(distance, 20, min_size=2)
    assert seeds.ravel().tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_a_spike_does_not_make_a_low_hill_a_peak():
    low_hill = (120, 121, 120, 119)
    with_spike = _profile(200, 201, 200, 100, *low_hill, 250)
    assert _separate(with_spike, 30, min_size=3).max() == 1
    assert _separate(with_spike, 30, min_size=1).max() == 2


def test_three_peaks_that_meet_in_one_voxel():
    distance = np.full((1, 5, 5), 50, np.uint8)
    for y, x in ((0, 0), (0, 4), (4, 2)):
        distance[0, y, x] = 200
    assert _separate(distance, 100).max() == 3


def test_without_depth_regions_are_connected_components(rng):
    distance = rng.integers(0, 256, (12, 20, 20)).astype(np.uint8)
    chosen = distance > 245
    expected, n = ndimage.label(chosen, TOUCHING)
    seeds = _separate(distance, NEVER, chosen=chosen)
    together = {*zip(seeds.ravel().tolist(), expected.ravel().tolist(), strict=True)}
    assert seeds.max() == n > 1
    assert len(together) == n + 1


@pytest.mark.parametrize("depth", [1, 20, 80, NEVER])
def test_seeds_are_pieces_that_do_not_touch_in_raster_order(rng, depth):
    distance = _smooth(rng, (16, 32, 32), 2)
    before = distance.copy()
    seeds = _separate(distance, depth, min_size=3, chosen=distance > 100)
    assert not seeds[distance <= 100].any()
    firsts = [np.flatnonzero(seeds.ravel() == i)[0] for i in np.unique(seeds)[1:]]
    assert firsts == sorted(firsts)
    assert ndimage.label(seeds > 0, TOUCHING)[1] == seeds.max() > 0
    assert np.bincount(seeds.ravel())[1:].min() >= 3
    np.testing.assert_array_equal(distance, before)


def test_more_depth_never_makes_more_seeds(rng):
    distance = _smooth(rng, (16, 32, 32), 1.5)
    counts = [_separate(distance, d).max() for d in (1, 5, 10, 20, 40, 80, NEVER)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_nothing_chosen_gives_nothing():
    assert not _separate(np.zeros((2, 3, 4), np.uint8), 10).any()


def test_a_path_through_other_tiles_joins_what_a_tile_sees_apart():
    # A ring: in the tile on the left the two arms meet nowhere.
    heights = np.zeros((1, 12, 12), np.uint8)
    heights[0, [2, 9], 1:10] = 150
    heights[0, 2:10, 9] = 150
    heights[0, 2, 1], heights[0, 9, 1] = 200, 190
    maps = _maps(heights)
    for depth, expected in ((30, 2), (45, 1)):
        seeds, n = sow(maps, _config(depth), 1, (2, 12, 4))
        assert n == expected
        assert len(np.unique(seeds[seeds > 0])) == expected
