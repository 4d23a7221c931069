import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import segmentation

from napari_volseg.errors import DataError
from napari_volseg.instances import watershed
from napari_volseg.instances.arrival import WALL, find_arrivals, first_arrival

STEPS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0))


def flood_slowly(height, seeds, mask):
    """The same rule, as plainly as it can be written."""
    first = {
        tuple(at): (int(height[tuple(at)]), 0)
        for at in np.argwhere(mask & (seeds > 0)).tolist()
    }
    queue = [(when, at) for at, when in first.items()]
    heapq.heapify(queue)
    labels = np.zeros(height.shape, int)
    done = {}
    while queue:
        when, at = heapq.heappop(queue)
        if at in done:
            continue
        earlier = [(done[n], k, n) for k, n in neighbours(at, mask) if n in done]
        earlier = [e for e in earlier if e[0] < when]
        labels[at] = seeds[at] if at in first else labels[min(earlier)[2]]
        done[at] = when
        for _, to in neighbours(at, mask):
            h = int(height[to])
            then = (h, 0) if h > when[0] else (when[0], when[1] + 1)
            if to not in done and to not in first:
                heapq.heappush(queue, (then, to))
    return labels


def neighbours(at, mask):
    for k, step in enumerate(STEPS):
        to = tuple(a + s for a, s in zip(at, step, strict=True))
        if all(0 <= a < n for a, n in zip(to, mask.shape, strict=True)) and mask[to]:
            yield k, to


@st.composite
def problems(draw):
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_levels = draw(st.sampled_from([1, 2, 5, 256]))
    height = rng.integers(0, n_levels, shape).astype(np.uint8)
    mask = rng.random(shape) < draw(st.sampled_from([0.3, 0.7, 0.95, 1.0]))
    sown = rng.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.1, 0.4]))
    return height, np.where(sown, rng.integers(1, 9, shape), 0), mask


@settings(max_examples=150, deadline=None)
@given(problems())
def test_equals_the_plain_algorithm(problem):
    np.testing.assert_array_equal(watershed(*problem), flood_slowly(*problem))


@settings(max_examples=60, deadline=None)
@given(problems(), st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 3))
def test_tiles_and_threads_make_no_difference(problem, tile, threads):
    height, seeds, mask = problem
    sown = mask & (seeds > 0)
    start = np.where(mask, -1 - height.astype(np.int32), WALL)
    start[sown] = [first_arrival(int(h)) for h in height[sown]]
    whole, tiled = start.copy(), start.copy()

    find_arrivals(height, whole, 1)
    find_arrivals(height, tiled, threads, tile)

    np.testing.assert_array_equal(tiled, whole)


def test_many_tiles_of_a_smooth_volume_are_one():
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.random((40, 90, 150)), 2)
    height = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    seeds = ndimage.label(height < 70)[0]
    mask = height < 220
    ways = [watershed(height, seeds, mask, threads=n) for n in (1, 2, 3)]
    start = np.where(
        seeds > 0, (height.astype(np.int32) << 23) + 1, -1 - height.astype(np.int32)
    )
    start[~mask] = WALL
    whole, tiled = start.copy(), start.copy()
    find_arrivals(height, whole, 1, height.shape)
    find_arrivals(height, tiled, 2, (16, 16, 16))

    assert seeds.max() > 20
    np.testing.assert_array_equal(ways[1], ways[0])
    np.testing.assert_array_equal(ways[2], ways[0])
    np.testing.assert_array_equal(tiled, whole)


@pytest.mark.parametrize("seed", range(20))
def test_equals_skimage_where_every_height_is_there_once(seed):
    rng = np.random.default_rng(seed)
    height = rng.permutation(256).astype(np.uint8).reshape(1, 16, 16)
    seeds = np.zeros(height.shape, np.int32)
    where = np.unravel_index(rng.permutation(256)[:8], height.shape)
    seeds[where] = np.arange(1, 9)
    mask = rng.random(height.shape) < 0.85

    expected = segmentation.watershed(height, seeds, mask=mask, connectivity=1)

    flooded = watershed(height, seeds, mask)
    # Below a pass, in one basin, two ways may be as short.
    assert np.mean(flooded != expected) < 0.03
    np.testing.assert_array_equal(flooded > 0, expected > 0)


