"""The Train dock tells a newcomer what to do, from the empty viewer to the result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtCore import Qt

from napari_volseg.widgets.guidance import predicted_words, train_words
from napari_volseg.widgets.train import TrainWidget


@pytest.fixture
def dock(viewer: Any) -> TrainWidget:
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train (VolSeg)")
    return widget


def test_an_empty_viewer_offers_sample_data(
    viewer: Any, dock: TrainWidget, qtbot: Any
) -> None:
    assert dock.welcome.isVisibleTo(dock)
    assert "Open a volume" in dock.next.text()
    button = dock.welcome.sample
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert not button.isEnabled()
    assert "being generated" in button.toolTip()
    dock.welcome.open_sample()  # a second time changes nothing
    qtbot.waitUntil(dock.train.isEnabled, timeout=30_000)
    assert [str(layer.name) for layer in viewer.layers] == [
        "vesicles",
        "vesicles labels",
    ]
    assert not dock.welcome.isVisibleTo(dock)
    qtbot.waitUntil(
        lambda: "Press Train. A preview" in dock.next.text(), timeout=60_000
    )
    viewer.layers.clear()
    assert dock.welcome.isVisibleTo(dock)
    qtbot.waitUntil(button.isEnabled, timeout=60_000)


def test_the_line_follows_from_image_to_labels_to_paint(
    viewer: Any, dock: TrainWidget, qtbot: Any
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (6, 32, 32)).astype(np.uint8)
    viewer.add_image(image, name="em")
    assert "Add a labels layer" in dock.next.text()
    labels = viewer.add_labels(np.zeros(image.shape, np.int32), name="mine")
    qtbot.waitUntil(
        lambda: "Paint some objects in 'mine'" in dock.next.text(), timeout=60_000
    )
    labels.paint((3, 10, 10), 1)
    qtbot.waitUntil(
        lambda: "what 1 instance can teach" in dock.next.text(), timeout=60_000
    )
    labels.scale = (2, 1, 1)
    qtbot.waitUntil(
        lambda: "Mend what the line above" in dock.next.text(), timeout=60_000
    )


@pytest.mark.parametrize(
    ("outcome", "n", "words"),
    [
        ("ready", None, "Press Train. A preview"),
        ("ready", 3, "3 instances"),
        ("ready", 30, "Press Train. A preview"),
        ("running", 0, "Drag the preview box"),
        ("done", 3, "Predict a volume"),
        ("failed", 30, "Mend what the message says"),
    ],
)
def test_words_of_each_state(outcome: str, n: int | None, words: str) -> None:
    image, labels = Image(np.zeros((2, 2))), Labels(np.zeros((2, 2), int))
    assert words in train_words(outcome, image, labels, n, is_ready=True)


@pytest.mark.parametrize(
    ("doubt", "words"),
    [
        ([0.9, 0.1, 0.6], "2 instances of 3 are doubtful"),
        ([0.9, 0.1], "1 instance of 2 is doubtful"),
        ([0.1], "Look at the instances"),
    ],
)
def test_a_prediction_says_how_many_are_doubtful(doubt: Any, words: str) -> None:
    table = {"index": np.arange(1, len(doubt) + 1), "doubt": doubt}
    labels = Labels(np.zeros((2, 2), int), features=table)
    assert words in predicted_words([Image(np.zeros((2, 2))), labels])
    assert "Review" in predicted_words([])
