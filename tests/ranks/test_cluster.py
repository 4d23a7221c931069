"""Processes that another program starts: torchrun, or a job script."""

import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
import yaml

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import apply_overrides
from napari_volseg.errors import DataError
from napari_volseg.events import Progress
from napari_volseg.io import write_hdf5
from napari_volseg.ranks import place_in_cluster
from napari_volseg.runs import read_events, read_result

ENVIRONMENT = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def environment(monkeypatch):
    """Set the environment that a launcher would; None leaves a name out."""

    def use(**changes):
        for name, value in {**ENVIRONMENT, **changes}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return use


def test_the_environment_says_who_this_is(environment):
    environment()
    place = place_in_cluster()
    assert (place.rank, place.size) == (3, 4)
    assert (place.local_rank, place.local_size) == (1, 2)


@pytest.mark.parametrize("changes", [{"RANK": None}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_without_others_this_is_an_ordinary_training(environment, changes):
    environment(**changes)
    assert place_in_cluster() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None}, "RANK is set but MASTER_ADDR is not"),
        ({"RANK": "4"}, "must be below WORLD_SIZE"),
        ({"RANK": "first"}, "must be whole numbers"),
    ],
)
def test_half_an_environment_is_refused(environment, changes, message):
    environment(**changes)
    with pytest.raises(DataError, match=message):
        place_in_cluster()


@pytest.fixture
def config_file(tiny_config, make_cells, tmp_path):
    """Return the path of a configuration that names its data."""
    cells = make_cells((12, 64, 64))
    arrays = {"image": np.asarray(cells.image.data), "labels": cells.labels_ZYX}
    write_hdf5(tmp_path / "cells.h5", arrays, (40.0, 10.0, 10.0))

    def write(*overrides):
        tree = apply_overrides(
            tiny_config.model_dump(mode="json"),
            [
                f"data.train_image={tmp_path / 'cells.h5'}:image",
                f"data.train_label={tmp_path / 'cells.h5'}:labels",
                "data.val_fraction=0",
                "data.iter_num_per_epoch=12",
                "model.rsunet_norm=group",
                *overrides,
            ],
        )
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def _command(n_processes, *arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    number = ["--nproc-per-node", str(n_processes)]
    return [*launcher, *number, "-m", "napari_volseg", "train", *map(str, arguments)]


def _torchrun(n_processes, *arguments):
    return subprocess.run(
        _command(n_processes, *arguments),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_torchrun_trains_what_one_process_trains(config_file, tmp_path):
    config = config_file()
    done = _torchrun(2, config, "--runs", tmp_path, "--name", "several")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("completed") == 1
    assert "2 × cpu" in done.stderr
    alone = subprocess.run(
        [
            *[sys.executable, "-m", "napari_volseg", "train", str(config)],
            "optimization.accumulate_grad_batches=2",
            *["--runs", str(tmp_path), "--name", "alone"],
        ],
        capture_output=True,
        check=False,
    )
    assert alone.returncode == 0
    states = [
        load_checkpoint(tmp_path / n / "checkpoints") for n in ("several", "alone")
    ]
    assert states[0]["record"]["step"] == states[1]["record"]["step"] == 6
    torch.testing.assert_close(states[0]["network"], states[1]["network"])
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [
        "alone",
        "several",
    ]


@pytest.mark.slow
def test_what_cannot_work_ends_all_processes_in_words(config_file, tmp_path):
    config = config_file("data.train_label=/no/such/file.h5:labels")
    done = _torchrun(2, config, "--runs", tmp_path)
    assert done.returncode != 0
    assert "/no/such/file.h5" in done.stderr
    assert read_result(tmp_path) is None


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_launcher_leaves_nobody(config_file, tmp_path):
    config = config_file("optimization.max_epochs=100000")
    command = _command(2, config, "--runs", tmp_path, "--name", "run")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as launcher:
        _until(lambda: _has_progress(tmp_path / "run"))
        family = psutil.Process(launcher.pid).children(recursive=True)
        assert len(family) >= 2
        launcher.kill()
    _until(lambda: not any(_lives(process) for process in family))


def _has_progress(folder):
    return any(isinstance(event, Progress) for event in read_events(folder))


def _lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
