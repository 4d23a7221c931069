"""Odd images and labels on their way into a training: refused in words, or learnt from.

The numbers are those of a catalogue of faults: D 61 to 79, 90 and 91; 65 has its test
beside the networks.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import build_config
from napari_volseg.errors import DataError
from napari_volseg.events import CheckpointSaved, Finished
from napari_volseg.geometry import Box
from napari_volseg.io import open_volume, write_hdf5, write_volume_zarr
from napari_volseg.planning import plan_training
from napari_volseg.preparing import prepare_patches
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import CachePlan
from napari_volseg.sampling.chunks import ChunkedImage
from napari_volseg.training import train
from napari_volseg.volume import LabelledVolume, Volume, read_annotation

SHAPE = (12, 40, 40)


@pytest.fixture
def config(tiny_config):
    """Return a function that changes settings of a training of a second."""

    def change(**data):
        tree = tiny_config.model_dump(mode="json")
        tree["data"] |= data
        tree["optimization"]["max_epochs"] = 1
        return build_config(tree)

    return change


@pytest.fixture
def learn(tmp_path, config):
    """Return a function that trains on a volume and returns the last event."""

    def run(volume, **data):
        pairs = [TrainingPair(volume, None, "train")]
        plan = plan_training(config(**data), pairs, tmp_path)
        events = list(train(plan, pairs, tmp_path))
        assert isinstance(events[-1], Finished)
        return events[-1]

    return run


def _patches(volume, config, tmp_path, n=6):
    pairs = [TrainingPair(volume, None, "train")]
    plan = plan_training(config, pairs, tmp_path)
    source = prepare_patches(plan, pairs, tmp_path)
    return plan, [source.batch(step, 0) for step in range(n)]


def _finite(batches):
    return all(bool(batch.image_BCZYX.isfinite().all()) for batch in batches)


def _labels(shape=SHAPE, dtype=np.int32):
    labels = np.zeros(shape, dtype)
    labels[..., 2:9, 3:12] = 1
    labels[..., 12:20, 10:25] = 2
    return labels


# 61, 62, 64
@pytest.mark.parametrize("shape", [(3, 9, 11), (12, 40, 7), (1, 40, 40), (5, 21, 37)])
def test_volumes_smaller_than_a_patch_are_padded(shape, config, tmp_path):
    labels = np.zeros(shape, np.int32)
    labels[:, 2:6, 2:6] = 1
    volume = LabelledVolume(Volume(np.ones(shape, np.uint8)), labels)
    plan, batches = _patches(volume, config(val_fraction=0), tmp_path)
    assert not np.any(np.mod(plan.patch_size, plan.pyramid.multiple))
    for batch in batches:
        assert batch.image_BCZYX.shape == (2, 1, *plan.patch_size)
        assert batch.targets_BCZYX.shape == (2, 3, *plan.patch_size)


# 62
def test_one_slice_trains_to_the_end(learn):
    labels = _labels((1, 40, 40))
    image = (labels > 0).astype(np.uint8) * 200
    assert learn(LabelledVolume(Volume(image), labels)).reason == "completed"


# 63
def test_an_empty_axis_is_refused():
    with pytest.raises(DataError, match="empty"):
        Volume(np.zeros((4, 0, 5)))


# 66, before the first step wherever the image is kept in memory or copied
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_one_voxel_that_is_no_number_is_refused(config, tmp_path, bad, cache):
    image = np.ones(SHAPE, np.float32)
    image[7, 31, 5] = bad
    volume = LabelledVolume(Volume(image, name="em"), _labels())
    with pytest.raises(DataError, match="em has 1 voxels that are NaN or infinite"):
        _patches(volume, config(cache=cache), tmp_path)


# 67
def test_a_constant_image_normalises_to_0(config, tmp_path):
    volume = LabelledVolume(Volume(np.full(SHAPE, 4000, np.uint16)), _labels())
    tree = config().model_dump(mode="json")
    tree["augmentation"]["preset"] = "none"
    _, batches = _patches(volume, build_config(tree), tmp_path)
    assert all(not batch.image_BCZYX.any() for batch in batches)


# 67
def test_an_image_without_any_number_is_refused(config, tmp_path):
    volume = LabelledVolume(Volume(np.full(SHAPE, np.nan), name="em"), _labels())
    with pytest.raises(DataError, match="NaN"):
        _patches(volume, config(), tmp_path)


# 68, 69
@pytest.mark.parametrize(
    "dtype",
    [
        "?",
        "i1",
        "u1",
        "i2",
        "u2",
        "i4",
        "u4",
        "i8",
        "u8",
        "f2",
        "f4",
        "f8",
        ">u2",
        ">f4",
    ],
)
def test_values_of_every_real_type_become_the_same_patches(config, tmp_path, dtype):
    values = (_labels() > 0).astype(dtype)
    volume = LabelledVolume(Volume(values), _labels())
    settings = config(percentiles=(0.0, 1.0))
    _, batches = _patches(volume, settings, tmp_path, 2)
    plain = LabelledVolume(Volume(values.astype(np.float32)), _labels())
    _, wanted = _patches(plain, settings, tmp_path, 2)
    for batch, other in zip(batches, wanted, strict=True):
        assert batch.image_BCZYX.dtype.is_floating_point
        assert batch.image_BCZYX.equal(other.image_BCZYX)


# 70
def test_views_of_arrays_are_read_and_left_alone(config, tmp_path, rng):
    data = rng.integers(0, 255, SHAPE, np.uint8)
    turned = data[::-1, :, ::-1]
    turned.setflags(write=False)
    labels = np.asfortranarray(_labels())
    labels.setflags(write=False)
    before = data.copy()
    _, batches = _patches(LabelledVolume(Volume(turned), labels), config(), tmp_path)
    assert _finite(batches)
    np.testing.assert_array_equal(data, before)


# 71
@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "O", [("a", "f4")], "g"])
def test_values_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(DataError, match="has values of type"):
        Volume(np.zeros(SHAPE, dtype))


# 72
@pytest.mark.parametrize("scale", [1e30, -1e30, 1e-30])
def test_extreme_values_stay_finite_and_spread(config, tmp_path, scale):
    image = ((_labels() > 0) + np.linspace(0, 0.5, 40)).astype(np.float64) * scale
    _, batches = _patches(LabelledVolume(Volume(image), _labels()), config(), tmp_path)
    assert _finite(batches)
    assert max(float(batch.image_BCZYX.std()) for batch in batches) > 0.1


# 72
def test_a_few_hot_voxels_do_not_darken_the_rest(config, tmp_path, rng):
    image = rng.integers(100, 4095, SHAPE).astype(np.uint16)
    image[2, 2, 2] = 65535
    tree = config().model_dump(mode="json")
    tree["augmentation"]["preset"] = "none"
    volume = LabelledVolume(Volume(image), _labels())
    _, batches = _patches(volume, build_config(tree), tmp_path)
    assert np.mean([float(b.image_BCZYX.mean()) for b in batches]) == pytest.approx(
        0.5, abs=0.1
    )


# 73
def test_no_labels_are_refused():
    with pytest.raises(DataError, match="paint some objects"):
        LabelledVolume(Volume(np.ones(SHAPE)), np.zeros(SHAPE, np.int32))


# 74
def test_annotation_that_is_all_one_object_trains(learn):
    labels = np.ones(SHAPE, np.int32)
    assert learn(LabelledVolume(Volume(np.ones(SHAPE)), labels), val_fraction=0.0)


# 75
def test_patches_that_hardly_meet_the_annotation_are_drawn_again(config, tmp_path):
    labels = np.zeros((12, 90, 90), np.int32)
    labels[6, 45, 45] = 1
    annotated = labels > 0
    volume = LabelledVolume(Volume(np.ones(labels.shape)), labels, annotated)
    tree = config(val_fraction=0).model_dump(mode="json")
    tree["augmentation"]["preset"] = "em"
    _, batches = _patches(volume, build_config(tree), tmp_path, 20)
    known = [bool(v.any()) for batch in batches for v in batch.valid_BCZYX]
    assert all(known)


# 76
def test_a_volume_without_annotation_is_refused():
    with pytest.raises(DataError, match="nothing of em is annotated"):
        LabelledVolume(
            Volume(np.ones(SHAPE), name="em"), _labels(), np.zeros(SHAPE, bool)
        )


# 77, 79, 80
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (_labels().astype(np.int64) * -1, "negative"),
        (_labels().astype(np.float32) / 3, "fractions"),
        (_labels().astype(np.float32) * 2.0**25, "rounds them"),
        (_labels().astype(np.uint64) * np.uint64(2**63 - 1) * np.uint64(1), "63 bits"),
    ],
)
def test_ids_that_cannot_be_kept_exactly_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        read_annotation(labels, name="gt")


# 78, 79
@pytest.mark.parametrize(
    "ids", [(3, 9), (65536, 65537), (2**24, 2**24 + 1), (7, 2**62)]
)
def test_neighbouring_ids_stay_two_objects_however_large(ids, config, tmp_path):
    labels = np.zeros(SHAPE, np.int64)
    labels[:, 8:30, 6:20] = ids[0]
    labels[:, 8:30, 20:34] = ids[1]
    read, _ = read_annotation(labels)
    volume = LabelledVolume(Volume(np.ones(SHAPE)), read)
    pairs = [TrainingPair(volume, None, "train")]
    plan = plan_training(config(val_fraction=0), pairs, tmp_path)
    (prepared,) = prepare_patches(plan, pairs, tmp_path).volumes
    assert plan.n_instances == 2
    assert prepared.places.n_objects == 2
    assert prepared.targets_CZYX[1, 6, 15, 19:21].all()


# 90
def test_a_volume_larger_than_its_budget_is_streamed(config, tmp_path):
    labels = _labels((40, 80, 80))
    image = np.random.default_rng(0).integers(0, 255, labels.shape, np.uint8)
    write_volume_zarr(tmp_path / "em.zarr", {"em": image}, (1.0, 1.0, 1.0))
    stored = open_volume(f"{tmp_path}/em.zarr:em")
    pairs = [TrainingPair(LabelledVolume(stored, labels), None, "train")]
    plan = plan_training(config(val_fraction=0), pairs, tmp_path)
    wanted = prepare_patches(plan, pairs, tmp_path)
    small = replace(plan, cache=CachePlan("chunks", chunk_bytes=1))
    source = prepare_patches(small, pairs, tmp_path)
    (kept,) = source.volumes
    assert isinstance(kept.image_CZYX, ChunkedImage)
    assert isinstance(kept.targets_CZYX, np.memmap)
    for step in range(4):
        one, other = source.batch(step, 0), wanted.batch(step, 0)
        assert one.image_BCZYX.equal(other.image_BCZYX)
        assert (one.targets_BCZYX - other.targets_BCZYX).abs().max() < 0.005
        assert len(kept.image_CZYX._blocks) == 1


# 90
@pytest.mark.parametrize("cache", ["disk", "chunks"])
def test_a_training_ends_alike_wherever_its_data_are_kept(
    learn, cells, cache, tmp_path
):
    assert learn(cells, cache=cache).reason == "completed"
    assert not (tmp_path / "cache").exists()


def test_where_data_are_kept_stands_in_the_plan(config, cells, tmp_path):
    pairs = [TrainingPair(cells, None, "train")]
    plan = plan_training(config(cache="disk"), pairs, tmp_path)
    summary = json.loads(json.dumps(plan.summary()))
    assert summary["cache"]["mode"] == "disk"
    assert plan.cache.reason in plan.notices
    plain = plan_training(config(), pairs, tmp_path)
    assert plain.cache.mode == "ram"
    assert plain.cache.reason not in plain.notices


# 89
@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_an_image_that_is_deleted_while_it_is_read_ends_the_training_in_words(
    config, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("napari_volseg.pacing._SAVING_SHARE", 1.0)
    monkeypatch.setattr("napari_volseg.pacing._REPORT_SECONDS", 0.0)
    labels = _labels((12, 120, 120))
    labels[:, 60:100, 70:110] = 3
    image = np.random.default_rng(0).integers(1, 255, labels.shape, np.uint8)
    path = tmp_path / f"em.{kind}"
    if kind == "zarr":
        write_volume_zarr(path, {"em": image}, (1.0, 1.0, 1.0))
    else:
        write_hdf5(path, {"em": image}, (1.0, 1.0, 1.0))
    volume = LabelledVolume(open_volume(f"{path}:em"), labels)
    pairs = [TrainingPair(volume, None, "train")]
    tree = config(val_fraction=0).model_dump(mode="json")
    tree["optimization"]["max_epochs"] = 4
    tree["monitor"]["checkpoint"]["every_minutes"] = 1e-9
    plan = plan_training(build_config(tree), pairs, tmp_path)
    plan = replace(plan, cache=CachePlan("chunks", chunk_bytes=1))
    saved = (e for e in train(plan, pairs, tmp_path) if isinstance(e, CheckpointSaved))
    next(saved)
    shutil.rmtree(path) if kind == "zarr" else path.unlink()
    with pytest.raises(DataError, match=rf"em\.{kind}"):
        list(saved)
    assert load_checkpoint(tmp_path / "checkpoints")["record"]["step"] > 0


class _Endless:
    """An image of more than 2^32 voxels that says where it was read."""

    shape = (1300, 2000, 2000)
    dtype = np.dtype(np.float32)

    def __getitem__(self, key):
        z, y, x = (np.arange(n)[s] for n, s in zip(self.shape, key, strict=True))
        return (z[:, None, None] + y[:, None] / 2000 + x / 2000**2).astype(np.float32)


# 91
def test_voxels_beyond_2_to_the_31_are_found_where_they_are():
    image = Volume(_Endless())
    chunked = ChunkedImage(image, Box.whole(image.shape_ZYX), 10**7)
    start = (1290, 1980, 1984)
    assert np.ravel_multi_index(start, image.shape_ZYX) > 2**32
    end = [n + 8 for n in start]
    key = (slice(None), *(slice(a, b) for a, b in zip(start, end, strict=True)))
    found = chunked[key][0]
    np.testing.assert_array_equal(found, image.read(key[1:])[0])
    assert found[0, 0, 0] == pytest.approx(1290.99, abs=0.01)
