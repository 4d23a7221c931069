import numpy as np
import pytest

from napari_volseg.config import Config
from napari_volseg.errors import DataError
from napari_volseg.runs import TrainingPair, create_run
from napari_volseg.volume import (
    LabelledVolume,
    Volume,
    intensity_range,
    normalise,
    read_annotation,
)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "uint16", "uint32", "uint64", "float16", "float64"],
)
def test_real_numbers_of_any_width_are_read_as_czyx(dtype):
    volume = Volume(np.ones((4, 5, 6), dtype))
    assert volume.read().shape == (1, 4, 5, 6)
    assert volume.n_channels == 1


def test_a_box_of_a_big_endian_reversed_read_only_array_is_a_native_copy():
    array = np.arange(60, dtype=">u2").reshape(3, 4, 5)[::-1]
    array.flags.writeable = False
    box = Volume(array).read((slice(0, 2), slice(None), slice(1, 3)))
    np.testing.assert_array_equal(box[0], array[0:2, :, 1:3])
    assert box.dtype == np.dtype("=u2")
    box[:] = 0
    assert array.any()


@pytest.mark.parametrize("dtype", ["complex64", "M8[s]", "O", "S3", "g", [("a", "u1")]])
def test_values_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(DataError, match="em has values of type"):
        Volume(np.empty((2, 2, 2), dtype), name="em")


@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 3, 4, 5, 6)])
def test_a_wrong_number_of_axes_is_refused(shape):
    with pytest.raises(DataError, match=f"em has {len(shape)} axes"):
        Volume(np.zeros(shape), name="em")


def test_an_empty_axis_is_refused():
    with pytest.raises(DataError, match="em is empty"):
        Volume(np.zeros((4, 0, 5)), name="em")


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_voxel_size_that_is_no_length_is_refused(bad):
    with pytest.raises(DataError, match="voxel size"):
        Volume(np.zeros((2, 2, 2)), (1, bad, 1))


def test_labels_must_cover_the_image():
    with pytest.raises(DataError, match=r"labels of em.*\(2, 2, 3\).*\(2, 2, 2\)"):
        LabelledVolume(Volume(np.zeros((2, 2, 2)), name="em"), np.ones((2, 2, 3), int))


def test_empty_labels_are_refused():
    with pytest.raises(DataError, match="labels of em are empty"):
        LabelledVolume(Volume(np.zeros((2, 2, 2)), name="em"), np.zeros((2, 2, 2), int))


def test_an_empty_annotated_mask_is_refused():
    with pytest.raises(DataError, match="nothing of em is annotated"):
        LabelledVolume(
            Volume(np.zeros((2, 2, 2)), name="em"),
            np.ones((2, 2, 2), int),
            np.zeros((2, 2, 2), bool),
        )


def test_painted_slices_are_annotated_as_a_whole():
    labels = np.zeros((3, 4, 4), np.uint8)
    labels[1, 2, 2] = 5
    _, annotated = read_annotation(labels, "painted_slices")
    assert annotated[1].all()
    assert not annotated[[0, 2]].any()


def test_painted_voxels_with_a_background_id():
    labels = np.zeros((1, 2, 3), np.uint8)
    labels[0, 0] = [7, 9, 0]
    read, annotated = read_annotation(labels, "painted_voxels", background_id=9)
    assert read[0, 0].tolist() == [7, 0, 0]
    assert annotated[0, 0].tolist() == [True, True, False]
    assert labels[0, 0].tolist() == [7, 9, 0]


def test_a_mask_and_a_rule_are_combined():
    labels = np.zeros((2, 2, 2), int)
    labels[0, 0, 0] = 1
    mask = np.zeros((2, 2, 2))
    mask[:, 0] = 255
    _, annotated = read_annotation(labels, "painted_slices", mask_ZYX=mask)
    assert annotated[0, 0].all()
    assert annotated.sum() == 2


def test_ids_are_exact_at_any_width():
    big = np.array([0, 65537, 2**24 + 1, 2**62 + 1], np.int64)
    read, _ = read_annotation(big.reshape(1, 2, 2))
    np.testing.assert_array_equal(read.ravel(), big)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, -3]), "negative id -3"),
        (np.array([0.5, 1]), "fractions"),
        (np.array([np.nan, 1]), "fractions"),
        (np.array([2**63], np.uint64), "63 bits"),
        (np.array([2.0**25], np.float32), "32-bit floats"),
        (np.array([2050], np.float16), r"above 2\^11 as 16-bit floats"),
        (np.array(["a"]), "object numbers"),
    ],
)
def test_labels_that_are_no_ids_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        read_annotation(labels.reshape(1, 1, -1))


def test_whole_floats_are_taken_as_ids():
    read, _ = read_annotation(np.array([[[0.0, 3.0]]]))
    assert read.dtype == np.int32
    assert read.ravel().tolist() == [0, 3]


def test_the_range_between_the_quantiles_is_mapped_to_0_and_1(rng):
    data = rng.normal(1000, 50, (8, 40, 40)).astype(np.float32)
    normal = normalise(data[None], intensity_range(Volume(data), (0.05, 0.95)))
    np.testing.assert_allclose(np.quantile(normal, [0.05, 0.95]), [0, 1], atol=1e-3)


