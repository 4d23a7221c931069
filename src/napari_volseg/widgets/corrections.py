"""From a review to the next training: one button."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_volseg.config import Config
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import Edit, Helper, ReviewFolder
from napari_volseg.review.corrections import (
    find_corrected,
    near,
    paint_annotation,
)
from napari_volseg.runs import is_run, read_run
from napari_volseg.runs.pairs import Role
from napari_volseg.volume import Volume
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain
from napari_volseg.widgets.outputs import add_beside, free_name
from napari_volseg.widgets.readers import lazy
from napari_volseg.widgets.reviewing import Reviewing
from napari_volseg.widgets.threads import in_thread

__all__ = ["train_on_corrections"]

_PLAN = "plan.json"

_Key = tuple[str, tuple[int, ...]]
"""Name and shape of an image."""


@dataclass(frozen=True)
class _Painted:
    """Labels that say themselves where they count."""

    labels_ZYX: NDArray[np.int32]
    background: int
    words: str
    role: Role
    corrected: tuple[Box, ...] = ()
    """Where a person changed instances."""


@dataclass(frozen=True)
class _Learnt:
    """A volume that the model learnt from, and what of it is for what."""

    image: Volume
    painted: tuple[_Painted, ...]
    source: str | None


@dataclass(frozen=True)
class _Lesson:
    corrections: _Painted
    learnt: tuple[_Learnt, ...]
    config: Config | None


def train_on_corrections(
    viewer: Any,
    reviewing: Reviewing,
    helper: Helper,
    told: Callable[[str], None],
    failed: Callable[[str], None],
) -> None:
    """Open the Train dock with what was accepted and corrected as one more pair.

    The volumes that the model learnt from are added again, with the parts it was
    scored on held out as they were; corrections there are left out. Training begins
    with the weights of the model.
    """
    origin = reviewing.layer.metadata.get(METADATA_KEY) or {}
    image = _image_of(viewer, reviewing.layer, str(origin.get("image", "")))
    if image is None:
        failed("the image that was predicted is not open: open it again")
        return
    model = Path(str(origin["model"])) if origin.get("model") else None
    work = _prepare(reviewing, helper, model, str(image.name))

    def take(lesson: _Lesson) -> None:
        _show(viewer, image, reviewing.layer, lesson, model)
        told("The Train dock has the corrections as one more pair: press Train there.")

    in_thread(work, take, failed, reviewing)


def _image_of(viewer: Any, labels: Labels, name: str) -> Image | None:
    """Return the image that was predicted, else one that covers the same voxels."""
    images = [x for x in map(plain, viewer.layers) if isinstance(x, Image)]
    fits = [
        image
        for image in images
        if tuple(image.data.shape[-3:]) == tuple(labels.data.shape)
        and not placement(image).differences(placement(labels))
        and (image.metadata.get(METADATA_KEY) or {}).get("role") is None
    ]
    named = [image for image in fits if str(image.name) == name]
    return (named or fits or [None])[0]


def _prepare(
    reviewing: Reviewing, helper: Helper, model: Path | None, image: str
) -> Callable[[], _Lesson]:
    """Capture the review; what is returned does the rest, in a thread."""
    review, folder, maps = reviewing.review, reviewing.folder, reviewing.maps
    labels_ZYX = review.labels_ZYX.copy()
    accepted, steps, painted_N = review.accepted(), review.steps(), review.painted()
    voxel_size = review.voxel_size

    def work() -> _Lesson:
        arrays: dict[str, NDArray[Any]] = {"labels": labels_ZYX}
        if maps is not None:
            arrays["mask"] = np.asarray(maps[0])
        edits = [_edit_of(folder, entry) for entry in steps]
        deletions = [edit for edit in edits if edit.kind == "delete"]
        if any(edit.patches for edit in deletions):
            arrays["deleted"] = _voxels_of(deletions, labels_ZYX.shape)
        boxes = find_corrected(edits, painted_N, labels_ZYX.shape)
        options = {"accepted": accepted, "voxel_size": voxel_size}
        answer, values = helper.ask("corrections", arrays, options)
        corrected, background = answer["labels"], int(values["background"])
        learnt: tuple[_Learnt, ...] = ()
        config = None
        if model is not None and is_run(model.parent):
            config, learnt, hidden = _read_learnt(model.parent)
            scored = hidden.get((image, labels_ZYX.shape))
            if scored is not None:
                corrected[scored] = 0
            if not (corrected % background).any():
                raise DataError(
                    "all that was accepted or corrected lies where the model is "
                    "scored, which is never learnt from: correct something elsewhere"
                )
        painted = _Painted(corrected, background, "corrections", "train", boxes)
        return _Lesson(painted, learnt, config)

    return work


def _edit_of(folder: ReviewFolder | None, entry: Any) -> Edit:
    if entry.step is not None:
        return entry.step.edit  # type: ignore[no-any-return]
    return (
        Edit(entry.kind, entry.ids, ()) if folder is None else folder.read_edit(entry)
    )


def _voxels_of(edits: list[Edit], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return which voxels edits changed."""
    changed = np.zeros(shape, np.uint8)
    for edit in edits:
        for patch in edit.patches:
            changed[patch.box.slices] |= patch.mask_ZYX()
    return changed


