"""What to do next, for somebody who sees this for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_volseg.review.doubt import DOUBTFUL
from napari_volseg.widgets.messages import count_words, explain, wrapped_label
from napari_volseg.widgets.samples import LayerData, vesicles
from napari_volseg.widgets.threads import make_worker

__all__ = ["Welcome", "predicted_words", "train_words"]

_STEPS = (
    "<b>Three steps</b>"
    "<ol style='margin-left: -22px'>"
    "<li>Open a volume: <i>File › Open</i>, or drop it on the window.</li>"
    "<li>Add a labels layer and paint some objects, each with a label of its own.</li>"
    "<li>Press <i>Train</i> and watch it learn; go on painting meanwhile.</li>"
    "</ol>"
)
_DOES = "Generate a small volume of vesicles with labels, to try everything with"
_FEW = 10
"""Instances from which a network learns more than those instances."""

_NEXT = {
    "no image": "What next? Open a volume, or the sample data above.",
    "no labels": "What next? Add a labels layer and paint some objects.",
    "problem": "What next? Mend what the line above says.",
    "no instances": "What next? Paint some objects in '{labels}', each with a label of "
    "its own.",
    "few": "What next? Press Train to see what {n} can teach, or paint more first.",
    "ready": "What next? Press Train. A preview appears here while you paint on.",
    "running": "What next? Drag the preview box, paint where the preview is wrong, and "
    "press Use new labels.",
    "done": "What next? Predict a volume with the new model, or paint more and train "
    "again.",
    "failed": "What next? Mend what the message says and press Train, or Resume.",
}


class Welcome(QWidget):
    """What an empty viewer offers: three steps and sample data."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.steps = wrapped_label(_STEPS)
        self.sample = QPushButton("Open sample data")
        explain(self.sample, _DOES)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.steps)
        layout.addWidget(self.sample)
        self.sample.clicked.connect(self.open_sample)

    def open_sample(self) -> None:
        """Generate the sample in a thread and add its layers."""
        if not self.sample.isEnabled():
            return
        self.sample.setText("Generating…")
        explain(self.sample, "", "The sample is being generated")
        worker = make_worker(vesicles)
        worker.returned.connect(self._add)
        worker.finished.connect(self._tidy)
        worker.start()

    def _add(self, layers: list[LayerData]) -> None:
        for data, options, kind in layers:
            self._viewer.add_layer(Layer.create(data, options, kind))

    def _tidy(self) -> None:
        self.sample.setText("Open sample data")
        explain(self.sample, _DOES)


def train_words(
    outcome: str,
    image: Layer | None,
    labels: Layer | None,
    n_instances: int | None,
    *,
    is_ready: bool,
) -> str:
    """Return the line *What next?* of the Train dock.

    Parameters
    ----------
    outcome
        What became of the last training: ``ready`` when there was none, ``running``,
        ``done`` or ``failed``.
    image, labels
        The chosen layers of the first pair.
    n_instances
        Annotated instances of all pairs; None before they are counted.
    is_ready
        Whether a training could start.
    """
    key = outcome
    if outcome != "running":
        if image is None:
            key = "no image"
        elif labels is None:
            key = "no labels"
        elif n_instances == 0:
            key = "no instances"
        elif not is_ready:
            key = "problem"
        elif outcome == "ready" and n_instances is not None and n_instances < _FEW:
            key = "few"
    return _NEXT[key].format(
        labels="" if labels is None else labels.name,
        n=count_words(n_instances or 0, "instance"),
    )


def predicted_words(layers: Sequence[Layer]) -> str:
    """Return the line *What next?* for the layers of a new prediction."""
    if any(layer.ndim > 3 for layer in layers):
        return (
            "What next? Look at the instances. Inspect and Review take one time point "
            "or channel: predict <i>the one shown</i> for them."
        )
    for layer in layers:
        if not isinstance(layer, Labels) or "doubt" not in layer.features:
            continue
        doubt = layer.features["doubt"].to_numpy(float)
        n = int(np.count_nonzero(doubt >= DOUBTFUL))
        if n:
            verb = "is" if n == 1 else "are"
            return (
                f"What next? {count_words(n, 'instance')} of {len(doubt)} {verb} "
                "doubtful: go through them in VolSeg › Review, or move the thresholds "
                "in Inspect."
            )
    return (
        "What next? Look at the instances, move the thresholds in VolSeg › Inspect, "
        "correct them in Review, and train on."
    )
