import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.instances import find_seeds, segment, watershed
from napari_volseg.metrics import evaluate
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

THRESHOLDS = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1 / 3, 0.5, 0.6, 0.9, 1.0, 1.1])


@pytest.fixture(scope="module")
def sample():
    return make_sample("vesicles", (20, 96, 96))


@pytest.fixture(scope="module")
def maps(sample):
    return make_targets(sample.labels_ZYX, sample.image.voxel_size).values_CZYX


def every_value() -> np.ndarray:
    """A map of each byte, one voxel in two so that no two touch."""
    line = np.zeros((1, 1, 512), np.uint8)
    line[0, 0, ::2] = np.arange(256)
    return line


@settings(deadline=None)
@given(threshold=THRESHOLDS)
def test_thresholds_mean_what_the_settings_say(threshold):
    ramp, one = every_value(), np.full((1, 1, 512), 255, np.uint8)
    zero = np.zeros_like(one)
    gaps = (np.arange(512) % 2 == 0).reshape(ramp.shape)
    share = np.arange(256) / 255
    anything = {"seed_mask": 0, "seed_boundary": 1.1, "seed_distance": 0}
    loose = InstancesConfig(min_seed_size=0, min_size=0, mask=0, **anything)

    def chosen(maps, **settings):
        config = loose.model_copy(update=settings)
        return segment(np.stack(maps), config)[0, 0, ::2] > 0

    maps = (ramp, zero, one)
    above = share > threshold
    np.testing.assert_array_equal(chosen(maps, seed_mask=threshold), above)
    np.testing.assert_array_equal(chosen(maps, mask=threshold), above)
    maps = (gaps * one, ramp, one)
    below = share < threshold
    np.testing.assert_array_equal(chosen(maps, seed_boundary=threshold), below)
    np.testing.assert_array_equal(chosen(maps, boundary=threshold), below)
    maps = (gaps * one, zero, ramp)
    np.testing.assert_array_equal(chosen(maps, seed_distance=threshold), above)
    np.testing.assert_array_equal(
        chosen(maps, distance=threshold), (share >= threshold) & (share > 0)
    )


def test_targets_give_their_labels_back(sample, maps):
    instances = segment(maps, InstancesConfig())

    scores = evaluate(instances, sample.labels_ZYX)
    assert scores["f1_50"] == 1
    assert scores["adapted_rand_error"] < 0.02


def test_one_pass_equals_the_three_steps(maps):
    config = InstancesConfig(boundary=0.9, distance=0.05, min_size=60)

    seeds = find_seeds(maps, config)
    mask = (maps[0] > 127) & (maps[1] < 0.9 * 255) & (maps[2] >= 0.05 * 255)
    height = (255 - maps[2].astype(int) + maps[1]) // 2
    flooded = watershed(height.astype(np.uint8), seeds, mask)

    sizes = np.bincount(flooded.ravel())
    kept = [i for i in range(1, len(sizes)) if sizes[i] >= 60]
    assert 0 < len(kept) < len(sizes) - 1 or len(kept) == len(sizes) - 1
    expected = np.zeros_like(flooded)
    for new, old in enumerate(kept, start=1):
        expected[flooded == old] = new
    np.testing.assert_array_equal(segment(maps, config), expected)
    np.testing.assert_array_equal(segment(maps, config, seeds), expected)


def test_known_seeds_are_not_written(maps):
    seeds = find_seeds(maps, InstancesConfig())
    before = seeds.copy()

    segment(maps, InstancesConfig(min_size=500), seeds)

    np.testing.assert_array_equal(seeds, before)


def test_seeds_are_26_connected_and_numbered_in_raster_order():
    maps = np.zeros((3, 2, 3, 7), np.uint8)
    maps[0], maps[2] = 255, 0
    maps[2, 0, 0, 0] = maps[2, 1, 1, 1] = 255  # joined by a corner
    maps[2, 0, 2, 4] = 255

    seeds = find_seeds(maps, InstancesConfig(min_seed_size=1))

    assert seeds.dtype == np.int32
    assert seeds[0, 0, 0] == seeds[1, 1, 1] == 1
    assert seeds[0, 2, 4] == 2
    assert np.count_nonzero(seeds) == 3


