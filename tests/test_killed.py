"""A prediction whose process is killed, several times, ends with the same result."""

import numpy as np
import pytest
import zarr

from napari_volseg.checkpoint import model_metadata, save_model
from napari_volseg.config import InferenceConfig
from napari_volseg.instances.records import Records
from napari_volseg.io import write_hdf5
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.runs import create_prediction, launch, read_result
from napari_volseg.sample_data import make_sample
from napari_volseg.worker import run_job

NM = (40.0, 10.0, 10.0)
PATCH = (8, 64, 64)


@pytest.fixture
def make_job(tiny_config, tmp_path):
    """Return a maker of jobs that predict eight blocks, a column each."""
    config = tiny_config.model_copy(
        update={"model": tiny_config.model.model_copy(update={"filters": (4, 8)})}
    )
    pyramid = plan_pyramid(config.model, NM, PATCH)
    network = build_network(config.model, 1, pyramid)
    model = tmp_path / "model.safetensors"
    metadata = model_metadata(config, pyramid, 1, NM, PATCH, 1, {"f1_50": 0.5})
    save_model(model, network.state_dict(), metadata)
    sample = make_sample("cells", (8, 260, 780))
    write_hdf5(tmp_path / "em.h5", {"raw": sample.image.data}, NM)

    def make(name):
        return create_prediction(
            model,
            sample.image,
            str(tmp_path / "em.h5:raw"),
            tmp_path / name,
            inference=InferenceConfig(memory_gb=0.001, overlap=0.1),
            device="cpu",
        )

    return make


def _results(job):
    arrays = [
        zarr.open(job / f"{n}.zarr", mode="r")["0"][...] for n in ("maps", "instances")
    ]
    return *arrays, (job / "instances.csv").read_text()


def _peaks_read(monkeypatch):
    """Return a list that will say of each block whether it was known before."""
    found, read = [], Records.layers

    def layers(*args):
        found.append((known := read(*args)) is not None)
        return known

    monkeypatch.setattr(Records, "layers", layers)
    return found


@pytest.mark.slow
def test_killed_at_four_points_and_resumed(make_job, rng, monkeypatch):
    whole, job = make_job("whole"), make_job("killed")
    assert run_job(whole).reason == "completed"
    marks, n_before = job / "blocks", 0
    for target in (int(rng.integers(1, 4)), int(rng.integers(4, 8)), 8):
        worker = launch(job, resume=n_before > 0)
        while len(list(marks.glob("*.done"))) < target and worker.alive:
            worker.wait(0.01)
        worker.kill()
        assert read_result(job) is None
        times = {p: p.stat().st_mtime_ns for p in marks.glob("*.done")}
        assert len(times) >= target > n_before
        n_before = len(times)
    segmented = job / ".volseg-instances"
    worker = launch(job, resume=True)
    while len(list(segmented.glob("*.flooded"))) < 2 and worker.alive:
        worker.wait(0.01)
    worker.kill()
    assert read_result(job) is None
    used = _peaks_read(monkeypatch)
    assert run_job(job, resume=True).reason == "completed"
    assert used == [True] * 8
    assert {p: p.stat().st_mtime_ns for p in marks.glob("*.done")} == times
    maps, instances, table = _results(job)
    expected_maps, expected_instances, expected_table = _results(whole)
    np.testing.assert_array_equal(maps, expected_maps)
    np.testing.assert_array_equal(instances, expected_instances)
    assert table == expected_table
    assert expected_maps.any()
    assert not list(job.rglob("*volseg-*"))
