"""Predicting a volume into a job folder with a model that was trained here."""

import csv

import numpy as np
import pytest
import zarr

from napari_volseg import inference
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import InstancesConfig, build_config
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Started
from napari_volseg.inference import predict
from napari_volseg.instances import segment
from napari_volseg.intensities import describe_intensities, intensities_to_json
from napari_volseg.io import open_volume
from napari_volseg.models import read_model_metadata
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.volume import Volume

PATCH = (8, 16, 16)


@pytest.fixture
def model(tiny_config, tmp_path):
    pyramid = plan_pyramid(tiny_config.model, (40, 10, 10), PATCH)
    network = build_network(tiny_config.model, 1, pyramid)
    metadata = model_metadata(
        tiny_config, pyramid, 1, (40.0, 10.0, 10.0), PATCH, 1, {"f1_50": 0.5}
    )
    path = tmp_path / "model.safetensors"
    save_model(path, network.state_dict(), metadata)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "job"
    path.mkdir()
    return path


def test_maps_instances_and_table_are_written(model, cells, folder):
    events = list(predict(model, cells.image, folder, device="cpu"))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "completed"
    maps = zarr.open(folder / "maps.zarr", mode="r")["0"]
    labels = zarr.open(folder / "instances.zarr", mode="r")["0"][...]
    assert maps.shape == (3, *cells.labels_ZYX.shape)
    np.testing.assert_array_equal(labels, segment(maps[...], InstancesConfig()))
    with (folder / "instances.csv").open() as file:
        assert len(list(csv.DictReader(file))) == labels.max()


@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 40, 40), (30, 17, 50)])
def test_a_volume_of_any_size_keeps_its_shape(model, folder, rng, shape):
    image = Volume(rng.integers(0, 255, shape, np.uint8), (40, 10, 10))
    list(predict(model, image, folder, device="cpu"))
    assert zarr.open(folder / "maps.zarr", mode="r")["0"].shape == (3, *shape)


def test_nothing_is_predicted_outside_the_mask(model, cells, folder):
    mask = np.zeros(cells.labels_ZYX.shape, bool)
    mask[:, :20] = True
    list(predict(model, cells.image, folder, device="cpu", mask_ZYX=mask))
    maps = zarr.open(folder / "maps.zarr", mode="r")["0"][...]
    assert not maps[:, :, 20:].any()
    assert maps[:, :, :20].any()


def test_a_stop_leaves_no_instances(model, cells, folder):
    events = list(
        predict(model, cells.image, folder, device="cpu", should_stop=lambda: True)
    )
    assert events[-1].reason == "stopped"
    assert not (folder / "instances.zarr").exists()


def test_another_voxel_size_is_said(model, cells, folder):
    image = Volume(cells.image.data, (40.0, 20.0, 20.0), "em")
    events = list(predict(model, image, folder, device="cpu"))
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert any("em are 40×20×20 nm" in m for m in notices)


def test_a_voxel_size_that_may_be_unknown_is_asked_for(model, cells, folder):
    image = Volume(cells.image.data, name="em")
    events = list(predict(model, image, folder, device="cpu"))
    (warning,) = (
        e.message for e in events if isinstance(e, Notice) and e.level != "info"
    )
    assert "em are 1×1×1 nm" in warning
    assert "give it with --voxel-size, or as the scale of the layer" in warning
    assert "match_voxel_size" not in warning


def test_intensities_unlike_those_learnt_from_are_said_first(
    model, cells, folder, monkeypatch
):
    """Before the form of the network is tried, which takes a while."""

    def told(image, name):
        (folder / name).mkdir()
        for event in predict(model, image, folder / name, device="cpu"):
            if isinstance(event, Notice) and event.level == "warning":
                yield event.message

    # An old model says nothing of what it learnt from.
    negative = Volume(255 - cells.image.data, cells.image.voxel_size, "em")
    assert not list(told(negative, "before"))

    percentiles = load_model(model).config.data.percentiles
    known = (describe_intensities(cells.image, percentiles),)
    old = read_model_metadata(model)
    weights = load_model(model).network.state_dict()
    save_model(model, weights, old | {"intensities": intensities_to_json(known)})
    assert not list(told(cells.image, "same"))

    def refuse(*args):
        raise AssertionError("the warning comes too late")

    monkeypatch.setattr("napari_volseg.inference.choose_form", refuse)
    assert next(told(negative, "after")).startswith(
        "The image em looks like a negative"
    )