def test_seeds_are_those_of_scipy(maps):
    noisy = maps.copy()
    rng = np.random.default_rng(0)
    noisy[2] = np.clip(noisy[2] + rng.normal(0, 60, noisy[2].shape), 0, 255)
    config = InstancesConfig(seed_depth=1.1, seed_distance=0.5, min_seed_size=4)

    seeds = find_seeds(noisy, config)

    chosen = (noisy[0] > 127.5) & (noisy[1] < 127.5) & (noisy[2] > 127.5)
    pieces, _ = ndimage.label(chosen, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())
    assert (sizes < 4).any()
    assert seeds.max() == np.count_nonzero(sizes[1:] >= 4)
    np.testing.assert_array_equal(seeds > 0, (pieces > 0) & (sizes >= 4)[pieces])


@pytest.mark.parametrize(
    "shape", [(1, 1, 64), (1, 9, 9), (3, 3, 3), (2, 1, 7), (5, 5, 5)]
)
def test_many_tiny_seeds_in_a_small_volume(shape):
    maps = np.zeros((3, *shape), np.uint8)
    maps[:, ::2, ::2, ::2] = 255
    maps[1] = 0

    seeds = find_seeds(maps, InstancesConfig(min_seed_size=0))

    assert seeds.max() == np.count_nonzero(maps[0])


def test_small_seeds_and_small_instances_disappear():
    maps = np.zeros((3, 1, 10, 40), np.uint8)
    for column, width in ((2, 4), (12, 8), (26, 12)):
        block = (slice(None), slice(0, 10), slice(column, column + width))
        maps[0][block] = maps[2][block] = 255

    def sizes(**settings):
        config = InstancesConfig(**settings)
        return np.bincount(segment(maps, config).ravel())[1:].tolist()

    assert sizes(min_seed_size=0, min_size=0) == [40, 80, 120]
    assert sizes(min_seed_size=80, min_size=0) == [80, 120]
    assert sizes(min_seed_size=0, min_size=81) == [120]
    assert sizes(min_seed_size=0, min_size=121) == []


def test_an_object_without_a_seed_disappears():
    maps = np.zeros((3, 1, 6, 20), np.uint8)
    maps[0, :, :, :8] = maps[0, :, :, 12:] = 255
    maps[2, :, :, :8] = 200
    maps[2, :, :, 12:] = 100

    instances = segment(maps, InstancesConfig(seed_distance=0.5))

    assert (instances[..., :8] == 1).all()
    assert not instances[..., 8:].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 7, 1), (5, 1, 1)])
def test_one_voxel_axes(shape):
    maps = np.stack([np.full(shape, v, np.uint8) for v in (255, 0, 255)])

    instances = segment(maps, InstancesConfig(min_size=0, min_seed_size=0))

    assert (instances == 1).all()


def test_all_foreground_is_one_instance_and_no_foreground_none():
    maps = np.full((3, 4, 20, 20), 255, np.uint8)
    maps[1] = 0
    assert (segment(maps, InstancesConfig()) == 1).all()
    assert not segment(np.zeros_like(maps), InstancesConfig()).any()


def test_empty_maps_have_no_instances():
    assert segment(np.zeros((3, 0, 4, 4), np.uint8), InstancesConfig()).size == 0


def test_maps_are_not_written_and_may_lie_any_way_in_memory(maps):
    expected = segment(maps, InstancesConfig())
    turned = np.asfortranarray(maps)
    turned.setflags(write=False)

    np.testing.assert_array_equal(segment(turned, InstancesConfig()), expected)
    again = segment(turned, InstancesConfig())
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize(
    "maps",
    [
        np.zeros((3, 4, 4, 4), np.float32),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ],
)
def test_other_arrays_are_refused(maps):
    with pytest.raises(DataError, match="mask, boundary and distance"):
        segment(maps, InstancesConfig())


def test_a_small_object_does_not_flood_into_a_large_neighbour():
    labels = np.zeros((1, 40, 60), np.int32)
    labels[:, 2:38, 2:50], labels[:, 16:24, 50:58] = 1, 2
    maps = make_targets(labels, (1, 1, 1)).values_CZYX

    instances = segment(maps, InstancesConfig())

    assert evaluate(instances, labels)["ap"] == 1
