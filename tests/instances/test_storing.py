"""Instances of stored maps: in memory and block by block the same."""

import numpy as np
import pytest
import zarr
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.instances import flood_memory, segment, segment_stored, storing
from napari_volseg.review import table_of_blocks
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

SHAPE = (20, 70, 90)
VOXEL = (30.0, 8.0, 8.0)
CONFIG = InstancesConfig()
PLENTY = 2**40


@pytest.fixture(scope="module")
def maps():
    labels = make_sample("cells", SHAPE).labels_ZYX
    rng = np.random.default_rng(3)
    values = make_targets(labels, VOXEL).values_CZYX.astype(np.float32)
    noisy = ndimage.gaussian_filter(values, (0, 0.3, 1, 1)) + rng.normal(
        0, 9, values.shape
    )
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(storing, "_BLOCK", (8, 32, 32))
    monkeypatch.setattr(storing, "_SHARD", (8, 32, 32))
    monkeypatch.setattr(storing, "_HALO", (2, 8, 8))


class Counted:
    """Maps that count how many voxels of them are read."""

    def __init__(self, maps):
        self._maps, self.shape, self.dtype, self.n_read = (
            maps,
            maps.shape,
            maps.dtype,
            0,
        )

    def __getitem__(self, key):
        part = self._maps[key]
        self.n_read += part.size
        return part


def test_with_room_for_it_the_volume_is_read_once_and_the_result_is_the_same(
    maps, tmp_path
):
    found = {}
    for memory in (flood_memory(SHAPE, PLENTY) - 1, flood_memory(SHAPE, PLENTY)):
        source, steps, path = Counted(maps), [], tmp_path / f"{memory}.zarr"
        result = segment_stored(
            source, path, CONFIG, VOXEL, memory=memory, report=steps.append
        )
        labels = zarr.open_group(path)["0"][...]
        np.testing.assert_array_equal(labels, segment(maps, CONFIG))
        table = table_of_blocks(result, SHAPE, VOXEL)
        assert steps == sorted(steps)
        assert steps[-1] == (steps[-1][1],) * 2
        found[source.n_read == maps.size] = table

    assert found.keys() == {False, True}
    assert len(found[True]["index"]) > 5
    assert found[True].keys() == found[False].keys()
    for name, column in found[True].items():
        np.testing.assert_array_equal(column, found[False][name], err_msg=name)


@pytest.mark.parametrize("memory", [0, PLENTY])
def test_a_block_that_cannot_be_read_is_named_and_the_old_result_stays(
    maps, tmp_path, memory
):
    class Broken(Counted):
        def __getitem__(self, key):
            part = self._maps[key]
            if key[1].start >= 8 and key[2].start <= 32 < key[2].stop:
                raise OSError("input/output error")
            return part

    path = tmp_path / "instances.zarr"
    path.mkdir()
    with pytest.raises(DataError, match=r"at z 8:16, y 32:64.*input/output"):
        segment_stored(Broken(maps), path, CONFIG, VOXEL, memory=memory)
    assert [p.name for p in tmp_path.iterdir()] == ["instances.zarr"]
