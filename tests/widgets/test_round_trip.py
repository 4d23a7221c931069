"""The main job by hand: train, preview, stop, resume, predict, retune, close."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_volseg.runs import list_runs
from napari_volseg.widgets.actions import open_dock

HEAVY = ("torch", "monai", "cc3d", "edt", "fastremap", "tensorboard")
LONG = 180_000
TINY = {
    "data": {"patch_size": [8, 32, 32], "iter_num_per_epoch": 2, "val_fraction": 0.25},
    "model": {"filters": [4, 8]},
    "optimization": {"max_epochs": 5000},
    "system": {"training": {"batch_size": 1, "num_workers": 0}, "device": "cpu"},
    "monitor": {"tensorboard": False, "early_stopping": {"enabled": False}},
}


@pytest.mark.slow
def test_the_main_job_leaves_torch_out_of_napari() -> None:
    """Other tests import torch, so this one has a process of its own."""
    test = f"{__file__}::test_round_trip"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test],
        env=os.environ | {"VOLSEG_ALONE": "1"},
        check=True,
        timeout=600,
    )


@pytest.mark.skipif(
    "VOLSEG_ALONE" not in os.environ, reason="runs in a process of its own"
)
def test_round_trip(
    viewer: Any, qtbot: Any, add_pair: Callable[..., Any], runs_dir: Path
) -> None:
    image, _ = add_pair(viewer, shape=(16, 64, 64), translate=(30, 0, 80))
    train = open_dock(viewer, "Train")
    train.form.set_value(TINY)
    press(qtbot, train.train)
    qtbot.waitUntil(lambda: "preview: instances" in viewer.layers, timeout=LONG)
    press(qtbot, train.view.stop)
    qtbot.waitUntil(lambda: train._job is None, timeout=LONG)
    qtbot.waitUntil(lambda: train.resume.isVisibleTo(train), timeout=LONG)
    stopped = list_runs(runs_dir)[0]
    assert stopped.state == "stopped", stopped.message

    press(qtbot, train.resume)
    job = train._job
    qtbot.waitUntil(lambda: is_beyond(job, stopped.step), timeout=LONG)
    viewer.layers["em labels"].paint((8, 32, 32), 99)
    press(qtbot, train.new_labels.use)
    notice = train.view.notice
    qtbot.waitUntil(lambda: "Revision 2: new labels" in notice.text(), timeout=LONG)
    press(qtbot, train.view.stop)
    qtbot.waitUntil(lambda: train._job is None, timeout=LONG)
    assert list_runs(runs_dir)[0].step > stopped.step

    predict = open_dock(viewer, "Predict")
    qtbot.waitUntil(predict.predict.isEnabled, timeout=LONG)
    press(qtbot, predict.predict)
    qtbot.waitUntil(lambda: "em · instances" in viewer.layers, timeout=LONG)
    for role in ("mask", "boundary", "distance", "instances"):
        layer = viewer.layers[f"em · {role}"]
        assert layer.data.shape == image.data.shape
        assert np.allclose(
            layer.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3))
        )
        assert layer.units == image.units

    inspect = open_dock(viewer, "Inspect")
    assert inspect.prediction.prediction() is not None
    instances = viewer.layers["em · instances"]
    mask = np.asarray(viewer.layers["em · mask"].data)
    everything = {"seed_distance": 0.0, "seed_boundary": 1.1, "seed_mask": 0.0}
    for name, value in (everything | {"mask": 0.0, "min_seed_size": 0}).items():
        inspect.thresholds.controls[name].setValue(value)
    inspect.thresholds.controls["min_size"].setValue(0)
    qtbot.waitUntil(
        lambda: np.array_equal(np.asarray(instances.data) > 0, mask > 0), timeout=LONG
    )
    viewer.close()
    assert [name for name in HEAVY if name in sys.modules] == []


def press(qtbot: Any, button: Any) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def is_beyond(job: Any, step: int) -> bool:
    return job.progress is not None and job.progress.step > step + 1