def _read_learnt(
    folder: Path,
) -> tuple[Config, tuple[_Learnt, ...], Mapping[_Key, NDArray[np.bool_]]]:
    """Return settings and volumes of a run, and where corrections teach nothing.

    That is where the model was scored, and within the guard around it.

    Raises
    ------
    DataError
        If the run, or an image of it, is gone.
    """
    config, pairs = read_run(folder)
    try:
        plan = json.loads((folder / _PLAN).read_text("utf-8"))
        held_out = [
            (int(h["pair"]), Box(tuple(h["box"]["start"]), tuple(h["box"]["stop"])))
            for h in plan["held_out"]
        ]
        guard = [int(n) for n in plan["guard"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _PLAN} cannot be read ({error}): nobody knows which part of "
            "the volumes the model was scored on"
        ) from error
    learnt = []
    hidden: dict[_Key, NDArray[np.bool_]] = {}
    for index, pair in enumerate(pairs):
        image, labels_ZYX = pair.volume.image, pair.volume.labels_ZYX
        painted, background = paint_annotation(labels_ZYX, pair.volume.annotated_ZYX)
        if pair.role == "val":
            is_scored = painted > 0
        else:
            is_scored = np.zeros(painted.shape, bool)
            for box in (box for i, box in held_out if i == index):
                is_scored[box.slices] = True
        around = near(is_scored, guard)
        key = (image.name, painted.shape)
        hidden[key] = around | hidden[key] if key in hidden else around
        rest, scored = np.where(around, 0, painted), np.where(is_scored, painted, 0)
        parts = [
            _Painted(rest, background, "learnt from", "train", pair.corrected),
            _Painted(scored, background, "held out", "val"),
        ]
        kept = tuple(p for p in parts if (p.labels_ZYX % p.background).any())
        learnt.append(_Learnt(image, kept, pair.source))
    return config, tuple(learnt), hidden


def _show(
    viewer: Any, image: Image, labels: Labels, lesson: _Lesson, model: Path | None
) -> None:
    """Add the layers and fill the Train dock."""
    pairs: list[tuple[Any, Any, Role]] = []
    place = placement(labels).layer_options()
    layer = _make(viewer, str(image.name), lesson.corrections, place)
    for learnt in lesson.learnt:
        shown, options = _show_image(viewer, learnt)
        for painted in learnt.painted:
            made = _make(viewer, learnt.image.name, painted, options)
            pairs.append((shown, made, painted.role))
    pairs.append((image, layer, "train"))
    dock = open_dock(viewer, "Train")
    words = ""
    if lesson.config is not None and model is not None:
        weights = {"initial_weights": str(model)}
        settings = lesson.config.model.model_copy(update=weights)
        config = lesson.config.model_copy(update={"model": settings})
        dock.use_settings(config, f"{model.parent.name} corrected")
        words = " Training begins with the weights of the model."
        if any(role == "val" for _, _, role in pairs):
            words += " Both are scored on the same held-out voxels, side by side."
    dock.pairs.set_pairs(pairs)
    dock.message.show_text(f"{len(pairs)} pairs, the corrections last.{words}")


def _show_image(viewer: Any, learnt: _Learnt) -> tuple[Image, dict[str, Any]]:
    """Return the layer of an image, added unless it is open already."""
    for layer in map(plain, viewer.layers):
        is_it = isinstance(layer, Image) and str(layer.name) == learnt.image.name
        if is_it and tuple(layer.data.shape) == tuple(learnt.image.data.shape):
            return layer, placement(layer).layer_options()
    place = {"scale": learnt.image.voxel_size, "units": ("nm",) * 3}
    data: Any = learnt.image.data
    shown: Any = data if isinstance(data, np.ndarray) else lazy(data)
    origin = {}
    if learnt.source is not None and shown is not data:
        origin = {METADATA_KEY: {"source": learnt.source, "token": shown.name}}
    options: dict[str, Any] = dict(place)
    if shown.ndim == 4:
        options = {"scale": (1, *learnt.image.voxel_size), "units": ("", *("nm",) * 3)}
    layer = Image(
        shown, name=free_name(viewer, learnt.image.name), metadata=origin, **options
    )
    layer.visible = False
    add_beside(viewer, layer)
    return layer, dict(place)


def _make(
    viewer: Any, name: str, painted: _Painted, options: Mapping[str, Any]
) -> Labels:
    layer = Labels(
        painted.labels_ZYX,
        name=f"{name} · {painted.words}",
        opacity=0.4,
        visible=painted.words == "corrections",
        metadata={
            METADATA_KEY: {
                "role": painted.words,
                "background_id": painted.background,
                "corrected": painted.corrected,
            }
        },
        **options,
    )
    add_beside(viewer, layer)
    return layer
