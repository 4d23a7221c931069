import shutil
from collections import namedtuple

import numpy as np
import pytest

from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.io import open_volume, scratch, write_volume_zarr
from napari_volseg.io.scratch import new_array
from napari_volseg.sampling import (
    CachePlan,
    PatchSource,
    caching,
    plan_cache,
    prepare_volume,
)
from napari_volseg.sampling.chunks import ChunkedImage
from napari_volseg.volume import LabelledVolume, Volume

PATCH = (8, 16, 16)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def volume(make_cells):
    return make_cells((20, 60, 50))


def _config(*overrides):
    return load_config("quick", ["augmentation.preset=strong", *overrides])


def _source(volume, mode, folder, *overrides):
    config = _config(*overrides)
    prepared = prepare_volume(
        volume,
        [Box((0, 10, 10), (20, 25, 25))],
        (1, 2, 2),
        config,
        PATCH,
        "3d",
        "3d",
        CachePlan(mode, chunk_bytes=30_000),
        folder,
    )
    return PatchSource([prepared], config, PATCH)


@pytest.mark.parametrize("mode", ["disk", "chunks"])
@pytest.mark.parametrize("pad", ["[0,0,0]", "[2,8,8]"])
def test_patches_do_not_depend_on_where_volumes_are_kept(volume, tmp_path, mode, pad):
    wanted = _source(volume, "ram", None, f"data.pad_size={pad}")
    kept = _source(volume, mode, tmp_path, f"data.pad_size={pad}")
    for step in range(20):
        one, other = wanted.draw(step, 0), kept.draw(step, 0)
        np.testing.assert_array_equal(one.image_CZYX, other.image_CZYX)
        np.testing.assert_array_equal(one.valid_CZYX, other.valid_CZYX)
        difference = one.targets_CZYX.astype(int) - other.targets_CZYX
        assert np.abs(difference).max() <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_", ["zarr", "npy"])
def test_files_are_read_in_parts(volume, tmp_path, format_):
    image = np.asarray(volume.image.data)
    path = tmp_path / f"em.{format_}"
    if format_ == "zarr":
        write_volume_zarr(path, {"image": image}, volume.image.voxel_size)
    else:
        np.save(path, image)
    opened = open_volume(str(path), voxel_size=volume.image.voxel_size)
    stored = LabelledVolume(opened, volume.labels_ZYX)
    wanted = _source(volume, "ram", None)
    kept = _source(stored, "chunks", tmp_path)
    assert isinstance(kept.volumes[0].image_CZYX, ChunkedImage)
    for step in range(6):
        np.testing.assert_array_equal(
            wanted.draw(step, 0).image_CZYX, kept.draw(step, 0).image_CZYX
        )


def test_chunks_that_were_used_last_are_kept_and_no_more(rng):
    data = rng.integers(0, 255, (2, 16, 32, 32), np.uint8)
    box = Box((1, 2, 3), (15, 30, 31))
    block = (4, 8, 8)
    image = ChunkedImage(Volume(data), box, 3 * 2 * 4 * 8 * 8, block)
    key = (slice(None), slice(0, 4), slice(0, 8), slice(0, 16))
    for _ in range(3):
        np.testing.assert_array_equal(image[key], data[:, 1:5, 2:10, 3:19])
    assert image.n_reads == 2
    whole = (slice(None),) * 4
    np.testing.assert_array_equal(image[whole], data[(slice(None), *box.slices)])
    assert len(image._blocks) == 3


def test_a_chunk_with_a_voxel_that_is_no_number_names_the_image():
    data = np.zeros((8, 16, 16), np.float32)
    data[3, 3, 3] = np.nan
    image = ChunkedImage(Volume(data, name="em"), Box.whole(data.shape), 1000)
    with pytest.raises(DataError, match="em has 1 voxels"):
        image[(slice(None),) * 4]


def _plan(volumes, wanted="auto", memory=10**10, folder=None):
    return plan_cache(wanted, volumes, PATCH, memory, folder)


def test_memory_is_taken_where_volumes_fit(volume, tmp_path):
    plan = _plan([volume], folder=tmp_path)
    assert plan.mode == "ram"
    assert "in memory" in plan.reason


def test_the_disk_is_taken_where_memory_does_not_suffice(volume, tmp_path):
    plan = _plan([volume], memory=100_000, folder=tmp_path)
    assert plan.mode == "disk"
    assert str(tmp_path) in plan.reason
    assert "are free" in plan.reason


def test_images_stay_in_their_files_where_the_disk_does_not_suffice(
    volume, tmp_path, monkeypatch
):
    size = volume.labels_ZYX.size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 15 * size))
    plan = _plan([volume], memory=100_000, folder=tmp_path)
    assert plan.mode == "chunks"
    assert plan.chunk_bytes == 25_000


@pytest.mark.parametrize("mode", ["ram", "disk", "chunks"])
def test_what_is_asked_for_is_taken(volume, tmp_path, mode):
    assert _plan([volume], mode, folder=tmp_path).mode == mode


def test_too_small_a_disk_is_said_before_anything_is_written(
    volume, tmp_path, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 10))
    with pytest.raises(DataError, match="free some space"):
        _plan([volume], "disk", folder=tmp_path)


def test_the_memory_that_is_stated_grows_with_the_volumes(make_cells, tmp_path):
    small, large = make_cells((12, 30, 30)), make_cells((12, 60, 60))
    one = _plan([small], folder=tmp_path)
    both = _plan([small, large], folder=tmp_path)
    assert 0 < one.memory_bytes < both.memory_bytes
    assert _plan([small], "disk", folder=tmp_path).memory_bytes < one.memory_bytes


def test_an_array_on_disk_leaves_no_file(tmp_path):
    array = new_array((3, 5), np.int32, tmp_path)
    array[1] = 7
    assert array.sum() == 35
    assert list(tmp_path.iterdir()) == []
    assert not new_array((2, 2), bool, None).any()


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch, "reserve", full)
    with pytest.raises(DataError, match="has no room"):
        new_array((1000,), np.uint8, tmp_path)


def test_sizes_are_told_in_units_people_read():
    assert caching._gb(2.5e9) == "2.5 GB"
    assert caching._gb(3e6) == "3.0 MB"