def test_equals_skimage_on_smooth_maps_but_for_ties():
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:24, :64, :64]
    waves = np.sin(z / 3) + np.sin(y / 4) + np.sin(x / 4)
    height = np.clip(128 + 40 * waves + rng.normal(0, 6, waves.shape), 0, 255)
    height = height.astype(np.uint8)
    seeds = ndimage.label(height < 60)[0]
    mask = height < 200

    expected = segmentation.watershed(height, seeds, mask=mask, connectivity=1)

    # Skimage lets the order of its queue decide where two floods meet halfway.
    assert np.mean(watershed(height, seeds, mask) != expected) < 0.02


def test_nothing_floods_without_seeds():
    height = np.zeros((3, 4, 5), np.uint8)

    flooded = watershed(height, np.zeros_like(height, np.int32), height == 0)

    assert flooded.dtype == np.int32
    assert not flooded.any()


def test_one_seed_fills_what_it_can_reach():
    mask = np.ones((3, 3, 7), bool)
    mask[:, :, 4] = False
    seeds = np.zeros(mask.shape, np.int32)
    seeds[1, 1, 1] = 5

    flooded = watershed(np.full(mask.shape, 9, np.uint8), seeds, mask)

    assert (flooded[:, :, :4] == 5).all()
    assert not flooded[:, :, 4:].any()


def test_diagonals_do_not_connect():
    mask = np.eye(4, dtype=bool)[np.newaxis]
    seeds = np.zeros(mask.shape, np.int32)
    seeds[0, 0, 0] = 1

    flooded = watershed(np.zeros(mask.shape, np.uint8), seeds, mask)

    assert np.count_nonzero(flooded) == 1


def test_seeds_outside_the_mask_are_ignored():
    seeds = np.zeros((1, 1, 6), np.int32)
    seeds[..., 0], seeds[..., 3] = 1, 2
    mask = np.array([[[0, 1, 1, 1, 1, 1]]], bool)

    flooded = watershed(np.zeros(mask.shape, np.uint8), seeds, mask)

    np.testing.assert_array_equal(flooded[0, 0], [0, 2, 2, 2, 2, 2])


def test_basins_meet_at_the_ridge():
    height = np.array([[[0, 3, 5, 9, 4, 2, 0]]], np.uint8)
    seeds = np.array([[[1, 0, 0, 0, 0, 0, 2]]])

    flooded = watershed(height, seeds, np.ones(height.shape, bool))

    np.testing.assert_array_equal(flooded[0, 0, [0, 1, 2, 4, 5, 6]], [1, 1, 1, 2, 2, 2])


def test_more_voxels_than_a_link_of_the_queue_holds():
    height = np.random.default_rng(1).integers(0, 3, (20, 40, 40)).astype(np.uint8)
    seeds = np.zeros(height.shape, np.int32)
    seeds[3, 5, 5], seeds[16, 30, 30] = 1, 2
    mask = np.ones(height.shape, bool)

    np.testing.assert_array_equal(
        watershed(height, seeds, mask), flood_slowly(height, seeds, mask)
    )


def test_inputs_are_not_written_and_may_lie_any_way_in_memory():
    rng = np.random.default_rng(2)
    height = rng.integers(0, 255, (6, 7, 8)).astype(np.uint8)
    seeds = np.where(rng.random(height.shape) < 0.05, 3, 0)
    mask = height < 200
    expected = watershed(height, seeds, mask)
    turned = [np.asfortranarray(a) for a in (height, seeds, mask)]
    for array in turned:
        array.setflags(write=False)

    np.testing.assert_array_equal(watershed(*turned), expected)


def test_an_id_beyond_31_bits_is_refused():
    height = np.zeros((1, 1, 2), np.uint8)

    with pytest.raises(DataError, match="31 bits"):
        watershed(height, np.array([[[2**31, 0]]]), height == 0)


def test_other_heights_and_shapes_are_refused():
    ones = np.ones((2, 2, 2), np.int32)

    with pytest.raises(ValueError, match="uint8"):
        watershed(ones.astype(np.float32), ones, ones > 0)
    with pytest.raises(ValueError, match="one shape"):
        watershed(ones.astype(np.uint8), ones[:1], ones > 0)
