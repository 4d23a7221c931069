import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import segmentation

from napari_volseg.errors import DataError
from napari_volseg.instances import watershed

STEPS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0))


def flood_slowly(height, seeds, mask):
    """The same rule, as plainly as it can be written."""
    result = np.where(mask, seeds, 0)
    queue = [
        (int(height[at]), -1, order, at)
        for order, at in enumerate(np.ndindex(height.shape))
        if result[at]
    ]
    heapq.heapify(queue)
    age = 0
    while queue:
        level, _, _, at = heapq.heappop(queue)
        for step in STEPS:
            to = tuple(a + s for a, s in zip(at, step, strict=True))
            inside = all(0 <= a < n for a, n in zip(to, height.shape, strict=True))
            if inside and mask[to] and not result[to]:
                age += 1
                result[to] = result[at]
                heapq.heappush(queue, (max(level, int(height[to])), age, 0, to))
    return result


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


@pytest.mark.parametrize("seed", range(40))
def test_equals_skimage_bit_for_bit(seed):
    # The seed voxels have different heights: among equals, skimage's order is
    # that of its heap. All other voxels tie as often as they like.
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 20, 3))
    size = int(np.prod(shape))
    n_seeds = min(size, int(rng.integers(1, 12)))
    levels = rng.permutation(12)[:n_seeds] * 2
    height = rng.integers(0, 24, shape).astype(np.uint8)
    seeds = np.zeros(shape, np.int32)
    where = np.unravel_index(rng.permutation(size)[:n_seeds], shape)
    seeds[where] = np.arange(1, n_seeds + 1)
    height[where] = levels
    mask = rng.random(shape) < 0.85

    expected = segmentation.watershed(height, seeds, mask=mask, connectivity=1)

    np.testing.assert_array_equal(watershed(height, seeds, mask), expected)


def test_equals_skimage_on_smooth_maps_but_for_ties_of_seeds():
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:24, :64, :64]
    waves = np.sin(z / 3) + np.sin(y / 4) + np.sin(x / 4)
    height = np.clip(128 + 40 * waves + rng.normal(0, 6, waves.shape), 0, 255)
    height = height.astype(np.uint8)
    from scipy import ndimage

    seeds = ndimage.label(height < 60)[0]
    mask = height < 200

    expected = segmentation.watershed(height, seeds, mask=mask, connectivity=1)

    assert np.mean(watershed(height, seeds, mask) != expected) < 1e-3


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


def test_a_volume_beyond_31_bits_is_refused_before_memory_is_taken():
    height = np.broadcast_to(np.uint8(0), (1300, 1300, 1300))
    from napari_volseg.instances.watershed import flood

    with pytest.raises(DataError, match="too large"):
        flood(height, height, height)