def test_matched_voxels_look_to_the_network_as_those_it_learnt_from(
    model, cells, folder
):
    """An image of voxels half as wide, each of them twice, gives the same maps."""
    list(predict(model, cells.image, folder, device="cpu"))
    maps = zarr.open(folder / "maps.zarr", mode="r")["0"][...]
    z, y, x = cells.image.voxel_size
    data = cells.image.data.repeat(2, axis=1).repeat(2, axis=2)
    fine = Volume(data, (z, y / 2, x / 2), "fine")
    inference = load_model(model).config.inference

    def likeness(match):
        chosen = inference.model_copy(update={"match_voxel_size": match})
        other = folder.parent / f"matched {match}"
        other.mkdir()
        events = list(predict(model, fine, other, device="cpu", inference=chosen))
        told = [e.message for e in events if isinstance(e, Notice)]
        assert any("resampled" in message for message in told) == match
        found = zarr.open(other / "maps.zarr", mode="r")["0"][...]
        means = found.reshape(*maps.shape[:3], 2, maps.shape[3], 2).mean((3, 5))
        return np.corrcoef(means.ravel(), maps.ravel())[0, 1]

    matched = likeness(True)
    assert matched > 0.95
    assert likeness(False) < matched


def test_chunks_of_the_image_that_are_missing_are_said(model, cells, folder, tmp_path):
    path = tmp_path / "em.zarr"
    zarr.create_array(path, data=cells.image.data, chunks=(12, 20, 20))
    (path / "c" / "0" / "1" / "0").unlink()

    events = list(predict(model, open_volume(str(path)), folder, device="cpu"))

    notes = [event.message for event in events if isinstance(event, Notice)]
    assert any(note.startswith("1 chunk is not in the folder") for note in notes)


def test_thresholds_given_win_over_those_of_the_model(model, cells, folder):
    nothing = build_config({"instances": {"mask": 1.0, "seed_mask": 1.0}}).instances
    events = list(predict(model, cells.image, folder, device="cpu", instances=nothing))
    assert events[-1].metrics["n_instances"] == 0


def test_the_wrong_number_of_channels_is_refused(model, folder):
    image = Volume(np.ones((2, 8, 16, 16), np.uint8), name="two")
    with pytest.raises(DataError, match=r"two has 2 channels.*trained on 1"):
        list(predict(model, image, folder, device="cpu"))


def test_a_block_that_does_not_fit_into_memory_is_refused_before_work(
    model, cells, folder, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("napari_volseg.inference.available_memory", lambda d: 10_000)
        with pytest.raises(DataError, match=r"cells needs about.*memory_gb"):
            list(predict(model, cells.image, folder, device="cpu"))
    events = list(predict(model, cells.image, folder, device="cpu"))
    assert events[-1].reason == "completed"


def test_a_voxel_that_is_no_number_is_refused(model, folder):
    data = np.ones((8, 16, 16), np.float32)
    data[2, 3, 4] = np.inf
    with pytest.raises(DataError, match="em has 1 voxels that are NaN or infinite"):
        list(predict(model, Volume(data, name="em"), folder, device="cpu"))


def test_a_mask_of_another_shape_is_refused(model, cells, folder):
    with pytest.raises(DataError, match="the mask has the shape"):
        list(
            predict(
                model,
                cells.image,
                folder,
                device="cpu",
                mask_ZYX=np.ones((2, 2, 2), bool),
            )
        )


def test_a_full_disk_is_said_in_words(model, cells, folder, monkeypatch):
    def refuse(self, selection, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", refuse)
    with pytest.raises(DataError, match=r"maps\.zarr cannot be written.*free some"):
        list(predict(model, cells.image, folder, device="cpu"))


def test_blocks_that_workers_left_out_are_no_result(model, cells, folder, monkeypatch):
    """As when the turn of a worker seems to be over on a network file system."""
    monkeypatch.setattr(inference, "_spread", lambda *_: (yield Notice("at work")))
    events = predict(
        model, cells.image, folder, device="cpu", scheduler="tcp://127.0.0.1:9"
    )

    with pytest.raises(DataError, match=r"1 of 1 blocks were not predicted.*--resume"):
        list(events)
    assert not (folder / "instances.zarr").exists()
