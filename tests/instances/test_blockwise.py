import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.instances import blockwise, segment, segment_blocks
from napari_volseg.review import instance_table, table_of_blocks
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

DATA = Path(__file__).parents[2].parent / "shared" / "data"
VOXEL = (30.0, 8.0, 8.0)


def _maps(labels, voxel_size, rng):
    """Maps as a network makes them: too low, blurred and noisy."""
    targets = make_targets(labels, voxel_size).values_CZYX
    sigma = 1.2 * min(voxel_size) / np.array(voxel_size)
    maps = [
        ndimage.gaussian_filter(channel.astype(np.float32), sigma) * share
        for channel, share in zip(targets, (0.9, 0.8, 0.7), strict=True)
    ]
    noisy = np.stack(maps) + rng.normal(0, 12, targets.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _noise(rng, shape, sigma):
    noise = ndimage.gaussian_filter(rng.random(shape), sigma)
    return (255 * (noise - noise.min()) / max(np.ptp(noise), 1e-9)).astype(np.uint8)


@st.composite
def problems(draw):
    shape = draw(st.tuples(*[st.integers(1, 18)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sigma = draw(st.sampled_from([0, 1, 2, 3]))
    maps = np.stack([_noise(rng, shape, sigma) for _ in range(3)])
    maps //= draw(st.sampled_from([1, 60]))
    maps *= 255 // max(int(maps.max()), 1)
    config = InstancesConfig(
        seed_distance=draw(st.sampled_from([0.2, 0.5])),
        seed_depth=draw(st.sampled_from([0.05, 0.12, 1.1])),
        min_seed_size=draw(st.sampled_from([0, 2, 8])),
        min_size=draw(st.sampled_from([0, 30])),
        mask=draw(st.sampled_from([0.0, 0.4])),
        seed_mask=0.2,
        seed_boundary=0.8,
    )
    edge, halo = st.integers(2, 9).map(lambda n: 2 * n), st.integers(0, 5)
    layout = {
        "block": draw(st.tuples(*[edge] * 3)),
        "halo": draw(st.tuples(*[halo] * 3)),
        "at_once": draw(st.sampled_from([1, 3])),
    }
    return maps, config, layout


@settings(max_examples=8, deadline=None)
@given(problems())
def test_blocks_give_the_instances_of_the_whole(problem):
    maps, config, layout = problem
    expected = segment(maps, config)
    labels = np.full(expected.shape, 77, np.int64)

    result = segment_blocks(maps, labels, config, **layout)

    np.testing.assert_array_equal(labels, expected)
    table = instance_table(expected, maps, VOXEL)
    assert result.n_instances == expected.max(initial=0)
    found = table_of_blocks(result, expected.shape, VOXEL)
    assert found.keys() == table.keys()
    for name, column in table.items():
        np.testing.assert_allclose(found[name], column, err_msg=name)


def test_a_halo_that_is_too_small_is_noticed_and_made_up_for(rng):
    maps = np.stack([_noise(rng, (10, 40, 40), 1) for _ in range(3)])
    config = InstancesConfig(mask=0, seed_mask=0, seed_boundary=1.1, min_size=0)
    labels = np.zeros(maps.shape[1:], np.int32)

    near = segment_blocks(maps, labels, config, block=(10, 10, 10), halo=(0, 0, 0))
    np.testing.assert_array_equal(labels, segment(maps, config))
    far = segment_blocks(maps, labels, config, block=(10, 10, 10), halo=(20, 20, 20))
    np.testing.assert_array_equal(labels, segment(maps, config))

    assert near.n_blocks == far.n_blocks == 16
    assert near.n_visits > 2 * 16
    assert far.n_visits < near.n_visits


@pytest.mark.parametrize(
    "name", ["gala_fibsem_tiny_test", "root_membrane_cells", "bbbc050_emb01_t501"]
)
def test_blocks_of_real_objects(name, rng):
    path = DATA / f"{name}.h5"
    if not path.exists():
        pytest.skip("the annotated volumes are not here")
    with h5py.File(path) as file:
        labels = file["labels"][...].astype(np.int32)[:, :120, :120]
        voxel_size = tuple(file.attrs["voxel_size_zyx_nm"])
    maps = _maps(labels, voxel_size, rng)
    expected = segment(maps, InstancesConfig())
    found = np.zeros(labels.shape, np.int32)

    segment_blocks(maps, found, InstancesConfig(), block=(24, 48, 64))

    assert expected.max() > 10
    assert np.count_nonzero(found != expected) == 0


def test_from_zarr_to_zarr(tmp_path, rng):
    sample = make_sample("cells", (20, 70, 90))
    maps = _maps(sample.labels_ZYX, sample.image.voxel_size, rng)
    stored = zarr.create_array(
        tmp_path / "maps.zarr", data=maps, chunks=(1, 8, 32, 32), overwrite=True
    )
    labels = zarr.create_array(
        tmp_path / "labels.zarr",
        shape=maps.shape[1:],
        dtype="int64",
        chunks=(8, 32, 32),
    )
    said = []

    result = segment_blocks(
        stored,
        labels,
        InstancesConfig(),
        block=(8, 32, 32),
        scratch=tmp_path,
        report=lambda *steps: said.append(steps),
    )

    np.testing.assert_array_equal(labels[...], segment(maps, InstancesConfig()))
    assert result.n_instances > 5
    assert said[-1] == (4 * result.n_blocks, 4 * result.n_blocks)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.zarr", "maps.zarr"]


def test_halos_grow_to_the_size_of_objects(monkeypatch):
    sample = make_sample("cells", (32, 256, 256))
    maps = make_targets(sample.labels_ZYX, sample.image.voxel_size).values_CZYX
    config = InstancesConfig(min_size=0)
    labels, expected = np.zeros(maps.shape[1:], np.int32), segment(maps, config)
    n_visits = {}
    for enough in (20, 10**9):
        monkeypatch.setattr(blockwise, "_ENOUGH", enough)
        result = segment_blocks(
            maps, labels, config, block=(32, 64, 64), halo=(4, 8, 8)
        )
        np.testing.assert_array_equal(labels, expected)
        n_visits[enough] = result.n_visits
    assert n_visits[20] < n_visits[10**9]


def test_no_block_is_worked_on_after_one_has_failed(rng):
    maps = np.stack([_noise(rng, (10, 40, 40), 1) for _ in range(3)])
    begun, ended = itertools.count(1), []

    class Maps:
        shape, dtype = maps.shape, maps.dtype

        def __getitem__(self, key):
            n = next(begun)
            try:
                if n == 6:
                    raise OSError("gone")
                return maps[key]
            finally:
                ended.append(n)

    labels = np.zeros(maps.shape[1:], np.int32)
    with pytest.raises(OSError, match="gone"):
        segment_blocks(Maps(), labels, InstancesConfig(), block=(10, 4, 4), at_once=3)

    assert len(ended) == next(begun) - 1
    assert len(ended) < 20


def test_progress_goes_on_while_blocks_are_flooded_again(rng):
    sample = make_sample("cells", (20, 70, 90))
    maps = _maps(sample.labels_ZYX, sample.image.voxel_size, rng)
    labels, said = np.zeros(maps.shape[1:], np.int32), []

    result = segment_blocks(
        maps,
        labels,
        InstancesConfig(),
        block=(8, 16, 16),
        halo=(1, 1, 1),
        report=lambda *steps: said.append(steps),
    )

    again = result.n_visits - result.n_blocks
    assert again > 0
    assert [done for done, _ in said] == list(range(1, len(said) + 1))
    assert said[-1] == (len(said), 4 * result.n_blocks + again)


def test_ids_with_gaps_are_the_same_instances(rng):
    sample = make_sample("vesicles", (12, 60, 60))
    maps = _maps(sample.labels_ZYX, sample.image.voxel_size, rng)
    config = InstancesConfig(min_size=100)
    labels, expected = np.zeros(maps.shape[1:], np.int64), segment(maps, config)

    result = segment_blocks(maps, labels, config, block=(12, 32, 32), consecutive=False)

    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() + 1
    assert result.measures.ids.tolist() == sorted(np.unique(labels)[1:].tolist())


def test_what_does_not_fit_is_said_before_anything_is_read():
    maps, config = np.zeros((3, 4, 6, 8), np.uint8), InstancesConfig()
    labels = np.zeros((4, 6, 8), np.int32)

    with pytest.raises(DataError, match="mask, boundary and distance"):
        segment_blocks(maps[:2], labels, config)
    with pytest.raises(DataError, match="cover the same voxels"):
        segment_blocks(maps, labels[:2], config)
    with pytest.raises(DataError, match="int64 or int32"):
        segment_blocks(maps, labels.astype(float), config)
    with pytest.raises(ValueError, match="even"):
        segment_blocks(maps, labels, config, block=(3, 4, 4))


def test_more_seeds_than_the_labels_can_number():
    maps = np.zeros((3, 1, 40, 40), np.uint8)
    maps[0], maps[2, :, ::2, ::2] = 255, 255
    config = InstancesConfig(min_seed_size=1, min_size=0)

    with pytest.raises(DataError, match="min_seed_size"):
        segment_blocks(maps, np.zeros((1, 40, 40), np.int8), config)


def test_nothing_to_find():
    for shape in ((2, 4, 6), (0, 4, 4)):
        labels = np.ones(shape, np.int32)
        result = segment_blocks(
            np.zeros((3, *shape), np.uint8), labels, InstancesConfig()
        )
        assert not labels.any()
        assert result.n_instances == len(result.measures.ids) == 0
