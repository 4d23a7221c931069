import json
import shutil

import numpy as np
import pytest

from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.io import write_hdf5
from napari_volseg.runs import (
    create_prediction,
    is_prediction,
    is_run,
    read_prediction,
)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    return path


def test_a_request_in_memory_comes_back(tmp_path, model, cells):
    inference = InferenceConfig(overlap=0.5, flips="yx")
    instances = InstancesConfig(mask=0.3, min_size=7)
    mask = np.zeros(cells.image.shape_ZYX, bool)
    mask[3:] = True
    job = create_prediction(
        model,
        cells.image,
        None,
        tmp_path / "predictions",
        inference=inference,
        instances=instances,
        mask=mask,
        device="cpu",
    )
    assert job == tmp_path / "predictions" / "cells"
    assert is_prediction(job)
    assert not is_run(job)
    request = read_prediction(job)
    assert request.model == model
    assert (request.inference, request.instances) == (inference, instances)
    assert (request.device, request.source) == ("cpu", None)
    assert request.image.voxel_size == cells.image.voxel_size
    assert request.image.name == cells.image.name
    np.testing.assert_array_equal(request.image.read(), cells.image.read())
    np.testing.assert_array_equal(request.mask_ZYX, mask)


def test_an_image_in_a_file_is_referred_to(tmp_path, model, cells):
    path = tmp_path / "em.h5"
    write_hdf5(path, {"raw": cells.image.data}, cells.image.voxel_size)
    job = create_prediction(model, cells.image, f"{path}:raw[2:9]", tmp_path / "jobs")
    assert not (job / "input.h5").exists()
    request = read_prediction(job)
    assert request.inference is None
    assert request.instances is None
    assert request.mask_ZYX is None
    np.testing.assert_array_equal(request.image.read(), cells.image.read()[:, 2:9])


def test_jobs_of_one_image_lie_beside_each_other(tmp_path, model, cells):
    names = [
        create_prediction(model, cells.image, None, tmp_path / "jobs").name
        for _ in range(2)
    ]
    assert names == ["cells", "cells-2"]


def test_a_missing_model_is_refused_before_anything_is_written(tmp_path, cells):
    with pytest.raises(DataError, match="is not there"):
        create_prediction(
            tmp_path / "no.safetensors", cells.image, None, tmp_path / "j"
        )
    assert not (tmp_path / "j").exists()


def test_a_mask_of_another_shape_is_refused(tmp_path, model, cells):
    with pytest.raises(DataError, match="must cover the same voxels"):
        create_prediction(
            model, cells.image, None, tmp_path / "j", mask=np.ones((2, 2, 2))
        )
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}'])
def test_a_damaged_request_is_named(tmp_path, model, cells, text):
    job = create_prediction(model, cells.image, None, tmp_path / "jobs")
    (job / "request.json").write_text(text)
    with pytest.raises(DataError, match=r"request\.json is damaged"):
        read_prediction(job)


def test_a_request_of_a_newer_version_is_refused(tmp_path, model, cells):
    job = create_prediction(model, cells.image, None, tmp_path / "jobs")
    fields = json.loads((job / "request.json").read_text())
    (job / "request.json").write_text(json.dumps(fields | {"format": 2}))
    with pytest.raises(DataError, match="newer version"):
        read_prediction(job)


def test_a_request_without_its_input_is_refused(tmp_path, model, cells):
    job = create_prediction(model, cells.image, None, tmp_path / "jobs")
    (job / "input.h5").unlink()
    with pytest.raises(DataError, match=r"input\.h5"):
        read_prediction(job)
    shutil.rmtree(job)
    with pytest.raises(DataError, match="is no prediction"):
        read_prediction(job)
