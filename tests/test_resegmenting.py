"""Other thresholds for a finished prediction."""

import csv
import json

import numpy as np
import pytest

from napari_volseg.cli import main
from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.instances import segment
from napari_volseg.io import create_zarr, open_volume, read_labels
from napari_volseg.resegmenting import resegment
from napari_volseg.runs import create_prediction
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets
from napari_volseg.volume import Volume

VOXEL_SIZE = (30.0, 8.0, 8.0)
SHAPE = (12, 48, 48)


@pytest.fixture(scope="module")
def maps():
    labels = make_sample("vesicles", SHAPE).labels_ZYX
    return make_targets(labels, VOXEL_SIZE).values_CZYX


@pytest.fixture
def prediction(tmp_path, maps):
    """The folder of a prediction that is finished, with wrong instances."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    image = Volume(np.zeros(SHAPE, np.uint8), VOXEL_SIZE, "em")
    folder = create_prediction(
        tmp_path / "model.safetensors", image, None, tmp_path / "predictions"
    )
    stored = create_zarr(
        folder / "maps.zarr", maps.shape, maps.dtype, VOXEL_SIZE, name="maps"
    )
    stored[...] = maps
    labels = create_zarr(
        folder / "instances.zarr", SHAPE, np.dtype("i4"), VOXEL_SIZE,
        name="instances", labels=True,
    )  # fmt: skip
    labels[...] = 1
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_instances_table_and_thresholds_are_replaced(prediction, maps):
    config, steps = InstancesConfig(seed_distance=0.6, min_size=5), []

    n = resegment(prediction, config, lambda done, total: steps.append((done, total)))

    expected = segment(maps, config)
    found = read_labels(str(prediction / "instances.zarr"))
    np.testing.assert_array_equal(found, expected)
    assert n == expected.max()
    with (prediction / "instances.csv").open() as file:
        assert len(list(csv.DictReader(file))) == n
    request = json.loads((prediction / "request.json").read_text())
    assert InstancesConfig.model_validate(request["instances"]) == config
    assert steps[-1][0] == steps[-1][1]
    assert open_volume(str(prediction / "instances.zarr")).voxel_size == VOXEL_SIZE
    assert not [name for name in names(prediction) if name.startswith(".volseg")]


def test_a_failure_leaves_the_old_instances(prediction, monkeypatch):
    before = names(prediction)

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("napari_volseg.instances.storing.segment_whole", fail)
    with pytest.raises(MemoryError):
        resegment(prediction, InstancesConfig())

    assert (read_labels(str(prediction / "instances.zarr")) == 1).all()
    assert set(before) <= set(names(prediction))
    assert not [name for name in names(prediction) if name.startswith(".volseg")]
    request = json.loads((prediction / "request.json").read_text())
    assert request["instances"] is None


def test_an_unfinished_prediction_is_refused(prediction, tmp_path):
    (prediction / "instances.zarr").rename(tmp_path / "elsewhere.zarr")

    with pytest.raises(DataError, match="is no finished prediction"):
        resegment(prediction, InstancesConfig())
    with pytest.raises(DataError, match="is no finished prediction"):
        resegment(tmp_path, InstancesConfig())


def test_the_command_keeps_what_is_not_named(prediction, tmp_path, capsys):
    progress = tmp_path / "progress.json"
    command = ["segment", str(prediction), "--json", "--progress", str(progress)]

    assert main([*command, "instances.mask=0.7"]) == 0
    assert main([*command, "instances.min_size=5"]) == 0

    answers = capsys.readouterr().out
    request = json.loads((prediction / "request.json").read_text())
    kept = InstancesConfig.model_validate(request["instances"])
    assert (kept.mask, kept.min_size) == (0.7, 5)
    assert "n_instances" in answers
    counted = json.loads(progress.read_text())
    assert counted["done"] == counted["total"]