def test_a_few_bright_voxels_do_not_squeeze_the_others(rng):
    data = rng.normal(1000, 50, (8, 40, 40)).astype(np.float32)
    plain = normalise(data[None], intensity_range(Volume(data), (0.05, 0.95)))
    data[0, :10, :10] = 60_000
    bright = normalise(data[None], intensity_range(Volume(data), (0.05, 0.95)))
    assert np.abs(plain - bright)[0, 1:].max() < 0.1
    assert 4 < bright.max() < 8


def test_the_order_of_intensities_is_kept_beyond_the_range():
    values = np.array([-1e30, -500, -1, 0, 5, 10, 11, 1e4, 1e30]).reshape(1, 1, 1, -1)
    normal = normalise(values, np.array([[0, 10]], np.float32)).ravel()
    assert (np.diff(normal) > 0).all()
    assert np.isfinite(normal).all()
    assert normal[3:6].tolist() == [0, 0.5, 1]


def test_each_channel_has_its_own_range():
    data = np.stack([np.arange(64), np.arange(64) * 100]).reshape(2, 4, 4, 4)
    ranges = intensity_range(Volume(data), (0.0, 1.0))
    np.testing.assert_allclose(ranges, [[0, 63], [0, 6300]])
    np.testing.assert_allclose(*normalise(data, ranges), rtol=1e-6)


def test_a_constant_image_becomes_zero():
    data = np.full((1, 4, 4, 4), 7, np.uint8)
    assert not normalise(data, intensity_range(Volume(data), (0.005, 0.995))).any()


@pytest.mark.parametrize("share", [0.04, 0.02, 0.001])
def test_objects_on_an_empty_background_are_seen(rng, share):
    data = np.zeros((2, 20, 100, 100), np.uint16)
    n = round(share * data[0].size)
    data[0].reshape(-1)[:n] = rng.integers(3000, 6000, n)
    data[1] = rng.integers(0, 1000, data[1].shape)
    ranges = intensity_range(Volume(data), (0.05, 0.95))
    seen = normalise(data, ranges)[0]
    assert (seen[data[0] == 0] == 0).all()
    assert seen[data[0] > 0].min() > 0.4
    assert np.ptp(seen[data[0] > 0]) > 0.2
    # The other channel has the range it always had.
    np.testing.assert_array_equal(ranges[1], np.quantile(data[1], (0.05, 0.95)))


def test_objects_on_the_empty_background_of_a_huge_volume_are_seen():
    data = _Rising()
    data.darkest = 970
    low, high = intensity_range(Volume(data), (0.05, 0.95))[0]
    assert low == 0
    assert high > data.darkest


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_counted_and_refused(bad):
    data = np.zeros((4, 4, 4), np.float32)
    data[1, 2, 3] = bad
    with pytest.raises(DataError, match="em has 1 voxels that are NaN or infinite"):
        intensity_range(Volume(data, name="em"), (0.0, 1.0))


class Broken:
    """A lazy array whose graph fails, or whose file was deleted meanwhile."""

    shape = (8, 16, 16)
    dtype = np.dtype(np.uint8)

    def __getitem__(self, key):
        raise RuntimeError("chunk 3 is gone")


def test_a_lazy_image_that_cannot_be_read_names_its_layer():
    with pytest.raises(DataError, match=r"em cannot be read \(chunk 3 is gone\)"):
        Volume(Broken(), name="em").read()


def test_a_lazy_image_that_cannot_be_copied_names_its_layer(tmp_path):
    labels = np.zeros(Broken.shape, int)
    labels[2:5, 3:6, 3:6] = 1
    pair = TrainingPair(LabelledVolume(Volume(Broken(), name="em"), labels), None)
    with pytest.raises(DataError, match="em cannot be read"):
        create_run(Config(), [pair], tmp_path)
    assert list(tmp_path.iterdir()) == []


class _Rising:
    """A volume of any size, each voxel the number of its slice, or 0 if that is low."""

    shape, dtype, largest = (1000, 30_000, 20_000), np.dtype(np.uint16), 0
    darkest = 0

    def __getitem__(self, key):
        z, y, x = (range(n)[s] for n, s in zip(self.shape, key, strict=True))
        self.largest = max(self.largest, len(z) * len(y) * len(x))
        values = np.array([n if n >= self.darkest else 0 for n in z], np.uint16)
        return np.broadcast_to(values[:, None, None], (len(z), len(y), len(x)))


def test_the_range_of_a_huge_volume_comes_from_all_of_its_depth_and_little_of_it():
    data = _Rising()
    low, high = intensity_range(Volume(data), (0.05, 0.95))[0]
    assert abs(low - 50) < 40
    assert abs(high - 950) < 40
    assert data.largest <= 128**2


def test_the_range_of_one_huge_plane_comes_from_little_of_it():
    data = _Rising()
    data.shape = (1, 30_000, 20_000)
    assert (intensity_range(Volume(data), (0.05, 0.95))[0] == 0).all()
    assert data.largest <= 128**2
