"""The command line, with an engine of a few lines in place of the network."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from scipy import ndimage

from napari_volseg import worker
from napari_volseg.cli import main
from napari_volseg.config import build_config
from napari_volseg.events import Finished, Notice, Progress, Started, Validated
from napari_volseg.instances import segment
from napari_volseg.io import create_zarr, write_hdf5
from napari_volseg.models import FORMAT_VERSION, METADATA_KEY
from napari_volseg.runs import read_prediction


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """Be in an empty folder, with runs in another."""
    monkeypatch.setenv("VOLSEG_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "100")
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def em(workplace, cells) -> Path:
    """Write ``em.h5`` with an image and its labels."""
    path = workplace / "em.h5"
    arrays = {"raw": cells.image.data, "labels": cells.labels_ZYX}
    write_hdf5(path, arrays, cells.image.voxel_size)
    return path


@pytest.fixture
def model(workplace) -> Path:
    metadata = {
        "format_version": FORMAT_VERSION,
        "config": build_config({"instances": {"mask": 0.4, "min_size": 5}}).model_dump(
            mode="json"
        ),
        "voxel_size": [40, 10, 10],
        "in_channels": 1,
        "scores": {},
    }
    path = workplace / "model.safetensors"
    path.write_bytes(save({"w": np.zeros(1)}, {METADATA_KEY: json.dumps(metadata)}))
    return path


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """Train by doing nothing, predict by thresholding."""

    def train(folder, resume, read_control):
        yield Started("train", "cpu, float32", 2, step=1 if resume else 0)
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
        for step in range(2):
            if read_control().stop:
                yield Finished("stopped", "Stopped after a step.")
                return
            yield Progress(step + 1, 2, 0.1, remaining=0.0, loss=0.5)
        yield Validated(2, {"f1_50": 0.75, "ap": 0.5}, best=True)
        yield Notice("a word")
        yield Finished("completed", "Trained.", str(folder / "model.safetensors"))

    def predict(folder, should_stop, resume=False, scheduler=None):
        request = read_prediction(folder)
        if scheduler:
            yield Notice(f"spread by {scheduler}")
        image = request.image.read()[0]
        inside = image > 120
        distance = ndimage.distance_transform_edt(inside)
        maps = np.stack([inside, ~inside, distance / max(distance.max(), 1)]) * 255
        maps = maps.astype(np.uint8)
        if request.mask_ZYX is not None:
            maps[:, np.asarray(request.mask_ZYX) == 0] = 0
        labels = segment(maps, request.instances)
        size = request.image.voxel_size
        for name, array in (("maps", maps), ("instances", labels)):
            stored = create_zarr(
                folder / f"{name}.zarr", array.shape, array.dtype, size, name=name
            )
            stored[:] = array
        yield Started("predict", "cpu, float32", 1)
        yield Progress(1, 1, 0.1)
        yield Finished("completed", "Predicted.", str(folder))

    monkeypatch.setattr(worker, "_train", train)
    monkeypatch.setattr(worker, "_predict", predict)


@pytest.fixture
def train_em(em) -> Callable[..., int]:
    """Train on ``em.h5`` with more arguments; return the exit code."""

    def train(*more: str) -> int:
        data = ["--image", "em.h5:raw", "--label", "em.h5:labels"]
        return main(["train", "quick", *data, *more])

    return train


@pytest.fixture
def failure(capsys) -> Callable[..., str]:
    """Run a command that must fail with one sentence; return the sentence."""

    def fail(*arguments: str, code: int = 2) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == code
        text = capsys.readouterr().err
        assert text.startswith("volseg: error: ")
        assert text.count("\n") == 1
        return text

    return fail
