"""Real windows, and nothing left behind by them."""

from __future__ import annotations

import gc
import importlib
import json
import struct
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QWidget
from superqt.utils import WorkerBase

from napari_volseg.runs import launch
from napari_volseg.sample_data import make_sample

VOXEL_SIZE = (30.0, 8.0, 8.0)
BLOBS = (8, 40, 40)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gui)


@pytest.fixture(scope="session", autouse=True)
def frozen_modules() -> Iterator[None]:
    """Keep what napari consists of out of the many collections of garbage.

    Each viewer that closes asks for several, and each would walk through all modules.
    """
    importlib.import_module("napari.qt")
    importlib.import_module("napari_volseg.widgets")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs for each test."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("VOLSEG_RUNS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep docks from planning: each plan imports torch in a process of its own."""
    monkeypatch.setattr("napari_volseg.widgets.planner.DELAY_MS", 10**8)


def our_children() -> list[psutil.Process]:
    """Worker processes that this process started and that still live."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any("napari_volseg" in part for part in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def workers() -> Callable[[], list[psutil.Process]]:
    """Say which worker processes live."""
    return our_children


@pytest.fixture(autouse=True)
def no_leaks(qtbot: Any) -> Iterator[None]:
    """Fail when a test leaves workers, processes or windows behind."""
    from napari_volseg.widgets import job

    before = set(map(id, QApplication.topLevelWidgets()))
    yield
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=60_000)
    qtbot.waitUntil(lambda: not our_children(), timeout=60_000)
    assert not job._running
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    if our_windows(before):
        gc.collect()
    assert not our_windows(before), "windows are left open"


def our_windows(before: set[int]) -> list[QWidget]:
    """Windows of this plugin that were not there before."""
    return [
        widget
        for widget in QApplication.topLevelWidgets()
        if id(widget) not in before
        and type(widget).__module__.startswith("napari_volseg")
    ]


@pytest.fixture
def viewer(make_napari_viewer_proxy: Callable[..., Any]) -> Any:
    """A viewer as plugins get it."""
    return make_napari_viewer_proxy()


@pytest.fixture
def add_pair() -> Callable[..., tuple[Any, Any]]:
    """Add a small generated image and its labels to a viewer."""

    def add(
        viewer: Any,
        name: str = "em",
        shape: tuple[int, int, int] = (16, 64, 64),
        seed: int = 0,
        **options: Any,
    ) -> tuple[Any, Any]:
        sample = make_sample("cells", shape=shape, seed=seed, voxel_size=VOXEL_SIZE)
        options = {"scale": VOXEL_SIZE, "units": ("nm",) * 3} | options
        image = viewer.add_image(sample.image.data, name=name, **options)
        labels = viewer.add_labels(sample.labels_ZYX, name=f"{name} labels", **options)
        return image, labels

    return add


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace the worker by a script; it has `say(event, **fields)` and `asked()`."""

    def play(script: str) -> None:
        head = """
            import json, sys, time
            from pathlib import Path

            def say(event, **fields):
                with open("events.jsonl", "a") as log:
                    log.write(json.dumps({"event": event, **fields}) + "\\n")

            def asked():
                try:
                    return json.loads(Path("control.json").read_text())
                except FileNotFoundError:
                    return {}

            def end(reason, message="", path=None):
                fields = {"reason": reason, "message": message, "path": path}
                Path("result.tmp").write_text(json.dumps(fields | {"metrics": {}}))
                Path("result.tmp").rename("result.json")
        """
        code = textwrap.dedent(head) + textwrap.dedent(script)
        command = [sys.executable, "-c", f"# napari_volseg\n{code}"]

        def launch_script(folder: Path, *, resume: bool = False) -> Any:
            return launch(folder, resume=resume, command=command)

        monkeypatch.setattr("napari_volseg.widgets.job.launch", launch_script)

    return play


@pytest.fixture
def blob_maps() -> Any:
    """Two blobs of different brightness, as maps."""
    z, y, x = np.indices(BLOBS)
    near = np.zeros(BLOBS)
    for cx, height in ((10, 1.0), (28, 0.6)):
        r = np.sqrt(((z - 4) * 2) ** 2 + (y - 20) ** 2 + (x - cx) ** 2)
        near = np.maximum(near, height * np.clip(1 - r / 9, 0, 1))
    mask = near > 0.05
    return (np.stack([mask, np.zeros(BLOBS), near]) * 255).astype(np.uint8)


@pytest.fixture
def inspect_dock(viewer: Any, blob_maps: Any, tmp_path: Path, qtbot: Any) -> Any:
    """A dock on maps from a file and on instances that were made before."""
    from napari_volseg.io import write_hdf5
    from napari_volseg.widgets.actions import open_dock
    from napari_volseg.widgets.layers import placement
    from napari_volseg.widgets.outputs import add_instances

    path = tmp_path / "out.h5"
    write_hdf5(path, {"maps": blob_maps}, (30, 8, 8))
    mask = viewer.open(path, plugin="napari-volseg")[0]
    origin = {**mask.metadata["napari-volseg"]}
    instances = (blob_maps[2] > 0).astype(np.int32) * (1 + (np.arange(40) > 19))
    add_instances(viewer, instances, placement(mask), "out · ", origin)
    widget = open_dock(viewer, "Inspect")
    qtbot.waitUntil(lambda: "2 instances" in widget.count.text(), timeout=60_000)
    return widget


@pytest.fixture
def add_model(runs_dir: Path) -> Callable[..., Path]:
    """Make a run with a model that has metadata but no weights."""

    from napari_volseg.config import Config, dump_config
    from napari_volseg.models import METADATA_KEY

    def add(name: str = "first", in_channels: int = 1, **fields: Any) -> Path:
        folder = runs_dir / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_config(Config()))
        metadata = {
            "format_version": 1,
            "name": name,
            "created": datetime.now(UTC).isoformat(),
            "config": {"instances": {"seed_distance": 0.25}},
            "voxel_size": VOXEL_SIZE,
            "in_channels": in_channels,
            "scores": {"f1_50": 0.86},
        } | fields
        header = json.dumps({"__metadata__": {METADATA_KEY: json.dumps(metadata)}})
        path = folder / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
        return path

    return add


@pytest.fixture
def open_predict(viewer: Any, qtbot: Any) -> Callable[[], Any]:
    from napari_volseg.widgets.actions import open_dock
    from napari_volseg.widgets.modellist import find_models

    def open_it() -> Any:
        dock = open_dock(viewer, "Predict")
        qtbot.waitUntil(
            lambda: len(dock.models.models) == len(find_models()), timeout=60_000
        )
        return dock

    return open_it
