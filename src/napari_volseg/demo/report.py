"""The demo's report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.charts import line_chart
from napari_volseg.demo.figures import (
    colour_labels,
    colour_map,
    encode_png,
    matching_colours,
    to_grey,
)
from napari_volseg.events import Event, Progress, Validated
from napari_volseg.io import write_text

__all__ = ["DemoResult", "write_report"]

_CHANNELS = ("mask", "boundary", "distance")
_VIEWS = {
    "raw": "raw image",
    "instances": "instances",
    "truth": "ground truth",
    "mask": "mask: inside an object?",
    "boundary": "boundary: at an edge?",
    "distance": "distance to the surface",
}
_MAX_SLICES = 16
_MEANINGS = {
    "f1_50": "objects found and nothing invented, at IoU 0.5; 1 is perfect",
    "precision_50": "share of instances that are true objects",
    "recall_50": "share of true objects that were found",
    "ap": "TP / (TP + FP + FN), mean over IoU 0.5 to 0.95",
    "ap_50": "the same at IoU 0.5",
    "pq_50": "panoptic quality at IoU 0.5",
    "adapted_rand_error": "voxel pairs wrongly joined or parted; 0 is perfect",
    "voi_split": "bits lost by objects cut apart; 0 is perfect",
    "voi_merge": "bits lost by objects run together; 0 is perfect",
    "n_true": "objects in the ground truth",
    "n_pred": "instances predicted",
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the report shows."""

    image_ZYX: NDArray[Any]
    truth_ZYX: NDArray[np.integer[Any]]
    maps_CZYX: NDArray[np.uint8]
    instances_ZYX: NDArray[np.integer[Any]]
    scores: Mapping[str, float]
    events: Sequence[Event]
    """What the training said."""
    seconds: Mapping[str, float]
    """Wall time of each part, in the order they were done."""
    device: str
    commands: Sequence[str]
    folder: Path
    """The run folder."""


def write_report(path: Path, result: DemoResult, screenshot: Path | None) -> None:
    """Write the report; an old one at this place is replaced.

    Parameters
    ----------
    screenshot
        PNG of napari; None when there was no screen.
    """
    page = Template(
        resources.files("napari_volseg.demo").joinpath("report.html").read_text("utf-8")
    )
    slices = _slices(result)
    html = page.substitute(
        title="napari-volseg demo",
        summary=_summary(result),
        tiles=_tiles(result),
        views="".join(
            f'<figure><img id="{key}" alt="{name}">'
            f"<figcaption>{name}</figcaption></figure>"
            for key, name in _VIEWS.items()
        ),
        slices=json.dumps(slices, separators=(",", ":")),
        last=len(slices) - 1,
        middle=len(slices) // 2,
        last_z=result.image_ZYX.shape[0] - 1,
        charts=_charts(result.events),
        screenshot=_screenshot(screenshot),
        scores=_score_table(result.scores),
        commands=escape("\n\n".join(result.commands)),
        where=f"Run folder: {escape(str(result.folder))}",
    )
    write_text(path, html)


def _summary(result: DemoResult) -> str:
    z, y, x = result.image_ZYX.shape
    parts = ", ".join(f"{name} {s:.0f} s" for name, s in result.seconds.items())
    return escape(
        f"A network was trained on generated electron-microscopy-like volumes and then "
        f"predicted another one ({z} × {y} × {x} voxels) that it had not seen. "
        f"Computed on {result.device}: {parts}."
    )


def _tiles(result: DemoResult) -> str:
    scores = result.scores
    steps = max((e.step for e in result.events if isinstance(e, Progress)), default=0)
    tiles = [
        (f"{scores['f1_50']:.2f}", "F1 at IoU 0.5"),
        (f"{scores['ap']:.2f}", "average precision"),
        (f"{scores['adapted_rand_error']:.3f}", "adapted Rand error"),
        (
            f"{scores['n_pred']:.0f} / {scores['n_true']:.0f}",
            "instances / objects",
        ),
        (f"{steps}", "training steps"),
    ]
    return "".join(
        f'<div class="tile"><b>{value}</b><span>{name}</span></div>'
        for value, name in tiles
    )


def _slices(result: DemoResult) -> list[dict[str, Any]]:
    """Return evenly spaced slices with every view as base64 PNG."""
    depth = result.image_ZYX.shape[0]
    chosen = np.unique(np.linspace(0, depth - 1, min(depth, _MAX_SLICES)).round())
    low, high = np.quantile(result.image_ZYX, (0.005, 0.995))
    truth, found, _ = matching_colours(result.truth_ZYX, result.instances_ZYX)
    slices = []
    for z in chosen.astype(int):
        grey = to_grey(result.image_ZYX[z], float(low), float(high))
        views = {
            "raw": grey,
            "instances": colour_labels(result.instances_ZYX[z], found, grey),
            "truth": colour_labels(result.truth_ZYX[z], truth, grey),
        }
        for channel, plane in zip(_CHANNELS, result.maps_CZYX[:, z], strict=True):
            views[channel] = colour_map(plane, channel)
        pictures: dict[str, Any] = {
            key: base64.b64encode(encode_png(view)).decode()
            for key, view in views.items()
        }
        slices.append(pictures | {"z": int(z)})
    return slices


def _charts(events: Sequence[Event]) -> str:
    steps = [e for e in events if isinstance(e, Progress) and e.loss is not None]
    losses = {
        name: [(e.elapsed / 60, e.losses[i]) for e in steps if len(e.losses) == 3]
        for i, name in enumerate(_CHANNELS)
    }
    checks = [e for e in events if isinstance(e, Validated)]
    scores = {
        name: [(float(e.step), e.metrics[key]) for e in checks if key in e.metrics]
        for key, name in (("f1_50", "F1 at IoU 0.5"), ("ap", "average precision"))
    }
    return line_chart("Training loss", losses, "minutes") + line_chart(
        "Held-out score", scores, "steps"
    )


def _screenshot(path: Path | None) -> str:
    if path is None:
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        '<h2>In napari</h2><div class="card"><img class="shot" alt="napari" '
        f'src="data:image/png;base64,{data}"></div>'
    )


def _score_table(scores: Mapping[str, float]) -> str:
    return "".join(
        f'<tr><th><code>{key}</code></th><td class="n">{scores[key]:.3g}</td>'
        f"<td>{meaning}</td></tr>"
        for key, meaning in _MEANINGS.items()
        if key in scores
    )
