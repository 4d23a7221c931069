"""Blocks of maps: the same however they are given out, ended and continued."""

import shutil

import numpy as np
import pytest
import zarr

import napari_volseg.inference
from napari_volseg import mapjob, resegmenting
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Progress, Started
from napari_volseg.geometry import Box
from napari_volseg.inference import predict
from napari_volseg.io import write_hdf5
from napari_volseg.mapjob import prepare_maps
from napari_volseg.mapping import predict_blocks, predict_maps
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.runs import create_prediction
from napari_volseg.volume import Volume, intensity_range
from napari_volseg.windows import plan_windows, predict_box

PATCH = (8, 16, 16)
BLOCK = (8, 32, 32)
SHAPE = (20, 70, 85)
NM = (40.0, 10.0, 10.0)


@pytest.fixture
def model(tiny_config, tmp_path):
    return _save(tiny_config, tmp_path / "model.safetensors", 0)


def _save(config, path, seed):
    import torch

    torch.manual_seed(seed)
    pyramid = plan_pyramid(config.model, NM, PATCH)
    network = build_network(config.model, 1, pyramid)
    save_model(
        path,
        network.state_dict(),
        model_metadata(config, pyramid, 1, NM, PATCH, 1, {"f1_50": 0.5}),
    )
    return path


@pytest.fixture
def image(rng):
    return Volume(rng.integers(0, 255, SHAPE, np.uint8), NM, "em")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "job"
    path.mkdir()
    return path


def _prepare(model, image, folder, inference=None, **options):
    loaded = load_model(model)
    return prepare_maps(
        model,
        loaded,
        image,
        folder,
        inference=inference or loaded.config.inference,
        device="cpu",
        block=BLOCK,
        **options,
    )


def _read(folder):
    return zarr.open(folder / "maps.zarr", mode="r")["0"][...]


def _whole(job):
    """Return the maps that one pass over the whole volume gives."""
    return predict_box(
        job.forward.network, job.image, job.range_C2, job.plan(), job.forward.compute
    )


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (3, 3)])
def test_blocks_are_the_whole(model, image, folder, tile):
    job = _prepare(model, image, folder)
    n_windows = 0
    for column in job.grid.tiles(tile):
        n_windows += list(predict_maps(job, column))[-1].n_windows
    np.testing.assert_array_equal(_read(folder), _whole(job))
    assert job.ledger.finished() == set(range(job.grid.n_blocks))
    assert (n_windows == job.plan().n_windows) == (tile == (3, 3))


