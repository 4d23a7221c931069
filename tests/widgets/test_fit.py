"""Thresholds fitted to labels from the Inspect dock, with the real command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_volseg.config import InstancesConfig

TIMEOUT = 300_000


def add_truth(viewer: Any, blob_maps: Any) -> Any:
    """Only the brighter blob is an object: a higher seed distance is better."""
    truth = (blob_maps[2] > 0).astype(np.int32)
    truth[..., 20:] = 0
    mask = viewer.layers["out · mask"]
    return viewer.add_labels(truth, name="truth", scale=mask.scale, units=mask.units)


def test_fitting_finds_better_thresholds_and_takes_them(
    viewer: Any, inspect_dock: Any, qtbot: Any, blob_maps: Any
) -> None:
    layer = add_truth(viewer, blob_maps)
    before = layer.data.copy()
    part = inspect_dock.fitting
    part.labels.set_layer(layer)
    part.button.click()
    assert part.button.text() == "Cancel"
    qtbot.waitUntil(lambda: part.result.text().startswith("F1"), timeout=TIMEOUT)
    assert part.result.text().startswith("F1 1.00, before 0.67, on 1 objects")
    assert inspect_dock.thresholds.value() != InstancesConfig()
    assert set(part.plot.curves) >= {"mask", "seed_distance"}
    values, scores = np.array(part.plot.curves["seed_distance"]).T
    best = inspect_dock.thresholds.value().seed_distance
    assert scores[values.tolist().index(best)] == scores.max()
    qtbot.waitUntil(
        lambda: "1 instance ·" in inspect_dock.count.text(), timeout=TIMEOUT
    )
    assert np.array_equal(layer.data, before)
    inspect_dock.reset.click()
    assert inspect_dock.thresholds.value() == InstancesConfig()


def test_a_cancelled_search_changes_nothing(
    viewer: Any, inspect_dock: Any, qtbot: Any, blob_maps: Any
) -> None:
    add_truth(viewer, blob_maps)
    part = inspect_dock.fitting
    part.labels.set_layer(viewer.layers["truth"])
    part.button.click()
    folder: Path = part._search.folder
    assert folder.is_dir()
    part.button.click()
    qtbot.waitUntil(lambda: part._search is None, timeout=TIMEOUT)
    assert part.button.text() == "Fit to labels"
    assert not folder.exists()
    assert inspect_dock.thresholds.value() == InstancesConfig()


def test_labels_of_another_size_are_refused_in_words(
    viewer: Any, inspect_dock: Any
) -> None:
    viewer.add_labels(np.zeros((4, 4, 4), int), name="small")
    part = inspect_dock.fitting
    part.labels.set_layer(viewer.layers["small"])
    part.button.click()
    assert "'small' has the shape (4, 4, 4)" in inspect_dock.message.text()
    assert part._search is None


def test_errors_are_shown_by_the_evaluate_dock(
    viewer: Any, inspect_dock: Any, qtbot: Any, blob_maps: Any
) -> None:
    layer = add_truth(viewer, blob_maps)
    part = inspect_dock.fitting
    part.labels.set_layer(layer)
    part.errors.click()
    dock = viewer.window.dock_widgets["Evaluate (VolSeg)"]
    assert dock.prediction.currentText() == "out · instances"
    qtbot.waitUntil(lambda: "1&nbsp;extra" in dock.counts.text(), timeout=TIMEOUT)
