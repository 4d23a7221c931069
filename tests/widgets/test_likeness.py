"""The warning in the Predict dock about images unlike the training images."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_volseg.intensities import (
    compare_intensities,
    describe_intensities,
    intensities_to_json,
)
from napari_volseg.sample_data import make_sample
from napari_volseg.volume import Volume
from napari_volseg.widgets.predict import PredictWidget

VOXEL_SIZE = (30.0, 8.0, 8.0)
PLACE: dict[str, Any] = {"scale": VOXEL_SIZE, "units": ("nm",) * 3}
NEGATIVE = "looks like a negative"

Dock = Callable[[], PredictWidget]


@pytest.fixture
def em() -> Any:
    return np.asarray(make_sample("cells", (16, 64, 64), 0, VOXEL_SIZE).image.data)


@pytest.fixture
def knowing(add_model: Callable[..., Path], em: Any) -> Path:
    """A model that learnt from the image."""
    volume = Volume(em, VOXEL_SIZE)
    look = describe_intensities(volume, (0.05, 0.95))
    return add_model("knowing", intensities=intensities_to_json((look,)))


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were compared, and in which thread."""
    compared: list[str] = []

    def compare(volume: Volume, *args: Any) -> str | None:
        assert threading.current_thread() is not threading.main_thread()
        found = compare_intensities(volume, *args)
        compared.append(volume.name)
        return found

    monkeypatch.setattr("napari_volseg.widgets.likeness.compare_intensities", compare)
    return compared


def test_a_negative_is_told_before_the_start(
    viewer: Any, open_predict: Dock, knowing: Path, em: Any, qtbot: Any
) -> None:
    viewer.add_image(255 - em, name="em", **PLACE)
    dock = open_predict()
    qtbot.waitUntil(lambda: NEGATIVE in dock.likeness.text(), timeout=60_000)
    assert dock.likeness.text().startswith("The image em looks like")
    assert dock.likeness.isVisibleTo(dock)
    assert dock.predict.isEnabled()


def test_what_the_model_knows_is_silent_and_so_are_old_models(
    viewer: Any,
    open_predict: Dock,
    knowing: Path,
    em: Any,
    answered: list[str],
    qtbot: Any,
) -> None:
    viewer.add_image(em, name="known", **PLACE)
    dock = open_predict()
    qtbot.waitUntil(lambda: "known" in answered, timeout=60_000)
    qtbot.waitUntil(lambda: not dock.likeness._newest._is_busy, timeout=60_000)
    assert dock.likeness.text() == ""
    assert not dock.likeness.isVisibleTo(dock)


def test_nothing_is_read_for_a_model_that_knows_nothing(
    viewer: Any,
    open_predict: Dock,
    add_model: Callable[..., Path],
    em: Any,
    answered: list[str],
) -> None:
    add_model()
    viewer.add_image(255 - em, name="em", **PLACE)
    dock = open_predict()
    assert dock.predict.isEnabled()
    assert dock.likeness.text() == ""
    assert not dock.likeness._newest._is_busy
    assert not answered


def test_the_warning_goes_with_its_image_and_its_model(
    viewer: Any,
    open_predict: Dock,
    knowing: Path,
    add_model: Callable[..., Path],
    em: Any,
    qtbot: Any,
) -> None:
    add_model("old", created="2020-01-01T00:00:00+00:00")
    viewer.add_image(em, name="known", **PLACE)
    negative = viewer.add_image(255 - em, name="negative", **PLACE)
    dock = open_predict()
    dock.models.choose(knowing)
    dock.image.set_layer(negative)
    qtbot.waitUntil(lambda: NEGATIVE in dock.likeness.text(), timeout=60_000)

    dock.image.set_layer(viewer.layers["known"])
    assert dock.likeness.text() == "", "it stays until the next answer"

    dock.image.set_layer(negative)
    qtbot.waitUntil(lambda: NEGATIVE in dock.likeness.text(), timeout=60_000)
    dock.models.choose(knowing.parents[1] / "old" / "model.safetensors")
    assert dock.likeness.text() == ""

    dock.models.choose(knowing)
    qtbot.waitUntil(lambda: NEGATIVE in dock.likeness.text(), timeout=60_000)
    viewer.layers.remove(negative)
    assert dock.likeness.text() == ""


def test_a_late_answer_about_another_image_is_dropped(
    viewer: Any,
    open_predict: Dock,
    knowing: Path,
    em: Any,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, seen = threading.Event(), []

    def slowly(volume: Volume, *args: Any) -> str | None:
        if volume.name == "slow":
            go_on.wait(60)
        seen.append(volume.name)
        return f"{volume.name} looks odd."

    monkeypatch.setattr("napari_volseg.widgets.likeness.compare_intensities", slowly)
    slow = viewer.add_image(255 - em, name="slow", **PLACE)
    quick = viewer.add_image(em, name="quick", **PLACE)
    dock = open_predict()
    dock.image.set_layer(slow)
    shown: list[str] = []
    tell = dock.likeness._tell
    monkeypatch.setattr(dock.likeness, "_tell", lambda w: (shown.append(w), tell(w)))
    dock.image.set_layer(quick)
    go_on.set()
    qtbot.waitUntil(lambda: dock.likeness.text() == "Quick looks odd.", timeout=60_000)
    assert seen[-1] == "quick"
    assert "slow looks odd." not in shown


def test_an_image_that_cannot_be_read_warns_of_nothing(
    viewer: Any, open_predict: Dock, knowing: Path, em: Any, qtbot: Any
) -> None:
    broken = em.astype(np.float32)
    broken[3] = np.nan
    viewer.add_image(broken, name="broken", contrast_limits=(0, 255), **PLACE)
    dock = open_predict()
    qtbot.waitUntil(lambda: not dock.likeness._newest._is_busy, timeout=60_000)
    assert dock.likeness.text() == ""