def test_a_shard_is_a_block_and_is_written_once(model, image, folder, monkeypatch):
    job = _prepare(model, image, folder)
    assert job.maps.shards == (3, *BLOCK)
    written = []
    put = zarr.Array.__setitem__

    def note(self, key, value):
        written.append(tuple(s.start for s in key[1:]))
        put(self, key, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", note)
    for column in job.grid.tiles((2, 2)):
        list(predict_maps(job, column))
    assert sorted(written) == [job.grid.box(i).start for i in range(job.grid.n_blocks)]


def test_scattered_blocks_are_those_of_the_whole(model, image, folder):
    job = _prepare(model, image, folder)
    steps = list(predict_maps(job, [0, 11, 22]))
    whole, found = _whole(job), _read(folder)
    for i in range(job.grid.n_blocks):
        key = (slice(None), *job.grid.box(i).slices)
        expected = whole[key] if i in (0, 11, 22) else 0
        np.testing.assert_array_equal(
            found[key], np.broadcast_to(expected, found[key].shape)
        )
    assert steps[-1].n_skipped > 0
    assert {i for step in steps for i in step.written} == {0, 11, 22}


class _Watched:
    """A volume that remembers what was read of it at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = (
            array,
            array.shape,
            array.dtype,
            0,
        )

    def __getitem__(self, key):
        part = self.array[key]
        self.largest = max(self.largest, part.size)
        return part


def test_memory_is_that_of_a_column_however_large_the_volume(model, tmp_path, rng):
    small = InferenceConfig(memory_gb=1e-6)
    needed, read = [], []
    for i, size in enumerate(((16, 64, 64), (64, 256, 256))):
        folder = tmp_path / str(i)
        folder.mkdir()
        data = _Watched(rng.integers(0, 255, size, np.uint8))
        job = _prepare(model, Volume(data, NM), folder, small)
        data.largest = 0
        tile = job.tiles(0)[0]
        assert len(tile) == size[0] // BLOCK[0]
        events = predict_maps(job, tile)
        for _ in range(20):
            next(events)
        events.close()
        needed.append(job.memory(tile))
        read.append(data.largest)
    assert needed[1] <= 1.6 * needed[0]  # windows beyond both sides, not one
    assert read[1] <= 8 * (32 + 2 * 15) ** 2


def test_a_killed_prediction_goes_on_and_its_blocks_are_not_done_again(
    model, image, folder, monkeypatch
):
    # However fast the machine is, every step is told of.
    monkeypatch.setattr(napari_volseg.inference._Clock, "due", lambda clock: True)
    whole = list(_predict(model, image, folder))
    expected = _read(folder)
    instances = zarr.open(folder / "instances.zarr", mode="r")["0"][...]
    assert whole[-1].reason == "completed"

    other = folder.parent / "other"
    other.mkdir()
    for event in (events := _predict(model, image, other)):
        if isinstance(event, Progress) and event.blocks[0] >= 3:
            break
    events.close()
    first = {p.name: p.stat().st_mtime_ns for p in (other / "blocks").glob("*.done")}
    assert 3 <= len(first) < 27

    events = list(_predict(model, image, other, resume=True))
    started = next(e for e in events if isinstance(e, Started))
    assert events[-1].reason == "completed"
    assert started.step < started.total
    for name, time in first.items():
        assert (other / "blocks" / name).stat().st_mtime_ns == time
    np.testing.assert_array_equal(_read(other), expected)
    np.testing.assert_array_equal(
        zarr.open(other / "instances.zarr", mode="r")["0"][...], instances
    )
    assert (other / "instances.csv").read_text() == (
        folder / "instances.csv"
    ).read_text()


def _predict(model, image, folder, **options):
    return predict(model, image, folder, device="cpu", block=BLOCK, **options)


def test_another_model_makes_old_blocks_void_and_it_is_said(
    model, image, folder, tiny_config
):
    list(_predict(model, image, folder))
    old = _read(folder)
    _save(tiny_config, model, seed=1)
    events = list(_predict(model, image, folder, resume=True))
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert any("the model has changed" in m for m in notices)
    assert (_read(folder) != old).any()


def test_another_image_makes_old_blocks_void(model, image, folder, rng):
    list(_predict(model, image, folder))
    other = Volume(image.data // 2, NM, "em")
    notices = [
        e.message
        for e in _predict(model, other, folder, resume=True)
        if isinstance(e, Notice)
    ]
    assert any("the image has changed" in m for m in notices)


def test_another_mask_makes_old_blocks_void(model, image, folder):
    mask = np.zeros(SHAPE, np.uint8)
    mask[:9, :40, 5:30] = 3
    list(_predict(model, image, folder, mask_ZYX=mask))
    old = _read(folder)

    same = list(_predict(model, image, folder, mask_ZYX=mask > 0, resume=True))
    assert not any("has changed" in e.message for e in same if isinstance(e, Notice))
    other = list(_predict(model, image, folder, mask_ZYX=mask == 0, resume=True))
    assert any(
        "the mask has changed" in e.message for e in other if isinstance(e, Notice)
    )

    new = _read(folder)
    assert old[:, mask > 0].any()
    assert not old[:, mask == 0].any()
    assert new[:, mask == 0].any()
    assert not new[:, mask > 0].any()


def test_finished_blocks_are_not_overwritten_unless_resumed(model, image, folder):
    list(_predict(model, image, folder))
    with pytest.raises(DataError, match=r"predicted blocks already: resume it"):
        list(_predict(model, image, folder))


def test_what_is_complete_is_only_looked_up(model, image, folder, monkeypatch):
    first = list(_predict(model, image, folder))[-1]
    before = (folder / "instances.zarr").stat().st_mtime_ns

    def refuse(*args):
        raise AssertionError("the network was used")

    monkeypatch.setattr("napari_volseg.forward.Forward.__call__", refuse)
    assert list(_predict(model, image, folder, resume=True))[-1] == first
    assert (folder / "instances.zarr").stat().st_mtime_ns == before


def test_blocks_outside_the_mask_are_skipped_counted_and_said(model, image, folder):
    mask = np.zeros(SHAPE, bool)
    mask[:9, :40, 5:30] = True
    job_events = list(_predict(model, image, folder, mask_ZYX=mask))
    maps = _read(folder)
    assert not maps[:, ~mask].any()
    whole = predict_box_of(model, image)
    np.testing.assert_array_equal(maps[:, mask], whole[:, mask])
    notices = [e.message for e in job_events if isinstance(e, Notice)]
    assert any("23 of 27 blocks held nothing" in m for m in notices)


def predict_box_of(model, image):
    loaded = load_model(model)
    from napari_volseg.devices import Compute

    plan = plan_windows(image.shape_ZYX, PATCH, loaded.config.inference)
    ranges = intensity_range(image, loaded.config.data.percentiles)
    loaded.network.eval()
    return predict_box(loaded.network, image, ranges, plan, Compute("cpu", "32", False))


def test_dark_blocks_are_skipped_when_asked(model, image, folder, tmp_path):
    data = np.array(image.data)
    data[8:16, 32:64, :] = 0
    dark = Volume(data, NM, "em")
    inference = InferenceConfig(skip_below=0.1)
    events = list(_predict(model, dark, folder, inference=inference))
    maps = _read(folder)
    assert not maps[:, 8:16, 32:64].any()
    elsewhere = np.ones(SHAPE, bool)
    elsewhere[8:16, 32:64] = False
    whole = predict_box_of(model, dark)
    np.testing.assert_array_equal(maps[:, elsewhere], whole[:, elsewhere])
    assert any("3 of 27 blocks" in e.message for e in events if isinstance(e, Notice))


def test_progress_says_what_is_ready_and_it_is(model, image, folder):
    expected = predict_box_of(model, image)
    seen = np.zeros(SHAPE, int)
    for event in _predict(model, image, folder):
        if not isinstance(event, Progress):
            continue
        stored = zarr.open(folder / "maps.zarr", mode="r")["0"]
        for i in range(0, len(event.ready), 6):
            box = Box(event.ready[i : i + 3], event.ready[i + 3 : i + 6])
            key = (slice(None), *box.slices)
            np.testing.assert_array_equal(stored[key], expected[key])
            seen[box.slices] += 1
    assert (seen == 1).all()
    assert isinstance(event, Finished)


def test_workers_share_a_job_folder(model, image, tmp_path):
    path = tmp_path / "em.h5"
    write_hdf5(path, {"raw": image.data}, NM)
    folder = create_prediction(model, image, f"{path}:raw", tmp_path / "jobs")
    with pytest.raises(DataError, match="is not prepared"):
        predict_blocks(folder, [0])
    job = _prepare(model, image, folder)
    assert predict_blocks(folder, range(5), "cpu") == 5
    assert predict_blocks(folder, range(3, 27), "cpu") == 22
    np.testing.assert_array_equal(_read(folder), _whole(job))


def test_when_memory_runs_out_fewer_windows_are_taken(
    model, image, folder, monkeypatch
):
    from napari_volseg import forward

    average, sizes = forward.Forward._average, []

    def limited(self, windows):
        sizes.append(len(windows))
        if len(windows) > 2:
            raise MemoryError
        return average(self, windows)

    monkeypatch.setattr(forward.Forward, "_average", limited)
    inference = InferenceConfig(batch_size=8)
    events = list(_predict(model, image, folder, inference=inference))
    sizes = [n for n in sizes if n > 1]  # one alone is timed before
    assert sizes[:4] == [8, 4, 2, 2]
    assert max(sizes[2:]) == 2
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert any("2 at a time" in m for m in notices)
    difference = _read(folder).astype(int) - predict_box_of(model, image)
    assert np.abs(difference).max() <= 1


def test_a_full_disk_keeps_the_blocks_before(model, image, folder, monkeypatch):
    put, n = zarr.Array.__setitem__, []

    def refuse(self, key, value):
        n.append(1)
        if len(n) > 4:
            raise OSError(28, "No space left on device")
        put(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", refuse)
        with pytest.raises(DataError, match=r"maps\.zarr cannot be written.*free some"):
            list(_predict(model, image, folder))
    assert len(list((folder / "blocks").glob("*.done"))) == 4
    assert list(_predict(model, image, folder, resume=True))[-1].reason == "completed"
    np.testing.assert_array_equal(_read(folder), predict_box_of(model, image))


class _Failing(_Watched):
    """A volume that cannot be read beyond a slice, for a while."""

    broken = False

    def __getitem__(self, key):
        if self.broken and key[-3].stop > 14:
            raise OSError("chunk 3.0.1 is truncated")
        return super().__getitem__(key)


def test_an_unreadable_part_is_named_and_the_blocks_before_are_kept(
    model, image, folder
):
    data = _Failing(image.data)
    events = _predict(model, Volume(data, NM, "em"), folder)
    next(events)
    data.broken = True
    with pytest.raises(
        DataError, match=r"em cannot be read.*truncated.*in \[14:20,0:70"
    ):
        list(events)
    data.broken = False
    assert list((folder / "blocks").glob("*.done"))
    events = list(_predict(model, Volume(data, NM, "em"), folder, resume=True))
    assert events[-1].reason == "completed"
    np.testing.assert_array_equal(_read(folder), predict_box_of(model, image))


@pytest.mark.parametrize("lost", ["instances.zarr", "instances.csv"])
def test_instances_that_are_gone_are_made_again(model, image, folder, lost):
    first = list(_predict(model, image, folder))[-1]
    expected = zarr.open(folder / "instances.zarr", mode="r")["0"][...]
    table = (folder / "instances.csv").read_text()
    if lost == "instances.zarr":
        shutil.rmtree(folder / lost)
    else:
        (folder / lost).unlink()

    assert list(_predict(model, image, folder, resume=True))[-1] == first
    labels = zarr.open(folder / "instances.zarr", mode="r")["0"][...]
    np.testing.assert_array_equal(labels, expected)
    assert (folder / "instances.csv").read_text() == table


@pytest.mark.parametrize("failing", ["write_table", "write_json"])
def test_other_instances_that_a_failure_cut_short_are_not_taken_for_the_old_ones(
    model, image, tmp_path, monkeypatch, failing
):
    everything = InstancesConfig(
        seed_mask=0, seed_boundary=1.1, seed_distance=0, mask=0, min_size=0
    )
    folder = create_prediction(
        model, image, None, tmp_path / "jobs", instances=everything
    )
    wanted = {"instances": everything, "resume": True}
    list(_predict(model, image, folder, **wanted))
    expected = zarr.open(folder / "instances.zarr", mode="r")["0"][...]
    assert expected.any()

    def fail(*arguments):
        raise DataError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(resegmenting, failing, fail)
        with pytest.raises(DataError, match="the disk is full"):
            resegmenting.resegment(folder, InstancesConfig(min_size=10**6))
    list(_predict(model, image, folder, **wanted))

    found = zarr.open(folder / "instances.zarr", mode="r")["0"][...]
    np.testing.assert_array_equal(found, expected)


def test_maps_that_are_gone_are_predicted_again_and_it_is_said(model, image, folder):
    list(_predict(model, image, folder))
    expected = _read(folder)
    shutil.rmtree(folder / "maps.zarr")
    events = list(_predict(model, image, folder, resume=True))
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert any("are not kept, because maps.zarr is gone" in m for m in notices)
    np.testing.assert_array_equal(_read(folder), expected)


@pytest.mark.parametrize("n_steps", range(8))
def test_a_kill_while_old_maps_are_replaced_is_mended_by_resuming(
    model, image, folder, tiny_config, monkeypatch, n_steps
):
    """Whichever of the changes to the disk is the last."""
    list(predict_maps(_prepare(model, image, folder), [0, 1]))
    _save(tiny_config, model, seed=1)
    left = [n_steps]

    def burn():
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    def wired(owner, name):
        act = getattr(owner, name)

        def changed(*args, **keys):
            burn()
            act(*args, **keys)
            burn()

        patch.setattr(owner, name, changed)

    with monkeypatch.context() as patch:
        for owner, name in (
            (mapjob.shutil, "rmtree"),
            (mapjob, "create_zarr"),
            (mapjob, "write_json"),
        ):
            wired(owner, name)
        with pytest.raises(KeyboardInterrupt):
            _prepare(model, image, folder, resume=True)

    job = _prepare(model, image, folder, resume=True)
    assert not job.ledger.finished()
    assert not _read(folder).any()


def test_maps_alone_are_begun_anew_only_when_resumed(model, image, folder):
    list(predict_maps(_prepare(model, image, folder), [0, 1]))
    expected = _read(folder)
    shutil.rmtree(folder / "blocks")

    for _ in range(2):
        with pytest.raises(DataError, match=r"maps\.zarr is there already"):
            _prepare(model, image, folder)
        np.testing.assert_array_equal(_read(folder), expected)
    _prepare(model, image, folder, resume=True)
    assert not _read(folder).any()
